"""The commands as a user runs them: what they print, and one line for a mistake."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
from absl.testing import flagsaver
from PIL import Image

from crnn_jax import check_data, cli, evaluation, score, scoring
from crnn_jax.commands import parse_flags
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.recognition.calibration import Calibration

IMAGES = Path(__file__).parent / "data" / "captcha_keras_v2"
ROOT = Path(__file__).parent.parent
SMALL = (
    "--config=configs/tiny.py",
    "--config.data.source=folder",
    "--config.data.validation_fraction=0.2",
    "--config.batch_size=8",
    "--config.epochs=1",
)


def command(
    module: str, *arguments: str, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    one_device = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment = {**os.environ, "XLA_FLAGS": one_device, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",  # as names of files come from Python
        check=False,
    )


def copy_of_images(folder: Path) -> Path:
    return Path(shutil.copytree(IMAGES, folder / "images"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("trained")
    done = command("crnn_jax.main", *SMALL, f"--config.data.dir={IMAGES}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def test_evaluation_prints_one_json_object_last(trained: Path) -> None:
    """On the data that the run was trained with, not on what the recipe would draw."""
    arguments = ("--config=configs/tiny.py", f"--workdir={trained}", "--mode=eval")
    done = command("crnn_jax.main", *arguments)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    metrics = json.loads(done.stdout.splitlines()[-1])
    assert [metrics[key] for key in ("source", "directory", "split", "count")] == [
        *("folder", str(IMAGES), "test", 8)
    ]
    assert {"exact_match", "exact_match_caseless", "cer", "one_minus_ned"} <= metrics.keys()
    assert metrics["report"] == str(trained / "report" / "index.html")
    report = json.loads((trained / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["run"]["command"] == f"python -m crnn_jax.main {shlex.join(arguments)}"
    assert report["headline"]["exact"]["value"] == metrics["exact_match"]
    missing = command("crnn_jax.main", *arguments, "--step=7")
    assert_one_line(missing, "no step 7", str(metrics["step"]))


def test_evaluation_on_other_data_says_so(trained: Path, tmp_path: Path) -> None:
    """Without a config, of a named step and split, on a folder that changes nothing else."""
    folder = copy_of_images(tmp_path)
    lines = (folder / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "train.tsv").write_text("".join(lines[:5]), encoding="utf-8")
    step = max(int(path.name) for path in (trained / "checkpoints").iterdir())
    arguments = (f"--workdir={trained}", f"--config.data.dir={folder}", "--mode=eval")
    done = command("crnn_jax.main", *arguments, f"--step={step}", "--split=validation")
    assert done.returncode == 0, done.stderr
    assert f"warning: {trained} was trained with other data: folder {IMAGES}" in done.stderr
    metrics = json.loads(done.stdout.splitlines()[-1])
    assert [metrics[key] for key in ("step", "directory", "split", "count")] == [
        *(step, str(folder), "validation", 1)
    ]


def test_evaluating_on_another_split_is_warned_of(tmp_path: Path) -> None:
    """Of images without a test split another seed would test with what was trained on."""
    folder = copy_of_images(tmp_path)
    (folder / "test.tsv").unlink()
    (folder / "train.tsv").rename(folder / "labels.tsv")
    arguments = (*SMALL, f"--config.data.dir={folder}", f"--workdir={tmp_path / 'run'}")
    done = command("crnn_jax.main", *arguments, "--config.seed=1")
    assert done.returncode == 0, done.stderr
    same = command("crnn_jax.main", *arguments, "--mode=eval")
    assert same.returncode == 0 and "warning" not in same.stderr
    other = command("crnn_jax.main", *arguments, "--config.seed=0", "--mode=eval")
    assert other.returncode == 0
    assert "drawn differently than in training: seed was 1 and is now 0" in other.stderr


def test_prediction_needs_no_config(trained: Path) -> None:
    images = sorted((IMAGES / "images").iterdir())[:3]
    done = command("crnn_jax.predict", f"--model={trained}", *map(str, images))
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(map(str, images))
    assert all(0 <= float(row[2]) <= 1 for row in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8")
def test_what_can_be_read_is_read_and_what_cannot_is_named(trained: Path, tmp_path: Path) -> None:
    """A name that is no text, a damaged image, one that is not there."""
    name = os.fsencode(tmp_path / "caf") + b"\xe9.png"
    shutil.copy(IMAGES / "images" / "00000.png", name)
    (tmp_path / "damaged.png").write_bytes(b"no image")
    good = IMAGES / "images" / "00001.png"
    paths = (str(tmp_path / "damaged.png"), os.fsdecode(name), str(tmp_path / "no.png"), str(good))
    done = command("crnn_jax.predict", f"--model={trained}", *paths)
    read = [os.fsencode(line.split("\t")[0]) for line in done.stdout.splitlines()]
    assert read == [name, os.fsencode(good)]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert ["no.png" in errors[0], "damaged.png" in errors[1]] == [True, True]  # paths come first
    assert done.returncode == 1 and len(errors) == 2 and "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize(
    "arguments",
    [
        ("crnn_jax.predict", str(IMAGES / "images" / "00000.png")),
        ("crnn_jax.check_data", f"--dir={IMAGES}"),  # exits with a code of its own
    ],
    ids=["predict", "check_data"],
)
def test_a_command_ends_without_a_word_where_nobody_reads_on(
    arguments: tuple[str, ...],
) -> None:
    """As with `| head` that has seen enough."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = command(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert done.returncode == 141
    assert "Error" not in done.stderr and "Traceback" not in done.stderr


