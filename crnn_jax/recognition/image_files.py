"""Image files by their paths: found in folders and elsewhere, and read, or an error in one line."""

import glob
import heapq
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from crnn_jax import files
from crnn_jax.data.image_headers import IMAGE_ENDINGS, MAX_BYTES
from crnn_jax.errors import DataError

STANDARD_INPUT = "-"

Report = Callable[[DataError], None]

_BLOCK = 100_000  # names that are sorted at a time, so that a folder may have any number of them
_LONGEST = 1 << 16  # characters of a line that is a path; no system has longer ones


def find_images(arguments: Iterable[str], report: Report) -> Iterator[str]:
    """Yields the paths of images one by one, in constant memory but for the matches of a pattern.

    An argument is

    - a file, whatever its name;
    - a folder: the images in it and in its folders, sorted by name. Images are told by the endings
      of their names. Hidden files and folders are left out, and links to folders;
    - a pattern such as `images/*.png` or `**/*.png`, for shells that do not expand it, and for more
      files than fit on a command line: the files that match, sorted;
    - `-`: standard input has a path on each line. They are not checked.

    Args:
      arguments: those of a command.
      report: is called with an error for each argument that leads to no image, and for each folder
        that cannot be read. The others are yielded.
    """
    for argument in arguments:
        nothing = True
        try:
            for path in _named_by(argument, report):
                nothing = False
                yield path
        except DataError as error:
            report(error)
        except (OSError, ValueError, RecursionError) as error:
            report(_unreadable(argument, error))
        else:
            if nothing:
                report(_nothing(argument))


def check_path(path: str | os.PathLike[str]) -> None:
    """Checks that a path leads to a file that can be read. The file is opened, but not read.

    Raises:
      DataError: it leads to nothing, to a folder, or to what is no plain file.
    """
    try:
        files.open_file(path, MAX_BYTES).close()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
      DataError: there is no plain file at the path, or it cannot be read.
    """
    try:
        return files.read_file(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _named_by(argument: str, report: Report) -> Iterator[str]:
    if argument == STANDARD_INPUT:
        return _lines()
    if os.path.isdir(argument):  # noqa: PTH112  # Path fails with a null character
        return _images_below(argument, report)
    if glob.has_magic(argument) and not os.path.lexists(argument):
        matches = glob.iglob(argument, recursive=True)  # noqa: PTH207  # Path's cannot be absolute
        return iter(sorted(filter(os.path.isfile, matches)))
    check_path(argument)
    return iter([argument])


def _lines() -> Iterator[str]:
    if sys.stdin is not None:
        for line in iter(lambda: sys.stdin.readline(_LONGEST), ""):
            if path := line.removesuffix("\n"):
                yield path


def _images_below(folder: str, report: Report) -> Iterator[str]:
    """Yields the images of a folder and its folders, whatever their number and their depth."""
    inside = [_entries(folder, report)]
    while inside:
        path, is_folder = next(inside[-1], (None, False))
        if path is None:
            inside.pop()
        elif is_folder:
            inside.append(_entries(path, report))
        else:
            yield path


def _entries(folder: str, report: Report) -> Iterator[tuple[str, bool]]:
    """Yields (path, whether it is a folder) of the images and folders in a folder, by name.

    The folder is listed again for each `_BLOCK` of names.
    """
    last = ""
    while True:
        try:
            with os.scandir(folder) as entries:
                later = (entry for entry in entries if entry.name > last)
                found = ((e.name, e.is_dir(follow_symlinks=False)) for e in later if _counts(e))
                block = heapq.nsmallest(_BLOCK, found)
        except OSError as error:
            report(_unreadable(folder, error))
            return
        for name, is_folder in block:
            yield os.path.join(folder, name), is_folder  # noqa: PTH118  # keeps `./`
        if len(block) < _BLOCK:
            return
        last = block[-1][0]


def _counts(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder or an image."""
    if entry.name.startswith("."):
        return False
    ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  # a third of Path's time
    return entry.is_dir(follow_symlinks=False) or (ending in IMAGE_ENDINGS and entry.is_file())


def _nothing(argument: str) -> DataError:
    if argument == STANDARD_INPUT:
        return DataError("there is no path on standard input; write one on each line")
    if os.path.isdir(argument):  # noqa: PTH112
        return DataError(f"the folder {argument!r} has no images; name one that has")
    return DataError(f"no file matches {argument!r}; check the pattern")


def _unreadable(path: str | os.PathLike[str], error: Exception) -> DataError:
    if isinstance(error, files.RefusedFile) and Path(path).is_dir():
        return DataError(f"{path} is a folder; name its images, such as {Path(path) / '*.png'}")
    # ValueError: a null character in the path.
    reason = error.strerror if isinstance(error, OSError) else error
    return DataError(f"cannot read image {os.fspath(path)!r}: {reason}; check the path")
