"""Tests of the output of a run: metrics.jsonl, TensorBoard, the grid, and the terminal."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from crnn_jax.training.writers import Writer

EVALUATION = {
    "count": 2000,
    "seconds": 4.1234567,
    "loss": 0.412345678,
    "cer": 0.0234,
    "exact_match": 0.9125,
    "exact_match_caseless": 0.92,
}


def writer(workdir: Path, first_step: int = 0) -> Writer:
    return Writer(workdir, total_steps=1000, steps_per_epoch=250, first_step=first_step)


def entries(workdir: Path) -> list[dict[str, Any]]:
    text = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
    assert not text or text.endswith("\n")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def events(workdir: Path) -> list[Event]:
    """All events, read as TFRecord: length (8 bytes), its CRC (4), the message, its CRC (4)."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_metrics_are_json_lines_in_a_fixed_order(tmp_path: Path) -> None:
    with writer(tmp_path) as out:
        out.metrics(250, 1, "train", {"images_per_second": 1234.5678, "loss": 2.5})
        assert len(entries(tmp_path)) == 1  # flushed at once
        out.metrics(250, 1, "validation", EVALUATION)
    train, validation = entries(tmp_path)
    assert list(train.items()) == [
        *(("step", 250), ("epoch", 1), ("split", "train"), ("loss", 2.5)),
        ("images_per_second", 1234.57),
    ]
    assert list(validation.items()) == [
        *(("step", 250), ("epoch", 1), ("split", "validation"), ("loss", 0.412346)),
        *(("exact_match", 0.9125), ("exact_match_caseless", 0.92), ("cer", 0.0234)),
        *(("seconds", 4.12346), ("count", 2000)),
    ]


def test_non_finite_is_null(tmp_path: Path) -> None:
    with writer(tmp_path) as out:
        out.metrics(1, 1, "train", {"loss": float("nan"), "cer": np.inf})
        out.metrics(2, 1, "validation", {"loss": -np.inf})
    first, second = entries(tmp_path)
    assert (first["loss"], first["cer"], second["loss"]) == (None, None, None)


