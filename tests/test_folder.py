"""Labeled images from folders: label files, file names, sub-folders, and all errors."""

import csv
import json
import os
import sys
import unicodedata
from pathlib import Path
from typing import NoReturn

import pytest

from crnn_jax.data.sources import load
from crnn_jax.data.sources.folder import folder
from crnn_jax.data.sources.split import Split
from crnn_jax.errors import DataError

CAPTCHAS = Path(__file__).parent / "data" / "captcha_keras_v2"


def write(directory: Path, lines: str | bytes, file: str = "labels.tsv", images: int = 4) -> Path:
    """A folder with images 0.png, 1.png ... whose content is their name."""
    data = lines.encode() if isinstance(lines, str) else lines
    (directory / file).write_bytes(data)
    for index in range(images):
        (directory / f"{index}.png").write_bytes(f"{index}.png".encode())
    return directory


def read_train(directory: Path, lines: str | bytes) -> Split:
    write(directory, lines, "train.tsv")
    write(directory, "0.png\tx\n", "test.tsv")
    return folder(directory)["train"]


def settings(directory: Path) -> dict[str, object]:
    return {"source": "folder", "dir": str(directory), "test_fraction": 0.25}


def place(directory: Path, *names: str) -> Path:
    """Images whose content is their name."""
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return directory


def texts(split: Split) -> dict[str, str]:
    return dict(zip(split.names, split.labels, strict=True))


# Label files


def test_real_folder() -> None:
    splits = load(settings(CAPTCHAS), 0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 32, "test": 8}
    train = splits["train"]
    assert (train.names[0], train.labels[0]) == ("images/00000.png", "226md")
    assert train.read(0) == (CAPTCHAS / "images/00000.png").read_bytes()
    assert not set(train.names) & set(splits["test"].names)


def test_labels_keep_all_characters(tmp_path: Path) -> None:
    lines = "\ufeff0.png\t  a b \r\n\n   \n1.png\te\u0301\tx\n\r\n2.png\t \n3.png\ta\u2028b\x0c"
    split = read_train(tmp_path, lines)
    assert split.names == ("0.png", "1.png", "2.png", "3.png")
    assert split.labels == ("  a b ", "\u00e9\tx", " ", "a\u2028b\x0c")


def test_images_are_also_looked_for_in_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "9 ü.png").write_bytes(b"nine")
    (tmp_path / "images" / "0.png").write_bytes(b"not this one")
    split = read_train(tmp_path, "9 ü.png\ta\n0.png\tb\n")
    assert split.names == ("9 ü.png", "0.png")
    assert [split.read(0), split.read(1)] == [b"nine", b"0.png"]


def test_labels_file_is_split(tmp_path: Path) -> None:
    write(tmp_path, "".join(f"{i}.png\t{i // 2}\n" for i in range(40)), images=40)
    splits = load(settings(tmp_path), 7)
    assert list(splits) == ["train", "test"]
    assert (len(splits["train"]), len(splits["test"])) == (30, 10)
    for split in splits.values():
        assert [split.read(i).decode() for i in range(len(split))] == list(split.names)
    assert load(settings(tmp_path), 7) == splits


