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

    # The processes that run the tests inherit the folders of the one that started them.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        scratch = tempfile.TemporaryDirectory(prefix="crnn_jax_tests_")
        config.add_cleanup(scratch.cleanup)
        for variable in ("TFDS_DATA_DIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
            os.environ[variable] = str(Path(scratch.name) / variable.lower())

    import jax

    # (B,) that meets (B, B) in silence is a bug; code that means it writes the ranks out.
    jax.config.update("jax_numpy_rank_promotion", "raise")

    # Most of a test's time is compiling; runs of the same network share what was compiled. Not so
    # two processes: one could read what the other has written by half.
    cache = Path(os.environ["XDG_CACHE_HOME"]) / os.environ.get("PYTEST_XDIST_WORKER", "main")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