# A command that logs, prints, and writes to its streams by number, as libraries in C do.
STREAMS = """
import logging, os, sys
from absl import flags
from crnn_jax.commands import print_result, run

def main(arguments):
    os.open("own.txt", os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        try:
            os.write(number, b"")
            os.write(number, b"noise\\n")
        except OSError as error:
            assert error.errno == 28, error
    logging.getLogger("crnn_jax").warning("%s", "a\\nerror: none\\x1b[2J")
    print_result("read")
    open("a" * 300)

run(main, flags.FlagValues(), "help", ["x", *sys.argv[1:]])
"""
SHOWN = (
    b"noise",
    b"warning: a error: none\\x1b[2J",
    b"error: '" + b"a" * 300 + b"': File name too long; check the path",
)
FULL = b"error: the results cannot be written to standard output (No space left on device); write"
CLOSED = b"error: standard output is closed, so there is no place for the results"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    ("streams", "stdout", "stderr"),
    [
        ("", (b"noise", b"read"), SHOWN),
        ("<&-", (b"noise", b"read"), SHOWN),
        ("2>&-", (b"noise", b"read"), ()),
        ("2>/dev/full", (b"noise", b"read"), ()),
        (">/dev/full", (), (*SHOWN[:2], FULL)),
        (">&-", (), (*SHOWN[:2], CLOSED)),
        (">&- 2>&- <&-", (), ()),
        ("--help >/dev/full", (), (FULL,)),
        ("--help >&-", (), (CLOSED,)),
        ("--nope 2>&-", (), ()),
    ],
)
def test_streams_that_are_closed_or_full(
    streams: str, stdout: tuple[bytes, ...], stderr: tuple[bytes, ...], tmp_path: Path
) -> None:
    """No traceback; exit code 1; nothing gets into a file that has the number of a stream."""
    (tmp_path / "command.py").write_text(STREAMS, encoding="utf-8")
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} command.py {streams}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 1
    assert tuple(done.stdout.splitlines()) == stdout
    lines = done.stderr.splitlines()
    assert len(lines) == len(stderr) and all(map(bytes.startswith, lines, stderr)), lines
    own = tmp_path / "own.txt"
    assert not own.exists() or own.read_bytes() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_the_list_of_commands_on_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit, match="1"):
            cli.main(["crnn-jax"])
        monkeypatch.undo()
    assert capsys.readouterr().err.encode().startswith(FULL)


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for part in parts:
        assert part in errors[0]


def fails(workdir: Path, folder: Path, *parts: str, more: tuple[str, ...] = ()) -> None:
    arguments = (*SMALL, f"--config.data.dir={folder}", f"--workdir={workdir}", *more)
    assert_one_line(command("crnn_jax.main", *arguments), *parts)


