"""Recipes are found by name wherever the package is, and old names of settings are understood."""

import errno
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

import crnn_jax
from configs import captcha, tiny
from crnn_jax.errors import ConfigError
from crnn_jax.recipes import RENAMED, get_config, recipes
from crnn_jax.training.checkpoint import Checkpoints
from crnn_jax.training.manifest import check_same, seal

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "data" / "checkpoints" / "format3"


@pytest.mark.parametrize("name", ["captcha:quick", "configs/captcha.py:quick"])
def test_a_recipe_is_named_or_a_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert get_config(name).to_dict() == captcha.get_config("quick").to_dict()


def test_a_recipe_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = crnn_jax.get_config("tiny")
    assert config.to_dict() == tiny.get_config().to_dict()
    config.data.dir = "mine"  # each call returns a config of its own
    assert crnn_jax.get_config("tiny").data.dir == ""


def test_every_recipe_and_variant_is_described() -> None:
    files = {file.stem for file in (ROOT / "configs").glob("*.py")}
    described = recipes()
    assert {name.partition(":")[0] for name in described} == files
    variants = {f"captcha:{name}" for name in captcha.VARIANTS if name != "default"}
    variants |= {"scene_text:benchmarks", "scene_text:fine_tune"}
    assert variants == {name for name in described if ":" in name}
    for name, description in described.items():
        assert description.endswith("."), name
        get_config(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "capt",
            "there is no recipe 'capt'; choose from captcha, chinese, pretrained, scene_text,",
        ),
        ("", "there is no recipe ''"),
        (
            "captcha:papre",
            "config captcha:papre: there is no variant 'papre'; choose from default,",
        ),
        ("tiny:quick", "config tiny:quick: it has no variants"),
        (
            "no/captcha.py:quick",
            "there is no file no/captcha.py; the recipe is called captcha",
        ),
        ("no/mine.py", "there is no file no/mine.py; check the path"),
    ],
)
def test_what_is_not_there_is_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        get_config(name)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package", "No module named 'no_such_package', line 1 of"),
        ("def get_config():\n    return 1 + ''", "TypeError: unsupported .*, line 2 of"),
        ("def get_config(:", "SyntaxError: "),
        ("x = 1", "AttributeError: .*get_config"),
        ("def get_config(): ...", "get_config returns a NoneType, not a ConfigDict"),
        ("def get_config(): return 3", "mine.py: get_config returns a int, not a ConfigDict"),
        ("get_config = 3", "TypeError: 'int' object is not callable"),
        ("import sys\nsys.exit(0)", "SystemExit: 0, line 2 of"),
        ("def get_config(): raise SystemExit('done')", "SystemExit: done, line 1 of"),
        ("import crnn_jax\nget_config = lambda: crnn_jax.get_config('no')", "no recipe 'no'"),
    ],
)
def test_a_config_file_that_fails_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        get_config(str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a" * 300 + ".py", "\0.py", "."])
def test_a_config_that_cannot_be_named_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the config|no file|no recipe"):
        get_config(name)


def test_a_config_in_a_folder_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ConfigError, match=r"cannot read .*mine.py \(Permission denied\)"):
        get_config(str(tmp_path / "mine.py"))


# The config of a run of an older version, and what it is called now.
OLD = {
    "seed": 0,
    "init_parts": "conv_stack",
    "eval": {"step": -1},
    "data": {"parts": {}, "dir": "x"},
    "optimizer": {"average": 0.5},
}
NEW = {
    "seed": 0,
    "init_scope": "conv_stack",
    "data": {"parts": {}, "dir": "x"},
    "optimizer": {"ema_decay": 0.5},
}


def with_config(folder: Path, config: dict[str, Any]) -> Path:
    """A copy of a saved run with another config."""
    workdir = Path(shutil.copytree(GOLDEN, folder / "run"))
    file = workdir / "checkpoints" / "12" / "manifest" / "metadata"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    del manifest["digest"]
    file.write_text(json.dumps(seal({**manifest, "config": config})), encoding="utf-8")
    return workdir


def test_an_older_run_goes_on_under_the_new_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert RENAMED.keys() == {"eval.step", "init_parts", "optimizer.average"}
    workdir = with_config(tmp_path, OLD)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        saved = checkpoints.manifest(12)
    assert saved["config"] == NEW
    with caplog.at_level(logging.WARNING):
        current = {key: value for key, value in saved["alphabet"].items() if key != "fingerprint"}
        check_same(
            workdir, saved, {**saved, "alphabet": current, "config": {**NEW, "trace_steps": 0}}
        )
    assert not caplog.records
