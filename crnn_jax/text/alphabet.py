"""The alphabet: text to class indices and CTC indices back to text."""

import hashlib
import json
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

BLANK_MARK = "␣"
"""Shows a blank in raw decodings; it may not be a member of an alphabet."""

_FORBIDDEN_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}  # controls, surrogates, line separators


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The ordered, immutable characters of a model; a character is one NFC code point.

    `characters` is NFC-normalized. With `ignore_case` it is also folded to lower case, and
    characters that become equal thereby are merged into the first.

    Raises:
        ConfigError: `characters` is empty, or has a character twice, a control character,
            a surrogate, a line separator or `BLANK_MARK`.
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
            if unicodedata.category(character) in _FORBIDDEN_CATEGORIES:
                problem = "is a control character, surrogate or line separator; remove it"
            elif character == BLANK_MARK:
                problem = "is reserved as the mark of the CTC blank; remove it"
            elif character in seen:
                problem = "is listed twice (after NFC normalization); list it once"
            else:
                seen.add(character)
                continue
            raise ConfigError(f"alphabet character {_show(character)} {problem}")
        characters = _settle(dict.fromkeys(_fold(composed) if self.ignore_case else composed))
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
    def from_labels(cls, labels: Iterable[str | bytes], ignore_case: bool = False) -> Self:
        """Collect the characters of `labels`, sorted by code point.

        A combining mark that would compose with its neighbor moves forward, see `_settle`.

        Raises:
            ConfigError: the labels hold no character, or one no alphabet may have.
            DataError: a label is not UTF-8.
        """
        found: set[str] = set()
        for label in labels:
            found.update(_normalize(label, ignore_case))
        return cls(_settle(sorted(found)), ignore_case)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Rebuild the alphabet `to_dict` described.

        Raises:
            CheckpointError: `data` has other keys or types.
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

    @property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over the characters, their order and `ignore_case`."""
        content = json.dumps([self.characters, self.ignore_case])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def classes_in(self, other: "Alphabet") -> np.ndarray:
        """Return for each class the one `other` has for the same character, or -1, `(K,)`.

        Where one of the two ignores case, what differs in case alone is the same, unless `other`
        has the very character.
        """
        fold = (other if other.ignore_case else self).normalize
        folded = {fold(c): index for c, index in reversed(other._index.items())}
        known = {**folded, **other._index}
        found = (known.get(c, known.get(fold(c), -1)) for c in self.characters)
        return np.array([BLANK, *found])

    def normalize(self, text: str | bytes, name: str = "") -> str:
        """Return `text` as the model is to see it: NFC, in lower case with `ignore_case`.

        Raises:
            DataError: `text` is not UTF-8; the message names the sample `name`.
        """
        return _normalize(text, self.ignore_case, name)

    def unseen(self, text: str | bytes) -> str:
        """Return the distinct characters of `text` the alphabet lacks, in order of appearance.

        Raises:
            DataError: `text` is not UTF-8.
        """
        return "".join(dict.fromkeys(c for c in self.normalize(text) if c not in self._index))

    def classes(self, text: str) -> np.ndarray:
        """Return the class index of each character of a normalized text, `(L,)` int32.

        It is -1 for characters that the alphabet lacks.
        """
        return np.array([self._index.get(character, -1) for character in text], np.int32)

    def encode(self, text: str | bytes, name: str = "") -> np.ndarray:
        """Return the class indices of `text`, `(L,)` int32.

        Raises:
            DataError: `text` is not UTF-8 or has unseen characters; the message names the
                sample `name`.
        """
        label = self.normalize(text, name)
        try:
            return np.array([self._index[character] for character in label], np.int32)
        except KeyError:
            unseen = ", ".join(map(_show, self.unseen(label)))
            raise DataError(
                f"{_sample(name)}label {label!r} has characters outside the alphabet: {unseen}; "
                "correct the label, or add them to the alphabet: --config.alphabet.characters"
            ) from None

    def encode_batch(
        self, texts: Sequence[str | bytes], names: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return labels `(B, L)` int32, padded with 0, and their lengths `(B,)` int32.

        Raises:
            DataError: as `encode`.
            ValueError: `texts` and `names` differ in length.
        """
        names = [""] * len(texts) if names is None else names
        encoded = [self.encode(text, name) for text, name in zip(texts, names, strict=True)]
        lengths = np.array([len(row) for row in encoded], np.int32)
        labels = np.zeros((len(encoded), lengths.max(initial=0)), np.int32)
        for padded, row in zip(labels, encoded, strict=True):
            padded[: len(row)] = row
        return labels, lengths

    def decode(self, indices: ArrayLike) -> str:
        """Collapse the CTC path `indices` `(T,)`: merge repeats, then drop blanks.

        Raises:
            DataError: an index is outside [0, K).
        """
        path = self._path(indices)
        keep = path != BLANK
        keep[1:] &= path[1:] != path[:-1]
        return "".join(self.characters[index - 1] for index in path[keep].tolist())

    def decode_raw(self, indices: ArrayLike) -> str:
        """Show every step of the CTC path `indices` `(T,)`, a blank as `BLANK_MARK`.

        Raises:
            DataError: an index is outside [0, K).
        """
        symbols = BLANK_MARK + self.characters
        return "".join(symbols[index] for index in self._path(indices).tolist())

    def decode_batch(self, indices: ArrayLike, lengths: ArrayLike | None = None) -> list[str]:
        """`decode` the rows of `indices` `(B, T)`, each up to its length in `lengths` `(B,)`.

        Raises:
            DataError: an index is outside [0, K) or a length outside [0, T].
        """
        return [self.decode(row) for row in _rows(indices, lengths)]

    def decode_raw_batch(self, indices: ArrayLike, lengths: ArrayLike | None = None) -> list[str]:
        """`decode_raw` the rows of `indices` `(B, T)`, each up to its length in `lengths` `(B,)`.

        Raises:
            DataError: an index is outside [0, K) or a length outside [0, T].
        """
        return [self.decode_raw(row) for row in _rows(indices, lengths)]

    def _path(self, indices: ArrayLike) -> np.ndarray:
        path = np.asarray(indices, np.int64)
        outside = path[(path < 0) | (path >= self.num_classes)]
        if outside.size:
            raise DataError(
                f"class index {outside[0]} is outside [0, {self.num_classes}); "
                "decode with the alphabet the model was trained with"
            )
        return path


