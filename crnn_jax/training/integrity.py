"""Checks that arrays are the ones that were saved: by shapes before reading, then by digests."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from crnn_jax.errors import CheckpointError, DamagedCheckpoint, TrainingDiverged

MAX_BYTES = 2**32
"""The largest size of all arrays together; the paper's network and its optimizer have 0.1 GB."""

Arrays = dict[str, Any]  # a path such as model/params/head/bias -> an array, or its description


def flatten(tree: Mapping[str, Any]) -> Arrays:
    """The arrays of nested dictionaries by their paths; empty dictionaries are dropped."""
    flat: Any = traverse_util.flatten_dict(tree, sep="/")
    return flat


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
      CheckpointError: the expected arrays are too large to be read.
      DamagedCheckpoint: an array is missing, or has another shape or dtype.
    """
    size = sum(
        math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in expected.values()
    )
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{place} describes a model of {size / 1e9:.0f} GB; this program reads up to"
            f" {MAX_BYTES / 1e9:.0f} GB: use a model from a source you trust"
        )
    for path in {**expected, **found}:
        forms = [_form(arrays[path]) if path in arrays else None for arrays in (expected, found)]
        if forms[0] != forms[1]:
            shown = [f"{f['dtype']} {f['shape']}" if f else "missing" for f in forms]
            raise DamagedCheckpoint(
                f"{place} is damaged: {path} is {shown[1]}, expected {shown[0]}"
            )


def check_digests(described: Mapping[str, Any], arrays: Arrays, place: str) -> None:
    """Raises DamagedCheckpoint, naming the first array that does not match its description."""
    for path, array in arrays.items():
        if {**_form(array), "sha256": _digest(array)} != described.get(path):
            raise DamagedCheckpoint(f"{place} is damaged: the values of {path} have changed")


def _form(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": np.dtype(array.dtype).name}


def _digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
