"""What is known of the texts, and how they are read: the options of `Recognizer.load`."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from crnn_jax.text.constraints import Length
from crnn_jax.text.ngrams import NGrams

ALL = "all"  # the name of all characters that a model knows

MAX_BEAM_WIDTH = 256
"""The widest beam that can be asked for. The time that it takes grows with its square."""

BEAM_WIDTH = 10
"""That of a beam if there must be one."""

LANGUAGE_WEIGHT = 0.5
"""How much a language model counts by default."""


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


def is_default(options: Mapping[str, Any]) -> bool:
    """Whether options are those that a model is read with if nothing is known."""
    defaults: dict[str, Any] = {"caseless": False, "same_source": False}
    defaults["language_weight"] = LANGUAGE_WEIGHT
    return all(value == defaults.get(name) for name, value in options.items())
