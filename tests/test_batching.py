"""Batches: which samples share one, in which order, and how they are padded and loaded."""

import dataclasses
import hashlib
import io
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from crnn_jax.data.augment import Augmentation
from crnn_jax.data.batching import TrainingBatches, TrainingPlan, evaluation_batches
from crnn_jax.data.buckets import bucket_width, choose_buckets, padding_share
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.labels import Labels
from crnn_jax.data.prepared import Batch, PreparedSplit
from crnn_jax.data.reader import ImageReader
from crnn_jax.data.sources.split import ImageFacts, Split
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.text.alphabet import Alphabet

ALPHABET = Alphabet("abc")
WIDTHS = (9, 24, 25, 31, 33, 40, 41, 57, 64, 64, 90)


@dataclasses.dataclass(frozen=True)
class Read:
    """Reads images from memory, in any process, and counts the readings of this process."""

    images: tuple[bytes, ...]
    readings: Counter[int] = dataclasses.field(default_factory=Counter)

    def __call__(self, index: int) -> bytes:
        self.readings[index] += 1
        return self.images[index]


def pixels(index: int) -> np.ndarray:
    """The gray image (32, W) of a sample; all samples have different ones."""
    return np.random.default_rng(index).integers(0, 256, (32, WIDTHS[index]), dtype=np.uint8)


def label(index: int) -> str:
    return "abc"[index % 3] * (index % 4)


@pytest.fixture
def split() -> Split:
    """Images that need no resizing, so they come out as they went in."""
    encoded = []
    for index in range(len(WIDTHS)):
        file = io.BytesIO()
        Image.fromarray(pixels(index)).save(file, "png")
        encoded.append(file.getvalue())
    names = tuple(f"{index}.png" for index in range(len(WIDTHS)))
    return Split(names, tuple(map(label, range(len(WIDTHS)))), Read(tuple(encoded)))


GRAY = Preprocessing(channels=1)


def time_steps(width: int) -> int:
    """Of a network that halves widths twice."""
    return width // 4


def prepared(
    split: Split,
    cache_bytes: int = 10**9,
    preprocessing: Preprocessing = GRAY,
    max_missing: float = 0.0,
) -> PreparedSplit:
    labels = Labels.encode(split.labels, ALPHABET)
    reader = ImageReader(preprocessing, cache_bytes)
    return PreparedSplit(split, labels, reader, time_steps, max_missing)


def cached(images: PreparedSplit) -> dict[bytes, np.ndarray]:
    return images._reader._cache


