"""Parquet files written by pyarrow, as those of Hugging Face are."""

import multiprocessing
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from crnn_jax.data.sources import load, parquet
from crnn_jax.data.sources.folder import folder
from crnn_jax.data.sources.parquet_pages import column_chunks, page_sizes
from crnn_jax.data.sources.split import Split
from crnn_jax.errors import ConfigError, CrnnError, DataError

CAPTCHAS = Path(__file__).parent / "data" / "captcha_keras_v2"


def settings(directory: Path | str, **more: object) -> dict[str, object]:
    fields = {"image_field": "image", "text_field": "text", "test_fraction": 0.25}
    return {"source": "parquet", "dir": str(directory), **fields, **more}


def write(file: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file


def rows_of(split: Split) -> list[dict[str, Any]]:
    return [
        {"image": {"bytes": split.read(i), "path": "/etc/passwd"}, "text": split.labels[i]}
        for i in range(len(split))
    ]


def assert_same_images(split: Split, expected: Split) -> None:
    assert split.labels == expected.labels
    order = np.random.default_rng(0).permutation(len(split)).tolist()
    assert [split.read(i) for i in order] == [expected.read(i) for i in order]


def test_files_as_on_hugging_face(tmp_path: Path) -> None:
    real = folder(CAPTCHAS)
    rows = rows_of(real["train"])
    write(tmp_path / "data" / "train-00000-of-00002-ab12.parquet", rows[:20], row_group_size=7)
    write(tmp_path / "data" / "train-00001-of-00002-cd34.parquet", rows[20:], row_group_size=5)
    write(tmp_path / "data" / "test-00000-of-00001.parquet", rows_of(real["test"]))
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", rows[:3])
    splits = load(settings(tmp_path), 0)
    assert list(splits) == ["train", "test"]
    for name, split in splits.items():
        assert_same_images(split, real[name])
    assert splits["train"].names[21] == "data/train-00001-of-00002-cd34.parquet:1"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(splits["train"].read, (30,)) == real["train"].read(30)


@pytest.mark.parametrize("name", ["train/0000.parquet", "train.parquet", "words.parquet"])
def test_without_test_files_some_are_drawn(tmp_path: Path, name: str) -> None:
    rows = rows_of(folder(CAPTCHAS)["train"])
    write(tmp_path / name, rows)
    splits = load(settings(tmp_path), 0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 24, "test": 8}


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_columns_of_other_kinds(tmp_path: Path, compression: str, kind: pyarrow.DataType) -> None:
    """Bytes without a path, dictionaries, long texts, decomposed texts, missing texts."""
    real = folder(CAPTCHAS)["test"]
    images = pyarrow.array([real.read(i) for i in range(8)], kind)
    texts = ["e\u0301", " b ", None, "", "x" * 70_000, "中", "a", "a"]
    labels = pyarrow.array(texts).dictionary_encode()
    table = pyarrow.table({"scan": images, "label": labels})
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet", compression=compression)
    split = load(settings(tmp_path, image_field="scan", text_field="label"), 0)["test"]
    assert split.labels == ("\xe9", " b ", "", "", "x" * 70_000, "中", "a", "a")
    assert [split.read(i) for i in range(8)] == [real.read(i) for i in range(8)]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"photo": b"x", "text": "a"}], ConfigError, r"no column 'image'; .*image_field to one"),
        ([{"image": b"x", "label": "a"}], ConfigError, r"no column 'text'; .*one of image, label"),
        ([{"image": b"x", "text": 7}], ConfigError, r"'text' of .* is not a text; .*text_field"),
        ([{"image": b"x", "text": b"a"}], ConfigError, r"'text' of .* is not a text"),
        (
            [{"image": b"x", "text": "a"}] * 99_999,
            DataError,
            r"claims to have 99,999 images in",
        ),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, rows: list[dict[str, Any]], error: type[CrnnError], message: str
) -> None:
    write(tmp_path / "test.parquet", rows)
    with pytest.raises(error, match=message) as caught:
        load(settings(tmp_path), 0)
    assert "test.parquet" in str(caught.value) and "\n" not in str(caught.value)


