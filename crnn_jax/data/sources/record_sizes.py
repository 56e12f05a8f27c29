"""How large the records in a file of array_record are, as said by the headers of its chunks.

array_record unpacks a chunk as a whole, and does not tell its size before.
"""

import os
from typing import BinaryIO

MAX_CHUNK = 1 << 27
"""Bytes of a chunk when it is unpacked. TFDS writes a record to each; an image file has 50 MB at
most."""

# https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md
_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 1 << 16, 24, 40
_KINDS = b"smprt"


def check_records(file: BinaryIO) -> None:
    """Checks the size of each chunk. What is not understood is left to array_record, which says so.

    Raises:
        ValueError: a chunk is too large.
    """
    size, place = os.fstat(file.fileno()).st_size, 0
    while place < size:
        header = _read(file, place)
        stored, _, kind, unpacked = (header[i : i + 8] for i in range(8, _CHUNK_HEADER, 8))
        if len(header) < _CHUNK_HEADER or kind[0] not in _KINDS:
            return
        if (found := int.from_bytes(unpacked, "little")) > MAX_CHUNK:
            raise ValueError(f"a record unpacks to {found:,} bytes, more than {MAX_CHUNK:,}")
        records = int.from_bytes(kind[1:], "little")
        after = _after(place, _CHUNK_HEADER + int.from_bytes(stored, "little"))
        place = max(after, place + records)  # a chunk takes a byte for each record at least


def _read(file: BinaryIO, place: int) -> bytes:
    """The header of the chunk at `place`, of which the header of a block may be in the middle."""
    file.seek(place)
    data = file.read(_BLOCK_HEADER + _CHUNK_HEADER)
    header = -place % _BLOCK
    return (data[:header] + data[header + _BLOCK_HEADER :])[:_CHUNK_HEADER]


def _after(place: int, count: int) -> int:
    """The place after `count` bytes from `place` on, without the headers of blocks."""
    payload = _BLOCK - _BLOCK_HEADER
    block, within = divmod(place, _BLOCK)
    before = block * payload + max(within - _BLOCK_HEADER, 0) + count
    block, within = divmod(before, payload)
    # At the end of a block the next chunk begins with the header of the next one.
    return block * _BLOCK + (_BLOCK_HEADER + within if within else 0)
