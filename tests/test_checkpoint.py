"""Saving, restoring, and which checkpoints stay."""

import errno
import hashlib
import io
import json
import logging
import os
import pickle
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore

from crnn_jax.errors import CheckpointError, ConfigError, DamagedCheckpoint, TrainingDiverged
from crnn_jax.training import integrity
from crnn_jax.training.checkpoint import Checkpoints
from crnn_jax.training.manifest import FORMAT, check_same, seal
from crnn_jax.training.state import TrainState
from tests.test_manifest_schema import never

OPTIMIZER = optax.adam(1e-2)
MANIFEST = {
    "config": {"seed": 0, "epochs": 8},
    "alphabet": {"characters": "abc", "ignore_case": False},
    "model": {"name": "crnn", "settings": {"hidden": 16, "space_to_depth": 1}},
    "preprocessing": {"height": 32, "channels": 1, "width": 0, "max_width": 1024},
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


@pytest.mark.parametrize("with_ema", [False, True])
def test_a_state_comes_back_bit_for_bit(with_ema: bool, tmp_path: Path) -> None:
    state, like_state = state_at(7, 1 / 3), state_at(0)
    if with_ema:
        state = state.replace(ema=state_at(7, 2 / 3).variables)
        like_state = like_state.replace(ema=like_state.variables)
    gradients = jax.tree.map(jnp.ones_like, state.params)
    _, opt_state = OPTIMIZER.update(gradients, state.opt_state)
    state = state.replace(opt_state=opt_state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, MANIFEST, 0.5)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(7, like_state)
        model = checkpoints.restore_model(7, state.eval_variables)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    jax.tree.map(np.testing.assert_array_equal, model, state.eval_variables)
    assert with_ema == bool((model["params"]["head"]["kernel"] == np.float32(2 / 3)).all())


def test_names_of_arrays_on_disk(tmp_path: Path) -> None:
    """Those of format 3: evaluated arrays in `model`, the optimizer's parameters in `raw`."""
    average = {"params": {"w": jnp.ones(1)}, "batch_stats": {"m": jnp.zeros(1)}}
    counts = dict.fromkeys(("step", "skipped", "skipped_in_row"), jnp.zeros((), jnp.int32))
    params = {"w": jnp.full(1, 2.0)}
    state = TrainState(
        params=params, batch_stats={}, opt_state=OPTIMIZER.init(params), ema=average, **counts
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, MANIFEST, None)
        arrays = checkpoints.manifest(0)["arrays"]
    assert set(arrays) == {
        *("model/params/w", "model/batch_stats/m", "training/raw/params/w"),
        *(f"training/{name}" for name in counts),
        *("training/opt_state/0/count", "training/opt_state/0/mu/w", "training/opt_state/0/nu/w"),
    }
    for name, value in (("model/params/w", 1.0), ("training/raw/params/w", 2.0)):
        digest = hashlib.sha256(np.array([value], "<f4").tobytes()).hexdigest()
        assert arrays[name]["sha256"] == digest


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, score in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2), (5, 0.4)):
            checkpoints.save(state_at(step), MANIFEST, score)
        assert checkpoints.newest_first() == [5, 4, 2]
        assert checkpoints.best_first() == [2, 5, 4]
    assert saved_steps(tmp_path) == [2, 4, 5]


def test_a_checkpoint_without_a_score_is_the_newest_but_never_the_best(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state_at(1), MANIFEST, 0.2)
        checkpoints.save(state_at(2), MANIFEST, None)
        assert (checkpoints.newest_first(), checkpoints.best_first()) == ([2, 1], [1, 2])
    assert saved_steps(tmp_path) == [1, 2]
    with Checkpoints(tmp_path / "unscored") as checkpoints:
        checkpoints.save(state_at(3), MANIFEST, None)
        assert checkpoints.best_first() == [3]


