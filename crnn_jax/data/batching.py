"""Batches of padded pictures: which samples, how wide, in which order, loaded by grain."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import grain
import numpy as np
from absl import flags
from rich.console import Console
from rich.progress import track

from crnn_jax.data.images import Preprocessing, pad_batch, prepare
from crnn_jax.data.sources.split import Split
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import Alphabet

MULTIPLE = 8  # of pixels in a bucket's width; conv features shrink by 4, vectors like 8


class Batch(TypedDict):
    """Arrays that cross to the device, and the samples they came from."""

    images: np.ndarray  # (B, H, W, C) uint8
    widths: np.ndarray  # (B,) int32, true widths in pixels
    labels: np.ndarray  # (B, L) int32, zero-padded
    label_lengths: np.ndarray  # (B,) int32
    indices: np.ndarray  # (B,) int64, places in the split


def device_arrays(batch: Batch) -> dict[str, np.ndarray]:
    """The arrays of a batch that a step uses: all but the places in the split."""
    return {
        "images": batch["images"],
        "widths": batch["widths"],
        "labels": batch["labels"],
        "label_lengths": batch["label_lengths"],
    }


class PreparedSplit:
    """A split as prepared pictures and encoded labels, by random access.

    Pictures are decoded once and kept in memory as uint8 until `cache_bytes` are used; what does
    not fit is decoded anew at each reading.
    """

    def __init__(
        self,
        split: Split,
        alphabet: Alphabet,
        preprocessing: Preprocessing,
        cache_bytes: int,
        name: str,
    ) -> None:
        self.split = split
        self.preprocessing = preprocessing
        self.labels, self.label_lengths = alphabet.encode_batch(split.labels, split.names)
        self.cache: dict[int, np.ndarray] = {}
        self.widths = np.zeros(len(split), np.int32)
        self.cached_bytes = 0
        # Threads suffice: Pillow decodes and resizes without holding the interpreter's lock.
        pictures = (
            grain.MapDataset.range(len(split))
            .map(self.picture)
            .to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=64))
        )
        # Standard output is for results; and FORCE_COLOR, which kernels and CI systems set, asks
        # for colours, not for a log full of redrawn bars.
        console = Console(stderr=True, force_jupyter=False, force_terminal=sys.stderr.isatty())
        shown = track(pictures, f"reading {name}", total=len(split), console=console)
        for index, picture in enumerate(shown):
            self.widths[index] = picture.shape[1]
            if self.cached_bytes + picture.nbytes <= cache_bytes:
                self.cache[index] = picture
                self.cached_bytes += picture.nbytes

    def __len__(self) -> int:
        return len(self.split)

    def __getstate__(self) -> dict[str, Any]:
        # Without the cache, of which each worker process would keep a copy.
        return {**self.__dict__, "cache": {}}

    def picture(self, index: int) -> np.ndarray:
        """The prepared picture (H, W, C) uint8 at a place in the split."""
        cached = self.cache.get(index)
        if cached is not None:
            return cached
        return prepare(self.split.read(index), self.preprocessing, self.split.names[index])

    def batch(self, indices: np.ndarray, buckets: Sequence[int]) -> Batch:
        """The samples at `indices`, padded to the narrowest bucket width that holds them."""
        pictures = [self.picture(int(index)) for index in indices]
        widest = max(picture.shape[1] for picture in pictures)
        images, widths = pad_batch(pictures, bucket_width(widest, buckets))
        return Batch(
            images=images,
            widths=widths,
            labels=self.labels[indices],
            label_lengths=self.label_lengths[indices],
            indices=indices,
        )


def choose_buckets(widths: np.ndarray, count: int) -> tuple[int, ...]:
    """At most `count` bucket widths for `widths` (N,), each for about as many pictures."""
    quantiles = np.quantile(widths, np.arange(1, count + 1) / count, method="higher")
    return tuple(sorted({round_up(int(width)) for width in quantiles}))


def bucket_width(width: int, buckets: Sequence[int]) -> int:
    """The narrowest bucket that holds `width`; wider ones are rounded up to a multiple."""
    return min((bucket for bucket in buckets if bucket >= width), default=round_up(width))


def round_up(width: int) -> int:
    """The next multiple of MULTIPLE."""
    return -(-width // MULTIPLE) * MULTIPLE


class TrainingPlan:
    """Which samples make the batch of each step: a pure function of seed and step.

    Nothing of the shuffle has to be saved: a run that goes on at step N asks for the batches from
    N on. Each epoch is one global shuffle, dealt into buckets by width; a bucket gives a batch
    when it has enough, and what is left in the buckets at the end makes mixed batches. Every
    epoch has `len(widths) // batch_size` batches and no sample twice; those left out are the last
    of the shuffle, so that chance alone chooses them, not their width.
    """

    def __init__(
        self,
        widths: np.ndarray,
        buckets: Sequence[int],
        batch_size: int,
        epochs: int,
        seed: int,
    ) -> None:
        if len(widths) < batch_size:
            raise ConfigError(
                f"batch_size={batch_size} is more than the {len(widths)} training pictures;"
                f" set --config.batch_size={len(widths)} or less"
            )
        self.buckets = np.array([bucket_width(int(width), buckets) for width in widths])
        self.batch_size = batch_size
        self.steps_per_epoch = len(widths) // batch_size
        self.epochs = epochs
        self.seed = seed
        # The last two epochs asked for, as threads that read ahead enter the next one early.
        self._recent: dict[int, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __getitem__(self, step: int) -> np.ndarray:
        """Places (B,) in the training split of the samples of a step, counted from 0."""
        epoch, batch = divmod(int(step), self.steps_per_epoch)
        batches = self._recent.get(epoch)
        if batches is None:
            batches = self._batches_of_epoch(epoch)
            self._recent = {**dict(list(self._recent.items())[-1:]), epoch: batches}
        return batches[batch]

    def _batches_of_epoch(self, epoch: int) -> list[np.ndarray]:
        count = len(self.buckets)
        shuffled: Any = (
            grain.MapDataset.range(count)
            .seed(self.seed)
            .shuffle()
            .repeat(epoch + 1, reseed_each_epoch=True)
        )
        waiting: dict[int, list[int]] = {int(bucket): [] for bucket in np.unique(self.buckets)}
        batches: list[np.ndarray] = []
        first = epoch * count
        for position in range(first, first + self.steps_per_epoch * self.batch_size):
            index = shuffled[position]
            queue = waiting[int(self.buckets[index])]
            queue.append(index)
            if len(queue) == self.batch_size:
                batches.append(np.array(queue))
                queue.clear()
        rest = [index for _, queue in sorted(waiting.items()) for index in queue]
        batches += list(np.array(rest, int).reshape(-1, self.batch_size))
        # The mixed batches come anywhere, not always last.
        order = np.random.default_rng((self.seed, epoch)).permutation(len(batches))
        return [batches[i] for i in order]


def training_batches(
    prepared: PreparedSplit,
    plan: TrainingPlan,
    buckets: Sequence[int],
    first_step: int,
    workers: int,
) -> Iterator[Batch]:
    """The batches of all steps from `first_step` on, made ahead of time.

    With `workers` 0 threads of this process make them; else so many processes do.
    """
    source: Any = plan  # it has the length and the items of a sequence, all that grain asks for
    dataset = (
        grain.MapDataset.source(source)[first_step:]
        .map(lambda indices: prepared.batch(indices, buckets))
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    )
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain asks a flag of its own; a notebook parses none
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


def evaluation_batches(
    prepared: PreparedSplit, buckets: Sequence[int], batch_size: int
) -> Iterator[tuple[Batch, int]]:
    """Every sample once, by width: batches, and how many of each batch's samples count.

    A bucket's last batch is filled up with repetitions, so that shapes stay few.
    """
    by_bucket: dict[int, list[int]] = {}
    for index in np.argsort(prepared.widths, kind="stable"):
        bucket = bucket_width(int(prepared.widths[index]), buckets)
        by_bucket.setdefault(bucket, []).append(int(index))
    for bucket, indices in by_bucket.items():
        for start in range(0, len(indices), batch_size):
            chunk = indices[start : start + batch_size]
            yield prepared.batch(np.resize(chunk, batch_size), [bucket]), len(chunk)
