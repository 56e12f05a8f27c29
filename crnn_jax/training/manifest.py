"""The manifest, which says what a checkpoint's arrays mean: sealing, reading and comparing it."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from crnn_jax import files
from crnn_jax.errors import CheckpointError, DamagedCheckpoint
from crnn_jax.recipes import RENAMED
from crnn_jax.training import manifest_schema as schema
from crnn_jax.training.unreadable import cannot_read
from crnn_jax.trees import flatten, unflatten

# 1: no digests, the score in a file of its own. 2: digests of the arrays and of the manifest. 3:
# the model may be a moving average; `training` then has the arrays that the optimizer updates.
# Every later format must seal its manifest in the same way, to tell damage from a new format.
FORMAT = 3
CHECKPOINTS = "checkpoints"  # the folder of a workdir that has the checkpoints
MAX_BYTES = 8 * 2**20
"""Size of a JSON file. A manifest of a few hundred arrays has 0.1 MB, and 3 MB if its alphabet and
config have all the characters of Unicode."""
MAX_COMMAS = 200_000
"""Commas in a JSON file, which has about as many values; a value may take 30 times the memory of
its text. A manifest of a few hundred arrays has 2,000 commas."""

# What must agree before a checkpoint's arrays can be used.
IDENTITY = ("alphabet", "model", "preprocessing")
# Settings that decide which images a step sees, which images are validation images, and what the
# optimizer's arrays are. Other settings may change between two starts of a run.
FIXED = (
    *("seed", "batch_size", "freeze", "optimizer.clip_norm", "optimizer.ema_decay"),
    *("data.source", "data.variant", "data.test_fraction", "data.validation_fraction"),
    *("data.buckets", "data.on_unreadable", "data.on_empty_label", "data.on_unseen"),
    *("data.map_to", "data.weight"),
)
# What older programs did that had no such setting.
BEFORE = {"optimizer.ema_decay": 0.0}
# Settings that decide which images are the test images, in data without a test set of its own.
SPLITTING = ("seed", "data.test_fraction")

logger = logging.getLogger(__name__)


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its format, unless it has one, and a digest of the whole."""
    sealed = {"format": FORMAT, **manifest}
    return {**sealed, "digest": _digest(sealed)}


