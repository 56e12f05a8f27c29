"""Memory in huge pages, for programs that take and return hundreds of megabytes at each step."""

import os
import sys
from pathlib import Path

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # of Linux
TUNABLES = "GLIBC_TUNABLES"
ASK = "glibc.malloc.hugetlb=1"


def restart_with_huge_pages() -> None:
    """Starts this process again, asking for huge pages, where it has to ask for them.

    To be called before JAX is imported. XLA takes a step's memory anew from the system and returns
    it. In pages of 4 kB the system hands over, and clears, 75,000 of them in a step of the paper's
    network on a CPU, which took 780 ms, and 590 with pages of 2 MB. The C library of Linux asks for
    them only if a variable says so when the process starts; older ones than glibc 2.35 do not know
    it. Elsewhere, and where the variable is set to anything of one's own, nothing is done.
    """
    if TUNABLES in os.environ or not SWITCH.is_file() or "[madvise]" not in SWITCH.read_text():
        return
    os.environ[TUNABLES] = ASK
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)
