"""Processes that load batches: they answer, and end with the process that started them."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from crnn_jax.data.workers import Workers
from crnn_jax.errors import DataError

ROOT = Path(__file__).parent.parent
PATIENCE = 60  # seconds until a test gives up; decides nothing else
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def stop_and_load(pid: int) -> int:
    """Sends SIGSTOP to the process it runs in, unless that is `pid`; returns a large answer."""
    if os.getpid() != pid:
        os.kill(os.getpid(), signal.SIGSTOP)
    return pid


def refuse(name: str) -> None:
    raise DataError(f"{name} cannot be read")


def square(number: int) -> int:
    return number * number


def test_answers_belong_to_their_calls_from_many_threads() -> None:
    workers = Workers(square, 2)
    found: dict[int, int] = {}

    def ask(numbers: range) -> None:
        found.update({number: workers(number) for number in numbers})

    threads = [threading.Thread(target=ask, args=(range(i, 60, 3),)) for i in range(3)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        workers.kill()
    assert found == {number: number**2 for number in range(60)}


def test_a_refusal_comes_back_and_the_process_lives_on() -> None:
    workers = Workers(refuse, 1)
    try:
        for name in ("a.png", "b.png"):
            with pytest.raises(DataError, match=rf"^{name} cannot be read$"):
                workers(name)
    finally:
        workers.kill()


@posix
def test_a_call_to_a_stopped_process_ends_when_it_is_killed() -> None:
    workers = Workers(stop_and_load, 1)
    errors: list[DataError] = []

    def ask() -> None:
        with pytest.raises(DataError, match=r"ended with code -9.*data\.workers=0") as caught:
            workers(os.getpid())
        errors.append(caught.value)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    workers.kill()
    thread.join(PATIENCE)
    assert errors


IDLE = """
import operator, threading
from crnn_jax.data.workers import Workers
workers = Workers(operator.pow, 2)
print(workers(3, 2), workers(3, 3), flush=True)
"""
BUSY = f"""{IDLE}
for _ in range(2):
    threading.Thread(target=workers, args=(3, 3_000_000)).start()
"""
DRAWING = """
import functools, operator, threading
from crnn_jax.data.synthetic.builder import _drawn
samples = _drawn([functools.partial(pow, 3, 2), functools.partial(pow, 3, 3)] * 1000, 2)
print(next(samples), next(samples), flush=True)
"""


@posix
@pytest.mark.parametrize("code", [IDLE, BUSY, DRAWING], ids=["idle", "busy", "drawing"])
def test_processes_end_with_the_one_that_is_killed(code: str, tmp_path: Path) -> None:
    """They have its standard output, which is closed when the last process has ended.

    The script has no `if __name__ == "__main__"`, and is not started again by each of them.
    """
    (tmp_path / "script.py").write_text(f"{code}\nthreading.Event().wait()", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == "9 27\n"
        process.kill()
        rest, _ = process.communicate(timeout=PATIENCE)
    assert not rest
