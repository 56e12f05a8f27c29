"""What a text may look like: its characters and its length.

An automaton reads a text character by character. It is in one of Q states, and each character leads
to another state or nowhere. The text is allowed if the automaton ends in an accepting state.
`decoding` follows it along a CTC path.
"""

import re
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np

from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import Alphabet

DIGITS, LOWER, UPPER = "0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHARSETS = {
    "digits": DIGITS,
    "lower": LOWER,
    "upper": UPPER,
    "letters": LOWER + UPPER,
    "digits+lower": DIGITS + LOWER,
    "digits+upper": DIGITS + UPPER,
    "alphanumeric": DIGITS + LOWER + UPPER,
}
"""Sets of characters by name."""

MAX_LENGTH = 64
"""The longest text that can be asked for. Decoding takes memory for each length up to it."""

Length: TypeAlias = int | tuple[int, int]
"""The number of characters of a text, or the least and the most of them."""


@dataclass(frozen=True, eq=False)
class Automaton:
    """The texts that are allowed.

    Attributes:
        following: (Q, K) int32, the state after each class in each state; -1 where the class is not
            allowed. The start is state 0. The column of the blank is not used.
        accepting: (Q,) bool, the states in which a text may end.
    """

    following: np.ndarray
    accepting: np.ndarray

    @classmethod
    def of_length(cls, classes: np.ndarray, length: Length | None = None) -> Self:
        """Allows texts of some classes, of any length or of a certain one.

        Args:
            classes: (K,) bool, the classes that are allowed.
            length: the number of characters, or its range.

        Raises:
            ConfigError: there is no such length, or it is above `MAX_LENGTH`.
        """
        if length is None:
            return cls(np.where(classes, 0, -1)[None].astype(np.int32), np.ones(1, bool))
        least, most = (length, length) if isinstance(length, int) else length
        if not 1 <= least <= most <= MAX_LENGTH:
            raise ConfigError(
                f"a length of {least} to {most} characters is not supported; write a number, or a"
                f" range such as 4-8, of at most {MAX_LENGTH}"
            )
        states = np.arange(most + 1)
        after = np.where(states < most, states + 1, -1)
        following = np.where(classes, after[:, None], -1).astype(np.int32)
        return cls(following, states >= least)


def classes_of(characters: str, alphabet: Alphabet) -> np.ndarray:
    """Returns which classes of an alphabet are meant, (K,) bool; the blank is not.

    Args:
        characters: a name of `CHARSETS`, of which the alphabet need not have all characters, or the
            characters themselves.
        alphabet: that of the model.

    Raises:
        ConfigError: the alphabet has none of the characters, or lacks one that is not named by a
            set.
    """
    text = alphabet.normalize(CHARSETS.get(characters, characters))
    unseen = alphabet.unseen(text)
    allowed = np.zeros(alphabet.num_classes, bool)
    allowed[[c for c in alphabet.classes(text).tolist() if c != -1]] = True
    if not allowed.any() or (unseen and characters not in CHARSETS):
        raise ConfigError(
            f"the model cannot read {unseen or characters!r}; choose among its characters, or one"
            f" of {', '.join(CHARSETS)}"
        )
    return allowed


def parse_length(text: str) -> Length:
    """Reads a length as it is written on a command line: `5`, or `4-8`.

    Raises:
        ConfigError: it is neither.
    """
    if found := re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text, re.ASCII):
        return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))
    raise ConfigError(f"{text!r} is not a length; write a number, or a range such as 4-8")
