"""Data checks on a set with every kind of defect, and the policies of training."""

import csv
import hashlib
import io
import itertools
import json
import shutil
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import ml_collections
import numpy as np
import pytest
from PIL import Image

from configs import captcha
from crnn_jax.architecture import Architecture
from crnn_jax.data.augment import Augmentation
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.policies import warn
from crnn_jax.data.report import Report
from crnn_jax.data.sources import folder
from crnn_jax.dataset import check_dataset, load_benchmark, load_dataset, load_split
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.image_grids import augmentation_grid, sample_grid
from crnn_jax.text.alphabet import Alphabet

CAPTCHAS = Path(__file__).parent / "data" / "captcha_keras_v2"


def config_for(directory: Path, **changes: object) -> ml_collections.ConfigDict:
    config = captcha.get_config()
    config.data.update(source="folder", dir=str(directory), validation_fraction=0.2)
    config.data.update(max_dropped=0.5)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CAPTCHAS, tmp_path / "set"))


def add(directory: Path, file: str, name: str, label: str, image: bytes | None) -> None:
    if image is not None:
        (directory / name).write_bytes(image)
    with (directory / file).open("a", encoding="utf-8") as lines:
        lines.write(f"{name}\t{label}\n")


def png(width: int, height: int, seed: int = 0) -> bytes:
    shade = np.random.default_rng((width, height, seed)).integers(0, 256, 3).tolist()
    file = io.BytesIO()
    Image.new("RGB", (width, height), tuple(shade)).save(file, "png")
    return file.getvalue()


