"""Batches: which samples share one, in which order, and how they are loaded ahead of time."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from crnn_jax.data.augment import Augmentation, augment
from crnn_jax.data.buckets import bucket_width
from crnn_jax.data.prepared import Batch, PreparedSplit
from crnn_jax.errors import ConfigError, DataError

# Held while the batches of an epoch are planned, which takes a while: the threads that load ahead
# reach a new epoch together. It is global because plans are pickled and locks cannot be.
_PLANNING = threading.Lock()


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
        # The batches of the last two epochs asked for: loading ahead enters the next one early.
        self._recent: dict[int, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __getitem__(self, step: int) -> np.ndarray:
        """Returns the indices (B,) of the samples of a step, counted from 0."""
        epoch, batch = divmod(int(step), self.steps_per_epoch)
        with _PLANNING:
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


def training_batches(
    prepared: PreparedSplit,
    plan: TrainingPlan,
    buckets: Sequence[int],
    augmentation: Augmentation,
    first_step: int,
    workers: int,
) -> Iterator[Batch]:
    """Yields the batches of all steps from `first_step` on, which are loaded ahead of time.

    The random changes to an image are a function of the seed, the step and the image, so a resumed
    run sees the same ones.

    Args:
        prepared: the training split.
        plan: the samples of each step.
        buckets: the widths that batches are padded to.
        augmentation: the random changes.
        first_step: counted from 0.
        workers: the number of processes that load batches; 0 uses threads of this process.

    Raises:
        DataError: more than `prepared.max_missing` of the images can no longer be read, or a
            process died.
    """

    def batch_of(step: int) -> Batch:
        def change(image: np.ndarray, index: int) -> np.ndarray:
            return augment(image, augmentation, np.random.default_rng((plan.seed, step, index)))

        changing = augmentation.active and step >= augmentation.start * len(plan)
        return prepared.batch(plan[step], buckets, change if changing else None)

    dataset = (
        grain.MapDataset.range(first_step, len(plan))
        .map(batch_of)
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    )
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads a flag of its own; notebooks parse none
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    batches, seen, missing = iter(dataset), 0, 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not workers:
                raise
            raise DataError(
                f"one of the {workers} processes that load batches failed:"
                f" {' '.join(str(error).split())}; if memory ran out, set --config.data.workers=0"
            ) from error
        seen += len(batch["indices"])
        missing += int(batch["missing"].sum())
        # The share is that of an epoch at least, so that the first few images do not decide.
        if missing > prepared.max_missing * max(seen, len(prepared)):
            last = prepared.split.names[batch["indices"][batch["missing"]][-1]]
            raise DataError(
                f"{missing} training images can no longer be read, the last one is {last!r}; check"
                " that their folder is there, and start the same command again to resume"
            )
        yield batch


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
