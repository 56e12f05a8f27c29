"""Batches: which samples share one, in which order, and how they are loaded ahead of time."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import grain
import numpy as np

from crnn_jax.data.augment import Augmentation, augment
from crnn_jax.data.buckets import bucket_width
from crnn_jax.data.prepared import Batch, PreparedSplit
from crnn_jax.data.workers import Workers
from crnn_jax.errors import ConfigError, DataError


class TrainingPlan:
    """The samples of each training step, as a pure function of the seed and the step.

    A run that is resumed at step N asks for the steps from N on; no state of the shuffle has to be
    saved.

    Each epoch is one shuffle of all samples. They are sorted into buckets by width in that order,
    and a bucket becomes a batch as soon as it is full. The samples that are left in the buckets at
    the end of the epoch form batches of mixed widths. An epoch has `N // batch_size` batches and no
    sample twice. The last `N % batch_size` samples of the shuffle are left out, so whether a sample
    is left out does not depend on its width.

    In a mixture each part has an endless sequence of shuffles of its own, and the samples of an
    epoch are taken from these sequences in proportion to the weights. An epoch can use a part less
    than once or several times. The next epoch continues where the last one ended, so at the end of
    any epoch all samples of a part have been used equally often, give or take one.
    """

    def __init__(
        self,
        widths: np.ndarray,
        buckets: Sequence[int],
        batch_size: int,
        epochs: int,
        seed: int,
        parts: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Plans `epochs` epochs of N samples each.

        Args:
          widths: (N,) widths of the prepared images in pixels.
          buckets: the widths that batches are padded to.
          batch_size: samples in a step, over all devices.
          epochs: the number of epochs.
          seed: decides the order.
          parts: the part that each of the N samples belongs to; empty without a mixture.
          weights: the weight of each part, above 0.

        Raises:
          ConfigError: there are fewer samples than a batch needs.
        """
        if len(widths) < batch_size:
            raise ConfigError(
                f"batch_size={batch_size} is more than the {len(widths)} training images; set"
                f" --config.batch_size={len(widths)} or less"
            )
        self.buckets = np.array([bucket_width(int(width), buckets) for width in widths])
        self.batch_size = batch_size
        self.steps_per_epoch = len(widths) // batch_size
        self.epochs = epochs
        self.seed = seed
        names = np.array(parts or [""] * len(widths))
        present = list(dict.fromkeys(names.tolist()))
        shuffles = [
            grain.MapDataset.source(np.flatnonzero(names == name).tolist())
            # Each shuffle of a part adds one to the seed; parts start 65,536 seeds apart.
            .seed((seed + (place << 16)) % 2**32)
            .shuffle()
            .repeat(None, reseed_each_epoch=True)
            for place, name in enumerate(present)
        ]
        self._order: Any = grain.MapDataset.mix(
            shuffles, [weights[name] if weights else 1.0 for name in present]
        )
        # Samples from the start of one epoch to the start of the next. Without a mixture that is
        # the whole shuffle. In a mixture nothing may be skipped, or some samples would be used
        # twice before others are used once.
        self._stride = self.steps_per_epoch * batch_size if parts else len(widths)
        # Held while the batches of an epoch are planned, which takes a while: the threads that load
        # ahead reach a new epoch together.
        self._planning = threading.Lock()
        # The batches of the last two epochs asked for: loading ahead enters the next one early.
        self._recent: dict[int, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __getitem__(self, step: int) -> np.ndarray:
        """Returns the indices (B,) of the samples of a step, counted from 0."""
        epoch, batch = divmod(int(step), self.steps_per_epoch)
        with self._planning:
            batches = self._recent.get(epoch)
            if batches is None:
                batches = self._batches_of_epoch(epoch)
                self._recent = {**dict(list(self._recent.items())[-1:]), epoch: batches}
        return batches[batch]

    def _batches_of_epoch(self, epoch: int) -> list[np.ndarray]:
        waiting: dict[int, list[int]] = {int(bucket): [] for bucket in np.unique(self.buckets)}
        batches: list[np.ndarray] = []
        first = epoch * self._stride
        for position in range(first, first + self.steps_per_epoch * self.batch_size):
            index = self._order[position]
            queue = waiting[int(self.buckets[index])]
            queue.append(index)
            if len(queue) == self.batch_size:
                batches.append(np.array(queue))
                queue.clear()
        rest = [index for _, queue in sorted(waiting.items()) for index in queue]
        batches += list(np.array(rest, int).reshape(-1, self.batch_size))
        # Shuffled, so that the batches of mixed widths do not always come last.
        order = np.random.default_rng((self.seed, epoch)).permutation(len(batches))
        return [batches[i] for i in order]


class TrainingBatches(Iterator[Batch]):
    """The batches of all steps from one on, which are loaded ahead of time; a context manager.

    The random changes to an image are a function of the seed, the step and the image, so a resumed
    run sees the same ones.
    """

    def __init__(
        self,
        prepared: PreparedSplit,
        plan: TrainingPlan,
        buckets: Sequence[int],
        augmentation: Augmentation,
        first_step: int,
        workers: int,
    ) -> None:
        """Starts to load.

        Args:
            prepared: the training split.
            plan: the samples of each step.
            buckets: the widths that batches are padded to.
            augmentation: the random changes.
            first_step: counted from 0.
            workers: the number of processes that load batches; 0 uses threads of this process.
        """
        self._prepared = prepared
        self._stopped = False
        self._seen = self._missing = 0
        unchanged_until = augmentation.start * len(plan) if augmentation.active else len(plan)
        load = _Loader(prepared, tuple(buckets), augmentation, plan.seed)
        self._workers = Workers(load, workers) if workers else None
        loading = self._workers or load
        self._batches = iter(
            grain.MapDataset.range(first_step, len(plan))
            .map(lambda step: loading(step, plan[step], step >= unchanged_until))
            .to_iter_dataset(grain.ReadOptions(num_threads=workers or 2, prefetch_buffer_size=8))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the processes that load batches, and the iteration if it waits for one of them.

        It may be called by the handler of a signal.
        """
        self._stopped = True
        if self._workers:
            self._workers.kill()

    def __next__(self) -> Batch:
        """Returns the batch of the next step.

        Raises:
            DataError: more than `prepared.max_missing` of the images can no longer be read, or a
                process has ended.
        """
        try:
            batch = next(self._batches)
        except DataError:
            if self._stopped:
                raise StopIteration from None
            raise
        self._seen += len(batch["indices"])
        self._missing += int(batch["missing"].sum())
        prepared = self._prepared
        # The share is that of an epoch at least, so that the first few images do not decide.
        if self._missing > prepared.max_missing * max(self._seen, len(prepared)):
            last = prepared.split.names[batch["indices"][batch["missing"]][-1]]
            raise DataError(
                f"{self._missing} training images can no longer be read, the last one is {last!r};"
                " check that their folder is there, and start the same command again to resume"
            )
        return batch


@dataclasses.dataclass(frozen=True)
class _Loader:
    """Loads the batch of a step, in any thread or process."""

    prepared: PreparedSplit
    buckets: tuple[int, ...]
    augmentation: Augmentation
    seed: int

    def __call__(self, step: int, indices: np.ndarray, changing: bool) -> Batch:
        def change(image: np.ndarray, index: int) -> np.ndarray:
            return augment(
                image, self.augmentation, np.random.default_rng((self.seed, step, index))
            )

        return self.prepared.batch(indices, self.buckets, change if changing else None)


def evaluation_batches(
    prepared: PreparedSplit, buckets: Sequence[int], batch_size: int
) -> Iterator[tuple[Batch, int]]:
    """Yields every sample once, ordered by width: batches, and how many of their samples count.

    The last batch of a bucket is filled up with repeated samples, so that there are few shapes.
    """
    by_bucket: dict[int, list[int]] = {}
    for index in np.argsort(prepared.widths, kind="stable"):
        bucket = bucket_width(int(prepared.widths[index]), buckets)
        by_bucket.setdefault(bucket, []).append(int(index))
    for bucket, indices in by_bucket.items():
        for start in range(0, len(indices), batch_size):
            chunk = indices[start : start + batch_size]
            yield prepared.batch(np.resize(chunk, batch_size), [bucket]), len(chunk)
