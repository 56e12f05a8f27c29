"""Labelled pictures from folders and builders, every refusal, and the seeded split."""

import multiprocessing
import pickle
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from crnn_jax.data import sources
from crnn_jax.data.sources import SOURCES, Split, folder, hold_out, load
from crnn_jax.errors import ConfigError, DataError

CAPTCHAS = Path(__file__).parent / "data" / "captcha_keras_v2"


def write(directory: Path, lines: str | bytes, file: str = "labels.tsv", pictures: int = 4) -> Path:
    """A folder with the pictures 0.png, 1.png... whose bytes are their names."""
    data = lines.encode() if isinstance(lines, str) else lines
    (directory / file).write_bytes(data)
    for index in range(pictures):
        (directory / f"{index}.png").write_bytes(f"{index}.png".encode())
    return directory


def read_train(directory: Path, lines: str | bytes) -> Split:
    write(directory, lines, "train.tsv")
    write(directory, "0.png\tx\n", "test.tsv")
    return folder(directory, 0.5, 0)["train"]


def constant(index: int) -> bytes:
    return str(index).encode()


def split_of(*labels: str) -> Split:
    return Split(tuple(f"{index}.png" for index in range(len(labels))), labels, constant)


# Folders


def test_real_folder() -> None:
    splits = load("folder", str(CAPTCHAS), "", 0.5, 0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 32, "test": 8}
    train = splits["train"]
    assert (train.names[0], train.labels[0]) == ("images/00000.png", "226md")
    assert train.read(0) == (CAPTCHAS / "images/00000.png").read_bytes()
    assert not set(train.names) & set(splits["test"].names)


def test_labels_are_kept_to_the_letter(tmp_path: Path) -> None:
    lines = "\ufeff0.png\t  a b \r\n\n   \n1.png\te\u0301\tx\n\r\n2.png\t \n3.png\ta\u2028b\x0c"
    split = read_train(tmp_path, lines)
    assert split.names == ("0.png", "1.png", "2.png", "3.png")
    assert split.labels == ("  a b ", "\u00e9\tx", " ", "a\u2028b\x0c")


def test_pictures_are_also_looked_for_in_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "9 ü.png").write_bytes(b"nine")
    (tmp_path / "images" / "0.png").write_bytes(b"not this one")
    split = read_train(tmp_path, "9 ü.png\ta\n0.png\tb\n")
    assert split.names == ("9 ü.png", "0.png")
    assert [split.read(0), split.read(1)] == [b"nine", b"0.png"]


def test_labels_file_is_split(tmp_path: Path) -> None:
    write(tmp_path, "".join(f"{i}.png\t{i // 2}\n" for i in range(40)), pictures=40)
    splits = folder(tmp_path, 0.25, 7)
    assert list(splits) == ["train", "test"]
    assert (len(splits["train"]), len(splits["test"])) == (30, 10)
    for split in splits.values():
        assert [split.read(i).decode() for i in range(len(split))] == list(split.names)
    assert folder(tmp_path, 0.25, 7)["test"] == splits["test"]


@pytest.mark.parametrize(
    ("lines", "place", "problem", "remedy"),
    [
        ("0.png\ta\n1.png b\n", ":2", "no tab in '1.png b'", "write picture, tab, text"),
        ("\n0.png\t\n", ":2", "no text for '0.png'", "write it after the tab"),
        ("0.png\t\r\n", ":1", "no text for '0.png'", "write it after the tab"),
        ("0.png\ta\n9.png\tb\n", ":2", "no picture '9.png'", "add it or remove the line"),
        ("\ta\n", ":1", "no picture ''", "add it or remove the line"),
        ("a\0b\tc\n", ":1", "no picture 'a\\x00b'", "add it or remove the line"),
        ("/etc/passwd\ta\n", ":1", "'/etc/passwd' lies outside", "name it relative"),
        ("x/../../0.png\ta\n", ":1", "'x/../../0.png' lies outside", "name it relative"),
        ("0.png\ta\n1.png\tb\n0.png\tc\n", ":3", "'0.png' is listed already", "remove one line"),
        ("0.png\ta\n./0.png\tc\n", ":2", "'./0.png' is listed already", "remove one line"),
        (b"0.png\ta\n1.png\t\xe4\n", ":2", "not UTF-8", "save the file as UTF-8"),
        (b"\xef\xbb\xbf0.png\ta\n\xe4", ":2", "not UTF-8", "save the file as UTF-8"),
        ("", "", "the label file is empty", "add lines"),
        ("\ufeff\n \n", "", "the label file is empty", "add lines"),
    ],
)
def test_unusable_lines(
    tmp_path: Path, lines: str | bytes, place: str, problem: str, remedy: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_train(tmp_path, lines)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'train.tsv'}{place}: ")
    assert problem in message and remedy in message and "\n" not in message


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder '.*nowhere'; check the path"):
        folder(tmp_path / "nowhere", 0.5, 0)
    with pytest.raises(DataError, match=r"neither train.tsv nor labels.tsv; add one"):
        folder(tmp_path, 0.5, 0)
    write(tmp_path, "0.png\ta\n", "train.tsv")
    with pytest.raises(DataError, match=r"test.tsv' is missing beside train.tsv; add it"):
        folder(tmp_path, 0.5, 0)


