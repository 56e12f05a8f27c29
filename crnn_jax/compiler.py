"""What JAX's compiler is told by the environment, before JAX is imported or compiles anything."""

import importlib.metadata
import os
import platform

import platformdirs


def keep_what_is_compiled() -> None:
    """Has JAX keep its compiled programs in the user's cache folder, unless it is told where.

    To be called before jax is imported. Compiling takes about a minute of a first start on two
    cores; a second one reads what the first compiled. A folder for each machine, as home folders
    are shared between machines whose processors differ.
    """
    folder = platformdirs.user_cache_path("crnn_jax") / platform.node() / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


def choose_convolutions() -> None:
    """Has XLA leave convolutions on a CPU to its own kernels; YNNPACK keeps the matrix products.

    To be called before JAX compiles anything. YNNPACK's convolutions are the default of jaxlib
    0.10. On two Zen 3 cores they take up to half as long again as XLA's own, and the weight
    gradient of 32 x 16 x 96 x 32 to 64 channels 477 ms instead of 31.
    """
    flag = "--xla_cpu_experimental_ynn_fusion_type"
    # Flags that it does not know end a process, so only versions get it that are known to have it.
    major, minor, patch = importlib.metadata.version("jaxlib").split(".")[:3]
    known = (major, minor) == ("0", "10") and patch not in ("0", "1")
    if known and flag not in os.environ.get("XLA_FLAGS", ""):
        chosen = f"{flag}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {chosen}".strip()