def test_each_row_group_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order of reading; worker processes decode nothing."""
    real = folder(CAPTCHAS)["train"]
    write(tmp_path / "test.parquet", rows_of(real), row_group_size=4)
    split = load(settings(tmp_path), 0)["test"]
    decoded: list[int] = []
    values = parquet._values

    def counting(opened: Any, file: Any, group: int, *others: Any) -> Any:
        decoded.append(group)
        return values(opened, file, group, *others)

    monkeypatch.setattr(parquet, "_values", counting)
    order = np.random.default_rng(0).choice(len(split), 200).tolist()
    assert [split.read(index) for index in order] == [real.read(index) for index in order]
    assert sorted(decoded) == list(range(8))
    again = pickle.loads(pickle.dumps(split.read))
    assert [again(index) for index in order] == [real.read(index) for index in order]
    assert len(decoded) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="a file that is always full")
def test_no_room_to_unpack(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", rows_of(folder(CAPTCHAS)["test"]))
    split = load(settings(tmp_path), 0)["test"]
    images: Any = split.read
    with Path("/dev/full").open("w+b", buffering=0) as full:
        images._file = full
        with pytest.raises(DataError, match=r"unpack .*No space left on device.*set TMPDIR"):
            split.read(0)


@pytest.mark.parametrize("image", ["a.png", 3, None, {"path": "/etc/passwd"}, {"bytes": None}, [1]])
def test_rows_without_an_image_are_named_when_they_are_read(tmp_path: Path, image: Any) -> None:
    write(tmp_path / "test.parquet", [{"image": image, "text": "a"}] * 3, row_group_size=2)
    split = load(settings(tmp_path), 0)["test"]
    with pytest.raises(
        DataError, match=r"row 0 of row group 1 of .*test\.parquet.*image_field, or"
    ):
        split.read(2)


def test_small_files_of_enormous_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary stores equal images and equal texts once."""
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 10**6)
    monkeypatch.setattr(parquet, "MAX_TEXT_BYTES", 10**6)
    file = write(tmp_path / "a" / "test.parquet", [{"image": b"x" * 50_000, "text": "a"}] * 100)
    assert file.stat().st_size < 10_000
    split = load(settings(file.parent), 0)["test"]
    with pytest.raises(DataError, match=r"image has more than 1,000,000 bytes in row group 0; wri"):
        split.read(0)
    file = write(tmp_path / "b" / "test.parquet", [{"image": b"x", "text": "a" * 50_000}] * 100)
    with pytest.raises(DataError, match=r"text has more than 1,000,000 bytes in row group 0"):
        load(settings(file.parent), 0)
    dictionary = pyarrow.array(["a" * 50_000] * 100).dictionary_encode()
    table = pyarrow.table({"image": [b"x"] * 100, "text": dictionary})
    pyarrow.parquet.write_table(table, file)
    with pytest.raises(DataError, match=r"text has more than 1,000,000 bytes in row group 0"):
        load(settings(file.parent), 0)


