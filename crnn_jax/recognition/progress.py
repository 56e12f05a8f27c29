"""How far a command is, on a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text


@contextlib.contextmanager
def image_progress(total: int | None) -> Iterator[Callable[[], None]]:
    """A context that shows on standard error how many images are done, and how many a second.

    Args:
      total: the number of images; None if it is not known.

    Yields:
      A function to call after each image.
    """
    known = (BarColumn(20), TimeRemainingColumn()) if total is not None else ()
    # Whatever FORCE_COLOR and notebooks make rich assume. Results are not printed by way of rich.
    console = Console(stderr=True, force_jupyter=False, force_terminal=True)
    with Progress(_Images(), *known, console=console, redirect_stdout=False) as progress:
        console.show_cursor(True)  # Ctrl-C ends the process at once, and would leave it hidden
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


class _Images(ProgressColumn):
    """`1,234 of 5,000 images, 567/s`."""

    def render(self, task: Task) -> Text:
        of = "" if task.total is None else f" of {task.total:,.0f}"
        speed = task.finished_speed or task.speed or 0
        return Text(f"{task.completed:,.0f}{of} images, {speed:,.0f}/s")
