"""Files of words and of language models: read, or an error in one line."""

import math
import os
import unicodedata
from collections.abc import Iterator

from crnn_jax.errors import ConfigError
from crnn_jax.files import open_file
from crnn_jax.text.ngrams import NGrams

MAX_BYTES = 2**28
"""The largest file."""


def read_words(path: str | os.PathLike[str]) -> dict[str, float]:
    """Reads a list of words, in their order: UTF-8, a word a line.

    A word may be followed by a tab and how often it occurs. The counts of a word that is listed
    several times are added; a word without one counts once.

    Raises:
      ConfigError: the file cannot be read, has no word, or a count is no positive number.
    """
    words: dict[str, float] = {}
    for place, line in enumerate(_read_lines(path), 1):
        word, tab, count = line.partition("\t")
        word = unicodedata.normalize("NFC", word.strip())
        try:
            number = float(count) if tab else 1.0
        except ValueError:
            number = 0.0
        if not 0 < number < math.inf:
            raise ConfigError(
                f"{os.fspath(path)!r}, line {place}: {count!r} is no count; write a word, or a"
                " word, a tab and how often it occurs"
            )
        if word:
            words[word] = words.get(word, 0.0) + number
    if not words:
        raise ConfigError(f"{os.fspath(path)!r} has no words; write one a line")
    return words


def read_language_model(path: str | os.PathLike[str]) -> NGrams:
    """Reads a language model of characters, in the ARPA format.

    Raises:
      ConfigError: the file cannot be read, or is no such model.
    """
    try:
        return NGrams.from_arpa(_read_lines(path))
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)!r}: {error}") from error


def _read_lines(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the lines of a UTF-8 file, without their ends.

    Raises:
      ConfigError: the file cannot be read, is larger than `MAX_BYTES`, or is not UTF-8.
    """
    name = os.fspath(path)
    try:
        with open_file(path, MAX_BYTES) as file:
            for place, line in enumerate(file, 1):
                try:
                    yield line.decode("utf-8-sig" if place == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise ConfigError(
                        f"{name!r}, line {place} is not UTF-8; save the file as UTF-8"
                    ) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read {name!r}: {reason}; check the path") from error