def random_widths(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(8, 400, count).astype(np.int32)


def make_plan(widths: np.ndarray, batch_size: int, epochs: int, seed: int = 0) -> TrainingPlan:
    return TrainingPlan(widths, choose_buckets(widths, 4), batch_size, epochs, seed)


def epochs_of(plan: TrainingPlan) -> list[list[np.ndarray]]:
    """The batches of each epoch."""
    steps = plan.steps_per_epoch
    return [
        [plan[epoch * steps + step] for step in range(steps)] for epoch in range(len(plan) // steps)
    ]


def assert_holds_samples(batch: Batch, indices: Sequence[int], width: int) -> None:
    """The batch has exactly the pixels of the samples at `indices`, padded to `width`."""
    assert batch["indices"].tolist() == list(indices)
    assert batch["images"].shape == (len(indices), 32, width, 1)
    assert batch["images"].dtype == np.uint8
    for row, index in enumerate(indices):
        expected = np.zeros((32, width), np.uint8)
        expected[:, : WIDTHS[index]] = pixels(index)
        np.testing.assert_array_equal(batch["images"][row, :, :, 0], expected)
        assert batch["widths"][row] == WIDTHS[index]
        ids = [" abc".index(character) for character in label(index)]
        assert batch["label_ids"][row].tolist() == ids + [0] * (3 - len(ids))
        assert batch["label_lengths"][row] == len(ids)
    assert batch["mask"].all()


def assert_same_batches(actual: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(actual) == len(expected)
    for batch, other in zip(actual, expected, strict=True):
        assert batch.keys() == other.keys()
        for key in Batch.__annotations__:
            assert batch[key].dtype == other[key].dtype
            np.testing.assert_array_equal(batch[key], other[key])


# --- buckets ---


@pytest.mark.parametrize("count", [1, 2, 4, 50])
@pytest.mark.parametrize("widths", [[8], [9, 9, 9], [8, 1024], random_widths(301).tolist()])
def test_buckets_hold_all_widths(widths: list[int], count: int) -> None:
    buckets = choose_buckets(np.array(widths, np.int32), count)
    assert 1 <= len(buckets) <= count
    assert list(buckets) == sorted(set(buckets))
    assert all(bucket % 8 == 0 for bucket in buckets)
    assert max(widths) <= buckets[-1] < max(widths) + 8


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_buckets_pad_less(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    widths = np.minimum(rng.lognormal(3.2, 0.6, 60).astype(int) + 1, 72)
    bounds = range(8, 80, 8)
    least = min(
        padding_share(widths, buckets)
        for number in range(1, count + 1)
        for buckets in itertools.combinations(bounds, number)
        if buckets[-1] >= widths.max()
    )
    assert padding_share(widths, choose_buckets(widths, count)) == pytest.approx(least)


@pytest.mark.parametrize(
    ("width", "expected"), [(8, 16), (16, 16), (17, 40), (40, 40), (41, 56), (100, 120)]
)
def test_bucket_width(width: int, expected: int) -> None:
    assert bucket_width(width, (40, 16)) == expected


def test_images_wider_than_all_buckets_share_few_widths() -> None:
    """Each width costs a compilation."""
    padded = {width: bucket_width(width, (96, 256)) for width in range(257, 1025)}
    assert len(set(padded.values())) <= 7
    for width, bucket in padded.items():
        assert bucket % 8 == 0 and width <= bucket < 1.25 * width + 8


# --- the plan ---


@pytest.mark.parametrize(("count", "batch_size"), [(103, 8), (64, 16), (7, 7), (9, 5), (50, 1)])
def test_an_epoch_has_each_sample_at_most_once(count: int, batch_size: int) -> None:
    plan = make_plan(random_widths(count), batch_size, epochs=3)
    assert plan.steps_per_epoch == count // batch_size
    assert len(plan) == 3 * (count // batch_size)
    for batches in epochs_of(plan):
        assert {batch.shape for batch in batches} == {(batch_size,)}
        used = np.concatenate(batches).tolist()
        assert set(used) <= set(range(count))
        assert len(set(used)) == len(used) == count - count % batch_size


def test_nearly_all_batches_are_from_one_bucket() -> None:
    widths = random_widths(500)
    buckets = choose_buckets(widths, 4)
    bounds = np.array([0, *buckets])
    for batches in epochs_of(make_plan(widths, 8, epochs=3)):
        used = [{int(np.searchsorted(bounds, width)) for width in widths[b]} for b in batches]
        # Each bucket keeps fewer than 8 at the end: together fewer than 4 batches.
        assert sum(len(numbers) > 1 for numbers in used) < len(buckets)
        assert set.union(*used) == {1, 2, 3, 4}


def test_mixed_batches_are_not_always_last() -> None:
    widths = np.array([8] * 12 + [100] * 12)
    plan = TrainingPlan(widths, (8, 104), 8, 10, seed=0)
    places = {
        place
        for batches in epochs_of(plan)
        for place, batch in enumerate(batches)
        if len(set(widths[batch])) > 1
    }
    assert places == {0, 1, 2}


def test_epochs_differ_and_seeds_decide() -> None:
    widths = random_widths(60)
    plan = make_plan(widths, 6, epochs=4, seed=5)
    orders = [np.concatenate(batches).tolist() for batches in epochs_of(plan)]
    assert len(set(map(tuple, orders))) == 4
    again = make_plan(widths, 6, epochs=4, seed=5)
    assert [np.concatenate(batches).tolist() for batches in epochs_of(again)] == orders
    other = make_plan(widths, 6, epochs=4, seed=6)
    assert [np.concatenate(batches).tolist() for batches in epochs_of(other)] != orders
    # The batches themselves differ, not only their order.
    batches = [frozenset(batch.tolist()) for epoch in epochs_of(plan) for batch in epoch]
    assert len(set(batches)) == len(batches)


def test_a_step_does_not_depend_on_the_steps_asked_for_before() -> None:
    widths = random_widths(45)
    plan = make_plan(widths, 4, epochs=3, seed=1)
    expected = [plan[step].tolist() for step in range(len(plan))]
    steps = np.random.default_rng(0).permutation(len(plan))
    shuffled = make_plan(widths, 4, epochs=3, seed=1)
    for step in steps:
        assert shuffled[step].tolist() == expected[step]
    # Longer runs begin the same way, so a run can be resumed with more epochs.
    longer = make_plan(widths, 4, epochs=5, seed=1)
    assert [longer[step].tolist() for step in range(len(plan))] == expected


def test_the_order_of_a_seed_is_written_down() -> None:
    """So that no change of the code makes a resumed run see other images."""
    plan = TrainingPlan(np.arange(10, 30, dtype=np.int32), (16, 32), 4, 2, seed=7)
    assert [plan[step].tolist() for step in range(len(plan))] == [
        *([15, 17, 10, 19], [7, 9, 8, 14], [5, 2, 4, 12], [0, 6, 1, 3], [16, 13, 18, 11]),
        *([9, 7, 16, 10], [12, 13, 17, 14], [15, 19, 8, 11], [6, 4, 3, 5], [0, 2, 1, 18]),
    ]


def test_the_samples_left_out_are_random() -> None:
    count, batch_size, epochs = 31, 16, 120
    plan = make_plan(np.sort(random_widths(count)), batch_size, epochs)
    used = np.bincount(np.concatenate([plan[step] for step in range(len(plan))]), minlength=count)
    left_out = epochs - used
    # 15 of 31 are left out of each epoch: for a sample, binomial with mean 58, deviation 5.5.
    share = (count % batch_size) / count
    variance = epochs * share * (1 - share)
    deviations = (left_out - epochs * share) / np.sqrt(variance)
    assert abs(deviations).max() < 4
    # Chi-square with 30 degrees of freedom: 60 is exceeded by one seed in 1,000.
    assert (deviations**2).sum() * (count - 1) / count < 60


def test_too_few_images_for_a_batch() -> None:
    with pytest.raises(ConfigError, match=r"batch_size=8 .* 7 .*--config.batch_size=7"):
        make_plan(random_widths(7), 8, epochs=1)


# --- images and batches ---


def test_a_batch_holds_its_samples(split: Split) -> None:
    images = prepared(split)
    assert images.widths.tolist() == list(WIDTHS)
    assert_holds_samples(images.batch(np.array([3, 0, 1]), (16, 32, 96)), [3, 0, 1], 32)
    assert_holds_samples(images.batch(np.array([1, 10]), (96, 16)), [1, 10], 96)
    # Test images may be wider than all buckets.
    assert_holds_samples(images.batch(np.array([10]), (16, 32)), [10], 96)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height", [16, 32, 64])
def test_the_cache_changes_nothing_but_the_readings(
    split: Split, height: int, channels: int, invert: bool
) -> None:
    assert isinstance(split.read, Read)
    preprocessing = Preprocessing(height, channels, max_width=150, invert=invert)
    size = height * channels * int(prepared(split, 0, preprocessing).widths.sum())
    indices = np.arange(len(WIDTHS))
    batches: list[Batch] = []
    for cache_bytes, entries in [(0, 0), (size // 2, None), (size, len(WIDTHS))]:
        split.read.readings.clear()
        images = prepared(split, cache_bytes, preprocessing)
        reader, cache = images._reader, cached(images)
        assert split.read.readings == Counter(range(len(WIDTHS)))
        kept = sum(map(np.size, cache.values()))
        assert kept <= reader.cached_bytes <= cache_bytes
        # Only an image that was smaller before it was resized waits for its first use.
        assert (kept < reader.cached_bytes) == (height == 64 and bool(cache))
        assert entries in (None, len(cache))
        batches.append(images.batch(indices, (192,)))
        # All are resized by now.
        assert reader.cached_bytes == sum(map(np.size, cache.values()))
        again = split.read.readings.total() - len(WIDTHS)
        assert again == len(WIDTHS) - len(cache)
        batches.append(images.batch(indices, (192,)))
    assert_same_batches(batches[1:], [batches[0]] * 5)


@pytest.mark.parametrize("height", [16, 32, 64])
def test_images_of_known_sizes_are_read_at_first_use(split: Split, height: int) -> None:
    assert isinstance(split.read, Read)
    preprocessing = Preprocessing(height, channels=1, max_width=150)
    indices = np.arange(len(WIDTHS))
    examined = prepared(split, 0, preprocessing)
    expected = examined.batch(indices, (192,))
    assert examined.split.facts == tuple(
        ImageFacts(hashlib.blake2b(image, digest_size=16).digest(), (width, 32))
        for image, width in zip(split.read.images, WIDTHS, strict=True)
    )
    size = height * int(examined.widths.sum())
    for cache_bytes in (0, size // 2, size):
        split.read.readings.clear()
        images = prepared(examined.split, cache_bytes, preprocessing)
        assert not split.read.readings
        for known in ("widths", "mask", "label_ids", "label_lengths"):
            np.testing.assert_array_equal(getattr(images, known), getattr(examined, known))
        for _ in range(2):
            assert_same_batches([images.batch(indices, (192,))], [expected])
        cache = cached(images)
        assert images._reader.cached_bytes == sum(map(np.size, cache.values())) <= cache_bytes
        twice = {index for index, times in split.read.readings.items() if times == 2}
        assert len(twice) == len(WIDTHS) - len(cache)
        assert bool(cache) == bool(cache_bytes) and bool(twice) == (cache_bytes < size)
    # Otherwise each worker process would fill its own cache.
    copied = pickle.loads(pickle.dumps(images))
    copied.batch(indices, (192,))
    assert not cached(copied)


def test_equal_files_are_cached_once(split: Split) -> None:
    twice = prepared(split.select([*range(len(WIDTHS)), 3, 3]))
    assert len(cached(twice)) == len(WIDTHS)
    assert twice._reader.cached_bytes == 32 * sum(WIDTHS)
    batch = twice.batch(np.array([11, 3]), (40,))
    np.testing.assert_array_equal(batch["images"][0], batch["images"][1])


@dataclasses.dataclass(frozen=True)
class Damaged:
    """Reads like another, except that some images are empty files."""

    read: Callable[[int], bytes]
    places: tuple[int, ...]

    def __call__(self, index: int) -> bytes:
        return b"" if index in self.places else self.read(index)


def damaged(split: Split, *places: int) -> Split:
    return dataclasses.replace(split, read=Damaged(split.read, places))


def test_damaged_images_are_recorded(split: Split) -> None:
    broken = prepared(damaged(split, 4, 7))
    assert list(broken.failures) == [4, 7] and "4.png" in broken.failures[4]
    assert broken.widths[4] == 8
    with pytest.raises(DataError, match=r"4\.png"):
        broken.batch(np.array([3, 4]), (96,))


def test_damaged_images_become_black(split: Split) -> None:
    whole = prepared(split).batch(np.arange(6), (96,))
    broken = prepared(damaged(split, 4), 0, max_missing=0.5).batch(np.arange(6), (96,))
    assert broken["missing"].tolist() == [False] * 4 + [True, False]
    assert broken["mask"].tolist() == [True] * 4 + [False, True]
    assert not broken["images"][4].any() and broken["widths"][4] == 8
    rest = [0, 1, 2, 3, 5]
    for key in ("images", "widths", "label_ids", "label_lengths"):
        np.testing.assert_array_equal(broken[key][rest], whole[key][rest])


def test_labels_that_cannot_be_aligned_are_masked(split: Split) -> None:
    """Unseen characters, and too few time steps: "aa" needs one more than it has characters."""
    # The first images have 9, 24, 25, 31, 33 and 40 pixels: 2, 6, 6, 7, 8 and 10 time steps.
    labels = ("abx", "abcabc", "a" * 1000, "aabb", "aabbab", "aaaaa", *split.labels[6:])
    images = prepared(dataclasses.replace(split, labels=labels))
    assert images.mask.tolist() == [False, True, False, True, True, True] + [True] * 5
    assert images.label_lengths[:6].tolist() == [0, 6, 0, 4, 6, 5]
    # The label of a thousand characters does not make all others as long.
    assert images.label_ids.shape == (len(WIDTHS), 6)
    assert images.unseen == {0: "x"}
    tight = ("", "aabbcc", "aabcab", "aabbcc", "aabbcc", "aaaaaa", *split.labels[6:])
    images = prepared(dataclasses.replace(split, labels=tight))
    assert images.mask[:6].tolist() == [True, False, False, False, False, False]


def test_a_selection_is_not_read_again(split: Split) -> None:
    assert isinstance(split.read, Read)
    images = prepared(split)
    split.read.readings.clear()
    chosen = images.select([5, 0, 2])
    assert chosen.split.names == ("5.png", "0.png", "2.png") and len(chosen) == 3
    assert chosen.labels == (label(5), label(0), label(2))
    assert chosen.label_ids.shape == (3, 2)  # the longest of these
    batch = chosen.batch(np.array([0, 2]), (96,))
    again = images.batch(np.array([5, 2]), (96,))
    for key in ("images", "widths", "label_lengths", "mask"):
        np.testing.assert_array_equal(batch[key], again[key])
    assert not split.read.readings
    noted = prepared(damaged(dataclasses.replace(split, labels=("x",) * 11), 2, 5))
    assert list(noted.select([0, 5]).failures) == [1]
    assert noted.select([5]).unseen == {0: "x"} and not noted.select([5]).mask.any()


def test_padding_share() -> None:
    # 10 of 16, 16 of 16, 30 of 40, and 41 of 56 beyond the buckets: 97 of 128.
    assert padding_share(np.array([10, 16, 30, 41]), (16, 40)) == pytest.approx(1 - 97 / 128)


def test_preprocessing_decides_the_widths(split: Split) -> None:
    squeezed = prepared(split, 0, Preprocessing(channels=3, width=48))
    assert set(squeezed.widths) == {48}
    assert squeezed.batch(np.array([2, 7]), (48,))["images"].shape == (2, 32, 48, 3)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_evaluation_counts_each_sample_once(split: Split, batch_size: int) -> None:
    buckets = (24, 40, 64)  # the image 90 wide is beyond them
    images = prepared(split)
    batches = list(evaluation_batches(images, buckets, batch_size))
    counted: list[int] = []
    for batch, count in batches:
        indices = batch["indices"].tolist()
        assert len(indices) == batch_size
        assert 1 <= count <= batch_size
        # The repeated samples are from the same batch, hence from the same bucket.
        assert set(indices[count:]) <= set(indices[:count])
        width = {24: 24, 40: 40, 64: 64, 104: 104}[batch["images"].shape[2]]
        assert_holds_samples(batch, indices, width)
        narrower = max(other for other in (0, *buckets) if other < width)
        assert all(narrower < WIDTHS[index] <= width for index in indices)
        counted += indices[:count]
    assert sorted(counted) == list(range(len(WIDTHS)))
    assert [WIDTHS[index] for index in counted] == sorted(WIDTHS)
    # By bucket there are 2, 4, 4 and 1 images.
    assert len(batches) == sum(-(-size // batch_size) for size in (2, 4, 4, 1))
    again = list(evaluation_batches(images, buckets, batch_size))
    assert_same_batches([batch for batch, _ in again], [batch for batch, _ in batches])


# --- loading ---


@pytest.mark.parametrize("workers", [0, 1])
def test_training_resumes_where_it_stopped(split: Split, workers: int) -> None:
    images = prepared(split)
    buckets = choose_buckets(images.widths, 2)
    plan = TrainingPlan(images.widths, buckets, 3, 3, seed=2)
    expected = [images.batch(plan[step], buckets) for step in range(len(plan))]
    unchanged = Augmentation()
    tail = list(TrainingBatches(images, plan, buckets, unchanged, 4, workers))
    assert_same_batches(tail, expected[4:])
    if not workers:
        assert_same_batches(list(TrainingBatches(images, plan, buckets, unchanged, 0, 0)), expected)
        assert not list(TrainingBatches(images, plan, buckets, unchanged, len(plan), 0))


def test_random_changes_resume_where_they_stopped_and_differ_between_epochs(split: Split) -> None:
    noised = prepared(split)
    buckets = choose_buckets(noised.widths, 2)
    plan = TrainingPlan(noised.widths, buckets, 3, 3, seed=2)
    noisy = Augmentation(noise=1.0)
    whole = list(TrainingBatches(noised, plan, buckets, noisy, 0, 0))
    assert_same_batches(list(TrainingBatches(noised, plan, buckets, noisy, 4, 0)), whole[4:])
    seen: dict[int, list[bytes]] = {}
    for batch in whole:
        plain = noised.batch(batch["indices"], buckets)
        for key in ("widths", "label_ids", "label_lengths"):
            np.testing.assert_array_equal(batch[key], plain[key])
        for index, image in zip(batch["indices"].tolist(), batch["images"], strict=True):
            width = WIDTHS[index]
            assert not image[:, width:].any()  # padding stays zero
            seen.setdefault(index, []).append(image[:, :width].tobytes())
    assert all(len(set(images)) == len(images) for images in seen.values())
    assert max(map(len, seen.values())) > 1


def test_changes_start_at_their_share_of_the_run(split: Split) -> None:
    images = prepared(split)
    plan = TrainingPlan(images.widths, (96,), 3, 3, seed=2)
    assert len(plan) == 9
    late = Augmentation(start=0.4, invert=1.0)
    for step, batch in enumerate(TrainingBatches(images, plan, (96,), late, 0, 0)):
        plain = images.batch(batch["indices"], (96,))["images"]
        inside = np.arange(96) < batch["widths"][:, None]
        negative = np.where(inside[:, None, :, None], 255 - plain, plain)
        np.testing.assert_array_equal(batch["images"], plain if step < 3.6 else negative)


def vanishing(split: Split, places: tuple[int, ...], max_missing: float) -> PreparedSplit:
    """Images that were there when they were first read, but are gone now."""
    images = prepared(split, 0, max_missing=max_missing)
    images.split = damaged(images.split, *places)
    return images


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_stops_training_by_name(split: Split, workers: int) -> None:
    images = vanishing(split, (3,), 0.0)
    plan = TrainingPlan(images.widths, (96,), 11, 2, seed=0)
    with pytest.raises(DataError, match=r"3\.png"):
        list(TrainingBatches(images, plan, (96,), Augmentation(), 0, workers))


def test_images_that_vanish_are_counted_up_to_a_share(split: Split) -> None:
    images = vanishing(split, (3, 8), 0.2)  # 2 of 11 are fewer
    plan = TrainingPlan(images.widths, (96,), 11, 3, seed=0)
    batches = list(TrainingBatches(images, plan, (96,), Augmentation(), 0, 0))
    assert [batch["missing"].sum() for batch in batches] == [2, 2, 2]
    images = vanishing(split, (3, 8, 9), 0.2)
    with pytest.raises(DataError, match=r"3 training images can no longer be read.*\.png"):
        list(TrainingBatches(images, plan, (96,), Augmentation(), 0, 0))


@dataclasses.dataclass(frozen=True)
class Deadly:
    """Kills the process that reads an image, unless it is the one that created this."""

    read: Callable[[int], bytes]
    parent: int

    def __call__(self, index: int) -> bytes:
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.read(index)


def test_a_worker_that_dies_is_an_error(split: Split) -> None:
    deadly = dataclasses.replace(split, read=Deadly(split.read, os.getpid()))
    images = prepared(deadly, 0)
    plan = TrainingPlan(images.widths, (96,), 4, 2, seed=0)
    with pytest.raises(
        DataError, match=r"processes that load batches ended with code -9.*data\.workers=0"
    ):
        list(TrainingBatches(images, plan, (96,), Augmentation(), 0, 1))


@dataclasses.dataclass(frozen=True)
class Stopping:
    """Stops the process that reads an image, unless it is the one that created this."""

    read: Callable[[int], bytes]
    parent: int

    def __call__(self, index: int) -> bytes:
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGSTOP)
        return self.read(index)


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="waits for stopped processes as POSIX does")
def test_a_signal_ends_the_wait_for_a_stopped_worker(split: Split) -> None:
    stopping = dataclasses.replace(split, read=Stopping(split.read, os.getpid()))
    images = prepared(stopping, 0)
    plan = TrainingPlan(images.widths, (96,), 4, 2, seed=0)
    others = set(multiprocessing.active_children())  # of earlier tests
    with TrainingBatches(images, plan, (96,), Augmentation(), 0, 1) as batches:
        (worker,) = set(multiprocessing.active_children()) - others

        def interrupt_when_stopped() -> None:
            os.waitid(os.P_PID, worker.pid or 0, os.WSTOPPED | os.WNOWAIT)
            os.kill(os.getpid(), signal.SIGTERM)

        earlier = signal.signal(signal.SIGTERM, lambda *_: batches.stop())
        thread = threading.Thread(target=interrupt_when_stopped)
        try:
            thread.start()
            assert next(batches, None) is None
        finally:
            thread.join()
            signal.signal(signal.SIGTERM, earlier)
