"""Memory in huge pages, for programs that allocate hundreds of megabytes at each step."""

import contextlib
import os
import re
import sys
from pathlib import Path

SWITCH = "CRNN_JAX_HUGE_PAGES"  # "0" turns the restart off
RESTARTED = "restarted"  # the value of the switch after a restart: there is no second one
TUNABLES = "GLIBC_TUNABLES"
REQUEST = "glibc.malloc.hugetlb=1"
SYSTEM_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # of Linux

# Options of the interpreter that a restart repeats without side effects; -c, -i and - are not.
OPTIONS = re.compile(r"-[bBdEIOPqRsSuvx]+|-[WX].+")
MONITORING_TOOLS = 6  # tool ids of sys.monitoring

_imported_by = os.getpid()


def restart_with_huge_pages(script: str = "crnn-jax") -> None:
    """Starts this process again with huge pages for `malloc`, where Linux gives them on request.

    Call this before JAX is imported. XLA allocates its memory anew at each step and returns it.
    For a training step of the paper's network on a CPU, the system maps and clears 75,000 pages of
    4 kB, and the step takes 780 ms. With pages of 2 MB it takes 590 ms.

    A restart is needed because the C library reads `GLIBC_TUNABLES` only when a process starts.
    `mallopt` has no such setting, `prctl` can only turn huge pages off, and `madvise` needs the
    addresses of XLA's allocations, which nobody outside of XLA knows. C libraries older than glibc
    2.35 ignore the request.

    The process is started again only if this repeats the command and nothing else: it was started
    as `python -m crnn_jax.X` or as the script called `script`; it is not a forked child; no
    debugger or profiler is active; its standard streams are open. It is started again at most once,
    and never if `GLIBC_TUNABLES` is set or `CRNN_JAX_HUGE_PAGES` is `0`.
    """
    if not (_pages_on_request() and _is_command(script) and _is_undisturbed()):
        return
    environment = os.environ | {TUNABLES: REQUEST, SWITCH: RESTARTED}
    # The system may refuse, for example if the command line is too long; 4 kB pages will do then.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, environment)  # noqa: S606  # the user's own command


def _pages_on_request() -> bool:
    """Whether the system gives huge pages on request and the user has not decided otherwise."""
    if TUNABLES in os.environ or os.environ.get(SWITCH, "1") != "1":
        return False
    try:
        return "[madvise]" in SYSTEM_SETTING.read_text()
    except OSError:
        return False


def _is_command(script: str) -> bool:
    """Whether the interpreter was started as `python -m crnn_jax.X` or as `script`.

    Processes that `multiprocessing` spawns are started with -c.
    """
    arguments = iter(sys.orig_argv[1:])
    for argument in arguments:
        if argument in ("-W", "-X"):
            next(arguments, None)
        elif argument == "-m":
            return next(arguments, "").partition(".")[0] == "crnn_jax"
        elif not OPTIONS.fullmatch(argument):
            return Path(argument).name == script
    return False


def _is_undisturbed() -> bool:
    """Whether the process is no forked child, is not observed, and has open standard streams."""
    monitoring = getattr(sys, "monitoring", None)  # since Python 3.12
    observers = [sys.gettrace(), sys.getprofile()]
    if monitoring:
        observers += map(monitoring.get_tool, range(MONITORING_TOOLS))
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return (
        bool(sys.executable)
        and os.getpid() == _imported_by
        and not any(observers)
        and all(stream and not stream.closed for stream in streams)
    )
