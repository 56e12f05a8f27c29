"""Start-up: libraries that take seconds to import wait until they are needed."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from crnn_jax.compiler import choose_convolutions

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
SLOW_TO_IMPORT = {"jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets"}


@pytest.mark.parametrize("module", ["", ".main", ".predict", ".check_data"])
def test_nothing_slow_is_imported(module: str) -> None:
    code = f"import sys, crnn_jax{module}; print(*{SLOW_TO_IMPORT} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


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
