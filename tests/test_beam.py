"""The beam search against brute force over all alignments, and against other implementations."""

import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from plain_beam import plain_beam

from crnn_jax.decoding import Decoder, Decoding
from crnn_jax.decoding.alignment import align
from crnn_jax.decoding.beam import Beam, Language
from crnn_jax.decoding.options import make_decoder
from crnn_jax.decoding.paths import AllowedPath, CharsetPath
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.constraints import Automaton, classes_of
from crnn_jax.text.language_model import LanguageModel

ALPHABET = Alphabet("1aA")
CLASSES = ALPHABET.num_classes
STEPS = 4
ALL_TEXTS = 121  # of three characters, and up to four of them
EVERY = np.arange(CLASSES) > 0
# Texts with an even number of letters: states are met from two sides.
EVEN = Automaton(np.array([[-1, 0, 1, 1], [-1, 1, 0, 0]], np.int32), np.array([True, False]))

Texts = dict[tuple[int, ...], float]


def decode(decoder: Decoder, logits: np.ndarray, lengths: list[int]) -> Decoding:
    call = jax.jit(lambda decoder, logits, lengths: decoder(logits, lengths))
    return jax.tree.map(np.asarray, call(decoder, logits, np.array(lengths)))


def random_logits(count: int, seed: int, classes: int = CLASSES, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (count, steps, classes)).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(path) if k)


def all_texts(log_p: np.ndarray) -> Texts:
    """The probability of each text: the sum over all of its alignments."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        found[collapse(path)] += math.exp(sum(log_p[t, k] for t, k in enumerate(path)))
    return {text: math.log(p) for text, p in found.items() if p > 0}


def read(decoding: Decoding, image: int) -> list[tuple[tuple[int, ...], float]]:
    """The texts that were found, and their probabilities, in order."""
    assert decoding.labels is not None and decoding.label_log_probabilities is not None
    labels = decoding.labels[image].tolist()
    scores = decoding.label_log_probabilities[image].tolist()
    found = [
        (tuple(filter(None, label)), score)
        for label, score in zip(labels, scores, strict=True)
        if score > -math.inf
    ]
    assert all(not any(label) for label in labels[len(found) :])  # nothing comes after them
    assert len({text for text, _ in found}) == len(found)
    return found


def check(
    decoding: Decoding,
    image: int,
    length: int,
    expected: Mapping[tuple[int, ...], float],
    total: Callable[[tuple[int, ...]], float],
) -> None:
    """All expected texts were found, in the order of their total scores."""
    found = read(decoding, image)
    assert dict(found).keys() == expected.keys()
    for text, score in found:
        assert score == pytest.approx(expected[text], abs=1e-4)
    totals = [total(text) for text, _ in found]
    assert all(first >= second - 1e-4 for first, second in itertools.pairwise(totals))
    assert decoding.log_probability[image] == pytest.approx(
        found[0][1] if found else -math.inf, abs=1e-4
    )
    path = decoding.path[image].tolist()
    assert collapse(tuple(path)) == (found[0][0] if found else ())
    assert not any(path[length:])


def accepts(automaton: Automaton, text: tuple[int, ...]) -> bool:
    state = 0
    for k in text:
        state = automaton.following[state, k]
        if state < 0:
            return False
    return bool(automaton.accepting[state])


def language_model(seed: int, states: int = 3) -> LanguageModel:
    rng = np.random.default_rng(seed)
    odds = np.log(rng.dirichlet(np.ones(CLASSES), states)).astype(np.float32)  # the end is first
    following = rng.integers(0, states, (states, CLASSES)).astype(np.int32)
    return LanguageModel(following, odds, odds[:, 0])


def language_score(model: LanguageModel, text: tuple[int, ...]) -> float:
    state, score = 0, 0.0
    for k in text:
        score += float(model.log_probabilities[state, k])
        state = model.following[state, k]
    return score + float(model.end[state])


@pytest.mark.parametrize("model", [None, language_model(0)], ids=["alone", "language"])
@pytest.mark.parametrize(
    "automaton",
    [Automaton.of_length(EVERY), Automaton.of_length(EVERY, (2, 3)), EVEN],
    ids=["all", "length", "even"],
)
def test_a_wide_beam_finds_all_texts(automaton: Automaton, model: LanguageModel | None) -> None:
    weight, bonus = 0.7, 0.3
    language = None if model is None else Language.create(model, weight, bonus)
    decoder = Beam.create(AllowedPath.create(automaton), ALL_TEXTS, language)
    logits, lengths = random_logits(10, 1), [4, 3, 0, 4, 1] * 2
    decoding = decode(decoder, logits, lengths)
    for image, length in enumerate(lengths):
        texts = all_texts(log_softmax(logits[image, :length]))
        expected = {text: p for text, p in texts.items() if accepts(automaton, text)}

        def total(text: tuple[int, ...], expected: Texts = expected) -> float:
            if model is None:
                return expected[text]
            return expected[text] + weight * language_score(model, text) + bonus * len(text)

        check(decoding, image, length, expected, total)
