"""How large the pages of a Parquet file are, as said by their headers.

Arrow unpacks a page as a whole, and does not tell its size before. The sizes in the description of
the columns, at the end of a file, are not compared with those of the pages.
"""

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

_HEADER = 1 << 16  # bytes; most have about 30, with statistics up to 8,000


def page_sizes(file: BinaryIO, chunk: Any, rows: int) -> Iterator[tuple[int, int]]:
    """Yields the bytes of each page of a column, in the file and unpacked.

    Args:
        file: the Parquet file.
        chunk: `pyarrow.parquet.ColumnChunkMetaData`, a column of a row group.
        rows: the rows of the row group.

    Raises:
        ValueError: a header cannot be understood, a page is larger than its column, or there are
            more pages than rows.
    """
    place = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
        place = chunk.dictionary_page_offset
    end = min(place + chunk.total_compressed_size, file.seek(0, os.SEEK_END))
    for _ in range(rows + 2):  # a dictionary, and a page without rows
        if place >= end:
            return
        file.seek(place)
        try:
            header, length = _struct(file.read(_HEADER), 0)
            unpacked, packed = header[2], header[3]
        except (IndexError, KeyError, RecursionError) as error:
            raise ValueError(f"the header of the page at {place:,} is damaged") from error
        if min(unpacked, packed) < 0:
            raise ValueError(f"the page at {place:,} has a negative size")
        after = place + length + packed
        if after > end:  # Arrow would take memory for all of it
            raise ValueError(f"the page at {place:,} has {packed:,} bytes, more than its column")
        yield packed, unpacked
        place = after
    raise ValueError(f"{chunk.path_in_schema} has more pages than rows")


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
        case 8:
            length, place = _varint(data, place)
            return None, place + length
        case 12:
            return _struct(data, place)
    raise ValueError(f"the header of a page has a field of type {kind}")


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
