"""A language model of characters as a weighted automaton over a model's classes."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Self

import numpy as np

from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.ngrams import BEGIN, END, LOG_ZERO, UNKNOWN, NGrams

MAX_CELLS = 2**25
"""The most states times classes; 256 MiB."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """How likely each character is after those before it. The start is state 0.

    Attributes:
        following: (Q, K) int32, the state after each class in each state.
        log_probabilities: (Q, K) float32, the natural logarithm of the probability of each class in
            each state. The column of the blank is not used, in both.
        end: (Q,) float32, the logarithm of the probability that the text ends in each state.
    """

    following: np.ndarray
    log_probabilities: np.ndarray
    end: np.ndarray

    @classmethod
    def create(cls, ngrams: NGrams, alphabet: Alphabet) -> Self:
        """Compiles n-grams for a model's alphabet.

        A state is a context of the n-grams. The probability of <unk> is shared by the characters
        that the n-grams lack.

        Raises:
            ConfigError: the n-grams have none of the characters, or too many contexts.
        """
        probabilities, backoffs = ngrams.log_probabilities, ngrams.backoffs
        # A column for each class, and one for the end.
        tokens = ["", *(c if c in probabilities else UNKNOWN for c in alphabet.characters), END]
        columns: dict[str, list[int]] = defaultdict(list)
        for column, token in enumerate(tokens):
            columns[token].append(column)
        unknown = len(columns[UNKNOWN])
        if unknown == len(alphabet.characters):
            raise ConfigError(
                "the language model has none of the model's characters; train one with such words"
            )
        known = {*alphabet.characters, BEGIN, UNKNOWN}
        start = BEGIN if ngrams.order > 1 else ""
        listed: dict[str, list[str]] = {start: [], "": []}
        listed |= {context: [] for context in backoffs if known.issuperset(context)}
        for ngram in probabilities:
            if known.issuperset(ngram[:-1]) and ngram[-1] in columns:
                listed.setdefault(ngram[:-1], []).append(ngram)
        shape = len(listed), len(tokens)
        if math.prod(shape) > MAX_CELLS:
            raise ConfigError(
                f"the language model has {shape[0]:,} contexts for {shape[1]:,} characters, more"
                f" than {MAX_CELLS:,} probabilities; train one of an order below {ngrams.order}"
            )
        number = {context: place for place, context in enumerate(listed)}
        logs = np.full(shape, LOG_ZERO, np.float32)
        following = np.full(shape, number[""], np.int32)
        for context in sorted(listed, key=len):
            place = number[context]
            if context:
                # What is not listed is as after the longest shorter context that is known.
                suffixes = [context[cut:] for cut in range(1, len(context) + 1)]
                cut = next(cut for cut, suffix in enumerate(suffixes) if suffix in number)
                shorter = number[suffixes[cut]]
                weight = sum(backoffs.get(each, 0.0) for each in [context, *suffixes[:cut]])
                logs[place], following[place] = logs[shorter] + weight, following[shorter]
            for ngram in listed[context]:
                logs[place, columns[ngram[-1]]] = probabilities[ngram]
                if ngram in number:
                    following[place, columns[ngram[-1]]] = number[ngram]
        logs *= math.log(10)
        logs[:, columns[UNKNOWN]] -= math.log(max(unknown, 1))
        return cls(following[:, :-1], logs[:, :-1], logs[:, -1])
