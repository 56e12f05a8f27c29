"""Labeled images that may come from a stranger: folders, databases and files of many images."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from crnn_jax.data.images import Preprocessing, prepare
from fuzzing.damage import Draw, change_bytes, change_file, change_json, files_in
from fuzzing.images import IMAGE

GENERATED = "tiny"  # the variant of generated captchas that becomes a TFDS folder

LABELS = {
    "train.tsv": "a.png\tone\nb.png\ttwo 2\nc.png\tthr\u00e9e\n",
    "train.csv": 'file_name,text\na.png,one\nb.png,"two, 2"\nc.png,thr\u00e9e\n',
    "train.jsonl": '{"file": "a.png", "text": "one"}\n{"file": "b.png", "text": "tw\\u00f6"}\n',
}


def create_labels(folder: Path) -> None:
    """Writes three images and a label file."""
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(IMAGE, folder / name)
    (folder / "train.tsv").write_text(LABELS["train.tsv"], encoding="utf-8")


def damage_labels(draw: Draw, folder: Path) -> None:
    """Writes a damaged label file of any format."""
    (folder / "train.tsv").unlink()
    path = folder / draw(st.sampled_from(sorted(LABELS)))
    path.write_text(LABELS[path.name], encoding="utf-8")
    match draw(st.integers(0, 3)):
        case 0:
            cells = st.sampled_from(
                ("a.png", "b.png", "..", "/etc/passwd", "a" * 300, "", "\0", "\n")
            )
            lines = draw(st.lists(st.lists(cells | st.text(max_size=20), max_size=4), max_size=9))
            ends = draw(st.sampled_from(("\n", "\r\n", "\r")))
            separator = draw(st.sampled_from("\t,"))
            text = ends.join(separator.join(line) for line in lines)
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
        case 1:
            change_file(draw, draw(st.sampled_from(files_in(folder))))
        case _:
            path.write_bytes(change_bytes(draw, path.read_bytes()))


def read_labels(folder: Path) -> None:
    """Reads a folder of labeled images."""
    from crnn_jax.data.sources.folder import folder as load

    read_splits(load(folder))


def read_splits(splits: Mapping[str, Any]) -> None:
    """Reads and decodes the first images of each split."""
    for split in splits.values():
        for index in range(min(len(split), 10)):
            prepare(split.read(index), Preprocessing(), split.names[index])


ENTRIES = {b"num-samples": b"3"} | {
    key % number: value
    for number in (1, 2, 3)
    for key, value in ((b"image-%09d", IMAGE.read_bytes()), (b"label-%09d", "thr\u00e9e".encode()))
}


def create_lmdb(folder: Path) -> None:
    """Writes a database of three images."""
    write_lmdb(folder, ENTRIES)


def write_lmdb(folder: Path, entries: Mapping[bytes, bytes]) -> None:
    """Writes a database with these entries."""
    import lmdb

    with (
        lmdb.open(str(folder), map_size=1 << 24, sync=False) as file,
        file.begin(write=True) as transaction,
    ):
        for key, value in entries.items():
            transaction.put(key, value)


def damage_lmdb(draw: Draw, folder: Path) -> None:
    """Damages keys, values and the length of the file.

    LMDB has no checksums and follows the pointers in its pages, which therefore stay as they are.
    """
    entries = dict(ENTRIES)
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(sorted(entries)))
        match draw(st.integers(0, 3)):
            case 0:
                entries[change_bytes(draw, key)[:500] or b"x"] = entries.pop(key)
            case 1:
                counts = (b"-1", b"0", b"4", b"999999999999", b"1e3", b"\xff", b"", b"9" * 5000)
                entries[b"num-samples"] = draw(st.sampled_from(counts))
            case _:
                entries[key] = change_bytes(draw, entries[key])
    for file in files_in(folder):
        file.unlink()
    write_lmdb(folder, entries)
    data = folder / "data.mdb"
    match draw(st.integers(0, 9)):
        case 0:
            data.write_bytes(data.read_bytes()[: draw(st.integers(0, data.stat().st_size))])
        case 1:
            data.unlink()
            data.symlink_to(draw(st.sampled_from(("/etc/passwd", "/dev/zero", "lock.mdb"))))
        case 2:
            data.unlink()
            os.mkfifo(data) if hasattr(os, "mkfifo") else data.mkdir()


def read_lmdb(folder: Path) -> None:
    """Reads a database."""
    from crnn_jax.data.sources.lmdb_database import _opened, load_lmdb

    _opened.cache_clear()  # the database before was at the same place
    read_splits(load_lmdb({"dir": str(folder)}))


def create_parquet(folder: Path) -> None:
    """Writes a file of three images."""
    image = IMAGE.read_bytes()
    write_parquet(folder, {"image": [{"bytes": image, "path": None}] * 3, "text": ["a", "b", "c"]})


def write_parquet(folder: Path, columns: Mapping[str, list[Any]], **options: Any) -> None:
    """Writes a file with these columns."""
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(dict(columns)), folder / "train.parquet", **options)


def damage_parquet(draw: Draw, folder: Path) -> None:
    """Damages a file, or writes one with values of other types."""
    import pyarrow as pa

    path = folder / "train.parquet"
    if draw(st.booleans()):
        change_file(draw, path)
        return
    image = change_bytes(draw, IMAGE.read_bytes()) if draw(st.booleans()) else IMAGE.read_bytes()
    images = (
        *(
            [{"bytes": image, "path": "../a"}],
            [image],
            [{"bytes": None}],
            [{"path": "/etc/passwd"}],
        ),
        *([None], [3], [[image]], ["text"], [{"bytes": {"bytes": image}}], [b"\0" * 10**5]),
    )
    texts = (["a"], [None], [3], [b"\xff"], [["a"]], [{"text": "a"}], ["\0\n" * 100], [1.5])
    rows = draw(st.sampled_from((0, 1, 3, 3000)))
    columns = {
        "image": draw(st.sampled_from(images)) * rows,
        "text": draw(st.sampled_from(texts)) * rows,
    }
    if not draw(st.integers(0, 5)):
        columns[draw(st.sampled_from(("image", "text", "x")))] = draw(st.sampled_from(texts)) * rows
    with contextlib.suppress(pa.ArrowException):
        write_parquet(
            folder,
            columns,
            compression=draw(st.sampled_from(("none", "snappy", "gzip", "zstd"))),
            row_group_size=draw(st.sampled_from((1, 2, 10**6))) if rows < 10 else 10**6,
        )


def read_parquet(folder: Path) -> None:
    """Reads a folder of Parquet files."""
    from crnn_jax.data.sources.parquet import load_parquet

    fields = {"image_field": "image", "text_field": "text"}
    read_splits(load_parquet({"dir": str(folder), **fields}))


def create_tfds(folder: Path) -> None:
    """Draws captchas as a data set of TFDS."""
    from crnn_jax.data.sources.generated import prepare

    prepare(GENERATED, str(folder))


def damage_tfds(draw: Draw, folder: Path) -> None:
    """Damages one of the data set's files."""
    path = draw(st.sampled_from([file for file in files_in(folder) if file.name[0] != "."]))
    if path.suffix != ".json" or not draw(st.integers(0, 3)):
        change_file(draw, path)
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    for _ in range(draw(st.integers(1, 3))):
        content = change_json(draw, content)
    path.write_text(json.dumps(content), encoding="utf-8")


def read_tfds(folder: Path) -> None:
    """Reads a data set of TFDS."""
    from crnn_jax.data.sources.tfds_builder import load_tfds

    fields = {"image_field": "image", "text_field": "text"}
    variant = f"generated_captcha/{GENERATED}"
    read_splits(load_tfds({"variant": variant, "dir": str(folder), **fields}))