def test_a_picture_that_vanishes(tmp_path: Path) -> None:
    split = read_train(tmp_path, "0.png\ta\n")
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"0.png' \(No such file or directory\); restore it"):
        split.read(0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_folder_needs_a_test_split(tmp_path: Path, fraction: float) -> None:
    write(tmp_path, "0.png\ta\n1.png\tb\n")
    with pytest.raises(ConfigError, match=rf"{fraction} from '.*labels.tsv'; set a fraction"):
        folder(tmp_path, fraction, 0)


# Splitting


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.29, 0.5, 0.93])
def test_hold_out_hits_the_fraction_and_loses_nothing(fraction: float) -> None:
    split = split_of(*(str(index) for index in range(100)))
    rest, held = hold_out(split, fraction, 3)
    assert len(held) == round(100 * fraction)
    assert sorted(rest.names + held.names) == sorted(split.names)
    for part in (rest, held):
        assert list(part.labels) == sorted(part.labels, key=int)  # the order is kept
        assert [part.read(i).decode() for i in range(len(part))] == list(part.labels)


def test_equal_texts_stay_together() -> None:
    texts = ("caf\u00e9", "cafe\u0301", *"aaaabbbccddefgh")
    for seed in range(50):
        rest, held = hold_out(split_of(*texts), 0.3, seed)
        sides = [{unicodedata.normalize("NFC", label) for label in s.labels} for s in (rest, held)]
        assert not sides[0] & sides[1]
        assert Counter(rest.labels + held.labels) == Counter(texts)
        assert len(held) in (5, 6)  # of 17: 5.1 wanted


def test_a_large_group_is_taken_if_that_is_nearer() -> None:
    texts = ["a"] * 6 + ["b"] * 6
    assert len(hold_out(split_of(*texts), 0.3, 0)[1]) == 6  # 3.6 wanted: 6 is nearer than 0


def test_the_seed_decides() -> None:
    split = split_of(*(str(index) for index in range(50)))
    draws = {hold_out(split, 0.2, seed)[1].names for seed in range(20)}
    assert len(draws) == 20
    assert hold_out(split, 0.2, 1) == hold_out(split, 0.2, 1)
    # Written down, so that no change moves pictures of a published split to the other side.
    assert hold_out(split, 0.1, 0)[1].labels == ("1", "21", "34", "41", "48")


def test_too_few_texts() -> None:
    for texts, fraction in (("aaaa", 0.6), ("abc", 0.1), ("ab", 0.9), ("", 0.5)):
        with pytest.raises(DataError, match=rf"{len(texts)} pictures .* {fraction}; add pictures"):
            hold_out(split_of(*texts), fraction, 0)
    rest, held = hold_out(split_of(*"aaaa"), 0, 0)
    assert (len(rest), len(held)) == (4, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fractions_out_of_range(fraction: float) -> None:
    with pytest.raises(ConfigError, match=f"fraction of {fraction}; set it in"):
        hold_out(split_of("a", "b"), fraction, 0)


def test_select_of_a_selection() -> None:
    split = split_of(*"abcdef").select([5, 3, 1, 0]).select([2, 0])
    assert split == split_of(*"abcdef").select([5, 3, 1, 0]).select([2, 0])
    assert (split.names, split.labels) == (("1.png", "5.png"), ("b", "f"))
    assert [split.read(0), split.read(1)] == [b"1", b"5"]


# Builders and the registry


def test_generated_captchas(tmp_path: Path) -> None:
    splits = load("generated", str(tmp_path), "tiny", 0.5, 0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 256, "test": 64}
    test = splits["test"]
    assert test.names[17] == "test/00017" and test.labels[17].isdigit()
    assert test.read(17).startswith(b"\x89PNG")
    part = hold_out(test, 0.5, 0)[1]
    real = folder(CAPTCHAS, 0.5, 0)["train"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(part.read, (3,)) == part.read(3)
        assert pool.apply(real.read, (3,)) == real.read(3)
    assert pickle.loads(pickle.dumps(real)) == real


def test_a_folder_needs_neither_tfds_nor_jax() -> None:
    code = (
        "import sys; from crnn_jax.data.sources import load; "
        f"load('folder', {str(CAPTCHAS)!r}, '', 0.1, 0); "
        "assert not {'tensorflow_datasets', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CAPTCHAS.parents[2])


def test_unknown_or_incomplete_sources() -> None:
    assert list(SOURCES) == ["folder", "generated"]
    with pytest.raises(ConfigError, match=r"unknown data source 'web'; choose from folder, gen"):
        load("web", None, "", 0.1, 0)
    for directory in (None, ""):
        with pytest.raises(ConfigError, match=r"'folder' .*--config\.data\.dir=DIR"):
            load("folder", directory, "", 0.1, 0)
    with pytest.raises(DataError, match="'upper'"):
        sources.generated_captcha("upper", None)
