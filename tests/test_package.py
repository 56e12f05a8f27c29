"""The package as people install it: its public names, its wheel, its console script, its page."""

import contextlib
import hashlib
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from absl import flags
from hatchling.builders.wheel import WheelBuilder

import crnn_jax
from crnn_jax import cli, errors

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "tests" / "data" / "captcha_keras_v2"


def run(*command: str, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A command in a folder that is not the clone, with the package from `path`."""
    one_device = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment = {**os.environ, "PYTHONPATH": str(path), "XLA_FLAGS": one_device}
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `pip install .` installs, and nothing else of the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


def test_the_wheel_has_recipes_types_model_and_script(installed: Path) -> None:
    recipes = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert {path.name for path in (installed / "crnn_jax" / "configs").iterdir()} == recipes
    folders = ("reports/templates", "exporting/page")
    files = [path for folder in folders for path in (ROOT / "crnn_jax" / folder).iterdir()]
    for name in (
        *("py.typed", "pretrained/captcha/arrays.npz", "pretrained/captcha/manifest.json"),
        *(path.relative_to(ROOT / "crnn_jax").as_posix() for path in files),
    ):
        assert (installed / "crnn_jax" / name).is_file(), name
    scripts = next(installed.glob("*.dist-info/entry_points.txt")).read_text(encoding="utf-8")
    assert "crnn-jax = crnn_jax.cli:main" in scripts


def test_models_in_the_package_have_the_recorded_digests(installed: Path) -> None:
    """In the format of sha256sum, so that everyone can check what was downloaded."""
    folder = installed / "crnn_jax" / "pretrained"
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    recorded = {name: digest for digest, name in (line.split("  ") for line in lines)}
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("README.md", "SHA256SUMS")
    }
    assert found == recorded


def test_an_installed_package_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    code = "import crnn_jax; print(crnn_jax.__file__, crnn_jax.get_config('captcha:quick').epochs)"
    done = run("-c", code, cwd=tmp_path, path=installed)
    assert done.stdout == f"{installed / 'crnn_jax' / '__init__.py'} 3\n", done.stderr
    checked = run("-m", "crnn_jax.check_data", f"--dir={IMAGES}", cwd=tmp_path, path=installed)
    assert checked.returncode == 0 and "images: 30 train" in checked.stdout, checked.stderr


def test_public_names_are_there_and_documented() -> None:
    assert set(crnn_jax.__all__) <= set(dir(crnn_jax))
    for name in crnn_jax.__all__:
        value = getattr(crnn_jax, name)
        assert name == "__version__" or value.__doc__, name
    every_error = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert every_error <= set(crnn_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'recognise'"):
        getattr(crnn_jax, "recognise")  # noqa: B009 - type checkers know that it is not there


def test_commands_are_listed_and_each_has_flags_of_its_own() -> None:
    """In one process: no flag is defined twice."""
    for module, _, _ in cli.COMMANDS.values():
        importlib.import_module(f"crnn_jax.{module}")
    assert not {"config", "workdir", "model", "json"} & set(flags.FLAGS)
    for arguments in ([], ["--help"]):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            cli.main(["crnn-jax", *arguments])
        assert all(f"\n  {name} " in output.getvalue() for name in cli.COMMANDS)


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        cli.main(["crnn-jax", "paint"])
    assert capsys.readouterr().err == (
        "error: there is no command paint; choose from train, eval, predict, score, report,"
        " language-model, export, import, check-data\n"
    )


def test_the_console_script_evaluates_a_run(tmp_path: Path) -> None:
    """`eval` is the command with --mode eval, and its mistakes are those of the command."""
    code = "from crnn_jax.cli import main; main()"
    done = run("-c", code, "eval", f"--workdir={tmp_path / 'no'}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: there is no model {tmp_path / 'no'}")


def test_the_lines_in_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a script that draws its images: train, load, read an image, and show the text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## In Python\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    shutil.copytree(IMAGES, tmp_path / IMAGES.relative_to(ROOT))
    (tmp_path / "five_lines.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    done = run("five_lines.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text, _, confidence = done.stdout.splitlines()[-1].partition(" ")
    assert set(text) <= set("0123456789") and 0 < float(confidence) <= 1


def test_an_extra_does_not_replace_an_editable_installation() -> None:
    """`pip install ".[bench]"` would, and scripts would then measure the code of that day."""
    files = [file for folder in ("configs", "scripts") for file in (ROOT / folder).glob("*.py")]
    assert files
    for file in files:
        assert 'pip install ".[' not in file.read_text(encoding="utf-8"), file
