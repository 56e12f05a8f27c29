"""Settings of JAX's compiler: programs start sooner and run faster on a CPU."""

import contextlib
import functools
import glob
import logging
import os
import platform
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import platformdirs

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
SETTING = f"{FLAG}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"  # matrix products, but no convolutions
# The jaxlib versions that were checked: YNNPACK's convolutions are their default, and they all
# accept the flag.
FIRST_VERSION, LAST_VERSION = (0, 10, 1), (0, 12, 0, 1)
TIMEOUT = 30  # seconds
_DAMAGED = "Error reading persistent compilation cache entry for '(.+?)'"

logger = logging.getLogger(__name__)


def configure_jax() -> None:
    """Makes the settings below; call it before JAX runs anything."""
    enable_compilation_cache()
    set_cpu_flags()


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless a folder is already configured.

    Compiling takes about a minute of the first start on two cores; later starts load the result.
    Each machine gets a folder of its own, because home folders are shared between machines with
    different processors. The call works before and after JAX is imported.
    """
    variable = "JAX_COMPILATION_CACHE_DIR"
    if variable in os.environ:
        return
    folder = str(_machine_folder() / "compiled")
    if "jax" not in sys.modules:
        os.environ[variable] = folder
        return
    import jax  # it has read the variable already

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", folder)


def repair_compilation_cache() -> None:
    """Replaces damaged programs of the cache when JAX finds them.

    JAX warns of a damaged entry, compiles the program, and then keeps the entry that exists, so
    that every start would compile again. The warning names the program and comes before that. Its
    entries are therefore removed when the warning is shown.
    """
    show = warnings.showwarning

    def show_or_repair(message: Warning | str, *arguments: Any, **keywords: Any) -> None:
        found = re.match(_DAMAGED, str(message))
        if not found:
            show(message, *arguments, **keywords)
            return
        import jax

        folder = Path(str(jax.config.jax_compilation_cache_dir))  # pyright: ignore
        logger.warning("%s; it is compiled again, which takes a while", message)
        for entry in folder.glob(f"{glob.escape(found[1])}-*-cache"):
            with contextlib.suppress(OSError):
                entry.unlink()

    warnings.showwarning = show_or_repair
    warnings.filterwarnings("always", _DAMAGED)


def set_cpu_flags() -> None:
    """Makes XLA run convolutions on a CPU with its own kernels instead of YNNPACK's.

    Matrix products stay with YNNPACK. On two Zen 3 cores, YNNPACK's convolutions take up to 1.5
    times as long as XLA's, and the weight gradient of a convolution of 32 x 16 x 96 x 32 to 64
    channels takes 477 ms instead of 31 (jaxlib 0.10.2). With jaxlib 0.12.0.1, a training step
    takes 1.35 times as long.

    Call this before JAX runs anything. XLA reads `XLA_FLAGS` once, so a later call changes nothing
    in the running process. If the variable already sets the flag, or names a file of flags, it
    stays as it is.

    An unknown flag ends the process. If jaxlib is newer than the versions that were checked, the
    flag is therefore tried in another process first, and the answer is kept in the user's cache
    folder.
    """
    import jaxlib.version

    given = os.environ.get("XLA_FLAGS", "").strip()
    names_a_file = given and not given.startswith("-")
    version = jaxlib.version.__version__
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    if FLAG in given or names_a_file or numbers < FIRST_VERSION:
        return
    if numbers <= LAST_VERSION or _accepts_setting(version):
        os.environ["XLA_FLAGS"] = f"{given} {SETTING}".strip()


def _machine_folder() -> Path:
    return platformdirs.user_cache_path("crnn_jax") / platform.node()


@functools.cache  # where the answer cannot be written, a process still tries only once
def _accepts_setting(version: str) -> bool:
    """Whether this version of jaxlib accepts `SETTING`: the kept answer, or that of a process."""
    accepted, refused = f"{SETTING} accepted", f"{SETTING} refused"
    file = _machine_folder() / f"xla_flags_{version}.txt"
    with contextlib.suppress(OSError, ValueError):
        answer = file.read_text(encoding="utf-8")
        if answer in (accepted, refused):
            return answer == accepted
    # Inside of another program, or frozen into one, the executable would run that program again.
    if "python" not in Path(sys.executable or "").name.lower():
        return False
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),  # the same jaxlib
        "XLA_FLAGS": SETTING,
    }
    try:
        code = subprocess.run(
            [sys.executable, "-P", "-c", "import jax; jax.devices()"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT,
        ).returncode
    except (OSError, subprocess.SubprocessError):
        return False  # no answer, so none is kept
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(refused if code else accepted, encoding="utf-8")
    return code == 0