def test_the_manifest_is_json_with_a_digest_of_each_array(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), MANIFEST, 0.25)
        manifest = checkpoints.manifest(1)
        assert manifest.items() >= {**MANIFEST, "format": FORMAT, "score": 0.25}.items()
        bias = np.array([0.0, 1.0, 2.0], "<f4").tobytes()
        assert manifest["arrays"]["model/params/head/bias"] == {
            "shape": [3],
            "dtype": "float32",
            "sha256": hashlib.sha256(bias).hexdigest(),
        }
        assert len(manifest["arrays"]) == 3 + 5 + 3  # parameters and statistics; Adam; counters
        with pytest.raises(CheckpointError, match=r"no step 9; the saved steps are 1"):
            checkpoints.manifest(9)


def rewrite(workdir: Path, step: int, **changes: Any) -> None:
    """Changes a manifest as somebody would who knows how it is sealed."""
    path = workdir / "checkpoints" / str(step) / "manifest" / "metadata"
    manifest = json.loads(path.read_text())
    del manifest["digest"]
    path.write_text(json.dumps(seal({**manifest, **changes})))


def test_a_newer_format_is_refused_and_no_older_one_taken_instead(two: Path) -> None:
    rewrite(two, 2, format=FORMAT + 1)
    with (
        Checkpoints(two) as checkpoints,
        pytest.raises(CheckpointError, match=rf"format {FORMAT + 1}.*install a newer"),
    ):
        restore_newest(checkpoints)
    assert saved_steps(two) == [1, 2]


