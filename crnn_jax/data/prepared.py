"""A split read and made ready: images as arrays, labels as indices, what failed by name."""

import copy
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self, TypedDict, TypeVar

import grain
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from crnn_jax.data.buckets import bucket_width
from crnn_jax.data.images import (
    MIN_WIDTH,
    Preprocessing,
    decode,
    pad_batch,
    pillow_warnings_off,
    prepare,
    resize,
    target_width,
)
from crnn_jax.data.sources.split import Split, digest
from crnn_jax.errors import DataError
from crnn_jax.text.alphabet import Alphabet

T = TypeVar("T")

_CHUNK = 32  # images that a thread reads in one go
# More than there are cores wait for the interpreter's lock: four on two cores take a fifth longer.
_THREADS = min(4, os.cpu_count() or 1)

NOT_ALIGNABLE = 1 << 20
"""Length of labels that cannot be learned: no image has as many time steps, so no loss."""


class Batch(TypedDict):
    """Arrays that cross to the device, and the samples they came from."""

    images: np.ndarray  # (B, H, W, C) uint8
    widths: np.ndarray  # (B,) int32, true widths in pixels
    labels: np.ndarray  # (B, L) int32, zero-padded
    label_lengths: np.ndarray  # (B,) int32
    indices: np.ndarray  # (B,) int64, places in the split
    missing: np.ndarray  # (B,) bool, the image could not be read, a black one stands for it


def device_arrays(batch: Batch) -> dict[str, np.ndarray]:
    """The arrays of a batch that a step uses: without `indices` and `missing`."""
    return {
        "images": batch["images"],
        "widths": batch["widths"],
        "labels": batch["labels"],
        "label_lengths": batch["label_lengths"],
    }


