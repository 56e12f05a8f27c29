"""The texts of rendered images: English words, numbers of all kinds, lines of Chinese."""

import functools
import re
import string
from collections.abc import Sequence

import numpy as np

from crnn_jax.data.extras import import_extra
from crnn_jax.data.synthetic.fonts import EXTRA

PRINTABLE = string.digits + string.ascii_letters + string.punctuation

# The first level of GB 2312 in its order: 3,755 common characters of simplified Chinese.
HANZI = "".join(
    character
    for first in range(0xB0, 0xD8)
    for second in range(0xA1, 0xFF)
    if (character := bytes((first, second)).decode("gb2312", "ignore"))
)
PUNCTUATION = "，，，。。、：；？！"  # the most common ones several times
BRACKETS = ("“”", "（）", "《》", "【】")

# 0 stands for any digit, A for any capital letter.
NUMBERS = (
    *("0", "00", "000", "0000", "00000", "000000", "1900", "2000", "19", "20"),
    *("0.00", "00.00", "$0", "$0.00", "$00.00", "$000", "$0,000", "0,000", "00,000", "-00"),
    *("0%", "00%", "00.0%", "00/00", "00/00/0000", "00-00-00", "0000-00-00", "00.00.0000"),
    *("0:00", "00:00", "0.00pm", "0am", "00AM", "00h00", "0th", "00th", "1st", "x0", "#00", "+00"),
    *("000-0000", "0000-0000", "000-0000-0000", "(000)", "+00-000-0000", "0-0000-000"),
    *("A0", "A00", "A000", "AA00", "A0A", "00A", "A-000", "A0-A00", "AA-000", "#00-00", "A0000AA"),
    *("No.00", "No.0", "0x0", "00kg", "000ml", "00km", "0.0L", "000g", "00m", "0-0", "0+0=0"),
)

WORDS, CHINESE_WORDS = 60_000, 80_000  # the most frequent ones in wordfreq


def word_text(rng: np.random.Generator) -> str:
    """Returns a word, a number or, rarely, a short line, as on signs, in printable ASCII."""
    kind = rng.random()
    if kind < 0.72:
        return _cased(_pick(english_words(), rng), rng)
    if kind < 0.80:
        return _punctuated(_cased(_pick(english_words(), rng), rng), rng)
    if kind < 0.94:
        return _number(rng)
    if kind < 0.98:
        words = [_pick(english_words(), rng) for _ in range(rng.integers(2, 4))]
        return _cased(" ".join(words), rng)
    return _at_random(PRINTABLE, int(rng.integers(1, 9)), rng)


def chinese_text(rng: np.random.Generator) -> str:
    """Returns a line of 5 to 12 characters in Chinese; some have English, numbers or letters.

    Like a line cropped from a page, it may begin and end inside a word.
    """
    length = int(rng.integers(5, 13))
    kind = rng.random()
    if kind < 0.15:  # otherwise rare characters would hardly ever occur
        return _at_random(HANZI, length, rng)
    if kind < 0.25:
        letters = string.digits + string.ascii_letters
        return "".join(
            _at_random(HANZI if rng.random() < 0.5 else letters, 1, rng) for _ in range(length)
        )
    other = int(rng.integers(0, 4)) if kind < 0.5 else -1  # which word is not Chinese, if any
    words: list[str] = []
    while sum(map(len, words)) < length:
        word = _pick(chinese_words(), rng)
        if len(words) == other:
            latin = _cased(_pick(english_words(), rng), rng)
            word = latin if rng.random() < 0.5 else _number(rng)
        if (mark := rng.random()) < 0.12:
            word += PUNCTUATION[rng.integers(len(PUNCTUATION))]
        elif mark < 0.16:
            word = word.join(BRACKETS[rng.integers(len(BRACKETS))])
        words.append(word)
    line = "".join(words)
    return line[: length if rng.random() < 0.5 else None][-length:]


@functools.cache
def english_words() -> Sequence[str]:
    """Returns words of letters and apostrophes, the most frequent first.

    Raises:
        ConfigError: wordfreq is not installed.
    """
    return [word for word in _most_frequent("en", WORDS) if re.fullmatch("[a-z]+('[a-z]+)?", word)]


@functools.cache
def chinese_words() -> Sequence[str]:
    """Returns words of the characters in `HANZI`, the most frequent first.

    Raises:
        ConfigError: wordfreq is not installed.
    """
    known = set(HANZI)
    return [word for word in _most_frequent("zh", CHINESE_WORDS) if known.issuperset(word)]


def _most_frequent(language: str, count: int) -> list[str]:
    return import_extra("wordfreq", EXTRA).top_n_list(language, count)


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    """A random word; its probability falls with the square root of its rank.

    With the real frequencies, half of all images would show one of a hundred words.
    """
    return words[int(len(words) * rng.random() ** 2)]


def _cased(text: str, rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.35:
        return text
    if kind < 0.65:
        return string.capwords(text)
    if kind < 0.97:
        return text.upper()
    return "".join(c.upper() if rng.random() < 0.5 else c for c in text)


def _punctuated(text: str, rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.7:
        return text + ".,!?:;-'\"&*"[rng.integers(11)]
    if kind < 0.8:
        return text.join(("()", '""', "''", "[]", "--")[rng.integers(5)])
    if kind < 0.95:
        return text + "-/&.@_"[rng.integers(6)] + _cased(_pick(english_words(), rng), rng)
    return f"www.{text.lower()}.com"


def _number(rng: np.random.Generator) -> str:
    template = NUMBERS[rng.integers(len(NUMBERS))]
    pools = {"0": string.digits, "A": string.ascii_uppercase}
    return "".join(_at_random(pools.get(c, c), 1, rng) for c in template)


def _at_random(characters: str, count: int, rng: np.random.Generator) -> str:
    return "".join(characters[i] for i in rng.integers(len(characters), size=count))
