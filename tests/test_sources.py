"""Sources of images: random splits, the registry, LMDB and TFDS."""

import dataclasses
import hashlib
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest
from PIL import Image

from crnn_jax.data.sources import SOURCES, lmdb_database, load, load_splits
from crnn_jax.data.sources.folder import folder
from crnn_jax.data.sources.split import ImageFacts, Split, join, random_split, with_digests
from crnn_jax.errors import ConfigError, DataError

CAPTCHAS = Path(__file__).parent / "data" / "captcha_keras_v2"


def constant(index: int) -> bytes:
    return str(index).encode()


def split_of(*labels: str) -> Split:
    return Split(tuple(f"{index}.png" for index in range(len(labels))), labels, constant)


def settings(source: str, directory: Path | str, **more: object) -> dict[str, object]:
    return {"source": source, "dir": str(directory), "test_fraction": 0.25, **more}


# Splitting


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.29, 0.5, 0.93])
def test_a_random_split_hits_the_fraction_and_loses_nothing(fraction: float) -> None:
    split = split_of(*(str(index) for index in range(100)))
    rest, chosen = random_split(split, fraction, 3)
    assert len(chosen) == round(100 * fraction)
    assert sorted(rest.names + chosen.names) == sorted(split.names)
    for drawn in (rest, chosen):
        assert list(drawn.labels) == sorted(drawn.labels, key=int)  # the order is kept
        assert [drawn.read(i).decode() for i in range(len(drawn))] == list(drawn.labels)


def test_equal_labels_stay_together(tmp_path: Path) -> None:
    labels = ("caf\u00e9", "cafe\u0301", *"aaaabbbccddefgh")
    for index in range(len(labels)):
        (tmp_path / f"{index}.png").write_bytes(str(index).encode())
    lines = "".join(f"{index}.png\t{label}\n" for index, label in enumerate(labels))
    (tmp_path / "labels.tsv").write_text(lines, encoding="utf-8")
    split = folder(tmp_path)["all"]
    for seed in range(50):
        rest, chosen = random_split(split, 0.3, seed)
        assert not set(rest.labels) & set(chosen.labels)
        assert Counter(rest.labels + chosen.labels) == Counter(
            unicodedata.normalize("NFC", label) for label in labels
        )
        assert len(chosen) in (5, 6)  # of 17: 5.1 wanted


def test_a_large_group_is_taken_if_that_is_nearer() -> None:
    texts = ["a"] * 6 + ["b"] * 6
    assert len(random_split(split_of(*texts), 0.3, 0)[1]) == 6  # 3.6 wanted: 6 is nearer than 0


def test_the_seed_decides() -> None:
    split = split_of(*(str(index) for index in range(50)))
    draws = {random_split(split, 0.2, seed)[1].names for seed in range(20)}
    assert len(draws) == 20
    assert random_split(split, 0.2, 1) == random_split(split, 0.2, 1)
    # Fixed, so that no change moves images of a published split to the other side.
    assert random_split(split, 0.1, 0)[1].labels == ("1", "21", "34", "41", "48")


