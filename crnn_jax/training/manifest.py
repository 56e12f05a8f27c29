"""The manifest: what a checkpoint's arrays mean. Sealed, read, and compared with what is wanted."""

import hashlib
import json
import logging
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import traverse_util

from crnn_jax.errors import CheckpointError, DamagedCheckpoint
from crnn_jax.recipes import RENAMED

# 1: no digests, the score in a file of its own; 2: digests of the arrays and of the manifest; 3:
# the model may be an average, and what it is that of then stands in `training`. Whatever a later
# format brings, its manifest is sealed in the same way: damage can then be told from novelty.
FORMAT = 3
CHECKPOINTS = "checkpoints"  # the folder of a workdir that has the checkpoints
MAX_BYTES = 16 * 2**20
"""A manifest of a few hundred arrays has 0.1 MB."""

# What must agree before a checkpoint's arrays can be used.
IDENTITY = ("alphabet", "model", "preprocessing")
# Settings on which depends which images a step has seen, which are validation images, and what the
# optimizer's arrays are. Others may change under way.
FIXED = (
    *("seed", "batch_size", "freeze", "optimizer.clip_norm", "optimizer.average"),
    *("data.source", "data.variant", "data.test_fraction", "data.validation_fraction"),
    *("data.buckets", "data.on_unreadable", "data.on_empty_label", "data.on_unseen"),
    *("data.map_to", "data.weight"),
)
# What older programs, which lack these settings, did.
BEFORE = {"optimizer.average": 0.0}
# Settings on which depends which images are the test images of a set that has none of its own.
SPLITTING = ("seed", "data.test_fraction")

logger = logging.getLogger(__name__)


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with the format, unless it names one, and a digest of the whole."""
    sealed = {"format": FORMAT, **manifest}
    return {**sealed, "digest": _digest(sealed)}


def read_plain_file(path: Path, max_bytes: int) -> bytes:
    """What is in a file; it is not read if it is too large, or no plain file.

    Raises:
      DamagedCheckpoint: it cannot be read.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no plain file")
        if status.st_size > max_bytes:
            raise ValueError(f"{status.st_size:,} bytes, more than {max_bytes:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DamagedCheckpoint(f"{path} cannot be read: {reason}") from error


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
      DamagedCheckpoint: it cannot be read.
    """
    data = read_plain_file(path, MAX_BYTES)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error}") from error


def read_manifest(path: Path, parts: Sequence[str] = ("config", *IDENTITY)) -> dict[str, Any]:
    """A manifest that is whole, of a format this program knows, and has these parts.

    Settings of its config that were renamed since have their new names.

    Raises:
      DamagedCheckpoint: it cannot be read, or is not what was written.
      CheckpointError: a later version of the program wrote it.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise DamagedCheckpoint(f"{path} is no manifest of a checkpoint: it has no `format`")
    sealed = {key: value for key, value in manifest.items() if key != "digest"}
    sealable = manifest["format"] != 1 or sealed != manifest
    if sealable and manifest.get("digest") != _digest(sealed):
        raise DamagedCheckpoint(f"{path} is damaged: its digest is not that of its content")
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']}, this program reads up to {FORMAT};"
            " install a newer crnn_jax"
        )
    for key in (*parts, *(("arrays",) if manifest["format"] > 1 else ())):
        if not isinstance(manifest.get(key), dict):
            raise DamagedCheckpoint(f"{path} is no manifest of a checkpoint: it has no `{key}`")
    _add_space_to_depth(manifest)
    if "config" in parts:
        manifest["config"] = _with_new_names(manifest["config"])
    return manifest


def check_same(workdir: Path, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Compares the manifest of a checkpoint with that of the run that is to go on from it.

    Settings that may change under way are logged by name as a warning, and so are other numbers of
    images.

    Raises:
      CheckpointError: naming what differs and matters.
    """
    remedy = "choose another --workdir, or go back to the old setting"
    for key in IDENTITY:
        # Earlier versions also saved a digest of the alphabet.
        old = {name: value for name, value in saved[key].items() if name != "fingerprint"}
        if difference := _difference(old, current[key]):
            raise CheckpointError(
                f"{workdir} was trained with another {key}: {difference}; {remedy}"
            )
    flat: Any = traverse_util.flatten_dict(current["config"], sep=".")
    old: Any = traverse_util.flatten_dict(saved["config"], sep=".")
    old = {key: value for key, value in BEFORE.items() if key in flat} | old
    # Another setting that an older program did not know says nothing.
    new = {key: value for key, value in flat.items() if key in old or _in_part(key) != key}
    fixed = [
        {key: value for key, value in config.items() if _in_part(key) in FIXED}
        for config in (old, new)
    ]
    if difference := _difference(*fixed):
        raise CheckpointError(f"{workdir} was trained with another config: {difference}; {remedy}")
    if difference := _difference(old, new):
        logger.warning("the config is not that of the checkpoint: %s", difference)
    counts = current.get("num_examples", {})
    # Checkpoints of earlier versions do not tell.
    if difference := _difference(saved.get("num_examples", counts), counts):
        logger.warning(
            "the images are not those of the checkpoint: %s; their order is another now, and some"
            " of the training images may be validation images now",
            difference,
        )


def warn_of_another_split(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Warns if test images that chance draws are others now than by the config of a training.

    Then it was trained on most of them, if it is the same set.
    """
    old: Any = traverse_util.flatten_dict(saved, sep=".")
    new: Any = traverse_util.flatten_dict(current, sep=".")
    keys = sorted(key for key in old.keys() & new.keys() if _in_part(key) in SPLITTING)
    if difference := _difference({key: old[key] for key in keys}, {key: new[key] for key in keys}):
        logger.warning(
            "these test images are drawn otherwise than when the model was trained: %s; if it is"
            " the same set, it was trained on most of them; evaluate it with the old settings",
            difference,
        )


def _add_space_to_depth(manifest: dict[str, Any]) -> None:
    """Adds `space_to_depth` to the settings of a model that was saved before there was one.

    It was then a matter of the height: 2 from 64 pixels on. The network crnn_small does a further
    space to depth of its own, then as now.
    """
    height = manifest["preprocessing"].get("height")
    factor = 2 if isinstance(height, int) and height >= 64 else 1
    for holder, key in ((manifest["model"], "settings"), (manifest.get("config"), "model")):
        if isinstance(holder, dict) and isinstance(settings := holder.get(key), dict):
            settings.setdefault("space_to_depth", factor)


def _with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config by their new names, without those that are flags now."""
    flat: Any = traverse_util.flatten_dict(config, keep_empty_nodes=True)
    renamed = {
        tuple(RENAMED.get(".".join(path), ".".join(path)).split(".")): value
        for path, value in flat.items()
        if not RENAMED.get(".".join(path), "").startswith("--")
    }
    return traverse_util.unflatten_dict(renamed)


def _in_part(key: str) -> str:
    """`data.KEY` for `data.parts.NAME.KEY`, with which a part of a mixture sets it for itself."""
    names = key.split(".")
    return f"data.{names[-1]}" if names[:2] == ["data", "parts"] else key


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in keys)


def _digest(sealed: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()
