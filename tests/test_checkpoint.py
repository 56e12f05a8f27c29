"""Saving, restoring, and which checkpoints stay."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crnn_jax.errors import CheckpointError
from crnn_jax.training.checkpoint import Checkpoints
from crnn_jax.training.manifest import FORMAT, check_same
from crnn_jax.training.state import TrainState

OPTIMIZER = optax.adam(1e-2)
MANIFEST = {
    "config": {"seed": 0, "epochs": 8},
    "alphabet": {"characters": "abc", "ignore_case": False},
    "model": {"name": "crnn", "settings": {"hidden": 16}},
    "preprocessing": {"height": 32},
}


def state_at(step: int, value: float = 0.0) -> TrainState:
    params = {"head": {"kernel": jnp.full((2, 3), value), "bias": jnp.arange(3.0)}}
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        batch_stats={"norm": {"mean": jnp.full(3, value)}},
        opt_state=OPTIMIZER.init(params),
        skipped=jnp.asarray(2, jnp.int32),
        skipped_in_row=jnp.asarray(1, jnp.int32),
    )


def saved_steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = state_at(7, 1 / 3)
    gradients = jax.tree.map(jnp.ones_like, state.params)
    _, opt_state = OPTIMIZER.update(gradients, state.opt_state)
    state = state.replace(opt_state=opt_state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, MANIFEST, 0.5)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(7, state_at(0))
        like = {"params": state.params, "batch_stats": state.batch_stats}
        model = checkpoints.restore_model(7, like)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    jax.tree.map(np.testing.assert_array_equal, model["params"], state.params)
    assert set(model) == {"params", "batch_stats"}


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, score in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2), (5, 0.4)):
            checkpoints.save(state_at(step), MANIFEST, score)
        assert checkpoints.newest_first() == [5, 4, 2]
        assert checkpoints.best_first() == [2, 5, 4]
        assert checkpoints.best_score() == 0.9
    assert saved_steps(tmp_path) == [2, 4, 5]


def test_a_checkpoint_without_a_score_is_the_newest_but_never_the_best(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state_at(1), MANIFEST, 0.2)
        checkpoints.save(state_at(2), MANIFEST, None)
        assert (checkpoints.newest_first(), checkpoints.best_first()) == ([2, 1], [1, 2])
    assert saved_steps(tmp_path) == [1, 2]
    with Checkpoints(tmp_path / "unscored") as checkpoints:
        assert checkpoints.best_score() is None
        checkpoints.save(state_at(3), MANIFEST, None)
        assert checkpoints.best_first() == [3] and checkpoints.best_score() is None


def test_the_manifest_is_json_with_a_format(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), MANIFEST, None)
        assert checkpoints.manifest(1) == {**MANIFEST, "format": FORMAT}
        with pytest.raises(CheckpointError, match=r"no step 9; the steps saved are 1"):
            checkpoints.manifest(9)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), {**MANIFEST, "format": FORMAT + 1}, None)
        with pytest.raises(CheckpointError, match=r"format 2.*install a newer"):
            checkpoints.manifest(1)


def test_missing_or_damaged_files_are_our_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint; train first"):
        Checkpoints(tmp_path / "empty", read_only=True)
    assert not (tmp_path / "empty").exists()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), MANIFEST, None)
    for path in (tmp_path / "checkpoints" / "1" / "model").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"checkpoints/1 cannot be restored"),
    ):
        checkpoints.restore(1, state_at(0))


@pytest.mark.parametrize("key", ["alphabet", "model", "preprocessing"])
def test_differences_are_named(tmp_path: Path, key: str) -> None:
    check_same(tmp_path, MANIFEST, json.loads(json.dumps(MANIFEST)))
    field = next(iter(MANIFEST[key]))
    changed = {**MANIFEST, key: {**MANIFEST[key], field: "new"}}
    with pytest.raises(CheckpointError, match=rf"{key}.*{field} was .* is now 'new'.*--workdir"):
        check_same(tmp_path, MANIFEST, changed)
