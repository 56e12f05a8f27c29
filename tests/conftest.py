"""What all tests share: eight CPU devices, strict ranks, and nothing written to the user's home."""

import os
import sys
import tempfile
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Runs before any test module is imported, for libraries read these variables on import."""
    assert "jax" not in sys.modules, "jax was imported too early to be given devices"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

    scratch = tempfile.TemporaryDirectory(prefix="crnn_jax_tests_")
    config.add_cleanup(scratch.cleanup)
    for variable in ("TFDS_DATA_DIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        os.environ[variable] = str(Path(scratch.name) / variable.lower())

    # Most of a test's time is compiling; runs of the same network share what was compiled, those
    # in processes of their own too.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(scratch.name) / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

    import jax

    # (B,) that meets (B, B) in silence is a bug; code that means it writes the ranks out.
    jax.config.update("jax_numpy_rank_promotion", "raise")
