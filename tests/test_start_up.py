"""Start-up: libraries that take seconds to import wait until they are needed."""

import subprocess
import sys

import pytest

SLOW_TO_IMPORT = {"jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets"}


@pytest.mark.parametrize("module", ["", ".main", ".predict", ".check_data"])
def test_nothing_slow_is_imported(module: str) -> None:
    code = f"import sys, crnn_jax{module}; print(*{SLOW_TO_IMPORT} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"