# Damage


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A workdir with the steps 1 and 2."""
    workdir = tmp_path / "two"
    with Checkpoints(workdir, keep=2) as checkpoints:
        checkpoints.save(state_at(1, 0.1), MANIFEST, 0.1)
        checkpoints.save(state_at(2, 0.2), MANIFEST, 0.2)
    return workdir


def restore_newest(checkpoints: Checkpoints) -> TrainState:
    return checkpoints.first_undamaged(
        checkpoints.newest_first(), lambda step: checkpoints.restore(step, state_at(0))
    )


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": flip,
    "truncated": lambda path, rng: path.write_bytes(path.read_bytes()[: rng.randrange(8)]),
    "a file missing": lambda path, _: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found_named_and_the_checkpoint_before_used(
    two: Path, damage: Any, caplog: pytest.LogCaptureFixture, tmp_path_factory: Any
) -> None:
    """Every file of a step in turn: what comes back is the step as saved, or the one before."""
    rng = random.Random(0)
    fallen_back = 0
    for place in range(len(files(two / "checkpoints" / "2"))):
        workdir = Path(shutil.copytree(two, tmp_path_factory.mktemp("copy") / "run"))
        damage(files(workdir / "checkpoints" / "2")[place], rng)
        caplog.clear()
        with Checkpoints(workdir) as checkpoints:
            restored = restore_newest(checkpoints)
        step = int(restored.step)
        jax.tree.map(np.testing.assert_array_equal, restored, state_at(step, step / 10))
        if step == 1:
            fallen_back += 1
            assert f"{Path('checkpoints') / '2'}" in caplog.text
            # Out of the way, so that step 2 can be saved again; not lost, nor taken for nothing.
            assert names(workdir) == ["1", "damaged-2"]
    # Of the others nothing is read: times, marks, and copies of what stands elsewhere.
    assert fallen_back >= 5


def names(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def test_an_empty_step_folder_is_no_checkpoint(two: Path, caplog: pytest.LogCaptureFixture) -> None:
    (two / "checkpoints" / "3").mkdir()
    with Checkpoints(two) as checkpoints:
        assert int(restore_newest(checkpoints).step) == 2
        checkpoints.save(state_at(3), MANIFEST, 0.0)
        assert checkpoints.best_first()[0] == 2
    assert "checkpoints/3" in caplog.text.replace("\\", "/")


def test_a_run_with_only_damaged_checkpoints_does_not_start(two: Path) -> None:
    for step in (1, 2):
        (two / "checkpoints" / str(step) / "manifest" / "metadata").write_bytes(b"{}")
    for _ in range(2):  # the second time, too: the first must not clear the way for a new run
        with (
            Checkpoints(two) as checkpoints,
            pytest.raises(CheckpointError, match=r"all .* are damaged \(2, 1\); .*--workdir"),
        ):
            restore_newest(checkpoints)
    for step in (1, 2):
        path = two / "checkpoints" / str(step)
        path.rename(path.with_name(f"damaged-{step}"))
    with Checkpoints(two) as checkpoints, pytest.raises(CheckpointError, match=r"holds only dam"):
        checkpoints.newest_first()


def test_reading_sets_nothing_aside(two: Path) -> None:
    (two / "checkpoints" / "2" / "manifest" / "metadata").unlink()
    with Checkpoints(two, read_only=True) as checkpoints:
        assert int(restore_newest(checkpoints).step) == 1
    assert names(two) == ["1", "2"]
    with (
        Checkpoints(two / "empty", read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match="holds no checkpoint; train first"),
    ):
        restore_newest(checkpoints)
    assert not (two / "empty").exists()


def test_what_a_kill_left_unfinished_is_cleared_away(two: Path) -> None:
    for name in ("3.orbax-checkpoint-tmp", "1.deleted"):
        (two / "checkpoints" / name).mkdir()
    with Checkpoints(two, read_only=True) as checkpoints:
        assert checkpoints.newest_first() == [2, 1]
    assert len(names(two)) == 4
    with Checkpoints(two):
        assert names(two) == ["1", "2"]


@pytest.mark.parametrize("name", ["02", "0099", "99 ", "\u0663", "+3", "1_0"])
def test_other_names_are_no_steps(name: str, two: Path) -> None:
    (two / "checkpoints" / name).mkdir()
    with Checkpoints(two, keep=1) as checkpoints:
        assert checkpoints.newest_first() == [2, 1]
        assert int(restore_newest(checkpoints).step) == 2
        checkpoints.save(state_at(3), MANIFEST, 0.9)
    assert names(two) == sorted([name, "3"])


# What cannot be read

UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM, errno.ENETDOWN, errno.EMFILE)


@pytest.mark.parametrize("number", UNREADABLE, ids=errno.errorcode.get)
@pytest.mark.parametrize("of", ["manifest/metadata", "model/manifest.ocdbt"])
def test_what_cannot_be_read_is_not_damaged(
    number: int, of: str, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is damaged for Orbax, which reads it by itself, and unreadable for Python."""
    unreadable = two / "checkpoints" / "2" / of
    unreadable.write_bytes(b"")
    opening = io.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> Any:
        if str(path) == str(unreadable):
            raise OSError(number, os.strerror(number), str(path))
        return opening(path, *arguments, **named)

    monkeypatch.setattr(io, "open", refuse)
    text = rf"2.* cannot be read \({os.strerror(number)}\); .*nothing was changed"
    with Checkpoints(two) as checkpoints:
        with pytest.raises(CheckpointError, match=text) as caught:
            restore_newest(checkpoints)
        assert not isinstance(caught.value, DamagedCheckpoint)
        if of == "manifest/metadata":  # else the best checkpoint would be deleted
            with pytest.raises(CheckpointError, match=text):
                checkpoints.best_first()
    assert names(two) == ["1", "2"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        ValueError("UNAVAILABLE: Error reading local file"),
        ValueError("UNKNOWN: Error reading local file [os_error_code='116']"),
    ],
)
def test_what_orbax_could_not_read_is_not_damaged(
    error: Exception, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(two) as checkpoints:

        def refuse(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(checkpoints._orbax, "restore", refuse)
        with pytest.raises(CheckpointError, match=r"2 cannot be read .* nothing was changed"):
            restore_newest(checkpoints)
    assert names(two) == ["1", "2"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_not_damaged(two: Path) -> None:
    folder = two / "checkpoints" / "2"
    for path in (two / "checkpoints", folder, folder / "model", *files(folder / "manifest")):
        mode = path.stat().st_mode
        path.chmod(0)
        try:
            with (
                Checkpoints(two, read_only=True) as checkpoints,
                pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\)"),
            ):
                restore_newest(checkpoints)
        finally:
            path.chmod(mode)
    assert names(two) == ["1", "2"]


# What cannot be saved


def test_a_full_disk_costs_no_checkpoint(two: Path, caplog: pytest.LogCaptureFixture) -> None:
    resource = pytest.importorskip("resource")
    large = state_at(3)
    large = large.replace(params={"kernel": np.random.default_rng(0).random(100_000, np.float32)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(two, keep=2) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            with pytest.raises(CheckpointError) as caught:
                checkpoints.save(large, MANIFEST, 0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert re.search(r"3 cannot be saved: .* about 0\.4 MB .* free some", str(caught.value))
        assert "\n" not in str(caught.value)
        # Of Orbax's threads, each with a traceback.
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
        # The unfinished step would keep the disk full.
        assert not any(path.is_dir() for path in (two / "checkpoints").glob("3*"))
        assert int(restore_newest(checkpoints).step) == 2
        checkpoints.save(large, MANIFEST, 0.3)
        assert names(two) == ["2", "3"]


def test_what_is_not_finite_is_not_saved(two: Path) -> None:
    with Checkpoints(two) as checkpoints:
        for value in (np.nan, np.inf):
            with pytest.raises(TrainingDiverged, match=r"model/.* earlier checkpoint"):
                checkpoints.save(state_at(3, value), MANIFEST, None)
        assert checkpoints.newest_first() == [2, 1]


def test_a_vanished_folder_is_not_created_again(two: Path) -> None:
    with Checkpoints(two) as checkpoints:
        shutil.rmtree(two)
        with pytest.raises(ConfigError, match=r"two cannot be written \(it has vanished: .* again"):
            checkpoints.save(state_at(3), MANIFEST, None)
    assert not two.exists()


# Strangers' folders


def test_a_link_out_of_the_folder_is_not_followed(two: Path, tmp_path: Path) -> None:
    path = two / "checkpoints" / "2" / "manifest" / "metadata"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with (
        Checkpoints(two) as checkpoints,
        pytest.raises(DamagedCheckpoint, match=r"metadata is not a regular file.*remove it"),
    ):
        checkpoints.restore(2, state_at(0))


def test_no_path_leads_out_of_the_folder(two: Path, tmp_path: Path) -> None:
    """A tree whose arrays are said to lie in the step beside it."""
    path = two / "checkpoints" / "2" / "model" / "_METADATA"
    text = path.read_text()
    for key in ("../../1/model/params", str(two / "checkpoints" / "1" / "model" / "params")):
        for content in (text, text.replace('"use_ocdbt": true', '"use_ocdbt": false')):
            path.write_text(content.replace('"params"', json.dumps(key)))
            with Checkpoints(two) as checkpoints, pytest.raises(DamagedCheckpoint):
                checkpoints.restore(2, state_at(0))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(two: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    for place in range(len(files(two / "checkpoints" / "2"))):
        workdir = Path(shutil.copytree(two, tmp_path / f"copy{place}"))
        files(workdir / "checkpoints" / "2")[place].write_bytes(trap)
        with Checkpoints(workdir) as checkpoints:
            restore_newest(checkpoints)
    assert not sprung.exists()
    pickle.loads(trap)
    assert sprung.exists()


def test_sizes_are_looked_at_before_anything_is_read(two: Path) -> None:
    with Checkpoints(two) as checkpoints:
        huge = {"params": {"kernel": jax.ShapeDtypeStruct((10**6, 10**6), np.float32)}}
        with pytest.raises(CheckpointError, match=r"4000 GB.*up to 4 GB"):
            checkpoints.restore_model(2, huge)
        # Stored larger than the model has it: refused by shape.
        like = {"params": {"head": {"kernel": jax.ShapeDtypeStruct((2, 2), np.float32)}}}
        with pytest.raises(
            DamagedCheckpoint, match=r"kernel is float32 \[2, 3\], expected .*\[2, 2\]"
        ):
            checkpoints.restore_model(2, like)
        path = two / "checkpoints" / "2" / "manifest" / "metadata"
        with path.open("r+b") as file:
            file.truncate(2**40)  # a terabyte that takes no room
        with pytest.raises(DamagedCheckpoint, match=r"cannot be read: .* 1,099,511,627,776"):
            checkpoints.manifest(2)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("model/manifest.ocdbt", 20 * 10**9),
        ("model/ocdbt.process_0/manifest.ocdbt", 2 * 10**6),
        ("model/_METADATA", 2 * 10**6),
        ("_CHECKPOINT_METADATA", 20 * 10**9),
        ("training/d/0", 2 * 10**9),
        ("more", 20 * 10**9),
    ],
)
def test_a_file_that_only_claims_to_be_large_is_not_read(
    two: Path, name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = two / "checkpoints" / "2" / name
    path.touch()
    with path.open("r+b") as file:
        file.truncate(size)  # it takes no room
    with Checkpoints(two) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr("orbax.checkpoint.PyTreeCheckpointHandler.metadata", never)
            message = rf"{path.name} has {size:,} bytes, more than .*; use an undamaged"
            with pytest.raises(DamagedCheckpoint, match=message):
                checkpoints.restore(2, state_at(0))
        assert int(restore_newest(checkpoints).step) == 1


def test_small_files_do_not_unpack_to_gigabytes(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    like = {"params": {"kernel": jax.ShapeDtypeStruct((1000, 10**6), np.float32)}}
    monkeypatch.setattr("orbax.checkpoint.PyTreeCheckpointHandler.metadata", never)
    with (
        Checkpoints(two) as checkpoints,
        pytest.raises(DamagedCheckpoint, match=r"for arrays of 4,000,000,000 bytes, more than 64"),
    ):
        checkpoints.restore_model(2, like)


@pytest.mark.parametrize("with_ema", [False, True])
def test_a_new_state_is_far_from_the_limits(with_ema: bool, tmp_path: Path) -> None:
    """The arrays of Adam, all zeros, take no room on the disk."""
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(1000, 1000)).astype(np.float32)}
    state = state_at(0).replace(params=params, batch_stats={}, opt_state=OPTIMIZER.init(params))
    state = state.replace(ema=state.variables) if with_ema else state
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, MANIFEST, None)
    step = tmp_path / "checkpoints" / "0"
    on_disk = sum(path.stat().st_size for path in files(step))
    arrays = (4 if with_ema else 3) * 4_000_000
    assert 1.5 < arrays / on_disk < integrity.MAX_RATIO / 10
    assert on_disk < arrays < integrity.MAX_FILES_RATIO * 4_000_000
    assert max(p.stat().st_size for p in files(step) if p.parent.name != "d") < 100_000


def test_a_small_array_in_a_huge_chunk_is_not_unpacked(two: Path) -> None:
    """Eight gigabytes of zeros in a few bytes more than the array of six numbers takes."""
    store = {"driver": "ocdbt", "base": f"file://{two}/checkpoints/2/model/"}
    files_of_model: Any = tensorstore.KvStore.open(store).result()
    key = "params.head.kernel/.zarray"
    layout = json.loads(bytes(files_of_model.read(key).result().value))
    assert layout["chunks"] == layout["shape"] == [2, 3]
    files_of_model.write(key, json.dumps({**layout, "chunks": [2, 10**9]}).encode()).result()
    with (
        Checkpoints(two) as checkpoints,
        pytest.raises(DamagedCheckpoint, match=r"params/head/kernel has chunks larger than"),
    ):
        checkpoints.restore(2, state_at(0))


# What may change


def with_config(**values: Any) -> dict[str, Any]:
    return {**MANIFEST, "config": {**MANIFEST["config"], **values}}


def test_differences_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_same(tmp_path, MANIFEST, json.loads(json.dumps(MANIFEST)))
    older = {**MANIFEST, "alphabet": {**MANIFEST["alphabet"], "fingerprint": "be016b9454faae8f"}}
    check_same(tmp_path, older, MANIFEST)
    assert not caplog.text
    for key in ("alphabet", "model", "preprocessing"):
        field = next(iter(MANIFEST[key]))
        changed = {**MANIFEST, key: {**MANIFEST[key], field: "new"}}
        message = rf"another {key}: {field} was .* is now 'new'; .*--workdir"
        with pytest.raises(CheckpointError, match=message):
            check_same(tmp_path, MANIFEST, changed)
    with pytest.raises(CheckpointError, match=r"another config: seed was 0 .* now 1; .*--workdir"):
        check_same(tmp_path, MANIFEST, with_config(seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"real": {"dir": "a", "weight": 2.0}}, r"real\.weight was 1\.0 and is now 2\.0"),
        ({"real": {"dir": "a", "weight": 1.0, "source": "lmdb"}}, r"real\.source was None"),
        ({"more": {"dir": "b"}, "real": {"dir": "a", "weight": 1.0}, "x": {"source": "lmdb"}}, "x"),
        ({}, r"real\.weight was 1\.0 and is now None"),
    ],
)
def test_the_parts_of_a_mixture_stay(tmp_path: Path, change: Any, message: str) -> None:
    def with_parts(parts: dict[str, Any]) -> dict[str, Any]:
        return {**MANIFEST, "config": {**MANIFEST["config"], "data": {"parts": parts}}}

    saved = with_parts({"real": {"dir": "a", "weight": 1.0}})
    with pytest.raises(CheckpointError, match=rf"another config: data\.parts\.{message}"):
        check_same(tmp_path, saved, with_parts(change))
    check_same(tmp_path, saved, with_parts({"real": {"dir": "moved", "weight": 1.0}}))


def test_a_run_without_an_average_does_not_continue_with_one(tmp_path: Path) -> None:
    """Nor does one of an older program, which had no averages."""
    averaging = with_config(optimizer={"ema_decay": 0.99})
    with pytest.raises(CheckpointError, match=r"optimizer\.ema_decay was 0\.0 and is now 0\.99"):
        check_same(tmp_path, MANIFEST, averaging)
    none = with_config(optimizer={"ema_decay": 0.0})
    check_same(tmp_path, MANIFEST, none)
    with pytest.raises(CheckpointError, match=r"optimizer\.ema_decay was 0\.99 and is now 0\.0"):
        check_same(tmp_path, averaging, none)


def test_settings_are_compared_under_their_new_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        old = with_config(optimizer={"average": 0.9}, init_parts="all", eval={"step": -1})
        checkpoints.save(state_at(1), old, None)
        old = checkpoints.manifest(1)
    caplog.clear()  # Orbax may have warned of a slow save
    check_same(tmp_path, old, with_config(optimizer={"ema_decay": 0.9}, init_scope="all"))
    assert not caplog.records  # nor does a setting that no longer exists make a difference
    with pytest.raises(CheckpointError, match=r"optimizer\.ema_decay was 0\.9 and is now 0\.5"):
        check_same(tmp_path, old, with_config(optimizer={"ema_decay": 0.5}))
    check_same(tmp_path, old, with_config(optimizer={"ema_decay": 0.9}, init_scope="conv_stack"))
    (record,) = caplog.records
    assert record.getMessage().endswith("init_scope was 'all' and is now 'conv_stack'")


def test_harmless_changes_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A new setting that the older program did not have says nothing.
    check_same(tmp_path, MANIFEST, with_config(epochs=9, brand_new=1))
    assert [record.getMessage() for record in caplog.records] == [
        "the config has changed since the checkpoint: epochs was 8 and is now 9"
    ]


def test_other_images_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved, now = ({**MANIFEST, "num_examples": {"train": n, "validation": 9}} for n in (90, 100))
    check_same(tmp_path, MANIFEST, now)  # a checkpoint of an earlier version
    check_same(tmp_path, saved, saved)
    assert not caplog.records
    check_same(tmp_path, saved, now)
    (record,) = caplog.records
    assert "train was 90 and is now 100; they now come in another order" in record.getMessage()
