"""Damage to files and JSON, drawn by hypothesis."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

HUGE = 20 << 30  # bytes of a file that takes no room on disk

Draw = Callable[[st.SearchStrategy[Any]], Any]
"""Draws a value from a strategy."""


def change_bytes(draw: Draw, data: bytes) -> bytes:
    """Changes, removes, repeats or inserts some bytes."""
    result = bytearray(data)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4, 16)))):
        start = draw(st.integers(0, len(result)))
        end = min(len(result), start + draw(st.sampled_from((1, 2, 4, 8, 64))))
        match draw(st.integers(0, 6)):
            case 0 if start < len(result):
                result[start] ^= 1 << draw(st.integers(0, 7))
            case 1:
                result[start:end] = draw(st.binary(max_size=16))
            case 2:
                del result[start:end]
            case 3:
                result[start:start] = result[start:end] * draw(st.sampled_from((1, 2, 100)))
            case 4:
                del result[start:]
            case _:
                result[start:end] = draw(st.sampled_from(NUMBERS))
    return bytes(result)


# Numbers at the limits of their types, and what ends texts and fields.
NUMBERS = (
    *(b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f"),
    *(b"\0\0\0\0\0\0\0\x80", b"\xff" * 8, b"\t\n", b"\r", b'"', b"\xc3\xa9", b"\xef\xbb\xbf", b","),
)

# Values that JSON may have in the wrong place.
VALUES = (
    *(None, True, -1, 0, 1, 3, 10**6, 10**30, 0.5, -1e300, float("nan"), float("inf")),
    *("", "x", "../../etc", "/etc/passwd", "\0", "\n", "a" * 5000, "\ud800", "\u202e", "os.system"),
    *([], [1], [[1]] * 7, [-1] * 7, [0] * 7, [10**9] * 7, [3] * 3000, {}, {"x": 1}),
)


def change_json(draw: Draw, value: Any) -> Any:
    """Replaces, removes or adds something in JSON."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 9)):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                other = draw(st.sampled_from((*sorted(value), "parent", "name", "dtype", "")))
                return {**value, other: value[key]}
            case _:
                return {**value, key: change_json(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], change_json(draw, value[place]), *value[place + 1 :]]
    if type(value) in (int, float) and draw(st.booleans()):
        return value * draw(st.sampled_from((-1, 2, 0.5, 1000, 10**6)))
    return draw(st.sampled_from(VALUES))


def change_file(draw: Draw, path: Path) -> None:
    """Changes the bytes of a file, or makes something else of it."""
    kind = draw(st.integers(0, 19))
    if kind > 5:
        path.write_bytes(change_bytes(draw, path.read_bytes()))
        return
    path.unlink()
    match kind:
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(draw(st.sampled_from(("/etc/passwd", "/dev/zero", path.name, "."))))
        case 2 if hasattr(os, "mkfifo"):
            os.mkfifo(path)
        case 3:
            with path.open("wb") as file:
                file.truncate(HUGE)
        case 4:
            path.touch()


def files_in(folder: Path) -> list[Path]:
    """The regular files in a folder and its sub-folders."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