def test_too_few_texts() -> None:
    for texts, fraction in (("aaaa", 0.6), ("abc", 0.1), ("ab", 0.9), ("", 0.5)):
        with pytest.raises(
            DataError, match=rf"fraction of {fraction} cannot .* {len(texts)} images .*; add images"
        ):
            random_split(split_of(*texts), fraction, 0)
    rest, chosen = random_split(split_of(*"aaaa"), 0, 0)
    assert (len(rest), len(chosen)) == (4, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fractions_out_of_range(fraction: float) -> None:
    with pytest.raises(ConfigError, match=f"fraction of {fraction}; set it in"):
        random_split(split_of("a", "b"), fraction, 0)


def test_select_of_a_selection() -> None:
    split = split_of(*"abcdef").select([5, 3, 1, 0]).select([2, 0])
    assert split == split_of(*"abcdef").select([5, 3, 1, 0]).select([2, 0])
    assert (split.names, split.labels) == (("1.png", "5.png"), ("b", "f"))
    assert [split.read(0), split.read(1)] == [b"1", b"5"]


def test_equal_images_stay_together() -> None:
    # Also in chains: 0 and 1 share a label, 1 and 2 an image, 2 and 3 a label.
    labels = ("a", "a", "b", "b", *map(str, range(36)))
    images = [b"0", b"1", b"1", *(str(index).encode() for index in range(3, 40))]

    def read(index: int) -> bytes:
        if index == 39:
            raise DataError("damaged")
        return images[index]

    split = Split(tuple(map(str, range(40))), labels, read)
    sides = set()
    for seed in range(40):
        rest, chosen = random_split(split, 0.25, seed)
        assert len(rest) + len(chosen) == 40 and len(chosen) == 10
        together = [name in chosen.names for name in ("0", "1", "2", "3")]
        assert len(set(together)) == 1
        sides.add(together[0])
    assert sides == {True, False}


# Builders, databases and the registry


def no_reading(index: int) -> bytes:
    raise AssertionError("the image is read once more")


def test_known_images_are_not_read_again(tmp_path: Path) -> None:
    generated = load(settings("generated", tmp_path, variant="tiny"), 0)["test"]
    images = [generated.read(index) for index in range(len(generated))]
    assert generated.facts == tuple(
        ImageFacts(
            hashlib.blake2b(image, digest_size=16).digest(), Image.open(io.BytesIO(image)).size
        )
        for image in images
    )
    rest, chosen = random_split(dataclasses.replace(generated, read=no_reading), 0.25, 0)
    again = random_split(dataclasses.replace(generated, facts=()), 0.25, 0)
    assert (rest.names, chosen.names) == (again[0].names, again[1].names)
    place = generated.names.index(chosen.names[3])
    assert chosen.facts[3] == generated.facts[place]


def test_joining_keeps_what_is_known() -> None:
    known = with_digests(split_of("a", "b"))
    joined = join({"known": known, "new": split_of("c")})
    assert joined.facts == (*known.facts, None)
    assert with_digests(dataclasses.replace(known, read=no_reading)).facts == known.facts
    assert with_digests(joined).facts == (*known.facts, known.facts[0])


def test_generated_captchas(tmp_path: Path) -> None:
    splits = load(settings("generated", tmp_path, variant="tiny"), 0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 256, "test": 64}
    test = splits["test"]
    assert test.names[17] == "test/00017" and test.labels[17].isdigit()
    assert test.read(17).startswith(b"\x89PNG")
    half = random_split(test, 0.5, 0)[1]
    real = folder(CAPTCHAS)["train"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(half.read, (3,)) == half.read(3)
        assert pool.apply(real.read, (3,)) == real.read(3)
    assert pickle.loads(pickle.dumps(real)) == real
    # The same data set by its TFDS name.
    named = settings("tfds", tmp_path, variant="generated_captcha/tiny")
    named |= {"image_field": "image", "text_field": "text"}
    again = load(named, 0)["test"]
    assert (again.names, again.labels) == (test.names, test.labels)
    assert again.read(5) == test.read(5)
    for field in ("image_field", "text_field"):
        with pytest.raises(
            ConfigError, match=rf"no feature 'words'; set .*{field} to .*image, text"
        ):
            load(named | {field: "words"}, 0)
    with pytest.raises(DataError, match=r"'image' .* not a text; set .*text_field"):
        load(named | {"text_field": "image"}, 0)
    with pytest.raises(DataError, match=r"cannot open the data set 'no_such_set'.*data.variant"):
        load(named | {"variant": "no_such_set"}, 0)


def write_lmdb(directory: Path, samples: dict[bytes, bytes]) -> Path:
    directory.mkdir(parents=True)
    # Not synced, which would take most of the time.
    with (
        lmdb.open(str(directory), map_size=1 << 27, sync=False) as file,
        file.begin(write=True) as transaction,
    ):
        for key, value in samples.items():
            transaction.put(key, value)
    return directory


def lmdb_samples(split: Split) -> dict[bytes, bytes]:
    samples = {b"num-samples": str(len(split)).encode()}
    for index, label in enumerate(split.labels):
        samples[b"image-%09d" % (index + 1)] = split.read(index)
        samples[b"label-%09d" % (index + 1)] = label.encode()
    return samples


def test_lmdb(tmp_path: Path) -> None:
    real = folder(CAPTCHAS)
    for name, split in real.items():
        write_lmdb(tmp_path / name, lmdb_samples(split))
    splits = load(settings("lmdb", tmp_path), 0)
    assert list(splits) == ["train", "test"]
    for name, split in splits.items():
        assert split.labels == real[name].labels
        assert split.names[0] == "image-000000001"
        assert all(split.read(i) == real[name].read(i) for i in range(len(split)))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(splits["train"].read, (3,)) == real["train"].read(3)
    one = load(settings("lmdb", tmp_path / "train"), 0)
    assert {name: len(split) for name, split in one.items()} == {"train": 24, "test": 8}
    (tmp_path / "train" / "data.mdb").unlink()
    assert list(load(settings("lmdb", tmp_path), 0)) == ["test"]


def test_lmdb_is_opened_once_by_many_threads(tmp_path: Path) -> None:
    """In a worker process each thread may be the first to read."""
    real = folder(CAPTCHAS)["test"]
    threads = len(real)
    write_lmdb(tmp_path / "test", lmdb_samples(real))
    read = load(settings("lmdb", tmp_path), 0)["test"].read
    lmdb_database._opened.cache_clear()  # as in a new process
    barrier = threading.Barrier(threads)

    def read_at_once(index: int) -> bytes:
        barrier.wait()
        return read(index)

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(read_at_once, range(threads))) == [
            real.read(i) for i in range(threads)
        ]


def test_damaged_lmdb(tmp_path: Path) -> None:
    samples = {b"num-samples": b"3", b"image-000000001": b"x"}
    samples |= {b"label-000000001": "e\u0301".encode(), b"label-000000002": b" b "}
    split = load(settings("lmdb", write_lmdb(tmp_path / "gaps", samples)), 0)
    both = {n: t for s in split.values() for n, t in zip(s.names, s.labels, strict=True)}
    assert both == {"image-000000001": "\xe9", "image-000000002": " b ", "image-000000003": ""}
    lacking = next(s for s in split.values() if "image-000000002" in s.names)
    with pytest.raises(DataError, match=r"no image-000000002, although num-samples counts it"):
        lacking.read(lacking.names.index("image-000000002"))
    for name, broken, message in (
        ("latin", {b"num-samples": b"1", b"label-000000001": b"\xe4"}, "not UTF-8"),
        ("empty", {b"num-samples": b"0"}, "no images under the key num-samples"),
        ("other", {b"size": b"9"}, "no images under the key num-samples"),
        ("word", {b"num-samples": b"many"}, "cannot read the LMDB database"),
    ):
        with pytest.raises(DataError, match=message):
            load(settings("lmdb", write_lmdb(tmp_path / name, broken)), 0)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "data.mdb").write_bytes(b"no database at all" * 999)
    with pytest.raises(DataError, match="cannot read the LMDB database"):
        load(settings("lmdb", tmp_path / "torn"), 0)
    with pytest.raises(DataError, match="is not an LMDB database"):
        load(settings("lmdb", tmp_path), 0)


