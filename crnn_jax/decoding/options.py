"""The decoder of a model, for what is known of the texts."""

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

import jax
import numpy as np

from crnn_jax.decoding import Decoder
from crnn_jax.decoding.beam import Beam, Language
from crnn_jax.decoding.caseless import Caseless, lower_case
from crnn_jax.decoding.lexicon import Lexicon, Words
from crnn_jax.decoding.paths import AllowedPath, BestPath, CharsetPath
from crnn_jax.decoding.source import MOST, SourcePath
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.constraints import Automaton, Length, classes_of
from crnn_jax.text.language_model import LanguageModel
from crnn_jax.text.ngrams import NGrams
from crnn_jax.text.shapes import automaton_of

ALL = "all"  # the name of all characters that a model knows

MAX_BEAM_WIDTH = 256
"""The widest beam that can be asked for. The time that it takes grows with its square."""

BEAM_WIDTH = 10
"""That of a beam if there must be one."""

LANGUAGE_WEIGHT = 0.5
"""How much a language model counts by default."""

COMPETING = {
    "shape": "a shape",
    "lexicon": "a lexicon",
    "beam_width": "a beam search, which also finds alternatives,",
    "language_model": "a language model",
}
"""Options that cannot be combined with `same_source`."""


class DecodingOptions(TypedDict, total=False):
    """What is known of the texts, and how they are read.

    What is known helps: no other texts are read.

    Attributes:
      alphabet: the characters that occur, such as "0123456789", or one of the names in
        `text.constraints.CHARSETS`, such as "digits". "all" are all characters that the model
        knows. By default the pretrained model captcha decides for each image which set its
        characters are of, unless a shape is given; other models read all characters.
      length: the number of characters, or the least and the most of them.
      shape: a regular expression of the whole text, such as "[A-Z]{3}-[0-9]{4}". With `caseless`,
        its letters stand for both cases. See `text.shapes`.
      lexicon: the words that may occur, the most likely first. Of many words those are compared
        that are the nearest to what would be read without them. See `decoding.lexicon`.
      caseless: read in lower case; the probabilities of both cases of a character are added. Words
        of a lexicon are read as they are written there.
      beam_width: the number of texts that a beam search follows, such as 10. It adds up the
        alignments of each text, and finds alternatives. By default the most likely alignment is
        read, or with a language model a beam of 10. With a lexicon there is no beam: its words are
        the alternatives.
      language_model: how likely the texts are in a language, see
        `recognition.word_files.read_language_model`.
      language_weight: how much the language model counts; 0.5 by default.
    """

    alphabet: str | None
    length: Length | None
    shape: str | None
    lexicon: Sequence[str] | None
    caseless: bool
    beam_width: int | None
    language_model: NGrams | None
    language_weight: float


class ReadingOptions(DecodingOptions, total=False):
    """Options of commands.

    Attributes:
      same_source: the images are of one source, see `Recognizer.adapt`.
    """

    same_source: bool


def make_decoder(
    own: Alphabet, log_priors: Mapping[str, float], **options: Unpack[DecodingOptions]
) -> Decoder:
    """Returns the decoder of a model for what is known of the texts.

    Args:
      own: the model's alphabet.
      log_priors: the model's sets of characters, see `CharsetPath`; may be empty.
      options: see `DecodingOptions`.

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
    logits: jax.Array,
    lengths: jax.Array,
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
