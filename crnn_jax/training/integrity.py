"""Checks that arrays are the ones that were saved: by shapes before reading, then by digests."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crnn_jax.errors import CheckpointError, DamagedCheckpoint, TrainingDiverged
from crnn_jax.files import TRUSTED, trusted

MAX_BYTES = 2**32
"""The largest size of all arrays together; the paper's network and its optimizer have 0.1 GB."""

MAX_RATIO = 64
"""Highest ratio of the size of arrays to that of their files.

Of a new state three quarters are the zeros of Adam and of its counters, which take no room, so its
ratio is 4. Without this limit a small file could claim to unpack to gigabytes.
"""

MAX_FILES_RATIO, MAX_FILES_BYTES = 16, 64 * 2**20
"""The files of a step may have so many times the size of the wanted arrays, and so many bytes more.

A model may be wanted without the optimizer, and small arrays are stored twice.
"""

MAX_SIDE_BYTES = 2**20
"""Size of a file that describes the arrays, and is read whole: of 157 arrays it has 0.04 MB."""

Arrays = dict[str, Any]  # a path such as model/params/head/bias -> an array, or its description


def describe(arrays: Arrays) -> dict[str, dict[str, Any]]:
    """Shape, dtype and SHA-256 of each array, in JSON types.

    Raises:
      TrainingDiverged: an array has values that are not finite, so it must not be saved.
    """
    for path, array in arrays.items():
        if not np.isfinite(array).all():
            raise TrainingDiverged(
                f"{path} has values that are not finite and is not saved; continue from an earlier"
                " checkpoint with a lower --config.optimizer.learning_rate"
            )
    return {path: {**_form(array), "sha256": _digest(array)} for path, array in arrays.items()}


def check_forms(expected: Arrays, found: Arrays, place: str) -> None:
    """Compares shapes and dtypes; the arrays may be mere descriptions.

    Raises:
      DamagedCheckpoint: an array is missing, or has another shape or dtype.
    """
    for path in {**expected, **found}:
        forms = [_form(arrays[path]) if path in arrays else None for arrays in (expected, found)]
        if forms[0] != forms[1]:
            shown = [f"{f['dtype']} {f['shape']}" if f else "missing" for f in forms]
            raise DamagedCheckpoint(
                f"{place} is damaged: {path} is {shown[1]}, expected {shown[0]}"
            )


def check_files(folder: Path, expected: Arrays) -> None:
    """Compares the sizes of files with those of the arrays in them, before any of them is read.

    Args:
      folder: the folder of a step.
      expected: the wanted arrays, or descriptions of them.

    Raises:
      CheckpointError: the arrays are too large.
      DamagedCheckpoint: a file is too large, or the files are too small for the arrays.
    """
    if trusted():
        return
    wanted, total = _size(expected), 0
    if wanted > MAX_BYTES:
        raise CheckpointError(
            f"{folder} describes a model of {wanted / 1e9:.0f} GB; this program reads up to"
            f" {MAX_BYTES / 1e9:.0f} GB, or more with {TRUSTED}=1, if the model is your own"
        )
    for path in filter(Path.is_file, folder.rglob("*")):
        size = path.stat().st_size
        total += size
        limit = MAX_FILES_BYTES + MAX_FILES_RATIO * wanted - total + size
        # The arrays are in folders `d`, and the manifest has been read already.
        if path.parent.name not in ("d", "manifest"):
            limit = min(limit, MAX_SIDE_BYTES)
        if size > limit:
            raise DamagedCheckpoint(
                f"{path} has {size:,} bytes, more than {limit:,}, which is plenty for arrays of"
                f" {wanted:,} bytes; use an undamaged checkpoint, or set {TRUSTED}=1 if it is your"
                " own"
            )
    if wanted > MAX_RATIO * total:
        raise DamagedCheckpoint(
            f"{folder} has files of {total:,} bytes for arrays of {wanted:,} bytes, more than"
            f" {MAX_RATIO} times as many; use an undamaged checkpoint, or set {TRUSTED}=1 if it is"
            " your own"
        )


def check_digests(described: Mapping[str, Any], arrays: Arrays, place: str) -> None:
    """Raises DamagedCheckpoint, naming the first array that does not match its description."""
    for path, array in arrays.items():
        if {**_form(array), "sha256": _digest(array)} != described.get(path):
            raise DamagedCheckpoint(f"{place} is damaged: the values of {path} have changed")


def _size(arrays: Arrays) -> int:
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays.values())


def _form(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": np.dtype(array.dtype).name}


def _digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
