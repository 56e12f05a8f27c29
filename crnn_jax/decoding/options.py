"""The decoder of a model, for what is known of the texts."""

from collections.abc import Mapping
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from crnn_jax.decoding import Decoder
from crnn_jax.decoding.beam import Beam, Language
from crnn_jax.decoding.caseless import Caseless, lower_case
from crnn_jax.decoding.lexicon import Lexicon, Words
from crnn_jax.decoding.paths import AllowedPath, BestPath, CharsetPath
from crnn_jax.decoding.source import MOST, SourcePath
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.constraints import Automaton, classes_of
from crnn_jax.text.language_model import LanguageModel
from crnn_jax.text.options import (
    ALL,
    BEAM_WIDTH,
    LANGUAGE_WEIGHT,
    MAX_BEAM_WIDTH,
    DecodingOptions,
)
from crnn_jax.text.shapes import automaton_of

COMPETING = {
    "shape": "a shape",
    "lexicon": "a lexicon",
    "beam_width": "a beam search, which also finds alternatives,",
    "language_model": "a language model",
}
"""Options that cannot be combined with `same_source`."""


def make_decoder(
    own: Alphabet, log_priors: Mapping[str, float], **options: Unpack[DecodingOptions]
) -> Decoder:
    """Returns the decoder of a model for what is known of the texts.

    Args:
      own: the model's alphabet.
      log_priors: the model's sets of characters, see `CharsetPath`; may be empty.
      options: see `text.options.DecodingOptions`.

    Raises:
      ConfigError: the model lacks a character, or a length, a beam width or a weight is not
        supported.
    """
    alphabet, length = options.get("alphabet"), options.get("length")
    shape, lexicon = options.get("shape"), options.get("lexicon")
    caseless = options.get("caseless", False)
    width, language = _search(own, **options)
    automaton = None
    if alphabet is None and shape is None and log_priors:
        decoder: Decoder = CharsetPath.create(log_priors, own, length)
    elif alphabet in (None, ALL) and length is None and shape is None and width is None:
        decoder = BestPath()
    else:
        automaton = Automaton.of_length(_classes(own, alphabet, caseless), length)
        if shape is not None:
            automaton = automaton.intersection(automaton_of(shape, own, ignore_case=caseless))
        if not automaton.accepting.any():
            raise ConfigError(
                f"no text of these characters and of this length has the shape {shape!r}"
            )
        decoder = AllowedPath.create(automaton)
    if lexicon is not None:
        decoder = Lexicon.create(decoder, Words.create(lexicon, own, caseless, automaton), own)
    elif width is not None and isinstance(decoder, AllowedPath | CharsetPath):
        decoder = Beam.create(decoder, width, language)
    return Caseless.create(decoder, own) if caseless else decoder


def make_source_decoder(
    own: Alphabet,
    log_priors: Mapping[str, float],
    logits: jax.Array | np.ndarray,
    lengths: jax.Array | np.ndarray,
    **options: Unpack[DecodingOptions],
) -> Decoder:
    """Returns the decoder of a model for images of one source, learned from a sample of them.

    Args:
      own: the model's alphabet.
      log_priors: the model's sets of characters, see `CharsetPath`; may be empty.
      logits: (B, T, K), those of the sample.
      lengths: (B,), the valid time steps.
      options: `alphabet`, `length` and `caseless`; nothing else can be combined with a source.

    Raises:
      ConfigError: there is another option, or one of them cannot be used.
    """
    for name, words in COMPETING.items():
        if options.get(name) is not None:
            raise ConfigError(f"{words} and same_source do not go together; choose one of them")
    alphabet, length = options.get("alphabet"), options.get("length")
    caseless = options.get("caseless", False)
    classes = _classes(own, alphabet, caseless)
    allowed = np.ones(MOST + 1, bool)
    if length is not None:
        accepting = Automaton.of_length(classes, length).accepting
        if len(accepting) > len(allowed):
            raise ConfigError(
                f"a length of {accepting.argmax()} to {len(accepting) - 1} and same_source do not"
                f" go together; choose at most {MOST} characters"
            )
        allowed[:] = False
        allowed[: len(accepting)] = accepting
    sets = log_priors if alphabet is None else {}
    logits, lengths = jnp.asarray(logits), jnp.asarray(lengths)
    if not caseless:
        return SourcePath.learn(logits, lengths, sets, own, classes, allowed)
    sums = Caseless.create(BestPath(), own).sums(logits)
    return Caseless.create(SourcePath.learn(sums, lengths, sets, own, classes, allowed), own)


def _classes(own: Alphabet, alphabet: str | None, caseless: bool) -> np.ndarray:
    """The classes (K,) bool that may be read."""
    every = np.arange(own.num_classes)
    classes = every != BLANK if alphabet in (None, ALL) else classes_of(alphabet, own)
    return np.isin(every, lower_case(own)[classes]) if caseless else classes


def _search(
    own: Alphabet, **options: Unpack[DecodingOptions]
) -> tuple[int | None, Language | None]:
    """The beam's width, None for no beam, and the language model."""
    width, ngrams = options.get("beam_width"), options.get("language_model")
    weight = options.get("language_weight", LANGUAGE_WEIGHT)
    if width is not None and not 1 <= width <= MAX_BEAM_WIDTH:
        raise ConfigError(
            f"a beam of {width} texts is not supported; choose 1 to {MAX_BEAM_WIDTH}, such as"
            f" {BEAM_WIDTH}"
        )
    if ngrams is None:
        return width, None
    if options.get("lexicon") is not None:
        raise ConfigError("a lexicon and a language model do not go together; choose one of them")
    if not 0 < weight < float("inf"):
        raise ConfigError(
            f"a language model cannot have the weight {weight}; choose a number above 0, such as"
            f" {LANGUAGE_WEIGHT}"
        )
    language = Language.create(LanguageModel.create(ngrams, own), weight)
    return BEAM_WIDTH if width is None else width, language
