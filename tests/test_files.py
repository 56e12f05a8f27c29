"""Files from anyone are opened without waiting, and messages about them stay on one line."""

import os
import pickle
import sys
from pathlib import Path

import pytest

from crnn_jax.errors import DataError
from crnn_jax.files import RefusedFile, open_file, read_file
from crnn_jax.messages import MAX_LENGTH, escape

SMALL = 1000

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * SMALL)
    assert read_file(tmp_path / "a", SMALL, tmp_path) == b"x" * SMALL
    with open_file(str(tmp_path / "a"), SMALL) as file:
        assert file.read(2) == b"xx"


@posix
def test_a_fifo_does_not_block_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(RefusedFile, match="not a regular file"):
            read_file(path, SMALL)


def test_large_files_are_refused_by_their_size(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(RefusedFile, match="21,474,836,480 bytes, more than 1,000"):
        read_file(tmp_path / "sparse", SMALL)


@pytest.mark.skipif(sys.platform != "linux", reason="such files are Linux's")
def test_files_that_claim_to_have_no_size_are_read_up_to_the_limit() -> None:
    assert read_file("/proc/self/stat", 4000).startswith(str(os.getpid()).encode())
    with pytest.raises(RefusedFile, match="more than 100 bytes"):
        read_file("/proc/self/smaps", 100)


@posix
def test_links_lead_nowhere_out_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, secret = tmp_path / "data", tmp_path / "data_secret"
    (folder / "images").mkdir(parents=True)
    secret.write_bytes(b"secret")
    (folder / "real").write_bytes(b"real")
    (folder / "link").symlink_to("real")
    (folder / "out").symlink_to(secret)
    (folder / "images" / "up").symlink_to("..")
    (tmp_path / "alias").symlink_to("data")
    for allowed in (folder / "link", folder / "images" / "up" / "real", tmp_path / "alias/link"):
        assert read_file(allowed, SMALL, folder) == b"real"
    assert read_file(folder / "link", SMALL, tmp_path / "alias") == b"real"
    for path in (folder / "out", folder / "images" / "up" / "out", folder / ".." / "data_secret"):
        with pytest.raises(RefusedFile, match=r"link out of the folder .* CRNN_JAX_TRUSTED=1"):
            read_file(path, SMALL, folder)
    assert read_file(folder / "out", SMALL) == b"secret"  # named by the user
    monkeypatch.setenv("CRNN_JAX_TRUSTED", "1")
    assert read_file(folder / "out", SMALL, folder) == b"secret"


def test_a_refusal_is_an_error_of_the_system_and_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(RefusedFile("it is odd", "a.png")))
    assert isinstance(error, OSError)
    assert (error.strerror, error.filename) == ("it is odd", "a.png")


def test_what_cannot_be_seen_is_escaped() -> None:
    assert escape("a\nb\t\x1b[31m\u202e\u200b\u2028") == r"a\nb\t\x1b[31m\u202e\u200b\u2028"
    for visible in ("a b", "zażółć", "验证码", "back\\slash", "\udcff"):  # the last: not UTF-8
        assert escape(visible) == visible


def test_an_error_is_one_line_and_keeps_its_remedy() -> None:
    long = f"there is no tab in {'x' * 10_000_000}; write image, tab, text"
    message = str(DataError(long))
    assert len(message) < MAX_LENGTH + 10
    assert message.startswith("there is no tab in xxx")
    assert message.endswith("xxx; write image, tab, text")
    assert str(DataError("a\r\nb\x1b[2Jc")) == r"a b\x1b[2Jc"
    assert str(pickle.loads(pickle.dumps(DataError("a\nb")))) == "a b"
