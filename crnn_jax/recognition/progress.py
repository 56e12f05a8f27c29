"""How far a command is, on a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def image_progress(total: int | None, shown: bool) -> Iterator[Callable[[], None]]:
    """A context that shows on standard error how many images are done, and how many a second.

    Nothing is shown where standard error is no terminal.

    Args:
      total: the number of images; None if it is not known.
      shown: whether to show anything.

    Yields:
      A function to call after each image.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda: None
        return
    # Not at the top: importing it takes as long as reading ten images.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Images(ProgressColumn):
        """`1,234 of 5,000 images, 567/s`."""

        def render(self, task: Task) -> Text:
            of = "" if task.total is None else f" of {task.total:,.0f}"
            speed = task.finished_speed or task.speed or 0
            return Text(f"{task.completed:,.0f}{of} images, {speed:,.0f}/s")

    known = (BarColumn(20), TimeRemainingColumn()) if total is not None else ()
    # Whatever FORCE_COLOR and notebooks make rich assume. Results are not printed by way of rich.
    console = Console(stderr=True, force_jupyter=False, force_terminal=True)
    with Progress(Images(), *known, console=console, redirect_stdout=False) as progress:
        console.show_cursor(True)  # Ctrl-C ends the process at once, and would leave it hidden
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)
