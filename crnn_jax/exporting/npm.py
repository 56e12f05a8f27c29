"""Files of packages of the npm registry: downloaded once, checked, and kept."""

import base64
import hashlib
import http.client
import io
import tarfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from crnn_jax import files
from crnn_jax.errors import ConfigError

REGISTRY = "https://registry.npmjs.org"
TIMEOUT = 30  # seconds without an answer
_BLOCK = 1 << 16


@dataclass(frozen=True)
class NpmPackage:
    """A version of a package.

    Attributes:
      name, version: those in the registry.
      integrity: the registry's digest of its archive: `sha512-`, and the digest in base 64.
      size: bytes of the archive; more are not downloaded.
    """

    name: str
    version: str
    integrity: str
    size: int

    @property
    def url(self) -> str:
        """The address of its archive."""
        return f"{REGISTRY}/{self.name}/-/{self.name}-{self.version}.tgz"

    @property
    def cached(self) -> Path:
        """Where its archive is kept, in the user's folder for caches."""
        folder = platformdirs.user_cache_path("crnn_jax") / "npm"
        return folder / f"{self.name}-{self.version}.tgz"


def read_package(package: NpmPackage, names: Sequence[str]) -> list[bytes]:
    """Returns files of a package, which is downloaded unless it is in the cache.

    Proxies and certificates are those of the environment: `HTTPS_PROXY`, `SSL_CERT_FILE`.

    Args:
      package: the package.
      names: the paths of the files in it.

    Raises:
      ConfigError: it cannot be downloaded or kept, or is not what the registry listed.
    """
    archive = _cached(package) or _downloaded(package)
    found = []
    # Only what was asked for is unpacked, and into memory, whatever paths the archive may have.
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
        for name in names:
            file = members.extractfile(f"package/{name}")
            assert file, f"{name} is no file"
            found.append(file.read())
    return found


def _cached(package: NpmPackage) -> bytes | None:
    try:
        archive = files.read_file(package.cached, package.size)
    except OSError:
        return None
    return archive if _integrity(archive) == package.integrity else None


def _downloaded(package: NpmPackage) -> bytes:
    place = package.cached
    archive = _download(package)
    if _integrity(archive) != package.integrity:
        raise ConfigError(
            f"{package.url} is not the file that is known by this name: its digest is"
            f" {_integrity(archive)}, and {package.integrity} was expected; download it on another"
            f" network, and put it at {place}"
        )
    try:
        files.replace_file(place, archive)
    except OSError as error:
        raise ConfigError(
            f"{place} cannot be written: {error.strerror}; set XDG_CACHE_HOME to a folder that can"
        ) from error
    return archive


def _download(package: NpmPackage) -> bytes:
    archive = bytearray()
    try:
        with urllib.request.urlopen(package.url, timeout=TIMEOUT) as answer:  # noqa: S310 - https
            while len(archive) <= package.size and (block := answer.read(_BLOCK)):
                archive += block
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{package.name} cannot be downloaded: {reason}; download {package.url} elsewhere, and"
            f" put it at {package.cached}"
        ) from error
    return bytes(archive)


def _integrity(archive: bytes) -> str:
    digest = hashlib.sha512(archive).digest()
    return f"sha512-{base64.b64encode(digest).decode()}"