@pytest.mark.parametrize(
    ("lines", "place", "problem", "remedy"),
    [
        ("0.png\ta\n1.png b\n", ":2", "there is no tab in '1.png b'", "write image, tab, text"),
        ("/etc/passwd\ta\n", ":1", "'/etc/passwd' is outside", "name it relative"),
        ("x/../../0.png\ta\n", ":1", "'x/../../0.png' is outside", "name it relative"),
        (
            "0.png\ta\n1.png\tb\n0.png\tc\n",
            ":3",
            "'0.png' is already listed",
            "remove one of the lines",
        ),
        ("0.png\ta\n./0.png\tc\n", ":2", "'./0.png' is already listed", "remove one of the lines"),
        (b"0.png\ta\n1.png\t\xe4\n", ":2", "this is not UTF-8", "save the file as UTF-8"),
        (b"\xef\xbb\xbf0.png\ta\n\xe4", ":2", "this is not UTF-8", "save the file as UTF-8"),
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


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_columns_in_the_wrong_order(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train\.tsv:1: cannot look .* too long\); correct the name"
    ):
        read_train(tmp_path, "中" * 100 + "\t0.png\n")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder '.*nowhere'; check the path"):
        folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no images and no label file; add"):
        folder(tmp_path)
    write(tmp_path, "0.png\ta\n", "train.tsv")
    assert list(folder(tmp_path)) == ["train"]
    write(tmp_path, "0.png\ta\n", "train.csv")
    with pytest.raises(DataError, match=r"both train.tsv and train.csv; keep one"):
        folder(tmp_path)


@pytest.mark.parametrize("name", ["9.png", "", "a\0b"])
def test_a_missing_image_is_an_error_when_it_is_read(tmp_path: Path, name: str) -> None:
    split = read_train(tmp_path, f"0.png\ta\n{name}\tb\n")
    assert split.labels == ("a", "b") and split.read(0) == b"0.png"
    with pytest.raises(DataError, match=r"cannot read image '.*restore it, or remove it from"):
        split.read(1)


def test_empty_texts_are_kept_for_the_data_checks(tmp_path: Path) -> None:
    assert read_train(tmp_path, "0.png\t\n1.png\t\r\n").labels == ("", "")


def test_an_image_that_vanishes(tmp_path: Path) -> None:
    split = read_train(tmp_path, "0.png\ta\n")
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"0.png' \(No such file or directory\); restore it"):
        split.read(0)


def test_a_test_file_alone_is_enough_to_evaluate(tmp_path: Path) -> None:
    write(tmp_path, "0.png\ta\n", "test.tsv")
    assert {name: len(split) for name, split in load(settings(tmp_path), 0).items()} == {"test": 1}


TEXTS = ("a", "  two words ", 'comma, "quotes"', "caf\u00e9", "l\u2028s", "")


@pytest.mark.parametrize("header", [(), ("text", "width", "file_name"), ("Filename", "Label")])
def test_csv_as_its_writer_writes_it(tmp_path: Path, header: tuple[str, ...]) -> None:
    write(tmp_path, b"", "labels.tsv", images=len(TEXTS))
    (tmp_path / "labels.tsv").unlink()
    with (tmp_path / "labels.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([header] if header else [])
        for index, text in enumerate(TEXTS):
            writer.writerow(
                (text, 7, f"{index}.png") if len(header) == 3 else (f"{index}.png", text)
            )
    split = folder(tmp_path)["all"]
    assert split.labels == TEXTS
    assert [split.read(i).decode() for i in range(len(split))] == list(split.names)


@pytest.mark.parametrize(
    ("lines", "line", "problem"),
    [
        ("0.png,a\n1.png,one, two\n", 2, "3 column(s) instead of 2; write image,text"),
        ("0.png\n", 1, "1 column(s) instead of 2"),
        ("text,file,more\na,0.png\n", 2, "2 column(s) instead of 3"),
        ('0.png,a\n1.png,"b\n', 2, "this is not CSV"),
    ],
)
def test_unusable_csv(tmp_path: Path, lines: str, line: int, problem: str) -> None:
    write(tmp_path, lines, "labels.csv")
    with pytest.raises(DataError) as caught:
        folder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'labels.csv'}:{line}: {problem}")


