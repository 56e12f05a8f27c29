"""The alphabet: text to class indices and CTC indices back to text."""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from crnn_jax.errors import ConfigError, DataError

BLANK = 0
"""Class index of the CTC blank; characters have the indices 1..len."""

# Controls, surrogates, line separators, and format characters. Format characters are invisible, so
# no network can read them, and some change the order in which a terminal shows other text.
_FORBIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Format characters that text needs: the non-joiner and the joiner of Persian and Indic scripts,
# which change the letters beside them, and the visible signs of Arabic, Syriac and Kaithi.
_NEEDED = frozenset(
    "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The ordered, immutable characters of a model; a character is one NFC code point.

    `characters` is NFC-normalized. With `ignore_case` it is also lowercased, and of characters
    that are then equal the first is kept.

    Raises:
        ConfigError: `characters` is empty, lists a character twice, or has one that no alphabet
            may have.
    """

    characters: str
    ignore_case: bool = False
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        composed = _nfc(self.characters)
        if not composed:
            raise ConfigError(
                "the alphabet is empty; give it a character: --config.alphabet.characters"
            )
        seen: set[str] = set()
        for character in composed:
            if not may_belong(character):
                problem = "is a control character or invisible; remove it"
            elif character in seen:
                problem = "is listed twice (after NFC normalization); list it once"
            else:
                seen.add(character)
                continue
            raise ConfigError(f"alphabet character {_show(character)} {problem}")
        characters = _settle(dict.fromkeys(_lowercase(composed) if self.ignore_case else composed))
        object.__setattr__(self, "characters", characters)
        object.__setattr__(self, "_index", {c: i for i, c in enumerate(characters, BLANK + 1)})

    @classmethod
    def from_file(cls, path: str | Path, ignore_case: bool = False) -> Self:
        """Reads the characters, in order, from a UTF-8 file; line breaks are ignored.

        A space counts as a character. Characters on different lines are never composed.

        Raises:
            ConfigError: the file cannot be read, is not UTF-8, or is no valid alphabet.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ConfigError(
                f"cannot read the alphabet file {str(path)!r} ({error.strerror}); check the path"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"the alphabet file {str(path)!r} is not UTF-8; save it as UTF-8"
            ) from error
        return cls(_settle("".join(map(_nfc, text.split("\n")))), ignore_case)

    @classmethod
    def from_labels(cls, labels: Iterable[str], ignore_case: bool = False) -> Self:
        """Collects the characters of `labels`, sorted by code point.

        A combining mark that would compose with its neighbor moves forward, see `_settle`.

        Raises:
            ConfigError: the labels have no character, or one that no alphabet may have.
        """
        found: set[str] = set()
        for label in labels:
            found.update(_normalize(label, ignore_case))
        return cls(_settle(sorted(found)), ignore_case)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuilds the alphabet that `to_dict` described, in a manifest that was checked.

        Raises:
            ConfigError: the characters are no valid alphabet.
        """
        return cls(data["characters"], data["ignore_case"])

    def to_dict(self) -> dict[str, str | bool]:
        """Describes the alphabet in JSON types."""
        return {"characters": self.characters, "ignore_case": self.ignore_case}

    @property
    def num_classes(self) -> int:
        """K: the characters and the blank."""
        return len(self.characters) + 1

    def classes_in(self, other: "Alphabet") -> np.ndarray:
        """Returns the class in `other` of each class's character, `(K,)`; -1 where it has none.

        If either alphabet ignores case, characters that differ in case alone match, but an exact
        match is preferred.
        """
        normalize = (other if other.ignore_case else self).normalize
        normalized = {normalize(c): index for c, index in reversed(other._index.items())}
        known = {**normalized, **other._index}
        found = (known.get(c, known.get(normalize(c), -1)) for c in self.characters)
        return np.array([BLANK, *found])

    def normalize(self, text: str) -> str:
        """Returns `text` in the form that is encoded: NFC, and lowercase with `ignore_case`."""
        return _normalize(text, self.ignore_case)

    def unseen(self, text: str) -> str:
        """Returns the distinct characters of `text` that the alphabet lacks, in their order."""
        return "".join(dict.fromkeys(c for c in self.normalize(text) if c not in self._index))

    def classes(self, text: str) -> np.ndarray:
        """Returns the class index of each character of a normalized text, `(L,)` int32.

        It is -1 for characters that the alphabet lacks.
        """
        return np.array([self._index.get(character, -1) for character in text], np.int32)

    def spell(self, labels: ArrayLike) -> list[str]:
        """Returns the texts of labels `(N, L)`, which are classes padded with blanks."""
        rows = np.asarray(labels).tolist()
        return ["".join([self.characters[k - 1] for k in row if k != BLANK]) for row in rows]

    def decode(self, indices: ArrayLike) -> str:
        """Collapses the CTC path `indices` `(T,)`: merge repeats, then drop blanks.

        Raises:
            DataError: an index is outside [0, K).
        """
        path = np.asarray(indices, np.int64)
        outside = path[(path < 0) | (path >= self.num_classes)]
        if outside.size:
            raise DataError(
                f"class index {outside[0]} is outside [0, {self.num_classes}); "
                "decode with the alphabet that the model was trained with"
            )
        keep = path != BLANK
        keep[1:] &= path[1:] != path[:-1]
        return "".join(self.characters[index - 1] for index in path[keep].tolist())

    def decode_batch(self, indices: ArrayLike, lengths: ArrayLike | None = None) -> list[str]:
        """Decodes the rows of `indices` `(B, T)`, each up to its length in `lengths` `(B,)`.

        Raises:
            DataError: an index is outside [0, K) or a length outside [0, T].
        """
        rows = np.asarray(indices)
        if lengths is None:
            return list(map(self.decode, rows))
        stops = np.asarray(lengths).tolist()
        for stop in stops:
            if not 0 <= stop <= rows.shape[1]:
                raise DataError(
                    f"length {stop} is outside [0, {rows.shape[1]}]; "
                    "pass the number of time steps of each row"
                )
        return [self.decode(row[:stop]) for row, stop in zip(rows, stops, strict=True)]


def may_belong(character: str) -> bool:
    """Whether an alphabet may have `character`: not if it is a control character or invisible."""
    return unicodedata.category(character) not in _FORBIDDEN_CATEGORIES or character in _NEEDED


def min_time_steps(indices: ArrayLike) -> int:
    """Returns the fewest time steps in which CTC can emit the label `indices` `(L,)`.

    That is L, and one more for each pair of equal neighbors, which a blank must separate
    (Graves et al. 2006, "Connectionist Temporal Classification").
    """
    label = np.asarray(indices)
    return len(label) + int(np.count_nonzero(label[1:] == label[:-1]))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _is_nfc(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)


def _lowercase(text: str) -> str:
    # Character by character: on a whole word str.lower() treats a final capital sigma unlike the
    # others, and text and alphabet would disagree. NFC again, as lower() may yield new pairs.
    return _nfc("".join(map(str.lower, text)))


def _normalize(text: str, ignore_case: bool) -> str:
    return _lowercase(_nfc(text)) if ignore_case else _nfc(text)


def _settle(characters: Iterable[str]) -> str:
    """Joins `characters` so that NFC composes none of them with another.

    A z followed by a combining acute would become ź, and both would be lost. Such a mark moves
    forward, to the last place at which it stays alone; all others keep their order.
    """
    characters = list(characters)
    settled = "".join(characters)
    if _is_nfc(settled):
        return settled
    settled, starter = "", 0
    for character in characters:
        # NFC composes an appended character only with the last starter and the marks after it, so
        # that part alone is tested: large alphabets stay fast.
        if _is_nfc(settled[starter:] + character):
            starter = starter if unicodedata.combining(character) else len(settled)
            settled += character
        else:
            places = range(len(settled) - 1, -1, -1)
            inserted = (settled[:at] + character + settled[at:] for at in places)
            settled = next(filter(_is_nfc, inserted))
    return settled


def _show(character: str) -> str:
    return f"{character!r} U+{ord(character):04X}"
