"""Damages inputs at random and reads them, for as long as wanted.

    python scripts/fuzz.py --minutes 30                 # each input in turn
    python scripts/fuzz.py --minutes 30 image manifest  # these two

Findings are: an exception that is not one of the project's errors, a process that dies, a case that
takes more than 10 seconds, and one that takes more than 1 GB of memory (measured on Linux only).
Each is saved in a folder, from which `--replay FOLDER` reads it again. Each input prints a line of
JSON. The exit code is 1 if there are findings.

Cases are read in a process of their own, which is started again when it has died or was killed.
"""

import argparse
import contextlib
import faulthandler
import json
import logging
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from fuzzing import INPUTS

from crnn_jax.errors import CrnnError

MAX_SECONDS = 10  # for a case
MAX_BYTES = 1 << 30  # of memory, more than before the case
START_SECONDS = 300  # for a process to import, compile and read an undamaged input
ROUND = 200  # cases that are drawn from a seed
MAX_FINDINGS = 20  # of an input, which is then not tried any further
STACKS = "stacks.txt"  # where a case hangs
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Outcome(NamedTuple):
    """How reading a damaged input ended.

    Attributes:
      ending: "read", "refused", or the traceback of an error that is not the project's.
      seconds: how long it took.
      bytes: how much more memory was used at its peak than before; 0 if that is not known.
    """

    ending: str
    seconds: float = 0.0
    bytes: int = 0


def try_inputs(
    name: str, folder: Path, seed: int, count: int, report: Callable[[Outcome], None]
) -> None:
    """Reads `count` damaged inputs, which `seed` decides; each is in `folder / "case"`."""
    import hypothesis
    from hypothesis import strategies as st

    check = hypothesis.HealthCheck

    # It only draws: to stop at a finding and to simplify it would take too long.
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=[check.too_slow, check.data_too_large, check.large_base_example],
    )
    @hypothesis.given(st.data())
    def attempt(data: st.DataObject) -> None:
        faulthandler.dump_traceback_later(0.8 * MAX_SECONDS, file=stacks)  # of a case that hangs
        copy(folder / "undamaged", folder / "case")
        INPUTS[name].damage(data.draw, folder / "case")
        report(read(name, folder / "case"))

    with (folder / STACKS).open("w", encoding="utf-8") as stacks:
        attempt()
        faulthandler.cancel_dump_traceback_later()


