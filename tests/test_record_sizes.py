"""Sizes of records, in files that array_record's own writer has written."""

import random
import tracemalloc
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from crnn_jax.data.sources import record_sizes
from crnn_jax.data.sources.record_sizes import check_records

# Around the payload of a block, and of a block after the header of a chunk.
SIZES = (0, 1, 50, 3_000, 65_448, 65_472, 65_512, 65_536, 200_000)


def write(path: Path, records: list[bytes], options: str) -> Path:
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path


@pytest.mark.parametrize(
    "options", ["group_size:1", "group_size:7,zstd:5", "group_size:1,uncompressed"]
)
def test_every_chunk_is_found(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of the largest record is met; one that is a little less is not."""
    rng = random.Random(0)
    for case in range(20):
        sizes = rng.choices(SIZES, k=rng.choice((1, 5, 60)))
        largest = rng.randrange(len(sizes))
        sizes[largest] = 300_000
        records = [rng.randbytes(size) for size in sizes]
        path = write(tmp_path / f"{case}", records, options)
        # A chunk has the sizes of its records as well, and all records of a group.
        monkeypatch.setattr(record_sizes, "MAX_CHUNK", 2_500_000)
        with path.open("rb") as file:
            check_records(file)
        monkeypatch.setattr(record_sizes, "MAX_CHUNK", 299_999)
        with path.open("rb") as file, pytest.raises(ValueError, match="unpacks to"):
            check_records(file)


def test_a_record_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "bomb", [b"image", bytes(1 << 28)], "group_size:1")
    assert path.stat().st_size < 1 << 18
    tracemalloc.start()
    with path.open("rb") as file, pytest.raises(ValueError, match=r"unpacks to 268,43\d,\d\d\d"):
        check_records(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_what_is_no_file_of_records_is_left_to_its_reader(tmp_path: Path) -> None:
    for content in (b"", b"x" * 50, b"\xff" * 1000, bytes(100_000)):
        (tmp_path / "file").write_bytes(content)
        with (tmp_path / "file").open("rb") as file:
            check_records(file)
