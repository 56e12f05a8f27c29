"""Pretrained models: small models that come with the package, in half precision.

A pretrained model is a folder with two files: `manifest.json`, sealed like the manifest of a
checkpoint, and `arrays.npz`, whose digest is in the manifest.
"""

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crnn_jax.errors import CheckpointError, DamagedCheckpoint
from crnn_jax.recognition.model_folder import is_model_folder
from crnn_jax.training.integrity import check_forms
from crnn_jax.training.manifest import (
    CHECKPOINTS,
    read_manifest,
    read_plain_file,
    seal,
)
from crnn_jax.trees import flatten, unflatten

PRETRAINED_DIR = Path(__file__).resolve().parents[1] / "pretrained"
DEFAULT = "captcha"  # the model to read with if none is named
MANIFEST, ARRAYS = "manifest.json", "arrays.npz"

MAX_BYTES = 4_000_000
"""Size of the arrays' file, which everybody who installs the package downloads."""

MAX_RATIO = 4
"""Highest ratio of unpacked to packed bytes; trained parameters have 1.1."""

MAX_ARRAYS = 1_000
"""Arrays of a pretrained model; the paper's network has 50."""

MAX_ERROR = 2**-10
"""Highest rounding error, relative to the largest value of an array.

Half precision rounds half as much, unless it cannot represent the values.
"""


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a model: the folder `name` if it has a model, else a pretrained model's.

    Your own folder has priority, so a pretrained model that a later version adds never takes its
    place. Without a name it is the pretrained model DEFAULT, even if you have a folder of that
    name.

    Raises:
      CheckpointError: there is neither, or the folder cannot be read.
    """
    try:
        if name is not None and (
            is_pretrained(Path(name))
            or is_model_folder(Path(name))
            or (Path(name) / CHECKPOINTS).is_dir()
        ):
            return Path(name)
    except OSError as error:  # no permission, or a name that is too long
        raise CheckpointError(
            f"the model {name} cannot be read: {error.strerror}; name the folder of a trained model"
        ) from error
    name = DEFAULT if name is None else str(name)
    models = sorted(path.parent.name for path in PRETRAINED_DIR.glob(f"*/{MANIFEST}"))
    if name not in models:
        raise CheckpointError(
            f"there is no model {name}, neither in a folder nor among the pretrained ones"
            f" ({', '.join(models) or 'there are none yet'}); train first, or name the folder of a"
            " trained model"
        )
    return PRETRAINED_DIR / name


def is_pretrained(folder: Path) -> bool:
    """Whether a folder has a model in the form of a pretrained model, and is no workdir."""
    return (folder / MANIFEST).is_file() and not (folder / CHECKPOINTS).is_dir()


def read_pretrained_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a pretrained model.

    Raises:
      DamagedCheckpoint: it has changed since it was written, or does not follow the schema.
      CheckpointError: it cannot be read now, or a later version of the program wrote it.
    """
    return read_manifest(folder / MANIFEST, pretrained=True)


def read_pretrained_arrays(
    folder: Path, manifest: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The `params` and `batch_stats` of a pretrained model, as NumPy arrays in single precision.

    Args:
      folder: the folder of the model.
      manifest: its manifest.
      shapes: those of the arrays that belong there, by their paths.

    Raises:
      DamagedCheckpoint: they have changed since they were packaged, or have other shapes.
    """
    place = folder / ARRAYS
    data = read_plain_file(place, MAX_BYTES)
    if hashlib.sha256(data).hexdigest() != manifest["arrays"]["sha256"]:
        raise DamagedCheckpoint(f"{place} is damaged: its digest is not that of the manifest")
    try:
        _check_members(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            found = dict(file)
    except Exception as error:  # a file from a stranger may contain anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedCheckpoint(f"{place} cannot be read: {reason[:200]}") from error
    halves = {path: np.broadcast_to(np.float16(0), shape) for path, shape in shapes.items()}
    check_forms(halves, found, str(place))
    arrays = {path: array.astype(np.float32) for path, array in found.items()}
    return {"batch_stats": {}, **unflatten(arrays)}


def _check_members(data: bytes) -> None:
    """Checks what NumPy would unpack: only arrays in half precision, each of the size it claims.

    Raises:
      ValueError: there is something else.
      Exception: the file is damaged; it can be almost any.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > MAX_RATIO * MAX_BYTES:
            raise ValueError("it would unpack to more than any pretrained model has")
        if len(members) > MAX_ARRAYS:
            raise ValueError(f"it has {len(members):,} members, more than {MAX_ARRAYS:,}")
        if len(members) != len(set(archive.namelist())):
            raise ValueError("it has two members of one name")
        for member in members:
            # The others can take much memory for little data.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is compressed in another way than NumPy's")
            with archive.open(member) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"{member.filename} has another format than NumPy's 1.0")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                if dtype != np.float16:
                    raise ValueError(f"{member.filename} is an array of {dtype}, expected float16")
                size = member.file_size - file.tell()
                if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
                    raise ValueError(f"{member.filename} has another size than its shape {shape}")


def write_pretrained(
    folder: Path, manifest: Mapping[str, Any], variables: Mapping[str, Any]
) -> None:
    """Writes a pretrained model, replacing any that is in the folder.

    Args:
      folder: created if it is missing.
      manifest: `step`, the `IDENTITY` of the model, and anything else worth knowing.
      variables: `params` and `batch_stats`.

    Raises:
      CheckpointError: half precision cannot represent an array, or the file would be too large.
    """
    halves: dict[str, Any] = {}
    for path, array in flatten(variables).items():
        with np.errstate(over="ignore"):
            halves[path] = np.asarray(array).astype(np.float16)
        # Relative to the largest value, because the error of tiny values does not matter beside it.
        # That holds for variances too: batch normalization adds 1e-5, 300 times their error.
        largest = float(np.abs(array).max())
        if not np.abs(halves[path] - array).max() <= MAX_ERROR * largest:  # also refuses NaN
            raise CheckpointError(
                f"{path} cannot be packaged: half precision, which ranges from 6e-8 to 65504,"
                f" cannot represent its values up to {largest:.3g}; use another run"
            )
    file = io.BytesIO()
    np.savez_compressed(file, **halves)
    data = file.getvalue()
    if len(data) > MAX_BYTES:
        raise CheckpointError(
            f"the arrays would take {len(data):,} bytes, and a pretrained model may take"
            f" {MAX_BYTES:,}; package a smaller network, such as crnn_small"
        )
    arrays = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(seal({**manifest, "arrays": arrays}), indent=2, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARRAYS).write_bytes(data)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
