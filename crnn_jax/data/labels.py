"""Labels as a model is to write them: normalized and encoded once, for all that needs them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np

from crnn_jax.text.alphabet import Alphabet, min_time_steps

TimeSteps: TypeAlias = Callable[[Any], Any]
"""Width of a prepared image in pixels -> time steps of the network; both an int or an array."""


@dataclass(frozen=True)
class Labels:
    """N encoded labels.

    Attributes:
        texts: the N labels, normalized by the alphabet.
        ids: N arrays of class indices, (L,) int32; -1 for characters that the alphabet lacks.
        unseen: index -> these characters, for the labels that have any.
    """

    texts: tuple[str, ...]
    ids: tuple[np.ndarray, ...]
    unseen: dict[int, str]

    @classmethod
    def encode(cls, labels: Iterable[str], alphabet: Alphabet) -> Self:
        """Normalizes and encodes labels."""
        texts = tuple(map(alphabet.normalize, labels))
        ids = tuple(map(alphabet.classes, texts))
        unseen: dict[int, str] = {}
        for index, (text, classes) in enumerate(zip(texts, ids, strict=True)):
            if lacking := [text[place] for place in np.flatnonzero(classes < 0)]:
                unseen[index] = "".join(dict.fromkeys(lacking))
        return cls(texts, ids, unseen)

    def __len__(self) -> int:
        return len(self.texts)

    def alignable(self, widths: np.ndarray, time_steps: TimeSteps) -> np.ndarray:
        """Returns which labels CTC can align with images of `widths` (N,) pixels: (N,) bool.

        A label cannot be aligned if it needs more time steps than the image has, or if it has
        characters that the alphabet lacks.
        """
        needed = np.array([min_time_steps(ids) for ids in self.ids], np.int64)
        mask = needed <= time_steps(widths)
        mask[list(self.unseen)] = False
        return mask

    def padded(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the class indices (N, L), padded with 0, and the lengths (N,), both int32.

        L is the longest label for which `mask` (N,) is true; the others become empty, as one label
        of a thousand characters would make those of all batches as long.
        """
        lengths = np.array([len(ids) for ids in self.ids], np.int32) * mask
        label_ids = np.zeros((len(self), lengths.max(initial=0)), np.int32)
        for row, ids, length in zip(label_ids, self.ids, lengths, strict=True):
            row[:length] = ids[:length]
        return label_ids, lengths.astype(np.int32)