def test_a_small_file_is_not_unpacked_to_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a page of many large values, nor a dictionary of one, nor lists of anything."""
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 200_000_000)
    large = bytes(40_000_000)
    whole = pyarrow.table({"image": [large] * 4, "text": ["a"] * 4})
    one = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 50), pyarrow.array([large]))
    nested = pyarrow.array([[{"bytes": [1] * 2_000}]] * 50)
    texts = pyarrow.array(["a" * 40_000_000] * 4)
    plain = {"use_dictionary": False, "compression": "zstd", "write_statistics": False}
    for name, table, options, message in (
        ("whole", whole, plain, r"a page of [\d,]+ bytes of image unpacks to 160,"),
        (
            "one",
            {"image": one, "text": ["a"] * 50},
            {"write_statistics": False},
            "image has more than 200,000,000 bytes",
        ),
        ("nested", {"image": nested, "text": ["a"] * 50}, {}, "no image bytes in the column"),
        ("texts", {"image": [b""] * 4, "text": texts}, plain, r"bytes of text unpacks to 160,"),
    ):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "test.parquet"
        pyarrow.parquet.write_table(pyarrow.table(table), file, **options)
        assert file.stat().st_size < 3_000_000
        before = pyarrow.default_memory_pool().max_memory()
        with pytest.raises(DataError, match=message):
            load(settings(tmp_path / name), 0)["test"].read(0)
        assert pyarrow.default_memory_pool().max_memory() <= max(before, 300_000_000), name


@pytest.mark.parametrize("compression", ["none", "zstd", "gzip"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_sizes_of_pages(tmp_path: Path, compression: str, version: str, dictionary: bool) -> None:
    """Headers count as large in the file as unpacked, in the sums that the writer has noted."""
    texts = [str(index % 1000) * 20 for index in range(20_000)]
    file = tmp_path / "a.parquet"
    options: Any = {"data_page_version": version, "use_dictionary": dictionary}
    options |= {"compression": compression, "data_page_size": 10_000, "row_group_size": 15_000}
    pyarrow.parquet.write_table(pyarrow.table({"n": range(20_000), "text": texts}), file, **options)
    with file.open("rb") as opened, pyarrow.parquet.ParquetFile(file) as described:
        for group in range(2):
            row_group = described.metadata.row_group(group)
            chunk = row_group.column(1)
            place = column_chunks(opened)[group]["text"]
            assert place.end - place.start == chunk.total_compressed_size
            sizes = list(page_sizes(opened, place, row_group.num_rows))
            assert len(sizes) > 1
            difference = chunk.total_uncompressed_size - chunk.total_compressed_size
            assert sum(size - packed for packed, size in sizes) == difference


DAMAGED = Path(__file__).parent / "data" / "parquet_damaged"


def varint(value: int, length: int = 0) -> bytes:
    digits = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 7 * length, 1), 7)]
    return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])


def test_a_file_that_lies_about_its_size(tmp_path: Path) -> None:
    table = pyarrow.table({"image": [bytes(80_000_000)] * 2, "text": ["a"] * 2})
    file = tmp_path / "test.parquet"
    options: Any = {"use_dictionary": False, "compression": "zstd", "write_statistics": False}
    pyarrow.parquet.write_table(table, file, **options)
    size = pyarrow.parquet.read_metadata(file).row_group(0).column(0).total_uncompressed_size
    noted = varint(2 * size)  # zigzag
    data = file.read_bytes()
    assert data.count(noted) >= 1
    file.write_bytes(data.replace(noted, varint(2 * 99, len(noted))))
    assert pyarrow.parquet.read_metadata(file).row_group(0).column(0).total_uncompressed_size == 99
    with pytest.raises(DataError, match=r"a page of [\d,]+ bytes of image unpacks to 160,"):
        load(settings(tmp_path), 0)["test"].read(0)


def test_a_page_that_claims_to_be_larger_than_its_column(tmp_path: Path) -> None:
    """Arrow would take memory for the whole page before it reads it."""
    file = tmp_path / "test.parquet"
    table = pyarrow.table({"image": [bytes(1000)] * 2, "text": ["a"] * 2})
    options: Any = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    pyarrow.parquet.write_table(table, file, **options)
    chunk = pyarrow.parquet.read_metadata(file).row_group(0).column(0)
    data = file.read_bytes()
    header = data[chunk.data_page_offset : chunk.data_page_offset + 20]
    size = varint(2 * 2014)  # two levels of 6 bytes, and two images with their lengths
    assert header.count(size) == 2  # unpacked and packed
    place = chunk.data_page_offset + header.rindex(size)
    file.write_bytes(data[:place] + varint(2 * 8000, len(size)) + data[place + len(size) :])
    with pytest.raises(DataError, match="has 8,000 bytes, more than its column"):
        load(settings(tmp_path), 0)["test"].read(0)


def test_a_damaged_description_does_not_end_the_process() -> None:
    """A file of scripts/fuzz.py. pyarrow 26 ends the process if it is asked about its columns."""
    with pytest.raises(DataError, match=r"cannot read .*train\.parquet"):
        split = load(settings(DAMAGED), 0)["all"]
        split.read(0)


def test_damaged_files_are_read_or_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "test.parquet", rows_of(folder(CAPTCHAS)["test"]), row_group_size=3)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(150):
        data = bytearray(whole)
        if trial % 3:  # most bytes are pixels; the description of the columns is at the end
            start = 0 if trial % 3 == 1 else len(whole) - 2000
            for place in rng.integers(start, len(whole), rng.integers(1, 4)).tolist():
                data[place] = int(rng.integers(256))
        else:
            data = data[: rng.integers(len(whole))]
        file.write_bytes(data)
        try:
            split = load(settings(tmp_path), 0)["test"]
            assert all(isinstance(split.read(index), bytes) for index in range(len(split)))
        except CrnnError as error:
            assert "test.parquet" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 50


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder .* has no \.parquet files"):
        load(settings(tmp_path), 0)
    with pytest.raises(DataError, match=r"there is no folder '.*nowhere'; check the path"):
        load(settings(tmp_path / "nowhere"), 0)
    schema = pyarrow.schema({"image": pyarrow.binary(), "text": pyarrow.string()})
    pyarrow.parquet.write_table(schema.empty_table(), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet' has no rows; leave it out"):
        load(settings(tmp_path), 0)
