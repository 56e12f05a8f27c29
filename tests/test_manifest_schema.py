"""The schema of manifests: what somebody who knows how they are sealed may not say."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crnn_jax import models
from crnn_jax.errors import CheckpointError, CrnnError, DamagedCheckpoint
from crnn_jax.models.crnn import CRNN
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.pretrained import read_pretrained_manifest
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.training import manifest_schema
from crnn_jax.training.checkpoint import Checkpoints
from crnn_jax.training.manifest import read_manifest, seal

GOLDEN = Path(__file__).parent / "data" / "checkpoints"
ARRAY = "model/params/head/bias"
CALIBRATION = Calibration(-0.5, 0.9, 0.97, 200, 150).to_dict()


def never(*_: object, **__: object) -> None:
    """Takes the place of a function that must not be called."""
    pytest.fail("it was called")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A manifest in format 3."""
    metadata = tmp_path / "run" / "checkpoints" / "12" / "manifest" / "metadata"
    shutil.copytree(GOLDEN / "format3", tmp_path / "run")
    return metadata


def rewrite(path: Path, key: str, value: Any) -> None:
    """Sets an entry, or removes it if the value is `...`."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest.pop("digest", None)
    *parents, last = key.split(".")
    entry = manifest
    for parent in parents:
        entry = entry[parent]
    if value is ...:
        del entry[last]
    else:
        entry[last] = value
    path.write_text(json.dumps(seal(manifest)), encoding="utf-8")


WRONG = [
    *(("alphabet", ...), ("alphabet.characters", ""), ("alphabet.characters", 5)),
    *(("alphabet.ignore_case", "no"), ("alphabet.characters", "a" * 200_001)),
    *(("model", []), ("model.name", 3), ("model.settings", None), ("model.settings.hidden", 0.5)),
    *(("model.settings.channels", 7), ("model.settings.channels", [2, 0])),
    *(("model.settings.hidden", True), ("model.settings.space_to_depth", 3)),
    *(("model.settings.dropout", 1), ("model.settings.momentum", -0.1)),
    *(("model.settings.dtype", "object"), ("model.settings.leaky", 1)),
    *(("preprocessing", ...), ("preprocessing.height", 0), ("preprocessing.height", 32.0)),
    *(("preprocessing.height", None), ("preprocessing.height", "32"), ("preprocessing.width", -1)),
    *(("preprocessing.channels", 2), ("preprocessing.invert", 2), ("preprocessing.invert", None)),
    *(("preprocessing.max_width", ...), ("preprocessing.color", 1)),
    *(("config", ...), ("config", [1]), ("config", {"a": {"b": {"c": {"d": {"e": 1}}}}})),
    *(("config", {"": 1}), ("config", {"data.dir": "x"}), ("config", {"x": [[[1]]]})),
    *(("score", "0.5"), ("score", 1.5), ("score", float("nan")), ("score", True)),
    *(("best_score", "x"), ("best_score", -1), ("since_best", 0.5), ("since_best", -1)),
    *(("on_plateau", "no"), ("position", 3), ("position.step", "12"), ("position.epoch", -1)),
    *(("num_examples", 5), ("num_examples", {"train": 0.5}), ("pictures", 0.5)),
    *(("calibration", {}), ("calibration", []), ("calibration", {**CALIBRATION, "bias": 1})),
    *(("calibration", {**CALIBRATION, "slope": 0}), ("calibration", {**CALIBRATION, "images": -1})),
    *(
        ("calibration", {**CALIBRATION, key: value})
        for key in CALIBRATION
        for value in ("1", float("nan"), float("inf"), 1e9 + 0.5, True)
    ),
    *(("versions", []), ("versions", {"jax": 1}), ("init_from", None)),
    *(("arrays", ...), ("arrays", [1]), (f"arrays.{ARRAY}", None)),
    *((f"arrays.{ARRAY}.shape", [-1]), (f"arrays.{ARRAY}.shape", [1] * 9)),
    *((f"arrays.{ARRAY}.dtype", "object"), (f"arrays.{ARRAY}.sha256", "0" * 63)),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_entry_is_named_before_anything_is_built(
    key: str, value: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_manifest(path)
    rewrite(path, key, value)
    monkeypatch.setattr(models, "create", never)
    with pytest.raises(DamagedCheckpoint) as caught:
        read_manifest(path)
    message = str(caught.value)
    # The library names the place of an entry, but not which one of many arrays or settings it is.
    named = key.split(".")[0]
    assert f"{path} is not what crnn_jax writes: " in message and named in message, message
    assert len(message.splitlines()) == 1
    with Checkpoints(path.parents[3], read_only=True) as checkpoints:
        assert checkpoints.best_first() == [12]  # it has no score
    with pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged"):
        TrainedModel.load(path.parents[3])


def test_nothing_nested_escapes(path: Path) -> None:
    for depth in (10, 900, *range(950, 1000), 100_000):
        nested = '{"a":' * depth + "1" + "}" * depth
        path.write_text(f'{{"format": 1, "config": {nested}}}', encoding="utf-8")
        with pytest.raises(DamagedCheckpoint):
            read_manifest(path)


def test_values_that_take_more_memory_than_text_are_not_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(path, "config.more", [[]] * 300_000)
    monkeypatch.setattr(json, "loads", never)
    with pytest.raises(DamagedCheckpoint, match=r"it has 300,\d+ commas, more than 200,000"):
        read_manifest(path)


def test_two_settings_in_one_place(path: Path) -> None:
    """`init_parts` is the earlier name of `init_scope`."""
    rewrite(path, "config", {"init_parts": "all", "init_scope": {"x": 1}})
    with pytest.raises(DamagedCheckpoint, match="not what crnn_jax writes"):
        read_manifest(path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"exact_match": "x"}', '{"exact_match": 2}'])
def test_the_score_of_format_1(content: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(GOLDEN / "format1", tmp_path / "run"))
    path = run / "checkpoints" / "12" / "metrics" / "metrics"
    with Checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.manifest(12)["score"] == 0.75
        path.write_text(content)
        with pytest.raises(DamagedCheckpoint, match="metrics is not what crnn_jax writes"):
            checkpoints.manifest(12)
        assert checkpoints.best_first() == [12]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("step", ...), ("step", True), ("step", -1), ("arrays", ...), ("arrays.sha256", 5)),
        *(("metrics", 0.5), ("metrics", {"test": []}), ("config", {"a": [[[]]]})),
    ],
)
def test_a_pretrained_model_has_a_step_and_a_file(key: str, value: Any, tmp_path: Path) -> None:
    folder = Path(models.__file__).parents[1] / "pretrained" / "captcha"
    shutil.copy(folder / "manifest.json", tmp_path)
    read_pretrained_manifest(tmp_path)
    rewrite(tmp_path / "manifest.json", key, value)
    with pytest.raises(DamagedCheckpoint, match=f"not what crnn_jax writes: .*{key.split('.')[0]}"):
        read_pretrained_manifest(tmp_path)


def test_every_setting_of_the_network_is_listed() -> None:
    own = {field.name for field in dataclasses.fields(CRNN)}
    listed = {field.name for field in msgspec.structs.fields(manifest_schema.Settings)}
    of_the_name = {"convs", "dense_after", "mean_rows"}  # what the named networks differ in
    assert listed == own - of_the_name - {"num_classes", "axis_name", "parent", "name"}


def test_what_cannot_be_read_now_is_not_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("crnn_jax.files.read_file", denied)
    with pytest.raises(CrnnError, match=r"cannot be read \(Permission denied\)") as caught:
        read_manifest(path)
    assert not isinstance(caught.value, DamagedCheckpoint)


def test_a_model_has_the_calibration_of_its_manifest(path: Path) -> None:
    assert TrainedModel.load(path.parents[3]).calibration == Calibration()  # it has none
    rewrite(path, "calibration", CALIBRATION)
    assert TrainedModel.load(path.parents[3]).calibration == Calibration(-0.5, 0.9, 0.97, 200, 150)
