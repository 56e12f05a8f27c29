"""Start-up: libraries that take seconds to import wait until they are needed."""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crnn_jax import cli, huge_pages
from crnn_jax.compiler import choose_convolutions

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
SLOW_TO_IMPORT = {"jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets"}


def imported_by(code: str, *arguments: str) -> str:
    """What is slow to import and was, after some lines of Python."""
    code += f"\nimport sys\nprint(*{SLOW_TO_IMPORT} & set(sys.modules), file=sys.stderr)"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("module", ["", ".cli", ".recipes"])
def test_nothing_slow_is_imported(module: str) -> None:
    assert imported_by(f"import crnn_jax{module}; crnn_jax.ConfigError") == "\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_shown_at_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without what is slow to import; of all flags, and exit code 0."""
    assert imported_by("from crnn_jax.cli import main; main()", command, "--help") == "\n"
    cli.main(["crnn-jax", command, "--help"])
    shown = capsys.readouterr().out
    module = importlib.import_module(f"crnn_jax.{cli.COMMANDS[command][0]}")
    assert shown.startswith((module.__doc__ or "").partition("\n")[0])
    assert f"`crnn-jax {command}" in shown
    for name in module.FLAGS:
        assert re.search(rf"^  --(\[no\])?{name}: ", shown, re.MULTILINE), name
    if "config" in module.FLAGS:
        assert "captcha:fine_tune" in shown and "scene_text:benchmarks" in shown


@pytest.mark.parametrize(
    ("version", "given", "chosen"),
    [
        ("0.10.2", "--xla_x=1", f"--xla_x=1 {FLAG}="),
        ("0.10.2", f"{FLAG}=mine", f"{FLAG}=mine"),
        # Versions that may not have the flag would end the process.
        ("0.9.1", "--xla_x=1", "--xla_x=1"),
        ("0.11.0", "", ""),
    ],
)
def test_convolutions_are_chosen_where_the_flag_is_known(
    version: str, given: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    choose_convolutions()
    assert os.environ["XLA_FLAGS"].startswith(chosen)
    assert (os.environ["XLA_FLAGS"] == given) == (chosen == given)


def test_xla_knows_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS")
    choose_convolutions()
    code = "import jax; jax.numpy.zeros(()).block_until_ready()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("switch", "tunables", "restarts"),
    [
        ("always [madvise] never", None, 1),
        ("[always] madvise never", None, 0),
        ("always madvise [never]", None, 0),
        (None, None, 0),  # no Linux
        ("always [madvise] never", "glibc.malloc.check=1", 0),
    ],
)
def test_a_command_restarts_once_to_ask_for_huge_pages(
    switch: str | None, tunables: str | None, restarts: int, tmp_path: Path
) -> None:
    file = tmp_path / "enabled"
    if switch:
        file.write_text(switch)
    code = f"""if True:
        import os, pathlib, sys
        from crnn_jax import cli, huge_pages
        huge_pages.SWITCH = pathlib.Path({str(file)!r})
        print(os.getpid(), sys.argv[1:], os.environ.get(huge_pages.TUNABLES))
        huge_pages.restart_with_huge_pages()
    """
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.TUNABLES}
    if tunables:
        environment[huge_pages.TUNABLES] = tunables
    command = [sys.executable, "-c", code, "a b", "--c"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    process = lines[0].split()[0]
    asked = [tunables, huge_pages.ASK][: 1 + restarts]
    assert lines == [f"{process} ['a b', '--c'] {value}" for value in asked]
