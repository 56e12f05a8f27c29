"""The decoder of a model, for what is known of the texts."""

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

import numpy as np

from crnn_jax.decoding import Decoder
from crnn_jax.decoding.caseless import Caseless, lower_case
from crnn_jax.decoding.lexicon import Lexicon, Words
from crnn_jax.decoding.paths import AllowedPath, BestPath, CharsetPath
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.constraints import Automaton, Length, classes_of
from crnn_jax.text.shapes import automaton_of

ALL = "all"  # the name of all characters that a model knows


class DecodingOptions(TypedDict, total=False):
    """How a model reads: what is known of the texts before they are read.

    Attributes:
      alphabet: a name of `text.constraints.CHARSETS`, "all", or the characters that may occur.
        None, the default: one of the model's sets if it has any and there is no shape, else all
        characters.
      length: the number of characters, or the least and the most of them.
      shape: a regular expression of the whole text, see `text.shapes`.
      lexicon: the words that may occur, the most likely first, see `decoding.lexicon`.
      caseless: whether to read in lower case; both cases of a letter then count as one.
    """

    alphabet: str | None
    length: Length | None
    shape: str | None
    lexicon: Sequence[str] | None
    caseless: bool


def make_decoder(
    own: Alphabet, log_priors: Mapping[str, float], **options: Unpack[DecodingOptions]
) -> Decoder:
    """Returns the decoder of a model for what is known of the texts.

    Args:
      own: the model's alphabet.
      log_priors: the model's sets of characters, see `CharsetPath`; may be empty.
      options: see `DecodingOptions`.

    Raises:
      ConfigError: the model lacks a character, or the length or the shape is not supported.
    """
    alphabet, length = options.get("alphabet"), options.get("length")
    shape, lexicon = options.get("shape"), options.get("lexicon")
    caseless = options.get("caseless", False)
    automaton = None
    if alphabet is None and shape is None and log_priors:
        decoder: Decoder = CharsetPath.create(log_priors, own, length)
    elif alphabet in (None, ALL) and length is None and shape is None:
        decoder = BestPath()
    else:
        every = np.arange(own.num_classes) != BLANK
        classes = every if alphabet in (None, ALL) else classes_of(alphabet, own)
        if caseless:
            classes = np.isin(np.arange(own.num_classes), lower_case(own)[classes])
        automaton = Automaton.of_length(classes, length)
        if shape is not None:
            automaton = automaton.intersection(automaton_of(shape, own, ignore_case=caseless))
        if not automaton.accepting.any():
            raise ConfigError(
                f"no text of these characters and of this length has the shape {shape!r}"
            )
        decoder = AllowedPath.create(automaton)
    if lexicon is not None:
        decoder = Lexicon.create(decoder, Words.create(lexicon, own, caseless, automaton), own)
    return Caseless.create(decoder, own) if caseless else decoder
