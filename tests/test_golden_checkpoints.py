"""Stored checkpoints of each format, all of which this program must read.

`python tests/test_golden_checkpoints.py FOLDER` writes one in the current format. It is run once
for each format, in the commit that introduces it, and its output is never replaced.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from networks import PlainCRNN, plain_variables, random_variables

from crnn_jax import models
from crnn_jax.data.images import Preprocessing
from crnn_jax.recognition.pretrained import write_pretrained
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training.checkpoint import Checkpoints
from crnn_jax.training.manifest import check_same, read_manifest, seal
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
    "alphabet": ALPHABET.to_dict(),
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
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 64, 1), np.uint8)
    logits, _ = model.network.apply(model.variables, images, np.array([64]))
    plain = PlainCRNN((2,) * 7, 2, ALPHABET.num_classes, normalized=range(1, 8), slope=0.0)
    expected = plain.apply(plain_variables(model.variables), images)
    assert logits.shape == (1, 17, ALPHABET.num_classes)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


# The setting `space_to_depth` is younger than these formats; the height decided before.
@pytest.mark.parametrize(
    ("name", "height", "expected"),
    [
        ("crnn", 32, 1),
        ("crnn", 64, 2),
        ("crnn_small", 47, 1),
        ("crnn_small", 95, 2),
    ],
)
def test_a_model_without_space_to_depth_is_built_as_before(
    name: str, height: int, expected: int, tmp_path: Path
) -> None:
    settings = {**MODEL["settings"], "space_to_depth": expected}
    network = models.create(name, ALPHABET.num_classes, settings)
    manifest = {
        "step": 12,
        **{key: value for key, value in MANIFEST.items() if key != "config"},
        "preprocessing": Preprocessing(height, channels=1).to_dict(),
        "model": {**MODEL, "name": name},
    }
    write_pretrained(tmp_path, manifest, random_variables(network, height=height))
    model = TrainedModel.load(tmp_path)
    assert model.network == network and model.architecture.space_to_depth == expected


@pytest.mark.parametrize(("height", "expected"), [(32, 1), (64, 2)])
def test_a_run_without_space_to_depth_goes_on(height: int, expected: int, tmp_path: Path) -> None:
    settings = {"hidden": 2}
    old, new = (
        {
            **MANIFEST,
            "config": {"model": {"name": "crnn", **settings}},
            "preprocessing": Preprocessing(height).to_dict(),
            "model": {"name": "crnn", "settings": settings},
            "arrays": {},
        }
        for settings in (settings, {**settings, "space_to_depth": expected})
    )
    path = tmp_path / "manifest"
    path.write_text(json.dumps(seal(old)), encoding="utf-8")
    check_same(tmp_path, read_manifest(path), json.loads(json.dumps(new)))


if __name__ == "__main__":
    with Checkpoints(Path(sys.argv[1])) as kept:
        kept.save(state(with_ema=True), MANIFEST, 0.75)
