"""The alphabet: text to class indices and CTC indices back to text."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from crnn_jax.errors import CheckpointError, ConfigError, DataError

BLANK = 0
"""Class index of the CTC blank; characters have the indices 1..len."""

_FORBIDDEN_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}  # controls, surrogates, line separators


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The ordered, immutable characters of a model; a character is one NFC code point.

    `characters` is NFC-normalized. With `ignore_case` it is also lowercased, and of characters
    that are then equal the first is kept.

    Raises:
        ConfigError: `characters` is empty, lists a character twice, or has a control character,
            a surrogate or a line separator.
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
                problem = "is a control character, surrogate or line separator; remove it"
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
        """Read the characters, in order, from a UTF-8 file; line breaks are ignored.

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
        """Collect the characters of `labels`, sorted by code point.

        A combining mark that would compose with its neighbor moves forward, see `_settle`.

        Raises:
            ConfigError: the labels have no character, or one that no alphabet may have.
        """
        found: set[str] = set()
        for label in labels:
            found.update(_normalize(label, ignore_case))
        return cls(_settle(sorted(found)), ignore_case)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Rebuild the alphabet that `to_dict` described.

        Raises:
            CheckpointError: `data` lacks a key, or a value has another type.
            ConfigError: the characters are no valid alphabet.
        """
        match data:
            case {"characters": str(characters), "ignore_case": bool(ignore_case)}:
                return cls(characters, ignore_case)
        raise CheckpointError(
            f"the alphabet entry with the keys {sorted(data)} needs `characters` (text) and "
            "`ignore_case` (true or false); use an undamaged checkpoint"
        )

    def to_dict(self) -> dict[str, str | bool]:
        """Describe the alphabet in JSON types."""
        return {"characters": self.characters, "ignore_case": self.ignore_case}

    @property
    def num_classes(self) -> int:
        """K: the characters and the blank."""
        return len(self.characters) + 1

    def classes_in(self, other: "Alphabet") -> np.ndarray:
        """Return the class in `other` of each class's character, `(K,)`; -1 where it has none.

        If either alphabet ignores case, characters that differ in case alone match, but an exact
        match is preferred.
        """
        normalize = (other if other.ignore_case else self).normalize
        normalized = {normalize(c): index for c, index in reversed(other._index.items())}
        known = {**normalized, **other._index}
        found = (known.get(c, known.get(normalize(c), -1)) for c in self.characters)
        return np.array([BLANK, *found])

    def normalize(self, text: str) -> str:
        """Return `text` in the form that is encoded: NFC, and lowercase with `ignore_case`."""
        return _normalize(text, self.ignore_case)

    def unseen(self, text: str) -> str:
        """Return the distinct characters of `text` that the alphabet lacks, in their order."""
        return "".join(dict.fromkeys(c for c in self.normalize(text) if c not in self._index))

    def classes(self, text: str) -> np.ndarray:
        """Return the class index of each character of a normalized text, `(L,)` int32.

        It is -1 for characters that the alphabet lacks.
        """
        return np.array([self._index.get(character, -1) for character in text], np.int32)

    def encode(self, text: str, name: str = "") -> np.ndarray:
        """Return the class indices of `text`, `(L,)` int32.

        Raises:
            DataError: `text` has characters that the alphabet lacks; the message names the
                sample `name`.
        """
        label = self.normalize(text)
        try:
            return np.array([self._index[character] for character in label], np.int32)
        except KeyError:
            sample = f"sample {name!r}: " if name else ""
            unseen = ", ".join(map(_show, self.unseen(label)))
            raise DataError(
                f"{sample}label {label!r} has characters outside the alphabet: {unseen}; "
                "correct the label, or add them to the alphabet: --config.alphabet.characters"
            ) from None

    def encode_batch(
        self, texts: Sequence[str], names: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return label ids `(B, L)` int32, padded with 0, and their lengths `(B,)` int32.

        Raises:
            DataError: as `encode`.
            ValueError: `texts` and `names` differ in length.
        """
        names = [""] * len(texts) if names is None else names
        encoded = [self.encode(text, name) for text, name in zip(texts, names, strict=True)]
        lengths = np.array([len(row) for row in encoded], np.int32)
        label_ids = np.zeros((len(encoded), lengths.max(initial=0)), np.int32)
        for padded, row in zip(label_ids, encoded, strict=True):
            padded[: len(row)] = row
        return label_ids, lengths

    def decode(self, indices: ArrayLike) -> str:
        """Collapse the CTC path `indices` `(T,)`: merge repeats, then drop blanks.

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
        """Decode the rows of `indices` `(B, T)`, each up to its length in `lengths` `(B,)`.

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
    """Whether an alphabet may have `character`: not a control character, for one."""
    return unicodedata.category(character) not in _FORBIDDEN_CATEGORIES


def min_time_steps(indices: ArrayLike) -> int:
    """Return the fewest time steps in which CTC can emit the label `indices` `(L,)`.

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
    """Join `characters` so that NFC composes none of them with another.

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