def copy(folder: Path, to: Path) -> None:
    """Copies a folder, in the place of what was there."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)


def read(name: str, case: Path) -> Outcome:
    """Reads an input and measures what that takes."""
    start, before = time.monotonic(), memory("VmRSS")
    with contextlib.suppress(OSError):
        CLEAR.write_text("5", encoding="utf-8")  # the peak starts at what is used now
    try:
        INPUTS[name].read(case)
        ending = "read"
    except CrnnError:
        ending = "refused"
    except Exception:
        ending = traceback.format_exc()
    return Outcome(ending, time.monotonic() - start, memory("VmHWM") - before)


def memory(field: str) -> int:
    """Bytes of this process; 0 on other systems than Linux."""
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def work(name: str, folder: Path, seed: int, connection: Connection) -> None:
    """Reads an undamaged input, then damaged ones without end; sends the outcomes."""
    logging.disable()
    for stream in (1, 2):  # commands print results, and libraries in C what is damaged
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    copy(folder / "undamaged", folder / "case")
    connection.send(read(name, folder / "case"))
    while True:
        try_inputs(name, folder, seed, ROUND, connection.send)
        seed += 1


class Fuzzer:
    """Reads an input for some time, and keeps what it found.

    Attributes:
      findings: what was found -> the number of cases. Each has a folder in `kept`.
      endings: the number of cases that were read and refused.
      slowest: seconds of the slowest case without a finding.
      largest: bytes of the case without a finding that took the most memory.
    """

    def __init__(self, name: str, seed: int, kept: Path) -> None:
        self.name, self.seed, self.kept = name, seed, kept
        self.findings: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self.slowest, self.largest = 0.0, 0

    def run(self, seconds: float) -> None:
        """Reads for so many seconds, or until there are too many findings."""
        end = time.monotonic() + seconds
        with tempfile.TemporaryDirectory(prefix="crnn_jax_fuzz_") as scratch:
            undamaged = Path(scratch) / "undamaged"
            undamaged.mkdir()
            INPUTS[self.name].create(undamaged)
            while time.monotonic() < end and len(self.findings) < MAX_FINDINGS:
                self._run_process(Path(scratch), end)

    def summary(self) -> dict[str, object]:
        """The result in JSON types."""
        return {
            "input": self.name,
            "cases": self.endings.total() + self.findings.total(),
            **self.endings,
            "slowest_seconds": round(self.slowest, 1),
            "most_megabytes": self.largest >> 20,
            "findings": dict(self.findings),
        }

    def _run_process(self, scratch: Path, end: float) -> None:
        """Reads in one process until the time is over, or the process has to end."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=work, args=(self.name, scratch, self.seed, theirs), daemon=True
        )
        process.start()
        theirs.close()
        self.seed += 1_000_000  # the next process draws other cases
        try:
            first = ours.recv() if ours.poll(START_SECONDS) else Outcome("it takes too long")
            if first.ending != "read":
                raise RuntimeError(f"the undamaged {self.name} cannot be read: {first.ending}")
            while (left := end - time.monotonic()) > 0:
                if not ours.poll(min(left, MAX_SECONDS)):
                    if left > MAX_SECONDS:
                        stacks = (scratch / STACKS).read_text(encoding="utf-8")
                        self._keep(scratch, "hang", stacks)
                    return
                self._count(scratch, ours.recv())
        except EOFError:
            process.join()
            self._keep(scratch, f"died with code {process.exitcode}")
        finally:
            process.kill()
            process.join()

    def _count(self, scratch: Path, outcome: Outcome) -> None:
        if outcome.ending not in ("read", "refused"):
            # The type of the error, and where the project was.
            ours = re.findall(r'crnn_jax/(\S+)", line (\d+)', outcome.ending) or [("?",)]
            error = outcome.ending.strip().splitlines()[-1].partition(":")[0][:80]
            self._keep(scratch, f"{error} at {':'.join(ours[-1])}", outcome.ending)
        elif outcome.seconds > MAX_SECONDS:
            self._keep(scratch, "slow")
        elif outcome.bytes > MAX_BYTES:
            self._keep(scratch, f"memory, {outcome.bytes / 1e9:.1f} GB")
        else:
            self.endings[outcome.ending] += 1
            self.slowest = max(self.slowest, outcome.seconds)
            self.largest = max(self.largest, outcome.bytes)

    def _keep(self, scratch: Path, finding: str, text: str = "") -> None:
        self.findings[finding] += 1
        if self.findings[finding] == 1:
            folder = self.kept / f"{self.name}-{len(self.findings)}"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.move(scratch / "case", folder)
            (folder / "finding.txt").write_text(f"{finding}\n{text}", encoding="utf-8")
            print(f"{self.name}: {finding}; kept in {folder}", file=sys.stderr, flush=True)


def main() -> int:
    """Returns 1 if there are findings."""
    parser = argparse.ArgumentParser(description="Damages inputs at random and reads them.")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help=f"of {', '.join(INPUTS)}; all")
    parser.add_argument("--minutes", type=float, default=30, help="for each input")
    parser.add_argument("--seed", type=int, default=0, help="decides the damage")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_findings"), help="for the findings")
    parser.add_argument("--replay", type=Path, help="reads this folder as the one INPUT")
    arguments = parser.parse_args()
    names = arguments.inputs or list(INPUTS)
    if unknown := [name for name in names if name not in INPUTS]:
        parser.error(f"there is no input {unknown[0]}; choose from {', '.join(INPUTS)}")
    if arguments.replay:
        outcome = read(names[0], arguments.replay)
        print(outcome.ending, f"{outcome.seconds:.1f} s, {outcome.bytes >> 20} MB", sep="\n")
        return 0 if outcome.ending in ("read", "refused") else 1
    found = 0
    for name in names:
        fuzzer = Fuzzer(name, arguments.seed, arguments.keep)
        arguments.keep.mkdir(parents=True, exist_ok=True)
        fuzzer.run(60 * arguments.minutes)
        print(json.dumps(fuzzer.summary()), flush=True)
        found += fuzzer.findings.total()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
