"""Stored checkpoints of each format, all of which this program must read.

`python tests/test_golden_checkpoints.py FOLDER` writes one in the current format. It is run once
for each format, in the commit that introduces it, and its output is never replaced.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from crnn_jax import models
from crnn_jax.data.images import Preprocessing
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training.checkpoint import Checkpoints
from crnn_jax.training.state import TrainState, make_optimizer

GOLDEN = Path(__file__).parent / "data" / "checkpoints"
ALPHABET = Alphabet("0123456789")
PREPROCESSING = Preprocessing(channels=1, max_width=256)
MODEL = {
    "name": "crnn",
    "settings": {"channels": [2, 2, 2, 2, 2, 2, 2], "hidden": 2, "batch_norm": "all"},
}
MANIFEST = {
    "config": {"seed": 0, "batch_size": 8},
    "alphabet": {**ALPHABET.to_dict(), "fingerprint": ALPHABET.fingerprint},
    "preprocessing": PREPROCESSING.to_dict(),
    "model": MODEL,
    "versions": {"crnn_jax": "0.1.0"},
    "position": {"step": 12, "epoch": 1.5, "seed": 0},
    "best_score": 0.75,
}


def state(with_ema: bool) -> TrainState:
    """A state whose arrays follow a formula, so that nothing has to be stored beside them.

    The formula counts the arrays as they are on disk: the evaluated ones first, then the optimizer,
    and the arrays that it updates last.
    """
    network = models.create("crnn", ALPHABET.num_classes, MODEL["settings"])
    optimizer = make_optimizer(optax.constant_schedule(1e-3), 5.0, freeze_conv_stack=False)
    empty = TrainState.create(network, optimizer, (32, 32, 1), seed=0, with_ema=with_ema)
    on_disk = (
        empty.step,
        *(empty.eval_variables["params"], empty.eval_variables["batch_stats"]),
        *(empty.opt_state, empty.skipped, empty.skipped_in_row),
        empty.variables if with_ema else {},
    )
    leaves, structure = jax.tree.flatten(on_disk)
    filled = []
    for place, leaf in enumerate(leaves):
        if np.issubdtype(leaf.dtype, np.integer):
            filled.append(np.full(leaf.shape, place, leaf.dtype))
        else:
            values = np.linspace(0.1, 1 + place / 7, leaf.size, dtype=np.float32)
            filled.append(values.reshape(leaf.shape))
    _, params, batch_stats, opt_state, skipped, skipped_in_row, raw = jax.tree.unflatten(
        structure, filled
    )
    evaluated = {"params": params, "batch_stats": batch_stats}
    updated = raw if with_ema else evaluated
    return TrainState(
        step=np.asarray(12, np.int32),
        **updated,
        opt_state=opt_state,
        skipped=skipped,
        skipped_in_row=skipped_in_row,
        ema=evaluated if with_ema else {},
    )


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_a_kept_checkpoint_comes_back_bit_for_bit(folder: Path) -> None:
    expected = state(with_ema=folder.name not in ("format1", "format2"))
    with Checkpoints(folder, read_only=True) as checkpoints:
        restored = checkpoints.restore(12, expected)
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_a_kept_model_reads(folder: Path) -> None:
    model = TrainedModel.load(folder)
    assert (model.step, model.alphabet, model.preprocessing) == (12, ALPHABET, PREPROCESSING)
    jax.tree.map(np.testing.assert_array_equal, model.variables["params"], state(False).params)
    if folder.name == "format3":  # a moving average, which is what inference uses
        average = state(True).eval_variables
        jax.tree.map(np.testing.assert_array_equal, dict(model.variables), average)
    images = np.zeros((1, 32, 64, 1), np.uint8)
    logits, _ = model.network.apply(model.variables, images, np.array([64]))
    assert logits.shape == (1, 17, ALPHABET.num_classes)


if __name__ == "__main__":
    with Checkpoints(Path(sys.argv[1])) as kept:
        kept.save(state(with_ema=True), MANIFEST, 0.75)
