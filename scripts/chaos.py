"""Kills a training run many times and checks that nothing is lost.

    python scripts/chaos.py --kills 50

trains configs/tiny.py on the images of the tests, once undisturbed and once with SIGKILL at random
times: during a save, between saves, and while the program starts. After each kill the run must
continue from its newest checkpoint, and none of its processes and shared memory may be left. At the
end its parameters, statistics and optimizer must equal those of the undisturbed run bit for bit.

Every second start has processes that load batches.
"""

import argparse
import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crnn_jax.training.checkpoint import UNFINISHED, Checkpoints

ROOT = Path(__file__).resolve().parent.parent
STEPS_PER_EPOCH = 3  # with batches of 8 of the training images
ONE_DEVICE = "--xla_force_host_platform_device_count=1"
WAYS = ("saving", "running", "starting")
WORKERS = 2
PATIENCE = 60  # seconds in which the processes of a killed run have to end
BEGINNING = re.compile(r"device\(s\), (?:continuing after step ([\d,]+)|from scratch)")


class Run:
    """A training run that can be started and killed many times."""

    def __init__(self, folder: Path, name: str, epochs: int, eval_every: int) -> None:
        self.workdir = folder / name
        self.log = folder / f"{name}.log"
        self._command = [
            *(sys.executable, "-m", "crnn_jax.main", "--config=configs/tiny.py"),
            "--config.data.source=folder",
            f"--config.data.dir={ROOT / 'tests' / 'data' / 'captcha_keras_v2'}",
            "--config.data.validation_fraction=0.2",
            "--config.batch_size=8",
            # With a warm-up, the compiled program would depend on the length of the run.
            "--config.optimizer.warmup=0.0",
            f"--config.epochs={epochs}",
            f"--config.eval_every={eval_every}",
            f"--workdir={self.workdir}",
        ]
        self._environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {ONE_DEVICE}",
            # Only the first start has to compile.
            "JAX_COMPILATION_CACHE_DIR": os.environ.get(
                "JAX_COMPILATION_CACHE_DIR", str(folder / "compiled")
            ),
        }

    def start(self, workers: int = 0) -> subprocess.Popen[bytes]:
        """Starts the run, or continues it; the log is overwritten.

        All its processes have its standard output, a pipe that is closed when the last one ends.
        """
        command = [*self._command, f"--config.data.workers={workers}"]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=log
            )

    def saved(self) -> int:
        """The newest step with a complete folder; 0 if there is none."""
        names = (path.name for path in (self.workdir / "checkpoints").glob("*"))
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any((self.workdir / "checkpoints").glob(f"*{UNFINISHED}*"))

    def began_at(self) -> int | None:
        """The step from which the last start continued; None if it did not get that far."""
        found = BEGINNING.search(self.log.read_text(encoding="utf-8", errors="replace"))
        return int((found[1] or "0").replace(",", "")) if found else None

    def digests(self) -> dict[str, dict[str, object]]:
        """The digest of each array in the newest checkpoint."""
        with Checkpoints(self.workdir, read_only=True) as checkpoints:
            return checkpoints.manifest(self.saved())["arrays"]


def abandoned() -> set[str]:
    """The shared memory that no process uses, as Linux shows it."""
    shared = Path("/dev/shm")  # noqa: S108  # it is only listed
    mapped = set[str]()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # the process has ended, or is another user's
            mapped |= set(re.findall(rf"{shared}/\S+", maps.read_text(encoding="utf-8")))
    return {str(path) for path in shared.glob("*")} - mapped


def kill_once(run: Run, way: str, workers: int, rng: random.Random) -> None:
    """Starts the run and kills it at a random time, during the phase that `way` names.

    Raises:
      RuntimeError: the run ended by itself, continued from a step that is not the newest, or left
        something behind.
    """
    newest, before = run.saved(), abandoned()
    process = run.start(workers)
    try:
        deadline = time.monotonic() + rng.uniform(0, 4)
        while process.poll() is None:
            if way == "starting" and time.monotonic() > deadline:
                break
            if way == "saving" and run.saving():
                time.sleep(rng.uniform(0, 0.2))
                break
            if way == "running" and run.saved() > newest:
                time.sleep(rng.uniform(0, 2))
                break
            time.sleep(0.002)
    finally:
        process.kill()
        code = process.wait()
    try:
        process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise RuntimeError("processes of the run are still there") from None
    if left := abandoned() - before:
        raise RuntimeError(f"the run left shared memory: {', '.join(left)}")
    if code >= 0:
        raise RuntimeError(f"the run ended by itself with code {code}, see {run.log}")
    if run.began_at() not in (None, newest):
        raise RuntimeError(f"the run continued from step {run.began_at()}, not from {newest}")


def main() -> int:
    """Returns 0 if the run survived all kills and both runs end with the same arrays."""
    parser = argparse.ArgumentParser(description="Kills a training run many times.")
    parser.add_argument("--kills", type=int, default=50, help="how many times")
    parser.add_argument("--steps", type=int, default=2000, help="length of the run, roughly")
    parser.add_argument("--seed", type=int, default=0, help="decides the times of the kills")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    epochs = -(-arguments.steps // STEPS_PER_EPOCH)
    # Enough saves that the run does not end before the last kill; every third kill lets one pass.
    eval_every = max(1, epochs // (2 * arguments.kills))
    with tempfile.TemporaryDirectory(prefix="crnn_jax_chaos_") as scratch:
        undisturbed = Run(Path(scratch), "undisturbed", epochs, eval_every)
        killed = Run(Path(scratch), "killed", epochs, eval_every)
        if undisturbed.start(WORKERS).wait() or "leaked" in undisturbed.log.read_text("utf-8"):
            print(undisturbed.log.read_text(encoding="utf-8"), file=sys.stderr)
            return 1
        survived = 0
        try:
            for kill in range(arguments.kills):
                way = WAYS[kill % len(WAYS)]
                # Three ways and two numbers of workers make six kinds of kills.
                kill_once(killed, way, WORKERS * (kill % 2), rng)
                survived = kill  # the kills before this one, from which the run has recovered
                print(f"killed while {way}, step {killed.saved()} is saved", flush=True)
            newest = killed.saved()
            if killed.start().wait() or killed.began_at() != newest:
                raise RuntimeError("the last start did not reach the end of the run")
            survived = arguments.kills
        except RuntimeError as error:
            print(error, killed.log.read_text(encoding="utf-8"), sep="\n", file=sys.stderr)
        same = killed.saved() == undisturbed.saved() and killed.digests() == undisturbed.digests()
        print(
            f"survived {survived} of {arguments.kills} kills in {killed.saved()} steps; the arrays"
            f" are {'exactly' if same else 'NOT'} those of the undisturbed run"
        )
    return 0 if same and survived == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