@pytest.mark.parametrize("keys", [("file_name", "text"), ("path", "label")])
def test_json_lines(tmp_path: Path, keys: tuple[str, str]) -> None:
    rows = [dict(zip(keys, (f"{i}.png", text), strict=True)) for i, text in enumerate(TEXTS)]
    lines = "".join(json.dumps(row | {"width": 9}) + "\n" for row in rows)
    write(tmp_path, lines, "labels.jsonl", images=len(TEXTS))
    assert folder(tmp_path)["all"].labels == TEXTS


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"file_name": "0.png"', "this is not JSON"),
        ('["0.png", "a"]', "there is no image or no text"),
        ('{"file_name": "0.png", "text": 5}', "there is no image or no text"),
        ('{"file_name": "0.png", "words": null}', "there is no image or no text"),
        ("[" * 100_000, "this is not JSON"),
    ],
)
def test_unusable_json_lines(tmp_path: Path, line: str, problem: str) -> None:
    write(tmp_path, '{"file_name": "0.png", "text": "a"}\n\n' + line, "labels.jsonl")
    with pytest.raises(DataError) as caught:
        folder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'labels.jsonl'}:3: {problem}")


@pytest.mark.parametrize(
    ("name", "line"),
    [("labels.tsv", "x" * 500_000), ("labels.jsonl", '["' + "x" * 500_000 + '"]')],
)
def test_a_long_line_is_shown_by_its_beginning(tmp_path: Path, name: str, line: str) -> None:
    write(tmp_path, line, name)
    with pytest.raises(DataError, match=r":1: there is no .*xxx\.\.\.'; write") as caught:
        folder(tmp_path)
    assert len(str(caught.value)) < len(str(tmp_path)) + 200


def test_a_line_that_never_ends(tmp_path: Path) -> None:
    """Read up to the limit, not to its end; the second is a sparse file of zeros."""
    write(tmp_path, "0.png\ta\n1.png\t" + "b" * 1_100_000)
    with pytest.raises(
        DataError, match=r"labels\.tsv:2: the line has 1,000,000 characters or more"
    ):
        folder(tmp_path)
    with (tmp_path / "labels.tsv").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match=r"labels\.tsv:1: the line has 1,000,000"):
        folder(tmp_path)
    with (tmp_path / "labels.tsv").open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(
        DataError, match=r"label file .*21,474,836,480 bytes, more than 1,073,741,8"
    ):
        folder(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["labels.tsv", "labels.csv", "labels.jsonl"])
def test_lines_end_as_on_any_system(tmp_path: Path, name: str, end: str) -> None:
    rows = {
        ".tsv": "{}.png\t{}",
        ".csv": "{}.png,{}",
        ".jsonl": '{{"file": "{}.png", "text": "{}"}}',
    }
    row = rows[Path(name).suffix]
    lines = "".join(row.format(i, text) + end for i, text in enumerate(("a", "中", "c")))
    write(tmp_path, lines, name)
    assert folder(tmp_path)["all"].labels == ("a", "中", "c")
    write(tmp_path, lines.encode() + b"\xff" + end.encode(), name)
    with pytest.raises(DataError, match=r":4: this is not UTF-8"):
        folder(tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS finds both forms by itself")
@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_form_of_unicode(tmp_path: Path, listed: str, stored: str) -> None:
    """As in folders from a Mac. Files whose names are exact come first."""
    names = ("café/é.png", "ü.png", "images/ö.png", "images/ñ/ñ.png")
    place(tmp_path, *(unicodedata.normalize(stored, name) for name in names))
    place(tmp_path, unicodedata.normalize(listed, "ü.png"))
    lines = [unicodedata.normalize(listed, name) for name in ("café/é.png", "ü.png", "ö.png")]
    lines += [unicodedata.normalize(listed, "ñ/ñ.png"), "á.png"]
    (tmp_path / "labels.tsv").write_text("".join(f"{line}\tx\n" for line in lines), "utf-8")
    split = folder(tmp_path)["all"]
    read = [split.read(index).decode() for index in range(4)]
    assert [unicodedata.normalize("NFC", name) for name in read] == list(names)
    assert read[1] == lines[1]
    with pytest.raises(DataError, match="restore it"):
        split.read(4)


# Files that are no plain files

links = pytest.mark.skipif(sys.platform == "win32", reason="links and FIFOs of POSIX")


@links
def test_an_image_that_is_no_plain_file(tmp_path: Path) -> None:
    write(tmp_path, "fifo.png\ta\nzero.png\tb\nsparse.png\tc\nout.png\td\n0.png\te\n")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "out.png").symlink_to("/etc/passwd")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(20 << 30)
    split = folder(tmp_path)["all"]
    for index, problem in enumerate(("not a regular file", "link out", "more than", "link out")):
        with pytest.raises(DataError, match=rf"cannot read image .*{problem}.*; restore it"):
            split.read(index)
    assert split.read(4) == b"0.png"


