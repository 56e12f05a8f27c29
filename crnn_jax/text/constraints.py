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

SIZE_WEIGHT = 0.5
"""How much the size of a set counts in `decoding.CharsetPath`.

Bayes' rule says 1, if a network knew its own uncertainty; 0.5 is better on captchas that were set
aside for the choice.
"""

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

    def allows(self, label: np.ndarray) -> bool:
        """Whether a text is allowed, given its classes (L,)."""
        state = 0
        for index in label.tolist():
            state = self.following[state, index]
            if state < 0:
                return False
        return bool(self.accepting[state])

    def intersection(self, other: Self) -> Self:
        """Returns the minimal automaton of the texts that both automata allow."""
        size = len(other.accepting)
        places = {0: 0}  # pairs of states, each as one number, in the order they are reached in
        pairs, rows = [0], []
        for pair in pairs:  # it grows
            first, second = divmod(pair, size)
            own, others = self.following[first], other.following[second]
            targets = np.where((own >= 0) & (others >= 0), own * size + others, -1).tolist()
            for target in targets:
                if target >= 0 and target not in places:
                    places[target] = len(pairs)
                    pairs.append(target)
            rows.append([places.get(target, -1) for target in targets])
        first, second = np.divmod(pairs, size)
        accepting = self.accepting[first] & other.accepting[second]
        return type(self)(np.array(rows, np.int32), accepting).minimal()

    def minimal(self) -> Self:
        """Returns the automaton with the fewest states that allows the same texts.

        States become one if the same texts complete them (Moore 1956). Those that no text reaches
        or completes are left out, except for the start.
        """
        # Classes that lead to the same states everywhere are followed once. The last state is where
        # classes lead that are not allowed.
        columns, column_of = np.unique(self.following, axis=1, return_inverse=True)
        nowhere = len(self.accepting)
        columns = np.vstack([np.where(columns < 0, nowhere, columns), 0 * columns[:1] + nowhere])
        groups, count = np.append(self.accepting, False).astype(np.int64), 0
        while count < (count := groups.max() + 1):
            signatures = np.column_stack([groups, groups[columns]])
            groups = np.unique(signatures, axis=0, return_inverse=True)[1].ravel()
        # One state of each group, in the order they are reached in.
        number, members = {groups[0]: 0}, [0]
        for state in members:  # it grows
            for target in columns[state].tolist():
                if groups[target] not in number and groups[target] != groups[nowhere]:
                    number[groups[target]] = len(members)
                    members.append(target)
        targets = [[number.get(groups[t], -1) for t in row] for row in columns[members].tolist()]
        following = np.array(targets, np.int32)[:, column_of.ravel()]
        return type(self)(following, self.accepting[members])


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