def test_missing_folder(tmp_path: Path) -> None:
    fails(tmp_path / "run", tmp_path / "nowhere", "nowhere", "check the path")


def test_label_line_without_a_tab(tmp_path: Path) -> None:
    folder = copy_of_images(tmp_path)
    with (folder / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("images/one.png label\n")
    fails(tmp_path / "run", folder, "train.tsv:33", "images/one.png label", "tab")


def test_unreadable_image(tmp_path: Path) -> None:
    folder = copy_of_images(tmp_path)
    name = (folder / "train.tsv").read_text(encoding="utf-8").split("\t")[0]
    (folder / name).write_bytes((folder / name).read_bytes()[:200])
    fails(tmp_path / "run", folder, name, "leave it out")


def test_empty_set(tmp_path: Path) -> None:
    folder = copy_of_images(tmp_path)
    (folder / "train.tsv").write_text("", encoding="utf-8")
    fails(tmp_path / "run", folder, "train.tsv", "empty")


def test_unseen_character_in_what_is_learned(tmp_path: Path) -> None:
    folder = copy_of_images(tmp_path)
    Image.new("RGB", (200, 50)).save(folder / "images" / "new.png")
    with (folder / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("images/new.png\t2b€\n")
    known = ("--config.alphabet.characters=2345678bcdefgmnpwxy",)
    fails(tmp_path / "run", folder, "€", "U+20AC", "images/new.png", "alphabet", more=known)


def test_scores_of_several_sets_in_one_table(trained: Path, tmp_path: Path) -> None:
    """A whole set; its images without a test split, one more that is missing, one that is new."""
    other = copy_of_images(tmp_path)
    (other / "train.tsv").unlink()
    lines = (other / "test.tsv").read_text(encoding="utf-8")
    (other / "test.tsv").rename(other / "labels.tsv")
    (other / "labels.tsv").write_text(f"{lines}gone.png\tab\nimages/00001.png\t2-é\n", "utf-8")
    arguments = ("crnn_jax.score", f"--model={trained}", str(IMAGES), str(other))
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    head, *rows = (line.split() for line in done.stdout.splitlines())
    assert " ".join(head) == ("set subset images exact CER caseless caseless CER 36 characters")
    assert [row[:-10] for row in rows] == [
        [str(IMAGES), "all", "8"],
        [str(other), "all", "10"],
        [str(other), "alphanumeric", "9"],
        [str(other), "alphanumeric,", "3", "or", "more", "8"],
    ]
    assert "gone.png" in done.stderr and "'é' U+00E9 (1)" in done.stderr
    reports = tmp_path / "reports"
    metrics = json.loads(command(*arguments, "--json", f"--report={reports}").stdout)
    assert [row["count"] for row in metrics] == [8, 10, 9, 8]
    for name, row in ((IMAGES.name, metrics[0]), (other.name, metrics[1])):
        report = json.loads((reports / name / "report.json").read_text(encoding="utf-8"))
        assert report["headline"]["exact"]["value"] == row["exact_match"]
    evaluated = json.loads(
        command("crnn_jax.main", f"--workdir={trained}", "--mode=eval").stdout.splitlines()[-1]
    )
    for key in ("exact_match", "exact_match_caseless", "exact_match_alphanumeric", "cer"):
        assert metrics[0][key] == metrics[3][key] == evaluated[key]
    # The two that are left out count as wrong in the whole.
    assert metrics[1]["exact_match"] * 10 == pytest.approx(metrics[0]["exact_match"] * 8)
    assert_one_line(command("crnn_jax.score", f"--model={trained}"), "name the folders")


def test_a_set_that_is_missing_is_named_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(scoring, "score", lambda _, folders, *__, **___: read.extend(folders))
    nowhere = tmp_path / "nowhere"
    with pytest.raises(DataError, match=f"no folder '{re.escape(str(nowhere))}'; check"):
        score.main(parse_flags(score.FLAGS, ["score", str(IMAGES), str(nowhere)]))
    with pytest.raises(DataError, match=r"cannot read '.*xxx' \(.*too long\); check the path"):
        score.main(parse_flags(score.FLAGS, ["score", str(tmp_path / ("x" * 300))]))
    assert read == []


ROW = {"set": "a\n[set]", "subset": "all", "count": 1234, "exact_match": 0.5, "cer": 0.25}
ROW |= {"exact_match_caseless": 0.75, "cer_caseless": 0.125, "exact_match_alphanumeric": 1.0}


def test_what_was_scored_before_an_error_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        yield ROW
        raise DataError("the second set is damaged")

    monkeypatch.setattr(scoring, "score", rows)
    with pytest.raises(DataError, match="second set"):
        score.main(parse_flags(score.FLAGS, ["score", str(IMAGES)]))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    row = r"a\n[set] all 1,234 50.00 % 25.00 % 75.00 % 12.50 % 100.00 %"
    assert " ".join(shown.splitlines()[1].split()) == row


def test_case_counts_in_one_error_rate_and_not_in_the_other(
    monkeypatch: pytest.MonkeyPatch, trained: Path
) -> None:
    """Against counting by hand: of eight labels of five characters, one letter in another case."""
    labels = [line.split("\t")[1] for line in (IMAGES / "test.tsv").read_text().splitlines()]
    texts = [labels[0].upper(), *labels[1:]]
    letters = sum(character.isalpha() for character in labels[0])
    assert letters
    none = np.zeros(len(texts))
    result = evaluation.Evaluation(
        *({}, texts, none, Counter(), none > 0, none, none, Calibration())
    )
    monkeypatch.setattr(scoring, "evaluate_split", lambda *_: result)
    row = next(iter(scoring.score(trained, [IMAGES], 8)))
    assert (row["cer"], row["cer_caseless"]) == (letters / 40, 0)
    assert (row["exact_match"], row["exact_match_caseless"]) == (7 / 8, 1)


def test_workdir_of_another_alphabet_is_left_as_it_is(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (trained / "checkpoints").rglob("*")}
    more = ("--config.alphabet.characters=2345678abcdefgmnpwxyz",)
    fails(trained, IMAGES, "another alphabet", "--workdir", more=more)
    after = {path: path.stat().st_mtime_ns for path in (trained / "checkpoints").rglob("*")}
    assert before == after


def test_evaluating_and_reading_without_a_model(tmp_path: Path) -> None:
    arguments = (*SMALL, f"--config.data.dir={IMAGES}", f"--workdir={tmp_path}", "--mode=eval")
    assert_one_line(command("crnn_jax.main", *arguments), str(tmp_path), "train first")
    assert list(tmp_path.iterdir()) == []
    image = str(next((IMAGES / "images").iterdir()))
    done = command("crnn_jax.predict", f"--model={tmp_path}", image)
    assert_one_line(done, str(tmp_path), "train first")


def test_values_are_checked_together(tmp_path: Path) -> None:
    more = ("--config.data.height=48", "--config.optimizer.learning_rate=-1.0")
    fails(
        tmp_path,
        IMAGES,
        "data.height=48",
        "set --config.data.height=32",
        "learning_rate=-1.0",
        more=more,
    )


def test_mistyped_key_is_refused(tmp_path: Path) -> None:
    done = command("crnn_jax.main", *SMALL, "--config.batchsize=3", f"--workdir={tmp_path}")
    assert_one_line(done, "no config.batchsize, did you mean config.batch_size?")


def test_what_is_known_of_the_texts_is_a_flag_of_what_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[dict[str, Any]] = []

    def record(*_: object, **known: Any) -> list[dict[str, Any]]:
        given.append(known)
        return []

    monkeypatch.setattr(scoring, "score", record)
    for arguments in ([], ["--alphabet=digits", "--length=4-8"], ["--length=5", "--caseless"]):
        saved = flagsaver.save_flag_values(score.FLAGS)
        score.main(parse_flags(score.FLAGS, ["score", *arguments, "."]))
        flagsaver.restore_flag_values(saved, score.FLAGS)
    unset = given[0]
    flagged = {"alphabet": "digits", "length": (4, 8)}, {"length": 5, "caseless": True}
    assert not any(value for key, value in unset.items() if key != "language_weight")
    assert given[1:] == [{**unset, **more} for more in flagged]
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--" + "a" * 3000, "there is no flag --aaa"), ("--flagfile=x", "files of flags are not")],
)
def test_flags_that_absl_cannot_handle(flag: str, message: str) -> None:
    for name, _, _ in cli.COMMANDS.values():
        module = importlib.import_module(f"crnn_jax.{name}")
        with pytest.raises(ConfigError, match=message):
            parse_flags(module.FLAGS, ["main", flag])


@pytest.mark.slow  # .ci/run does the same
def test_the_tiny_config_makes_its_own_images(tmp_path: Path) -> None:
    data = (f"--config.data.dir={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}")
    done = command("crnn_jax.main", "--config=configs/tiny.py", "--config.epochs=1", *data)
    assert done.returncode == 0, done.stderr
    assert "images: 243 train, 13 validation, 64 test" in done.stderr


def test_a_second_start_compiles_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # which the tests set
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # it is a small network
    kept = platformdirs.user_cache_path("crnn_jax")
    images = sorted((IMAGES / "images").iterdir())[:1]

    def read() -> list[Path]:
        done = command("crnn_jax.predict", "--backend=jax", f"--model={trained}", *map(str, images))
        assert done.returncode == 0, done.stderr
        return sorted(kept.rglob("*-cache"))

    compiled = read()
    assert compiled
    assert read() == compiled


def test_the_data_checks_prints_and_says_how_bad_it_is(tmp_path: Path) -> None:
    folder = copy_of_images(tmp_path)
    done = command("crnn_jax.check_data", f"--dir={folder}", f"--image_grid={tmp_path / 'a.png'}")
    assert done.returncode == 0, done.stderr
    assert "nothing is wrong" in done.stdout
    with Image.open(tmp_path / "a.png") as grid:
        assert min(grid.size) > 500
    shutil.copy(folder / "images" / "00000.png", folder / "again.png")
    with (folder / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("again.png\t226md\n")
    done = command("crnn_jax.check_data", f"--dir={folder}", "--json")
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["findings"][0]["kind"] == "in train and test"
    (folder / "again.png").write_bytes(b"no image")
    # By config and overrides, as training is called.
    named = ("--config=configs/tiny.py", "--config.data.source=folder")
    done = command("crnn_jax.check_data", *named, f"--config.data.dir={folder}")
    assert done.returncode == 1 and "error: unreadable image: 1 test" in done.stdout
    assert_one_line(command("crnn_jax.check_data", f"--dir={tmp_path}/no"), "no folder")
    for arguments, message in (
        ([str(folder)], f"named with --dir={re.escape(str(folder))}"),
        (["--dir="], "--dir is empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_data.main(parse_flags(check_data.FLAGS, ["check_data", *arguments]))
    assert_one_line(command("crnn_jax.check_data", "--config.data.folder=x"), "folder")


def test_the_data_checks_shows_what_augmentation_does(tmp_path: Path) -> None:
    grid = f"--show_augmented={tmp_path / 'grid.png'}"
    noisy = "--config.augment.noise=1.0"
    done = command("crnn_jax.check_data", f"--dir={IMAGES}", grid, noisy)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "grid.png") as image:
        assert min(image.size) > 500
    none = ("--config.augment.affine=0.0", "--config.augment.contrast=0.0")
    done = command("crnn_jax.check_data", f"--dir={IMAGES}", grid, *none)
    assert_one_line(done, "set one, such as --config.augment.affine=0.5")
    lost = f"--show_augmented={tmp_path / 'no' / 'grid.png'}"
    done = command("crnn_jax.check_data", f"--dir={IMAGES}", lost, noisy)
    assert done.returncode == 1 and "an existing folder" in done.stderr.splitlines()[-1]


def test_names_in_the_report_cannot_change_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of_images(tmp_path)
    with (folder / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("images/a\x1b[2J\u202eb.png\tabc\n")
    with pytest.raises(SystemExit, match="1"):
        check_data.main(parse_flags(check_data.FLAGS, ["check_data", f"--dir={folder}"]))
    shown = capsys.readouterr().out
    assert "images/a\\x1b[2J\\u202eb.png" in shown
    assert "\x1b[2J" not in shown and "\u202e" not in shown