def may_belong(character: str) -> bool:
    """Whether an alphabet may have `character`: no control character, for one."""
    forbidden = unicodedata.category(character) in _FORBIDDEN_CATEGORIES
    return not forbidden and character != BLANK_MARK


def min_time_steps(indices: ArrayLike) -> int:
    """Return the least CTC time steps that can emit the label `indices` `(L,)`.

    L, and one more for the blank between each two equal neighbors (Graves et al. 2006,
    "Connectionist Temporal Classification").
    """
    label = np.asarray(indices)
    return len(label) + int(np.count_nonzero(label[1:] == label[:-1]))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _is_nfc(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)


def _fold(text: str) -> str:
    # Character by character: on a whole word str.lower() treats a final capital sigma unlike the
    # others, so that text and alphabet would disagree. NFC again: lower() may yield new pairs.
    return _nfc("".join(map(str.lower, text)))


def _normalize(text: str | bytes, ignore_case: bool, name: str = "") -> str:
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(
                f"{_sample(name)}label {text!r} is not UTF-8; store it as UTF-8"
            ) from None
    return _fold(_nfc(text)) if ignore_case else _nfc(text)


def _settle(characters: Iterable[str]) -> str:
    """Join `characters` in order, so that NFC leaves each of them alone.

    Else z followed by a lone combining acute would become ź, and both be lost. Where the order
    given would do so, the offending mark goes to the last place before that is safe.
    """
    characters = list(characters)
    settled = "".join(characters)
    if _is_nfc(settled):
        return settled
    settled, starter = "", 0
    for character in characters:
        # NFC lets an appended character meet only the last starter and the marks after it;
        # testing no more keeps large alphabets fast.
        if _is_nfc(settled[starter:] + character):
            starter = starter if unicodedata.combining(character) else len(settled)
            settled += character
        else:
            places = range(len(settled) - 1, -1, -1)
            inserted = (settled[:at] + character + settled[at:] for at in places)
            settled = next(filter(_is_nfc, inserted))
    return settled


def _rows(indices: ArrayLike, lengths: ArrayLike | None) -> list[np.ndarray]:
    rows = np.asarray(indices)
    if lengths is None:
        return list(rows)
    stops = np.asarray(lengths).tolist()
    for stop in stops:
        if not 0 <= stop <= rows.shape[1]:
            raise DataError(
                f"length {stop} is outside [0, {rows.shape[1]}]; "
                "pass the number of time steps of each row"
            )
    return [row[:stop] for row, stop in zip(rows, stops, strict=True)]


def _show(character: str) -> str:
    return f"{character!r} U+{ord(character):04X}"


def _sample(name: str) -> str:
    return f"sample {name!r}: " if name else ""