def read_plain_file(path: Path, max_bytes: int) -> bytes:
    """The content of a file, which must be a regular file, in its folder, and not too large.

    Raises:
      DamagedCheckpoint: it is missing, or not such a file.
      CheckpointError: it may be undamaged, but cannot be read now.
    """
    try:
        return files.read_file(path, max_bytes, path.parent)
    except (files.RefusedFile, FileNotFoundError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DamagedCheckpoint(f"{path} cannot be read: {reason}") from error
    except OSError as error:
        raise cannot_read(path, error) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises: as `read_plain_file`; also DamagedCheckpoint if it is not JSON.
    """
    return parse_json(read_plain_file(path, MAX_BYTES), str(path))


def parse_json(data: bytes, name: str) -> Any:
    """The content of JSON data of that name.

    Raises:
      DamagedCheckpoint: it is not JSON.
    """
    try:
        if (commas := data.count(b",")) > MAX_COMMAS:
            raise ValueError(f"it has {commas:,} commas, more than {MAX_COMMAS:,}")
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{name} cannot be read: {error}") from error


def read_scores(path: Path) -> schema.Scores:
    """The scores of a checkpoint of format 1.

    Raises: as `read_json`; also DamagedCheckpoint if the file has other content.
    """
    with _following_the_schema(str(path)):
        return msgspec.convert(read_json(path), schema.Scores)


def read_manifest(path: Path, pretrained: bool = False) -> dict[str, Any]:
    """The manifest of a checkpoint or of a pretrained model: undamaged, and as the schema says.

    Settings of its config that were renamed since have their new names.

    Raises:
      DamagedCheckpoint: it has changed since it was written, or does not follow the schema.
      CheckpointError: it cannot be read now, or a newer version of the program wrote it.
    """
    return check_manifest(read_json(path), str(path), pretrained)


def check_manifest(manifest: Any, name: str, pretrained: bool) -> dict[str, Any]:
    """The content of a manifest of that name: as `read_manifest`, which see for errors."""
    with _following_the_schema(name):
        head = msgspec.convert(manifest, schema.Head)
        sealed = {key: value for key, value in manifest.items() if key != "digest"}
        if (head.format > 1 or sealed != manifest) and head.digest != _digest(sealed):
            raise DamagedCheckpoint(f"{name} is damaged: its digest does not match its content")
        if head.format > FORMAT:
            raise CheckpointError(
                f"{name} has format {head.format}, and this program reads up to {FORMAT}; install"
                " a newer crnn_jax"
            )
        checkpoint = schema.SealedCheckpoint if head.format > 1 else schema.Checkpoint
        msgspec.convert(manifest, schema.Pretrained if pretrained else checkpoint)
        _add_space_to_depth(manifest)
        manifest["config"] = _with_new_names(manifest.get("config", {}))
    return manifest


@contextlib.contextmanager
def _following_the_schema(name: str) -> Iterator[None]:
    """Raises DamagedCheckpoint if the content of a file does not."""
    try:
        yield
    except CheckpointError:
        raise
    # Also keys that are not UTF-8, what is nested too deeply, and two settings in one place.
    except (msgspec.ValidationError, ValueError, RecursionError, TypeError) as error:
        raise DamagedCheckpoint(
            f"{name} is not what crnn_jax writes: {error}; use an undamaged checkpoint"
        ) from error


def check_same(workdir: Path, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Compares a checkpoint's manifest with that of the run that is to continue from it.

    Other settings that changed are named in a warning, and so are changed numbers of images.

    Raises:
      CheckpointError: something differs with which the run cannot continue; it is named.
    """
    remedy = "choose another --workdir, or restore the old setting"
    for key in IDENTITY:
        # Earlier versions also saved a digest of the alphabet.
        old = {name: value for name, value in saved[key].items() if name != "fingerprint"}
        if difference := _difference(old, current[key], {**old, **current[key]}):
            raise CheckpointError(
                f"{workdir} was trained with another {key}: {difference}; {remedy}"
            )
    old, new = BEFORE | _settings(saved["config"]), _settings(current["config"])
    # A setting that only one of the two programs has says nothing, except in a part of a mixture,
    # which need not set everything.
    keys = [key for key in old | new if (key in old and key in new) or _in_part(key) != key]
    if difference := _difference(old, new, [key for key in keys if _in_part(key) in FIXED]):
        raise CheckpointError(f"{workdir} was trained with another config: {difference}; {remedy}")
    if difference := _difference(old, new, keys):
        logger.warning("the config has changed since the checkpoint: %s", difference)
    counts = current.get("num_examples", {})
    # Older checkpoints do not have the numbers.
    if difference := _difference(saved.get("num_examples", counts), counts, counts):
        logger.warning(
            "the images have changed since the checkpoint: %s; they now come in another order, and"
            " some that were training images may be validation images",
            difference,
        )


def warn_of_another_split(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Warns if the test images are drawn differently than in the config of the training run.

    If the images are the same, the model was trained on most of these test images.
    """
    old, new = _settings(saved), _settings(current)
    keys = sorted(key for key in old.keys() & new.keys() if _in_part(key) in SPLITTING)
    if difference := _difference(old, new, keys):
        logger.warning(
            "these test images are drawn differently than in training: %s; if the data are the"
            " same, the model was trained on most of them: evaluate with the old settings",
            difference,
        )


def _add_space_to_depth(manifest: dict[str, Any]) -> None:
    """Adds `space_to_depth` to the settings of a model that was saved before there was one.

    It was then a matter of the height: 2 from 64 pixels on. The network crnn_small does a further
    space to depth of its own, then as now.
    """
    factor = 2 if manifest["preprocessing"]["height"] >= 64 else 1
    manifest["model"]["settings"].setdefault("space_to_depth", factor)
    if isinstance(settings := manifest.get("config", {}).get("model"), dict):
        settings.setdefault("space_to_depth", factor)


def _with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config by their new names, without those that are flags now."""
    renamed = {
        RENAMED.get(path, path): value
        for path, value in flatten(config, ".", keep_empty=True).items()
        if not RENAMED.get(path, "").startswith("--")
    }
    return unflatten(renamed, ".")


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config by their dotted names."""
    return flatten(config, ".")


def _in_part(key: str) -> str:
    """`data.KEY` for `data.parts.NAME.KEY`, which is the same setting for a part of a mixture."""
    names = key.split(".")
    return f"data.{names[-1]}" if names[:2] == ["data", "parts"] else key


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(
        f"{key} was {old.get(key)!r} and is now {new.get(key)!r}"
        for key in keys
        if old.get(key) != new.get(key)
    )


def _digest(sealed: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()
