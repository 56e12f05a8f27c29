"""Many steps: nothing is compiled after the first epoch, and no memory piles up."""

import tracemalloc
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from networks import SMALL
from one_device import make_train_step, replicate, shard
from PIL import Image

from crnn_jax import models
from crnn_jax.data.augment import Augmentation
from crnn_jax.data.batching import TrainingPlan, training_batches
from crnn_jax.data.buckets import choose_buckets
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.labels import Labels
from crnn_jax.data.prepared import PreparedSplit, device_arrays
from crnn_jax.data.reader import ImageReader
from crnn_jax.data.sources.folder import folder
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training import parallel
from crnn_jax.training.state import TrainState, make_optimizer

pytestmark = pytest.mark.slow  # four widths to compile, and 160 steps

WIDTHS = (64, 96, 128, 160)
OF_EACH_WIDTH = 32
BATCH_SIZE = 16
EPOCHS = 20
COMPILATION = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Epoch:
    """What was seen by the end of an epoch."""

    widths: set[int]
    compilations: int  # in this epoch
    arrays: int  # alive on devices
    allocated: int  # bytes that Python and NumPy hold, less those before the first epoch's end


@pytest.fixture(scope="module")
def epochs(tmp_path_factory: pytest.TempPathFactory) -> list[Epoch]:
    """Epochs of real training steps on images of four widths."""
    images = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for width in WIDTHS:
        for index in range(OF_EACH_WIDTH):
            pixels = rng.integers(0, 256, (32, width), np.uint8)
            Image.fromarray(pixels).save(images / f"abc_{width}_{index}.png")
    split, reader = folder(images)["all"], ImageReader(Preprocessing(), 1 << 30)
    labels = Labels.encode(split.labels, Alphabet("abcd"))
    prepared = PreparedSplit(split, labels, reader, models.num_time_steps)
    buckets = choose_buckets(prepared.widths, len(WIDTHS))
    plan = TrainingPlan(prepared.widths, buckets, BATCH_SIZE, EPOCHS, seed=0)

    compilations: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event == COMPILATION:
            compilations.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    seen: list[Epoch] = []
    model, optimizer = (
        models.create("crnn", 5, SMALL, parallel.AXIS),
        make_optimizer(lambda _: 1e-3, 0, False),
    )
    step = make_train_step(model, optimizer, seed=0)
    state = replicate(TrainState.create(model, optimizer, (32, 48, 3), 0))
    batches = training_batches(prepared, plan, buckets, Augmentation(), 0, workers=0)
    widths: set[int] = set()
    compilations.clear()
    for count, batch in enumerate(batches, start=1):
        widths.add(batch["images"].shape[2])
        state, metrics = step(state, shard(device_arrays(batch)))
        if count % plan.steps_per_epoch == 0:
            jax.block_until_ready((state, metrics))
            if not seen:
                tracemalloc.start()
            arrays, allocated = len(jax.live_arrays()), tracemalloc.get_traced_memory()[0]
            seen.append(Epoch(widths, len(compilations), arrays, allocated))
            compilations.clear()
            widths = set()
    tracemalloc.stop()
    return seen


def test_each_width_is_compiled_once_and_nothing_after_the_first_epoch(epochs: list[Epoch]) -> None:
    widths = epochs[0].widths
    assert len(widths) > 1
    assert all(epoch.widths == widths for epoch in epochs)
    assert [epoch.compilations for epoch in epochs] == [len(widths)] + [0] * (EPOCHS - 1)


def test_memory_is_flat_from_the_second_epoch_on(epochs: list[Epoch]) -> None:
    assert len({epoch.arrays for epoch in epochs[1:]}) == 1
    # A batch left behind at each step would be 25 MB. The resident memory of the process would not
    # tell: allocators raise and lower it by more than that.
    assert epochs[-1].allocated - epochs[1].allocated < 2_000_000
