"""Pretrained models: small ones that come with the package, as JSON and half precision.

A pretrained model is a folder with `manifest.json`, sealed as that of a checkpoint, and
`arrays.npz`, whose digest the manifest has.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from crnn_jax.errors import CheckpointError, DamagedCheckpoint
from crnn_jax.training.checkpoint import CHECKPOINTS
from crnn_jax.training.integrity import check_forms, flatten
from crnn_jax.training.manifest import IDENTITY, read_manifest, read_plain_file, seal

PRETRAINED_DIR = Path(__file__).resolve().parents[1] / "pretrained"
DEFAULT = "captcha"  # the model that is meant if no model is named
MANIFEST, ARRAYS = "manifest.json", "arrays.npz"

MAX_BYTES = 4_000_000
"""Of the arrays' file, which everybody who installs the package has to fetch."""

MAX_RATIO = 4
"""Of unpacked to packed, at the most; trained parameters have 1.1."""

MAX_ERROR = 2**-10
"""Of an array's largest value; half precision is off by half as much, unless it cannot hold it."""


def find_model(name: str | Path | None = None) -> Path:
    """The folder of a model: one's own if it holds a model, else the pretrained model of this name.

    Models that come with later versions so never take the place of somebody's own model. Without a
    name it is the pretrained model DEFAULT, whatever folders there are.

    Raises:
      CheckpointError: there is neither.
    """
    if name is not None and (is_pretrained(Path(name)) or (Path(name) / CHECKPOINTS).is_dir()):
        return Path(name)
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
    """Whether a folder holds a model in the form of a pretrained model, and not of a run."""
    return (folder / MANIFEST).is_file() and not (folder / CHECKPOINTS).is_dir()


def read_pretrained_manifest(folder: Path) -> dict[str, Any]:
    """What the arrays of a pretrained model mean.

    Raises:
      DamagedCheckpoint: it cannot be read, or is not what was written.
      CheckpointError: a later version of the program wrote it.
    """
    manifest = read_manifest(folder / MANIFEST, IDENTITY)
    if type(manifest.get("step")) is not int:
        raise DamagedCheckpoint(f"{folder / MANIFEST} is no manifest of a model: it has no `step`")
    return manifest


def read_pretrained_arrays(
    folder: Path, manifest: Mapping[str, Any], like: Mapping[str, Any]
) -> dict[str, Any]:
    """The `params` and `batch_stats` of a pretrained model as NumPy arrays of the form of `like`.

    Raises:
      DamagedCheckpoint: they are not those that were packaged, or not of these shapes.
    """
    place = folder / ARRAYS
    data = read_plain_file(place, MAX_BYTES)
    if hashlib.sha256(data).hexdigest() != manifest["arrays"].get("sha256"):
        raise DamagedCheckpoint(f"{place} is damaged: its digest is not that of the manifest")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_RATIO * MAX_BYTES:
                raise ValueError("it would unpack to more than any pretrained model has")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            found = dict(file)
    except Exception as error:  # a stranger's file may be anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedCheckpoint(f"{place} cannot be read: {reason[:200]}") from error
    wanted = flatten(like)
    halves = {path: np.broadcast_to(np.float16(0), x.shape) for path, x in wanted.items()}
    check_forms(halves, found, str(place))
    arrays = {path: found[path].astype(array.dtype) for path, array in wanted.items()}
    tree: Any = traverse_util.unflatten_dict(arrays, sep="/")
    return {collection: tree.get(collection, {}) for collection in like}


def write_pretrained(
    folder: Path, manifest: Mapping[str, Any], variables: Mapping[str, Any]
) -> None:
    """Writes a pretrained model, over the one that may be there.

    Args:
      folder: is made if missing.
      manifest: `step`, the `IDENTITY` of the model, and what else is worth knowing.
      variables: `params` and `batch_stats`.

    Raises:
      CheckpointError: half precision cannot hold an array, or the file would be too large.
    """
    halves: dict[str, Any] = {}
    for path, array in flatten(variables).items():
        with np.errstate(over="ignore"):
            halves[path] = np.asarray(array).astype(np.float16)
        # Of the largest, as what is lost of tiny values counts for nothing beside it; also of
        # variances, to which batch normalization adds 1e-5, three hundred times what they lose.
        largest = float(np.abs(array).max())
        if not np.abs(halves[path] - array).max() <= MAX_ERROR * largest:  # nan is refused, too
            raise CheckpointError(
                f"{path} cannot be packaged: its values, up to {largest:.3g}, have no half"
                " precision, which ends at 65504 and has nothing finer than 6e-8; use another run"
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
