"""Files of words from anyone."""

from pathlib import Path

import pytest

from crnn_jax.errors import ConfigError
from crnn_jax.recognition import word_files


def test_words_and_their_counts(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes("\ufeffthe\t12.5\r\n\r\n of \nthe\t2\nNew York\ncafe\u0301\nof".encode())
    assert word_files.read_words(file) == {"the": 14.5, "of": 2, "New York": 1, "caf\u00e9": 1}
    assert list(word_files.read_words(file)) == ["the", "of", "New York", "caf\u00e9"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "has no words"),
        (b"", "has no words"),
        (b"a\nb\tx\n", "line 2: 'x' is no count"),
        (b"a\t0", "is no count"),
        (b"a\tnan", "is no count"),
        (b"a\tinf", "is no count"),
        (b"a\t1\t2", "is no count"),
        (b"a\n\xff\xfe", "line 2 is not UTF-8"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        word_files.read_words(tmp_path / "words.txt")


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none", tmp_path, "a\0b", "/dev/zero"):
        with pytest.raises(ConfigError, match=r"cannot read .*check the path"):
            word_files.read_words(path)
    monkeypatch.setattr(word_files, "MAX_BYTES", 3)
    (tmp_path / "words").write_text("abcd")
    with pytest.raises(ConfigError, match="4 bytes, more than 3"):
        word_files.read_words(tmp_path / "words")
