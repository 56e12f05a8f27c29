"""What all tests share: eight CPU devices, strict ranks, and nothing written to the user's home."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

# Compiling is most of what the tests do, and this halves it; what is compiled is a little slower.
FASTER_TO_COMPILE = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"


def pytest_configure(config: pytest.Config) -> None:
    """Runs before any test module is imported, for libraries read these variables on import."""
    assert "jax" not in sys.modules, "jax was imported too early to be given devices"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = (
        os.environ.get("XLA_FLAGS", ""),
        FASTER_TO_COMPILE,
        "--xla_force_host_platform_device_count=8",
    )
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()

    # The processes that run the tests inherit the folders of the one that started them.
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if not worker:
        scratch = tempfile.TemporaryDirectory(prefix="crnn_jax_tests_")
        config.add_cleanup(scratch.cleanup)
        for variable in ("TFDS_DATA_DIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
            os.environ[variable] = str(Path(scratch.name) / variable.lower())

    # Runs of the same network share what was compiled, those in processes of their own too; not so
    # two processes that run tests, of which one could read what the other has written by half.
    cache = Path(os.environ["XDG_CACHE_HOME"]) / (worker or "main")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

    import jax

    # (B,) that meets (B, B) in silence is a bug; code that means it writes the ranks out.
    jax.config.update("jax_numpy_rank_promotion", "raise")
