"""Processes that load batches or draw images, and end with their parent, however that ends."""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, ParamSpec, TypeVar

from crnn_jax.errors import DataError

P = ParamSpec("P")
T = TypeVar("T")
# Left to the process that started the workers, which may still need them to finish its step.
_IGNORED = ("SIGINT", "SIGHUP")


class Workers(Generic[P, T]):
    """Calls a function in processes: from as many threads as there are processes.

    Each process has a pipe of its own and shares nothing else, neither memory nor locks. So it
    cannot leave anything behind, and it may be killed at any time: its end of the pipe is then
    closed, which the other end sees at once. In the same way a process sees that its parent is
    gone.
    """

    def __init__(self, function: Callable[P, T], count: int) -> None:
        """Starts `count` processes; the function and what it returns have to be picklable."""
        context = multiprocessing.get_context("spawn")  # threads do not survive a fork
        self._all: list[BaseProcess] = []
        self._idle: queue.SimpleQueue[tuple[BaseProcess, Connection]] = queue.SimpleQueue()
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(function, theirs), daemon=True)
            with main_module_hidden():
                process.start()
            theirs.close()  # the only other copy is that of the process
            self._all.append(process)
            self._idle.put((process, ours))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls the function in a process that has nothing to do.

        Raises:
            DataError: the function has raised it, or the process has ended.
        """
        process, connection = self._idle.get()
        try:
            connection.send((args, kwargs))
            answer = connection.recv()
        except (EOFError, OSError) as error:
            process.join()
            raise DataError(
                f"one of the {len(self._all)} processes that load batches ended with code"
                f" {process.exitcode}; if memory ran out, set --config.data.workers=0"
            ) from error
        finally:
            self._idle.put((process, connection))
        if isinstance(answer, DataError):
            raise answer
        return answer

    def kill(self) -> None:
        """Ends the processes, also those that are stopped; calls that wait for one raise."""
        for process in self._all:
            process.kill()


def end_with_parent() -> None:
    """Makes this process end when its parent does; for processes that share a queue.

    The parent's end of a queue says nothing, as all processes have a copy of it.
    """
    parent = multiprocessing.parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def main_module_hidden() -> Iterator[None]:
    """Keeps processes that start meanwhile from running the main module again.

    Otherwise a script without `if __name__ == "__main__"` would start itself again in each of them,
    and end with an error of Python's. What they call is in modules of this package.
    """
    attributes = vars(sys.modules["__main__"])
    hidden = {name: attributes.pop(name, None) for name in ("__file__", "__spec__")}
    attributes["__spec__"] = None  # is asked for
    try:
        yield
    finally:
        attributes.update({name: value for name, value in hidden.items() if value is not None})


def _serve(function: Callable[..., Any], connection: Connection) -> None:
    for name in _IGNORED:
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # of the pipe: the other process is gone
        while True:
            args, kwargs = connection.recv()
            try:
                answer = function(*args, **kwargs)
            except DataError as error:
                answer = error
            connection.send(answer)