def enormous() -> bytes:
    """A PNG whose header claims 100,000 x 1,000 pixels; it must not be decoded."""
    header = struct.pack(">2I5B", 100_000, 1_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    return data


def first_image(directory: Path) -> tuple[bytes, str]:
    name, label = (directory / "train.tsv").read_text(encoding="utf-8").splitlines()[0].split("\t")
    return (directory / name).read_bytes(), label


def plant(directory: Path) -> None:
    """Every defect. They are in the test set, from which no other split is drawn."""
    whole, label = first_image(directory)
    add(directory, "test.tsv", "missing.png", "226md", None)
    add(directory, "test.tsv", "truncated.png", "226md", whole[: len(whole) // 2])
    add(directory, "test.tsv", "text.png", "226md", b"no image")
    add(directory, "test.tsv", "enormous.png", "226md", enormous())
    add(directory, "test.tsv", "unseen.png", "2é€€", png(200, 50, 1))
    add(directory, "test.tsv", "empty.png", "", png(200, 50, 2))
    add(directory, "test.tsv", "long.png", "2" * 1000, png(200, 50, 3))
    add(directory, "test.tsv", "repeats.png", "22222", png(40, 50))
    add(directory, "test.tsv", "wide.png", "226md", png(100_000, 32))
    add(directory, "test.tsv", "one_pixel_wide.png", "2", png(1, 40))
    add(directory, "test.tsv", "low.png", "226md", png(60, 7))
    add(directory, "test.tsv", "leak.png", label, whole)
    add(directory, "test.tsv", "twice_a.png", "mdb", png(201, 50))
    add(directory, "test.tsv", "twice_b.png", "mdb", png(201, 50))
    add(directory, "test.tsv", "two_a.png", "mdb", png(202, 50))
    add(directory, "test.tsv", "two_b.png", "mdc", png(202, 50))


def offenders(report: Report) -> dict[str, set[str]]:
    """Kind of finding -> names of the images that have it."""
    found: dict[str, set[str]] = {}
    for finding in report.findings:
        names = {report.splits[split].split.names[index] for split, index in finding.places}
        found.setdefault(finding.kind, set()).update(names)
    return found


def test_a_clean_set_gives_no_alarm(clean: Path) -> None:
    report = check_dataset(config_for(clean))
    assert (report.findings, report.severity) == ([], "note")
    assert report.lines()[-2:] == [
        "nothing is wrong with these images",
        "train on these images: python -m crnn_jax.main --config captcha"
        f" --config.data.source=folder --config.data.dir={clean} --workdir runs/mine",
    ]


def test_no_training_is_suggested_before_errors_are_corrected(clean: Path) -> None:
    moved = clean.rename(clean.parent / "a b")
    add(moved, "test.tsv", "low.png", "226md", png(60, 7))
    report = check_dataset(config_for(moved))
    assert report.severity == "warning"
    assert f"--config.data.dir='{moved}' --workdir" in report.lines()[-1]
    add(moved, "test.tsv", "text.png", "226md", b"no image")
    report = check_dataset(config_for(moved))
    assert report.severity == "error" and "train on" not in "".join(report.lines())


@pytest.mark.skipif(sys.platform == "win32", reason="names of POSIX")
def test_the_report_has_one_visible_line_for_each_image(
    clean: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Names and labels may have newlines, and labels 10,000 characters."""
    (clean / "test.tsv").unlink()
    name = "a\n\x1b[2Jb\u202e.png"
    (clean / name).write_bytes(png(60, 7))
    with (clean / "test.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([(name, "2\u200b" * 5000), (name[:3] + ".png", "2\n3")])
    report = check_dataset(config_for(clean))
    warn(report.findings)
    lines = [*report.lines(), *caplog.messages]
    assert len(caplog.messages) > 2
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    assert any(r"a\n\x1b[2Jb\u202e.png, 60 x 7 px" in line for line in lines)


def test_exactly_the_planted_defects_are_found(clean: Path) -> None:
    plant(clean)
    report = check_dataset(config_for(clean))
    train = (clean / "train.tsv").read_text(encoding="utf-8").split("\t")[0]
    assert offenders(report) == {
        "unreadable image": {"missing.png", "truncated.png", "text.png", "enormous.png"},
        "unseen character": {"unseen.png"},
        "empty label": {"empty.png"},
        "label too long": {"long.png", "repeats.png"},
        "very wide image": {"wide.png"},
        "very small image": {"one_pixel_wide.png", "low.png"},
        "in train and test": {"leak.png", train},
        "duplicate": {"twice_a.png", "twice_b.png", "two_a.png", "two_b.png"},
        "two labels": {"two_a.png", "two_b.png"},
    }
    assert report.severity == "error"
    severities = {finding.kind: finding.severity for finding in report.findings}
    assert Counter(severities.values()) == {"error": 2, "warning": 6, "note": 1}


def test_the_report_names_what_a_person_needs(clean: Path) -> None:
    plant(clean)
    report = check_dataset(config_for(clean))
    text = "\n".join(report.lines())
    assert "'€' U+20AC (1)" in text and "'é' U+00E9 (1)" in text and "unseen.png '2é€€'" in text
    # Five equal characters need nine time steps; the least width with nine is found by trying all.
    # An image of 40 x 50 px becomes 51 px wide.
    least = next(
        width
        for width in itertools.count(8)
        if Architecture(space_to_depth=2).time_steps(width) >= 9
    )
    assert f"repeats.png '22222' of 5 characters needs {least} px and has 51" in text
    assert "wide.png, 100000 x 32 px" in text and "one_pixel_wide.png, 1 x 40 px" in text
    assert "it has 100000 x 1000 pixels" in text
    assert "test: two_a.png 'mdb' = test: two_b.png 'mdc'" in text
    assert "alphabet: 19 characters 2345678bcdefgmnpwxy" in text
    assert max(map(len, report.lines())) < 500


def test_the_report_as_json(clean: Path) -> None:
    plant(clean)
    report = json.loads(json.dumps(check_dataset(config_for(clean)).to_dict()))
    labels = [
        line.split("\t")[1]
        for file in ("train.tsv", "test.tsv")
        for line in (clean / file).read_text(encoding="utf-8").splitlines()
    ]
    assert report["characters"] == dict(sorted(Counter("".join(labels)).items()))
    assert report["splits"]["test"]["label_lengths"]["1000"] == 1
    assert report["splits"]["test"]["images"] == 24
    assert report["severity"] == "error" and report["alphabet"] == "2345678bcdefgmnpwxy"
    samples = {finding["kind"]: finding["samples"] for finding in report["findings"]}
    assert len(samples["unreadable image"]) == 4
    # The 40 captchas of 256 px fill their bucket, so only the planted images are padded.
    assert report["buckets"] == [256] and 0 < report["padding_share"] < 0.2


def test_the_grid_shows_offenders_in_red(clean: Path) -> None:
    def red(grid: Image.Image) -> int:
        return int((np.asarray(grid) == (200, 0, 0)).all(-1).sum())

    assert not red(sample_grid(check_dataset(config_for(clean))))
    add(clean, "test.tsv", "unseen.png", "2é", png(200, 50))
    assert red(sample_grid(check_dataset(config_for(clean)))) > 20


def test_no_grid_without_an_image(clean: Path) -> None:
    for image in (clean / "images").iterdir():
        image.write_bytes(image.name.encode())
    with pytest.raises(DataError, match=r"no image can be read.*omit --image_grid"):
        sample_grid(check_dataset(config_for(clean)))


def test_the_augmentation_grid_has_a_row_for_an_image(clean: Path) -> None:
    """If all are inverted, the versions are the negatives of the first image in the row."""
    report = check_dataset(config_for(clean))
    grid = np.asarray(augmentation_grid(report, Augmentation(invert=1.0), 0)).astype(int)
    prepared = [report.splits["train"].image(place) for place in range(0, 24, 2)]
    height, width = len(grid) // 12, grid.shape[1] // 6
    for row, image in enumerate(prepared):
        assert image is not None
        shown = image.astype(int)
        for column in range(6):
            cell = grid[row * height :, column * width :][14 : 14 + 64, 14 : 14 + 256]
            expected = 255 - shown if column else shown
            np.testing.assert_allclose(cell, expected, rtol=0, atol=1)
    (clean / "train.tsv").unlink()
    with pytest.raises(DataError, match="no training images to augment"):
        augmentation_grid(check_dataset(config_for(clean)), Augmentation(invert=1.0), 0)


def test_characters_that_no_alphabet_may_have_are_unseen(clean: Path) -> None:
    add(clean, "train.tsv", "tab.png", "2\t2", png(200, 50))
    report = check_dataset(config_for(clean))
    assert offenders(report) == {"unseen character": {"tab.png"}}
    assert report.alphabet.characters == "2345678bcdefgmnpwxy"


def test_labels_that_differ_in_ignored_case_are_equal(clean: Path) -> None:
    add(clean, "test.tsv", "a.png", "mdb", png(200, 50))
    add(clean, "test.tsv", "b.png", "MDB", png(200, 50))
    assert "two labels" in offenders(
        check_dataset(config_for(clean, **{"alphabet.characters": "2345678bcdefgmnpwxyMDB"}))
    )
    ignoring = config_for(clean, **{"alphabet.ignore_case": True})
    assert offenders(check_dataset(ignoring)) == {"duplicate": {"a.png", "b.png"}}


def test_each_image_is_read_and_hashed_once_before_training(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test and validation images are drawn, images are compared, and all of them are cached."""
    (clean / "test.tsv").unlink()
    (clean / "train.tsv").rename(clean / "labels.tsv")
    add(clean, "labels.tsv", "damaged.png", "226md", b"no image")
    readings: Counter[str] = Counter()
    read_file, blake2b = folder._Files.__call__, hashlib.blake2b

    def reading(self: Any, index: int) -> bytes:
        readings[self.paths[index].name] += 1
        return read_file(self, index)

    def hashing(data: bytes, **options: Any) -> Any:
        readings["hashed"] += 1
        return blake2b(data, **options)

    monkeypatch.setattr(folder._Files, "__call__", reading)
    monkeypatch.setattr(hashlib, "blake2b", hashing)
    dataset = load_dataset(config_for(clean, **{"data.on_unreadable": "drop"}))
    assert readings.pop("hashed") == 33
    assert len(readings) == 33 and set(readings.values()) == {1}
    for split in dataset.splits.values():
        whole = [index for index in range(len(split)) if index not in split.failures]
        split.batch(np.array(whole), dataset.buckets)
    assert set(readings.values()) == {1}


# Policies


PLANTED: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "on_unreadable": ("bad.png", "226md", lambda: b"no image"),
    "on_empty_label": ("bad.png", "", lambda: png(200, 50)),
    "on_unseen": ("bad.png", "2é", lambda: png(200, 50)),
}


@pytest.mark.parametrize(
    ("file", "policy"),
    [
        *(("train.tsv", policy) for policy in PLANTED),
        *(("test.tsv", policy) for policy in PLANTED if policy != "on_unseen"),
    ],
)
def test_an_error_stops_unless_a_policy_drops(clean: Path, policy: str, file: str) -> None:
    name, label, image = PLANTED[policy]
    known = {"alphabet.characters": "2345678bcdefgmnpwxy"}
    before = load_dataset(config_for(clean, **known))
    add(clean, file, name, label, image())
    with pytest.raises(DataError) as caught:
        load_dataset(config_for(clean, **known))
    message = str(caught.value)
    assert "\n" not in message and name in message
    assert f"--config.data.{policy}=drop" in message
    assert (
        f"python -m crnn_jax.check_data --config.data.source=folder --config.data.dir={clean}"
        in (message)
    )

    dropping = config_for(clean, **known, **{f"data.{policy}": "drop"})
    dataset = load_dataset(dropping)
    assert [finding.severity for finding in dataset.findings] == ["warning"]
    assert len(dataset.splits["test"]) == len(before.splits["test"]) + (file == "test.tsv")
    assert name not in dataset.splits["train"].split.names
    left = len(dataset.splits["train"]) + len(dataset.splits["validation"])
    # A bad image that was drawn for the validation split stays there and counts as wrong.
    chosen = name in dataset.splits["validation"].split.names
    assert left == 32 + chosen
    if file == "test.tsv":
        test = load_split(
            dropping,
            dataset.alphabet,
            dataset.preprocessing,
            Architecture(space_to_depth=2).time_steps,
        )
        assert len(test) == 9


def test_a_new_character_in_the_test_set_is_a_warning(
    clean: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as wrong, but does not prevent training."""
    add(clean, "test.tsv", "new.png", "2é", png(200, 50))
    dataset = load_dataset(config_for(clean))
    (finding,) = dataset.findings
    assert finding.severity == "warning" and "new.png '2é'" in finding.samples
    assert "they count as wrong" in finding.message and "'é' U+00E9 (1)" in finding.message
    assert "é" not in dataset.alphabet.characters
    assert dataset.splits["test"].split.labels[-1] == "2é"
    test = load_split(
        config_for(clean),
        dataset.alphabet,
        dataset.preprocessing,
        Architecture(space_to_depth=2).time_steps,
    )
    assert len(test) == len(dataset.splits["test"]) == 9
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "new.png '2é'" in record.getMessage()


def test_more_than_a_share_is_an_error(clean: Path) -> None:
    for index in range(6):
        add(clean, "train.tsv", f"{index}.png", f"22{'bcdefg'[index]}", b"no image")
    config = config_for(clean, **{"data.on_unreadable": "drop", "data.max_dropped": 0.05})
    with pytest.raises(DataError, match=r"training images cannot be used.*max_dropped=0\.05"):
        load_dataset(config)


def test_unseen_characters_are_mapped(clean: Path) -> None:
    add(clean, "train.tsv", "new.png", "2é€m", png(200, 50))
    characters = "2345678bcdefgmnpwxy?"
    for to, expected in (("?", "2??m"), ("", "2m")):
        config = config_for(
            clean,
            **{"data.on_unseen": "map", "data.map_to": to, "alphabet.characters": characters},
        )
        for seed in range(20):  # until it is not drawn for the validation split
            config.seed = seed
            train = load_dataset(config).splits["train"].split
            if "new.png" in train.names:
                break
        assert train.labels[train.names.index("new.png")] == expected
    with pytest.raises(ConfigError, match=r"data.map_to='€' is not in the alphabet"):
        config.data.map_to = "€"
        load_dataset(config)


def test_labels_that_do_not_fit_are_not_trained_on(clean: Path) -> None:
    add(clean, "train.tsv", "long.png", "2" * 1000, png(200, 50))
    add(clean, "train.tsv", "narrow.png", "2345678", png(1, 40))
    names = {"long.png", "narrow.png"}
    dataset = load_dataset(config_for(clean))
    train = dataset.splits["train"]
    assert not names & set(train.split.names)
    assert train.mask.all() and train.label_ids.shape[1] == 5
    assert names == {
        name for name in names if any(name in s for f in dataset.findings for s in f.samples)
    }


def test_no_label_fits(clean: Path) -> None:
    lines = (clean / "train.tsv").read_text(encoding="utf-8").splitlines()
    longer = "".join(f"{line}{'2345678bcdefgmnpwxy' * 3}\n" for line in lines)
    (clean / "train.tsv").write_text(longer, encoding="utf-8")
    with pytest.raises(DataError, match="no training label fits"):
        load_dataset(config_for(clean))


def test_a_test_set_alone_is_checked_but_not_trained_on(clean: Path) -> None:
    (clean / "train.tsv").unlink()
    report = check_dataset(config_for(clean))
    assert list(report.splits) == ["test"] and report.severity == "note"
    with pytest.raises(DataError, match="no train images; use --mode eval"):
        load_dataset(config_for(clean))


def test_nothing_to_test_with(clean: Path) -> None:
    (clean / "test.tsv").unlink()
    with pytest.raises(DataError, match=r"no test images; add .*rename train.tsv to labels.tsv"):
        load_dataset(config_for(clean))
    known = Alphabet("2345678bcdefgmnpwxy")
    with pytest.raises(DataError, match="no test images"):
        load_split(config_for(clean), known, Preprocessing(), Architecture().time_steps)


def test_a_message_lists_the_most_common_unseen_characters(clean: Path) -> None:
    add(clean, "test.tsv", "a.png", "äöüßéèêàâîô", png(200, 50))
    add(clean, "test.tsv", "b.png", "äô", png(200, 51))
    (finding,) = check_dataset(config_for(clean)).findings
    assert "'ä' U+00E4 (2), 'ô' U+00F4 (2), 'ö' U+00F6 (1)" in finding.message
    assert "and 1 more; they count as wrong" in finding.message and "'î'" not in finding.message


@pytest.mark.parametrize("name", ["labels.tsv", "train.tsv", "test.tsv"])
def test_a_set_is_scored_with_any_name_of_its_label_file(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 32), "white").save(tmp_path / "one.png")
    (tmp_path / name).write_text("one.png\tabc\n", encoding="utf-8")
    prepared = load_benchmark(tmp_path, Alphabet("abc"), Preprocessing(), Architecture().time_steps)
    assert prepared.split.labels == ("abc",) and not prepared.failures


def test_a_set_that_cannot_be_looked_into_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(DataError, match=r"cannot read '.*' \(Permission denied\); check the path"):
        load_benchmark(tmp_path, Alphabet("abc"), Preprocessing(), Architecture().time_steps)
