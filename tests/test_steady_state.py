"""A run of many steps: nothing is compiled after the first epoch, and memory stays flat."""

import itertools
import logging
import tracemalloc
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
from one_device import train_and_evaluate
from PIL import Image

from crnn_jax.training.writers import Writer
from tests.test_train import small_config

pytestmark = pytest.mark.slow  # three widths to compile, and 120 steps

WIDTHS = (64, 96, 128)
LABELS = ["".join(letters) for letters in itertools.product("abcd", repeat=4)]
EPOCHS = 12
STEPS_PER_EPOCH = 10  # 256 images, 163 of which are trained on in batches of 16
FIRST_EVALUATION = 6  # the epoch at whose end it is
STARTS = ("Compiling ", "Finished tracing ")  # of what JAX logs for each program


@dataclass(frozen=True)
class Epoch:
    """What was seen from the end of the epoch before to the end of this one."""

    programs: list[str]  # log lines about programs that were traced or compiled
    arrays: int  # on the devices, at the end
    allocated: int  # bytes that Python and NumPy hold at the end, without those of the first epoch


class Programs(logging.Handler):
    """Collects what JAX logs about tracing and compiling."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (message := record.getMessage()).startswith(STARTS):
            self.lines.append(message)


@pytest.fixture(scope="module")
def epochs(tmp_path_factory: pytest.TempPathFactory) -> list[Epoch]:
    """The epochs of a real run, with two evaluations, on images of three widths."""
    images = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index, label in enumerate(LABELS):
        pixels = rng.integers(0, 256, (32, WIDTHS[index % len(WIDTHS)]), np.uint8)
        Image.fromarray(pixels).save(images / f"{label}.png")
    config = small_config(epochs=EPOCHS, batch_size=16, **{"data.dir": str(images)})
    config.data.buckets = len(WIDTHS)
    config.eval_every = FIRST_EVALUATION  # tensorstore leaks some memory in each save

    programs, seen = Programs(), []
    metrics = Writer.metrics

    def observed(self: Writer, step: int, epoch: float, split: str, values: Any) -> None:
        metrics(self, step, epoch, split, values)
        if split == "train" and step % STEPS_PER_EPOCH == 0:
            if not seen:
                tracemalloc.start()
            allocated = tracemalloc.get_traced_memory()[0]
            seen.append(Epoch(programs.lines, len(jax.live_arrays()), allocated))
            programs.lines = []

    logger = logging.getLogger("jax")
    logger.addHandler(programs)
    try:
        with pytest.MonkeyPatch.context() as monkeypatch, jax.log_compiles():
            monkeypatch.setattr(Writer, "metrics", observed)
            state = train_and_evaluate(config, tmp_path_factory.mktemp("run"))
    finally:
        logger.removeHandler(programs)
        tracemalloc.stop()
    assert int(state.step) == EPOCHS * STEPS_PER_EPOCH
    return seen


def test_each_width_is_compiled_once_and_nothing_after_the_first_epoch(epochs: list[Epoch]) -> None:
    assert len(epochs) == EPOCHS
    compiled = [line for line in epochs[0].programs if line.startswith("Compiling")]
    for width in WIDTHS:
        steps = [line for line in compiled if f"uint8[1,16,32,{width},3]" in line]
        assert len(steps) == 1, steps
    # Only the first evaluation has something to compile; it is in the interval after its epoch.
    started = [number for number, epoch in enumerate(epochs, start=1) if epoch.programs]
    assert started == [1, FIRST_EVALUATION + 1]


def test_memory_is_flat_from_the_second_epoch_on(epochs: list[Epoch]) -> None:
    before, after = epochs[1:FIRST_EVALUATION], epochs[FIRST_EVALUATION:]
    assert len({epoch.arrays for epoch in before}) == len({epoch.arrays for epoch in after}) == 1
    # Batches of one epoch have 1.5 MB at least. The process's resident memory would not show that,
    # as allocators change it by more.
    for interval in (before, after):
        assert interval[-1].allocated - interval[0].allocated < 1_000_000
