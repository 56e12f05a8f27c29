"""Where the columns of a Parquet file are, and how large their pages are, as said by the headers.

Arrow unpacks a page as a whole, and does not tell its size before. The sizes in the description of
the columns, at the end of a file, are not compared with those of the pages. When pyarrow is asked
for a description that is damaged, it may end the process (as of 26.0).
"""

import os
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

_HEADER = 1 << 16  # bytes; most have about 30, with statistics up to 8,000
_FOOTER = 1 << 26  # bytes; those of Hugging Face have about 10,000


class Chunk(NamedTuple):
    """A column of a row group: its first byte, and the one after it."""

    start: int
    end: int


def column_chunks(file: BinaryIO) -> list[dict[str, Chunk]]:
    """Returns the columns of each row group by their paths, such as `image.bytes`.

    Raises:
        ValueError: the description of the columns cannot be understood.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    if not 0 < length <= min(_FOOTER, size - 8):
        raise ValueError(f"its footer cannot have {length:,} bytes")
    file.seek(size - 8 - length)
    try:
        footer, _ = _struct(file.read(length), 0)
        groups: list[dict[str, Chunk]] = []
        for group in footer[4]:
            groups.append({})
            for column in group[1]:
                described = column[3]
                start = described[9]  # of the pages with data
                if 0 < described.get(11, 0) < start:  # of a dictionary
                    start = described[11]
                path = b".".join(described[3]).decode()
                groups[-1][path] = Chunk(start, min(start + described[7], size))
    except (IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the description of its columns is damaged") from error
    return groups


def page_sizes(file: BinaryIO, chunk: Chunk, rows: int) -> Iterator[tuple[int, int]]:
    """Yields the bytes of each page of a column, in the file and unpacked.

    Args:
        file: the Parquet file.
        chunk: where the column is.
        rows: the rows of the row group.

    Raises:
        ValueError: a header cannot be understood, a page is larger than its column, or there are
            more pages than rows.
    """
    place, end = chunk
    for _ in range(rows + 2):  # a dictionary, and a page without rows
        if place >= end:
            return
        file.seek(place)
        try:
            header, length = _struct(file.read(_HEADER), 0)
            unpacked, packed = header[2], header[3]
        except (IndexError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"the header of the page at {place:,} is damaged") from error
        if min(unpacked, packed) < 0:
            raise ValueError(f"the page at {place:,} has a negative size")
        after = place + length + packed
        if after > end:  # Arrow would take memory for all of it
            raise ValueError(f"the page at {place:,} has {packed:,} bytes, more than its column")
        yield packed, unpacked
        place = after
    raise ValueError("a column has more pages than rows")


# The compact protocol of Thrift:
# https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md


def _struct(data: bytes, place: int) -> tuple[dict[int, Any], int]:
    """The fields of a struct by number, and the place after it."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[place]:
        place += 1
        if head >> 4:
            number += head >> 4
        else:
            number, place = _integer(data, place)
        fields[number], place = _value(data, place, head & 15)
    return fields, place + 1


def _value(data: bytes, place: int, kind: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:
            return kind == 1, place
        case 3:
            return data[place], place + 1
        case 4 | 5 | 6:
            return _integer(data, place)
        case 7:
            return None, place + 8
        case 8:
            length, place = _varint(data, place)
            return data[place : place + length], place + length
        case 9 | 10:
            return _list(data, place)
        case 12:
            return _struct(data, place)
    raise ValueError(f"the header of a page has a field of type {kind}")


def _list(data: bytes, place: int) -> tuple[list[Any], int]:
    head, place = data[place], place + 1
    count, kind = head >> 4, head & 15
    if count == 15:
        count, place = _varint(data, place)
    values: list[Any] = []
    for _ in range(count):
        # A truth value is a byte of its own here.
        value, place = _value(data, place, 3 if kind in (1, 2) else kind)
        values.append(value)
    return values, place


def _integer(data: bytes, place: int) -> tuple[int, int]:
    value, place = _varint(data, place)
    return value >> 1 ^ -(value & 1), place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128 or shift > 63:
            return value, place