class PreparedSplit:
    """A split as prepared images and encoded labels, by random access.

    Each image is decoded once to see whether it can be, unless its source knows, and kept in
    memory, uint8, until `cache_bytes` are used; what does not fit is decoded anew at each reading.
    What need not be decoded to be looked over is prepared when it is first asked for, behind the
    steps of training, and what is smaller than when prepared is resized then: no run waits for it.

    Attributes:
        cache: place in the split -> its image, prepared or as it came in.
        kept: (N,) bool, which images have room in the cache, be they there yet or not.
        failures: place in the split -> why its image could not be read.
        widths: (N,) int32, of the prepared images in pixels; MIN_WIDTH where there is none.
        sizes: (N, 2) int32, widths and heights that the images came with; 0 where there is none.
        digests: N strings of bytes, equal for equal images; empty where there is none.
        labels: (N, L) int32, padded with 0.
        label_lengths: (N,) int32; NOT_ALIGNABLE where a label has characters that the alphabet
            lacks, or more of them than its image has pixels.
    """

    def __init__(
        self,
        split: Split,
        alphabet: Alphabet,
        preprocessing: Preprocessing,
        cache_bytes: int,
        name: str,
        max_missing: float = 0.0,
    ) -> None:
        """Reads all images that the split has no sizes of; `name` is shown meanwhile.

        With `max_missing` above 0 batches hold black images for those that cannot be read;
        `training_batches` allows that share of them. With 0 they raise DataError.
        """
        self.split = split
        self.preprocessing = preprocessing
        self.max_missing = max_missing
        self.cache: dict[int, np.ndarray] = {}
        self.kept = np.zeros(len(split), bool)
        self.failures: dict[int, str] = {}
        self.widths = np.full(len(split), MIN_WIDTH, np.int32)
        self.sizes = np.zeros((len(split), 2), np.int32)
        self.digests = [b""] * len(split)
        self.cache_bytes = cache_bytes
        self.cached_bytes = 0
        if split.sizes:
            self._take_over()
        else:
            self._examine_all(name)
        self.labels, self.label_lengths = _encode(split, alphabet, self.widths)

    def __len__(self) -> int:
        return len(self.split)

    def __getstate__(self) -> dict[str, Any]:
        # Without the cache, of which each worker process would keep a copy.
        return {**self.__dict__, "cache": {}, "kept": np.zeros(len(self), bool)}

    def select(self, indices: Iterable[int]) -> Self:
        """The samples at `indices`, in that order, without reading them again."""
        chosen = np.array(list(indices), int)
        selected = copy.copy(self)
        selected.split = self.split.select(chosen.tolist())
        selected.cache = _moved(self.cache, chosen)
        selected.kept = self.kept[chosen]
        selected.failures = _moved(self.failures, chosen)
        selected.widths, selected.sizes = self.widths[chosen], self.sizes[chosen]
        selected.cached_bytes = self._prepared_bytes(int(selected.widths[selected.kept].sum()))
        selected.digests = [self.digests[index] for index in chosen.tolist()]
        selected.label_lengths = self.label_lengths[chosen]
        longest = selected.label_lengths.max(initial=0, where=selected.alignable)
        selected.labels = self.labels[chosen, :longest]
        return selected

    @property
    def alignable(self) -> np.ndarray:
        """(N,) bool: where label_lengths is not NOT_ALIGNABLE."""
        return self.label_lengths < NOT_ALIGNABLE

    def image(self, index: int) -> np.ndarray | None:
        """The prepared image (H, W, C) uint8 at a place in the split.

        None stands for one that cannot be read.

        Raises:
            DataError: it cannot be read, and `max_missing` is 0.
        """
        cached = self.cache.get(index)
        if cached is not None:
            if cached.shape[:2] != (self.preprocessing.height, self.widths[index]):
                cached = resize(Image.fromarray(cached), self.preprocessing)
                self.cache[index] = cached
            return cached
        try:
            data = self.split.read(index)
            image = prepare(data, self.preprocessing, self.split.names[index])
        except DataError:
            if self.max_missing:
                return None
            raise
        if self.kept[index]:
            self.cache[index] = image
        return image

    def batch(
        self,
        indices: np.ndarray,
        buckets: Sequence[int],
        change: Callable[[np.ndarray, int], np.ndarray] | None = None,
    ) -> Batch:
        """The samples at `indices`, padded to the narrowest bucket width that holds them.

        `change` maps each image and its place in the split to what is used instead of it.
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
            labels=self.labels[indices],
            label_lengths=np.where(missing, np.int32(NOT_ALIGNABLE), self.label_lengths[indices]),
            indices=indices,
            missing=missing,
        )

    def _take_over(self) -> None:
        """What the source knows of its images, which are whole."""
        self.sizes[:] = self.split.sizes
        self.widths[:] = [target_width(size, self.preprocessing) for size in self.split.sizes]
        self.digests = list(self.split.digests)
        self.kept = self._prepared_bytes(1) * self.widths.cumsum() <= self.cache_bytes
        self.cached_bytes = self._prepared_bytes(int(self.widths[self.kept].sum()))

    def _examine_all(self, name: str) -> None:
        # Threads suffice: Pillow decodes and resizes without holding the interpreter's lock.
        # In chunks, as handing over one image takes a quarter of the time of decoding it.
        chunks = (
            grain.MapDataset.range(0, len(self), _CHUNK)
            .map(self._examine_chunk)
            .to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=8))
        )
        images = itertools.chain.from_iterable(chunks)
        # Standard output is for results; and FORCE_COLOR, which kernels and CI systems set, asks
        # for colors, not for a log full of redrawn bars.
        console = Console(stderr=True, force_jupyter=False, force_terminal=sys.stderr.isatty())
        shown = track(images, f"reading {name}", total=len(self), console=console)
        with pillow_warnings_off:
            for index, examined in enumerate(shown):
                if examined.failure:
                    self.failures[index] = examined.failure
                    continue
                width = self.widths[index] = target_width(examined.size, self.preprocessing)
                self.sizes[index] = examined.size
                self.digests[index] = examined.digest
                if examined.image is not None and self._has_room(width):
                    self.cache[index] = examined.image
                    self.kept[index] = True
                    self.cached_bytes += self._prepared_bytes(width)

    def _examine_chunk(self, start: int) -> "list[_Examined]":
        return [self._examine(index) for index in range(start, len(self))[:_CHUNK]]

    def _examine(self, index: int) -> "_Examined":
        try:
            data = self.split.read(index)
            image = decode(data, self.preprocessing, self.split.names[index])
        except DataError as error:
            return _Examined(None, (0, 0), b"", str(error))
        width, kept = target_width(image.size, self.preprocessing), None
        # Room never comes back, so a thread finds none only where there is none.
        if self._has_room(width):
            smaller = image.width * image.height < width * self.preprocessing.height
            kept = np.asarray(image) if smaller else resize(image, self.preprocessing)
        return _Examined(kept, image.size, digest(data), "")

    def _has_room(self, width: int) -> bool:
        """Whether a prepared image of this width fits into the cache."""
        return self.cached_bytes + self._prepared_bytes(width) <= self.cache_bytes

    def _prepared_bytes(self, width: int) -> int:
        return self.preprocessing.height * width * self.preprocessing.channels


class _Examined(NamedTuple):
    """What there is to know of an image file; see the attributes of PreparedSplit."""

    image: np.ndarray | None  # where there is room to keep it; resized, if it is then smaller
    size: tuple[int, int]
    digest: bytes
    failure: str


def _moved(old: dict[int, T], chosen: np.ndarray) -> dict[int, T]:
    return {new: old[index] for new, index in enumerate(chosen.tolist()) if index in old}


def _encode(split: Split, alphabet: Alphabet, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    texts = [alphabet.normalize(label) for label in split.labels]
    # A network has no more time steps than pixels. Without this bound, one label of a thousand
    # characters would make the labels of all batches as long.
    alignable = np.array(
        [
            len(text) <= width and not alphabet.unseen(text)
            for text, width in zip(texts, widths, strict=True)
        ],
        bool,
    )
    labels, lengths = alphabet.encode_batch(
        [text if ok else "" for text, ok in zip(texts, alignable, strict=True)], split.names
    )
    return labels, np.where(alignable, lengths, np.int32(NOT_ALIGNABLE))
