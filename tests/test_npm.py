"""Files of npm packages: downloaded once, checked, and kept; nothing else is unpacked.

No test needs the network, but for the one with that mark.
"""

import base64
import hashlib
import io
import re
import tarfile
import urllib.error
import urllib.request
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from crnn_jax.errors import ConfigError
from crnn_jax.exporting import npm
from crnn_jax.exporting.npm import NpmPackage, read_package
from crnn_jax.exporting.web import RUNTIME

Files = dict[str, bytes]


def archived(files: Files) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


ARCHIVE = archived({"package/dist/a.js": b"a", "../outside": b"bad", "package/b.js": b"b"})
PACKAGE = NpmPackage(
    name="runtime",
    version="1.2.3",
    integrity=f"sha512-{base64.b64encode(hashlib.sha512(ARCHIVE).digest()).decode()}",
    size=len(ARCHIVE),
)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the registry answers, by address: bytes or an error. The cache is empty."""
    answers: dict[str, Any] = {}

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert timeout == npm.TIMEOUT
        answer = answers.pop(url)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return answers


def kept() -> list[str]:
    return [path.name for path in PACKAGE.cached.parent.glob("*")]


def test_a_package_is_downloaded_once(registry: dict[str, Any], tmp_path: Path) -> None:
    registry["https://registry.npmjs.org/runtime/-/runtime-1.2.3.tgz"] = ARCHIVE
    assert read_package(PACKAGE, ["dist/a.js", "b.js"]) == [b"a", b"b"]
    assert read_package(PACKAGE, ["b.js"]) == [b"b"]
    assert kept() == ["runtime-1.2.3.tgz"] and not list(tmp_path.glob("**/outside"))


def test_a_damaged_file_in_the_cache_is_replaced(registry: dict[str, Any]) -> None:
    registry[PACKAGE.url] = ARCHIVE
    PACKAGE.cached.parent.mkdir(parents=True)
    PACKAGE.cached.write_bytes(ARCHIVE[:-1])
    assert read_package(PACKAGE, ["b.js"]) == [b"b"]
    assert PACKAGE.cached.read_bytes() == ARCHIVE


@pytest.mark.parametrize("answer", [ARCHIVE[:-1] + b"x", ARCHIVE[:-1], ARCHIVE * 2, b""])
def test_another_file_is_refused(registry: dict[str, Any], answer: bytes) -> None:
    registry[PACKAGE.url] = answer
    with pytest.raises(ConfigError, match="is not the file that is known by this name") as raised:
        read_package(PACKAGE, ["b.js"])
    assert PACKAGE.integrity in str(raised.value) and not kept()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError(OSError("no route to host")), "no route to host"),
        (urllib.error.HTTPError(PACKAGE.url, 503, "Busy", Message(), None), "503"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_without_a_network_the_file_can_be_put_in_its_place(
    registry: dict[str, Any], error: Exception, reason: str
) -> None:
    registry[PACKAGE.url] = error
    with pytest.raises(ConfigError, match=reason) as raised:
        read_package(PACKAGE, ["b.js"])
    ((address, place),) = re.findall(
        r"download (\S+) elsewhere, and put it at (\S+)$", str(raised.value)
    )
    assert address == PACKAGE.url
    Path(place).parent.mkdir(parents=True)
    Path(place).write_bytes(ARCHIVE)
    assert read_package(PACKAGE, ["b.js"]) == [b"b"]


def test_a_cache_that_cannot_be_written(registry: dict[str, Any], tmp_path: Path) -> None:
    registry[PACKAGE.url] = ARCHIVE
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(ConfigError, match=r"cannot be written: .*; set XDG_CACHE_HOME"):
        read_package(PACKAGE, ["b.js"])


@pytest.mark.network
def test_another_version_than_the_registry_has() -> None:
    package = replace(RUNTIME, version="0.0.0-none")
    with pytest.raises(ConfigError, match="404"):
        read_package(package, ["dist/a.js"])
