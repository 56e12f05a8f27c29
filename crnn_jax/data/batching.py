"""Which samples share a batch, in which order; batches loaded by grain ahead of time."""

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

# Threads that read ahead enter an epoch together; one deals it out, which takes a while. Here, as
# plans go to worker processes, and locks cannot.
_DEALING = threading.Lock()


class TrainingPlan:
    """Which samples make the batch of each step: a pure function of seed and step.

    Nothing of the shuffle has to be saved: a run that goes on at step N asks for the batches from
    N on. Each epoch is one global shuffle, dealt into buckets by width; a bucket gives a batch
    when it has enough, and what is left in the buckets at the end makes mixed batches. Every
    epoch has `len(widths) // batch_size` batches and no sample twice; those left out are the last
    of the shuffle, so that chance alone chooses them, not their width.

    Of a mixture each part is shuffled by itself, again and again, and by their weights the parts
    take turns in the epoch's shuffle: a part may be gone through in less than an epoch or in
    several, but none of its samples comes a second time before all have come once.
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
        """Plans `epochs` epochs of N samples.

        Args:
          widths: (N,) of the prepared images in pixels.
          buckets: widths that batches are padded to.
          batch_size: samples in a step, over all devices.
          epochs: how often N samples are drawn.
          seed: decides the order.
          parts: of a mixture, the part of each sample (N,).
          weights: and the weights of the parts, which must be above 0.

        Raises:
          ConfigError: there are fewer samples than a batch holds.
        """
        if len(widths) < batch_size:
            raise ConfigError(
                f"batch_size={batch_size} is more than the {len(widths)} training images;"
                f" set --config.batch_size={len(widths)} or less"
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
            # The seed grows by one with each shuffle of a part: so far apart they never meet.
            .seed((seed + (place << 16)) % 2**32)
            .shuffle()
            .repeat(None, reseed_each_epoch=True)
            for place, name in enumerate(present)
        ]
        self._order: Any = grain.MapDataset.mix(
            shuffles, [weights[name] if weights else 1.0 for name in present]
        )
        # The last two epochs asked for, as threads that read ahead enter the next one early.
        self._recent: dict[int, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __getitem__(self, step: int) -> np.ndarray:
        """Places (B,) in the training split of the samples of a step, counted from 0."""
        epoch, batch = divmod(int(step), self.steps_per_epoch)
        with _DEALING:
            batches = self._recent.get(epoch)
            if batches is None:
                batches = self._batches_of_epoch(epoch)
                self._recent = {**dict(list(self._recent.items())[-1:]), epoch: batches}
        return batches[batch]

    def _batches_of_epoch(self, epoch: int) -> list[np.ndarray]:
        waiting: dict[int, list[int]] = {int(bucket): [] for bucket in np.unique(self.buckets)}
        batches: list[np.ndarray] = []
        first = epoch * len(self.buckets)
        for position in range(first, first + self.steps_per_epoch * self.batch_size):
            index = self._order[position]
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
    augmentation: Augmentation,
    first_step: int,
    workers: int,
) -> Iterator[Batch]:
    """The batches of all steps from `first_step` on, made ahead of time.

    With `workers` 0 threads of this process make them; else so many processes do. Chance in a
    image's changes is a function of seed, step and image, so a run that goes on sees the same.

    Raises:
        DataError: more than `prepared.max_missing` of the images could not be read any more, or a
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
            flags.FLAGS.mark_as_parsed()  # grain asks a flag of its own; a notebook parses none
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
                f"one of the {workers} processes that make batches failed: "
                f"{' '.join(str(error).split())}; if memory ran out, set --config.data.workers=0"
            ) from error
        seen += len(batch["indices"])
        missing += int(batch["missing"].sum())
        # Of an epoch at least, so that the first few images do not decide.
        if missing > prepared.max_missing * max(seen, len(prepared)):
            last = prepared.split.names[batch["indices"][batch["missing"]][-1]]
            raise DataError(
                f"{missing} training images could not be read any more, the last of them {last!r};"
                " is their folder still there? The same command goes on from the last checkpoint"
            )
        yield batch


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
