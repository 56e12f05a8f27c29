"""Sources of labeled images: `SOURCES` by name, and the splits that a run needs.

A source is a function of the settings `config.data`. It returns the splits 'train' and 'test', one
of them alone, or 'all', from which the test split is drawn here. A mixture has several sources.
"""

import shlex
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from crnn_jax.data.sources.folder import load_folder
from crnn_jax.data.sources.generated import load_generated
from crnn_jax.data.sources.lmdb_database import load_lmdb
from crnn_jax.data.sources.parquet import load_parquet
from crnn_jax.data.sources.split import Split, join, random_split, with_digests
from crnn_jax.data.sources.tfds_builder import load_tfds
from crnn_jax.errors import ConfigError, DataError

SOURCES: dict[str, Callable[[Mapping[str, Any]], dict[str, Split]]] = {
    "folder": load_folder,
    "generated": load_generated,
    "lmdb": load_lmdb,
    "parquet": load_parquet,
    "tfds": load_tfds,
}
MIXTURE = "mixture"
PART_SETTINGS = (
    *("source", "dir", "variant", "image_field", "text_field"),
    *("test_fraction", "validation_fraction", "weight"),
)
"""The settings that a part of a mixture may have. All others are those of the mixture."""

_USED: dict[str, tuple[str, ...]] = {
    "folder": ("dir",),
    "generated": ("variant", "dir"),
    "lmdb": ("dir",),
    "parquet": ("dir", "image_field", "text_field"),
    "tfds": ("variant", "dir", "image_field", "text_field"),
}
"""The settings that each source uses."""

Examine: TypeAlias = Callable[[Split], Split]
"""Reads the images of a split that have no facts yet; returns the split with facts of all."""


def parts_of(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the settings of each part of a mixture, `weight` included; {} for other sources."""
    if settings["source"] != MIXTURE:
        return {}
    return {
        name: {**settings, "source": "", "weight": 1.0, **part}
        for name, part in settings["parts"].items()
    }


def flags_of(settings: Mapping[str, Any]) -> str:
    """Returns the flags that select the same data on a command line; not for mixtures."""
    used = ("source", *_USED[settings["source"]])
    return " ".join(
        f"--config.data.{key}={shlex.quote(settings[key])}" for key in used if settings[key]
    )


def load(
    settings: Mapping[str, Any], seed: int, examine: Examine = with_digests
) -> dict[str, Split]:
    """Loads 'train' and 'test', or the one that exists, of the data that `settings` describe.

    Args:
        settings: `config.data`.
        seed: decides which images are drawn for the test split, if the source has none.
        examine: is called on images that a split is drawn from.

    Raises:
        ConfigError: the source is unknown or lacks a setting.
        DataError: the data is missing or cannot be used.
    """
    source = settings["source"]
    if source == MIXTURE:
        return _mixed(lambda part: load(part, seed, examine), settings)
    if source not in SOURCES:
        known = ", ".join((*SOURCES, MIXTURE))
        raise ConfigError(f"unknown data source {source!r}; choose one of {known}")
    splits = SOURCES[source](settings)
    # A part of a mixture may be for evaluation alone, or for training alone, with all its images.
    for setting, kept in (("weight", "test"), ("test_fraction", "train")):
        if settings.get(setting) == 0:
            whole = splits.get("all") or splits.get(kept)
            if not whole:
                raise DataError(f"a {setting} of 0 leaves no images; set it above 0")
            return {kept: whole}
    if "all" in splits:
        rest, test = random_split(examine(splits["all"]), settings["test_fraction"], seed)
        splits = {"train": rest, "test": test}
    return splits


def load_splits(
    settings: Mapping[str, Any], seed: int, examine: Examine = with_digests
) -> dict[str, Split]:
    """Loads those of 'train', 'validation' and 'test' that exist.

    The validation split is drawn from the training split; for a mixture, from that of each part.

    Args: as `load`.

    Raises:
        ConfigError: the source is unknown or lacks a setting.
        DataError: the data is missing or cannot be used.
    """
    if settings["source"] == MIXTURE:
        return _mixed(lambda part: load_splits(part, seed, examine), settings)
    splits = load(settings, seed, examine)
    fraction = settings["validation_fraction"]
    if "train" in splits and fraction:
        train, validation = random_split(examine(splits.pop("train")), fraction, seed)
        return {"train": train, "validation": validation, **splits}
    return splits


def _mixed(
    load_part: Callable[[Mapping[str, Any]], dict[str, Split]], settings: Mapping[str, Any]
) -> dict[str, Split]:
    found: dict[str, dict[str, Split]] = {"train": {}, "validation": {}, "test": {}}
    for part, own in parts_of(settings).items():
        try:
            splits = load_part(own)
        except (ConfigError, DataError) as error:
            raise type(error)(f"data.parts.{part}: {error}") from error
        for name, split in splits.items():
            found[name][part] = split
    return {name: join(parts) for name, parts in found.items() if parts}