@pytest.mark.skipif(sys.platform == "win32", reason="links and FIFOs of POSIX")
@pytest.mark.parametrize(("source", "file"), [("lmdb", "data.mdb"), ("parquet", "train.parquet")])
def test_databases_that_are_no_plain_files(source: str, file: str, tmp_path: Path) -> None:
    data = settings(source, tmp_path / "data", image_field="image", text_field="text")
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "data" / file)
    with pytest.raises(DataError, match=rf"{file}.*not a regular file|no {file}"):
        load(data, 0)
    (tmp_path / "data" / file).unlink()
    (tmp_path / file).write_bytes(b"x" * 5000)
    (tmp_path / "data" / file).symlink_to(tmp_path / file)
    with pytest.raises(DataError, match=rf"{file}.*it is a link out of the folder"):
        load(data, 0)
    for lost in ("x" * 300, "nowhere"):
        with pytest.raises(DataError, match=rf"{lost}.*check the path"):
            load(data | {"dir": str(tmp_path / lost)}, 0)


def test_enormous_values_of_lmdb(tmp_path: Path) -> None:
    samples = {b"num-samples": b"1", b"image-000000001": b"x", b"label-000000001": b"a" * 1_000_001}
    with pytest.raises(
        DataError, match=r"label-000000001 has 1,000,001 bytes, more than 1,000,000"
    ):
        load(settings("lmdb", write_lmdb(tmp_path / "label", samples)), 0)
    samples |= {b"image-000000001": bytes(50_000_001), b"label-000000001": b"a"}
    write_lmdb(tmp_path / "image" / "test", samples)
    split = load(settings("lmdb", tmp_path / "image"), 0)["test"]
    with pytest.raises(DataError, match=r"image-000000001 has 50,000,001 bytes, more than 50,000,"):
        split.read(0)


def test_a_folder_needs_neither_tfds_nor_jax() -> None:
    code = (
        "import sys; from crnn_jax.data.sources import load; "
        f"load({{'source': 'folder', 'dir': {str(CAPTCHAS)!r}}}, 0); "
        "assert not {'tensorflow_datasets', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CAPTCHAS.parents[2])


@pytest.mark.parametrize(
    ("source", "package", "file"),
    [("lmdb", "lmdb", "data.mdb"), ("parquet", "pyarrow.parquet", "train.parquet")],
)
def test_a_source_without_its_package_names_the_extra(
    source: str, package: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).touch()
    monkeypatch.setitem(sys.modules, package, None)
    data = settings(source, tmp_path, image_field="image", text_field="text")
    message = f"package {package.split('.')[0]} is not installed; install it with pip install"
    with pytest.raises(ConfigError, match=rf'{message} "crnn_jax\[{source}\]"$'):
        load(data, 0)
    # Other sources do without it.
    assert load(settings("folder", CAPTCHAS), 0)


def test_validation_comes_from_the_training_images() -> None:
    splits = load_splits(settings("folder", CAPTCHAS, validation_fraction=0.25), 0)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 24,
        "validation": 8,
        "test": 8,
    }
    assert splits["test"] == folder(CAPTCHAS)["test"]
    assert list(load_splits(settings("folder", CAPTCHAS, validation_fraction=0.0), 0)) == [
        "train",
        "test",
    ]


def test_unknown_or_incomplete_sources(tmp_path: Path) -> None:
    assert list(SOURCES) == ["folder", "generated", "lmdb", "parquet", "tfds"]
    with pytest.raises(
        ConfigError, match=r"unknown data source 'web'; choose one of folder, gen.*mix"
    ):
        load(settings("web", ""), 0)
    for source in ("folder", "lmdb", "parquet"):
        with pytest.raises(ConfigError, match=rf"'{source}' .*--config\.data\.dir=DIR"):
            load(settings(source, ""), 0)
    with pytest.raises(DataError, match="'upper'"):
        load(settings("generated", tmp_path, variant="upper"), 0)
