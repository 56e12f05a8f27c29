"""A split that is ready for batches: prepared images, encoded labels, and which of them count."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Self, TypedDict

import numpy as np

from crnn_jax.data.buckets import bucket_width
from crnn_jax.data.images import MIN_WIDTH, pad_batch, pillow_warnings_off
from crnn_jax.data.labels import Labels, TimeSteps
from crnn_jax.data.reader import ImageReader
from crnn_jax.data.sources.split import Split
from crnn_jax.errors import DataError


class Batch(TypedDict):
    """B samples. All arrays but the last two go to the device."""

    images: np.ndarray  # (B, H, W, C) uint8
    widths: np.ndarray  # (B,) int32, in pixels, without the padding
    label_ids: np.ndarray  # (B, L) int32, class indices, padded with 0
    label_lengths: np.ndarray  # (B,) int32
    mask: np.ndarray  # (B,) bool, whether the image was read and its label can be aligned with it
    indices: np.ndarray  # (B,) int64, in the split
    missing: np.ndarray  # (B,) bool, whether the image could not be read and is black


def device_arrays(batch: Batch) -> dict[str, np.ndarray]:
    """Returns the arrays of a batch that a step uses: all but `indices` and `missing`."""
    return {
        "images": batch["images"],
        "widths": batch["widths"],
        "label_ids": batch["label_ids"],
        "label_lengths": batch["label_lengths"],
        "mask": batch["mask"],
    }


class PreparedSplit:
    """N samples with random access.

    Attributes:
        split: names, labels as the source has them, and facts of all images.
        preprocessing: size and kind of the images.
        labels: the N labels as the model is to write them.
        unseen: index -> the characters of its label that the alphabet lacks.
        widths: (N,) int32, of the prepared images in pixels; MIN_WIDTH for unreadable images.
        mask: (N,) bool, whether CTC can align the label with its image.
        label_ids: (N, L) int32, class indices, padded with 0.
        label_lengths: (N,) int32; 0 where the mask is false.
        failures: index -> why the image cannot be read.
        max_missing: the share of images that may be unreadable in training. If it is above 0,
            batches have black images in their place; else they raise DataError.
    """

    def __init__(
        self,
        split: Split,
        labels: Labels,
        reader: ImageReader,
        time_steps: TimeSteps,
        max_missing: float = 0.0,
    ) -> None:
        """Examines the images of the split that have not been examined."""
        self.split = reader.examine(split)
        self.preprocessing = reader.preprocessing
        self.max_missing = max_missing
        self.labels, self.unseen = labels.texts, labels.unseen
        self.failures: dict[int, str] = {}
        self.widths = np.full(len(split), MIN_WIDTH, np.int32)
        for index, fact in enumerate(self.split.facts):
            assert fact
            if fact.failure:
                self.failures[index] = fact.failure
            else:
                self.widths[index] = reader.width(fact)
        self.mask = labels.alignable(self.widths, time_steps)
        self.label_ids, self.label_lengths = labels.padded(self.mask)
        self._reader = reader

    def __len__(self) -> int:
        return len(self.split)

    def select(self, indices: Iterable[int]) -> Self:
        """Returns the samples at `indices`, in that order."""
        chosen = np.array(list(indices), int)
        places = chosen.tolist()
        selected = copy.copy(self)
        selected.split = self.split.select(places)
        selected.labels = tuple(self.labels[index] for index in places)
        selected.unseen = {i: self.unseen[j] for i, j in enumerate(places) if j in self.unseen}
        selected.failures = {
            i: self.failures[j] for i, j in enumerate(places) if j in self.failures
        }
        selected.widths, selected.mask = self.widths[chosen], self.mask[chosen]
        selected.label_lengths = self.label_lengths[chosen]
        selected.label_ids = self.label_ids[chosen, : selected.label_lengths.max(initial=0)]
        return selected

    def image(self, index: int) -> np.ndarray | None:
        """Returns a prepared image (H, W, C) uint8, or None if it cannot be read.

        Raises:
            DataError: it cannot be read, and `max_missing` is 0.
        """
        try:
            return self._reader.image(self.split, index)
        except DataError:
            if self.max_missing:
                return None
            raise

    def batch(
        self,
        indices: np.ndarray,
        buckets: Sequence[int],
        change: Callable[[np.ndarray, int], np.ndarray] | None = None,
    ) -> Batch:
        """Returns the samples at `indices`, padded to the narrowest bucket that holds them.

        Args:
            indices: (B,) of the samples.
            buckets: widths in pixels.
            change: maps an image and its index to the image to use instead.

        Raises:
            DataError: an image cannot be read, and `max_missing` is 0.
        """
        with pillow_warnings_off:
            found = [self.image(int(index)) for index in indices]
        black = np.zeros((self.preprocessing.height, MIN_WIDTH, self.preprocessing.channels), "u1")
        images = [black if image is None else image for image in found]
        missing = np.array([image is None for image in found])
        if change:
            images = [
                change(image, int(index)) for image, index in zip(images, indices, strict=True)
            ]
        widest = max(image.shape[1] for image in images)
        padded, widths = pad_batch(images, bucket_width(widest, buckets))
        return Batch(
            images=padded,
            widths=widths,
            label_ids=self.label_ids[indices],
            label_lengths=self.label_lengths[indices],
            mask=self.mask[indices] & ~missing,
            indices=indices,
            missing=missing,
        )