@links
def test_a_label_file_that_is_no_plain_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = place(tmp_path, "secret").joinpath("secret")
    data = place(tmp_path / "data", "train/a.png")
    (data / "labels.tsv").symlink_to(secret)
    with pytest.raises(
        DataError, match=r"label file .*labels.tsv' \(it is a link out of"
    ) as caught:
        folder(data)
    assert "no tab" not in str(caught.value)
    monkeypatch.setenv("CRNN_JAX_TRUSTED", "1")
    with pytest.raises(DataError, match="no tab in 'secret'"):
        folder(data)


@links
def test_folders_are_not_left_by_links(tmp_path: Path) -> None:
    place(tmp_path / "other", "a.png", "deep/b.png")
    data = place(tmp_path / "data", "c.png")
    (data / "more").symlink_to(tmp_path / "other")
    (data / "again").symlink_to(data)
    assert folder(data)["all"].names == ("c.png",)
    (data / "train").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match=r"train' \(it is a link out of the folder"):
        folder(data)


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"cannot read '.*xxx' \(.*too long\); check the path"):
        folder(tmp_path / ("x" * 300))

    def refuse(*_: object) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot read '.*' \(Permission denied\); check the path"):
        folder(tmp_path)
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(DataError, match=r"cannot read '.*' \(Permission denied\); check the path"):
        folder(tmp_path)


# File names and sub-folders


def test_texts_in_file_names(tmp_path: Path) -> None:
    place(tmp_path, "ab.png", "two words_1.JPG", "cafe\u0301_a_b.png", "images/x-y.webp", "_1.png")
    place(tmp_path, "notes.txt", ".hidden_1.png", "__MACOSX/._ab.png")
    split = folder(tmp_path)["all"]
    assert texts(split) == {
        "_1.png": "",
        "ab.png": "ab",
        "cafe\u0301_a_b.png": "caf\u00e9",
        "images/x-y.webp": "x-y",
        "two words_1.JPG": "two words",
    }
    assert [split.read(i).decode() for i in range(len(split))] == list(split.names)


def test_texts_in_names_of_sub_folders(tmp_path: Path) -> None:
    place(tmp_path, "stop/1.png", "stop/2.png", "give way/a_b.png")
    assert texts(folder(tmp_path)["all"]) == {
        "give way/a_b.png": "give way",
        "stop/1.png": "stop",
        "stop/2.png": "stop",
    }


def test_sub_folders_for_training_and_testing(tmp_path: Path) -> None:
    place(tmp_path, "train/ab_1.png", "train/cd.png", "test/ab.png", "test/0.png")
    splits = folder(tmp_path)
    assert texts(splits["train"]) == {"ab_1.png": "ab", "cd.png": "cd"}
    (tmp_path / "test" / "labels.tsv").write_text("0.png\tzero\n", encoding="utf-8")
    assert texts(folder(tmp_path)["test"]) == {"0.png": "zero"}
    # With a label file, the names of sub-folders mean nothing.
    (tmp_path / "labels.tsv").write_text("train/cd.png\tx\n", encoding="utf-8")
    assert texts(folder(tmp_path)["all"]) == {"train/cd.png": "x"}