@pytest.mark.parametrize("half", ["", '{"step": 250, "epo', '{"step"', "12", "\udce4"])
def test_resume_deletes_the_lines_after_the_checkpoint(tmp_path: Path, half: str) -> None:
    with writer(tmp_path) as out:
        assert out.newest_split == ""
        for step in (100, 200, 300, 400):
            out.metrics(step, 1, "train", {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a", errors="surrogateescape") as file:
        file.write(half)
    with writer(tmp_path, first_step=200) as out:
        assert [entry["step"] for entry in entries(tmp_path)] == [100, 200]
        assert out.newest_split == "train"
        out.metrics(300, 2, "train", {"loss": 1.0})
    assert [entry["step"] for entry in entries(tmp_path)] == [100, 200, 300]
    assert entries(tmp_path)[-1]["loss"] == 1.0
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}
    # TensorBoard hides the events of earlier files from this step on.
    assert [e.step for e in events(tmp_path) if e.HasField("session_log")][-1] == 201


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_files_are_not_written_through_links(tmp_path: Path) -> None:
    """As they may lie in a workdir that somebody else has made."""
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "run").mkdir()
    for name in ("predictions.png", "predictions.png.tmp", "metrics.jsonl", "metrics.jsonl.tmp"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with writer(tmp_path / "run") as out:
        out.metrics(1, 1, "train", {"loss": 1.0})
        out.predictions(1, [np.zeros((32, 100, 1), np.uint8)], ["a"], ["a"])
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert len(entries(tmp_path / "run")) == 1


def test_a_new_run_in_an_old_directory_starts_a_new_file(tmp_path: Path) -> None:
    for _ in range(2):
        with writer(tmp_path / "made" / "on the way") as out:
            out.metrics(100, 1, "train", {"loss": 1.0})
    assert len(entries(tmp_path / "made" / "on the way")) == 1


def test_tensorboard_has_scalars_and_images(tmp_path: Path) -> None:
    with writer(tmp_path) as out:
        out.metrics(250, 1, "validation", {"loss": 0.5, "cer": float("nan")})
        out.predictions(250, [np.zeros((32, 100, 1), np.uint8)], ["a"], ["a"])
    values = [(event.step, value) for event in events(tmp_path) for value in event.summary.value]
    assert [(step, value.tag) for step, value in values] == [
        (250, "validation/loss"),
        (250, "predictions"),
    ]
    assert values[0][1].simple_value == 0.5
    encoded = io.BytesIO(values[1][1].image.encoded_image_string)
    with Image.open(encoded) as shown, Image.open(tmp_path / "predictions.png") as saved:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(saved))


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of this kind")
def test_a_full_disk_is_an_error_and_lets_the_process_end(tmp_path: Path) -> None:
    """The second grid fits, its event does not. A thread with a queue would wait forever."""
    code = f"""
import resource
from pathlib import Path
import numpy as np
from crnn_jax.training.writers import Writer

workdir = Path({str(tmp_path)!r})
image = np.random.default_rng(0).integers(0, 255, (32, 400, 3), np.uint8)
with Writer(workdir, 1000, 250, 0) as out:
    out.predictions(1, [image], ["a"], ["b"])
    size = (workdir / "predictions.png").stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size * 3 // 2, hard))
    out.predictions(2, [image], ["a"], ["b"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("crnn_jax.errors.ConfigError: workdir "), done.stderr
    assert f"{tmp_path} cannot be written (File too large: one of its files); fix that" in error
    assert "events" in done.stderr and "Thread" not in done.stderr


def test_plain_lines_are_few_and_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # CI systems set it, but cannot show control sequences.
    monkeypatch.setenv("FORCE_COLOR", "1")
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with writer(tmp_path) as out:
        for step in range(1, 502):
            out.progress(step, 0.5, 1234.4, 0.023, seconds_per_step=0.1)
            now += 1 / 16
        out.metrics(500, 2, "validation", EVALUATION)
        out.metrics(500, 2, "train", {"loss": 1.0})
        out.metrics(500, 2, "test", {"cer": 0.5, "cer/a": 0.1, "exact_match/a b": 0.5})
        out.say("[red]中[/red] :smile: " + "long " * 40 + "end")
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "epoch 1/4  step 1/1000  loss 0.5  1234 images/s  waiting 2 %  0:01:40 left",
        "epoch 1/4  step 161/1000  loss 0.5  1234 images/s  waiting 2 %  0:01:24 left",
        "epoch 2/4  step 321/1000  loss 0.5  1234 images/s  waiting 2 %  0:01:08 left",
        "epoch 2/4  step 481/1000  loss 0.5  1234 images/s  waiting 2 %  0:00:52 left",
        "epoch 2  step 500  validation  "
        + "exact match 91.25 %  caseless 92.00 %  CER 2.34 %  loss 0.412  (4.1 s)",
        "epoch 2  step 500  test  CER 50.00 %  a b 50.00 %",
        "[red]中[/red] :smile: " + "long " * 40 + "end",
    ]


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Makes stderr a terminal 120 columns wide; yields the end to read from."""
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield ours
    os.close(ours)


def test_a_terminal_has_a_live_line_below_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch) as screen:
        with writer(tmp_path) as out:
            out.progress(10, 0.5, 100.0, 0.0, 1.0)
            out.progress(11, 0.25, 100.0, 0.0, 1.0, skipped=3)
            out.say("said")
        shown = os.read(screen, 1 << 16).decode()
    assert "said\r\n" in shown
    assert "step 11/1000  loss 0.25" in shown and "3 step(s) skipped, not finite" in shown
    assert shown.index("said") < shown.rindex("step 11/1000")
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of POSIX")
@pytest.mark.parametrize("stderr", ["closed pipe", "closed terminal", "full disk"])
def test_a_log_that_cannot_be_written_does_not_end_a_run(
    stderr: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stderr == "full disk":
        if not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full")
        end = os.open("/dev/full", os.O_WRONLY)
    elif stderr == "closed pipe":
        ours, end = os.pipe()
        os.close(ours)
    else:
        ours, end = os.openpty()
        monkeypatch.setenv("TERM", "xterm")
        os.close(ours)
    with os.fdopen(end, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with writer(tmp_path) as out:
            for step in (1, 2):
                out.say("said")
                out.progress(step, 0.5, 100.0, 0.0, 1.0)
                out.metrics(step, 1, "validation", EVALUATION)
    assert [entry["step"] for entry in entries(tmp_path)] == [1, 2]
