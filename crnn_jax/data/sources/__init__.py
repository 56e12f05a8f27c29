"""Where labeled images come from: `SOURCES` by name, and the splits that a run needs of them.

A source is a function of the settings `config.data`; it returns the `Split`s 'train' and 'test',
or one of them alone, or 'all', of which the test split is drawn here. A mixture has several.
"""

from collections.abc import Callable, Mapping
from typing import Any

from crnn_jax.data.sources.folder import load_folder
from crnn_jax.data.sources.generated import load_generated
from crnn_jax.data.sources.lmdb_database import load_lmdb
from crnn_jax.data.sources.parquet import load_parquet
from crnn_jax.data.sources.split import Split, join, random_split
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
"""What a part of a mixture may set for itself; the rest is that of the whole."""


def parts_of(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each part of a mixture, `weight` among them; none of any other source."""
    if settings["source"] != MIXTURE:
        return {}
    return {
        name: {**settings, "source": "", "weight": 1.0, **part}
        for name, part in settings["parts"].items()
    }


def load(settings: Mapping[str, Any], seed: int) -> dict[str, Split]:
    """Return what there is of 'train' and 'test' of what the settings `data` describe.

    Raises:
        ConfigError: the source is unknown or lacks a setting.
        DataError: its data is missing or unusable.
    """
    source = settings["source"]
    if source == MIXTURE:
        return _mixed(load, settings, seed)
    if source not in SOURCES:
        known = ", ".join((*SOURCES, MIXTURE))
        raise ConfigError(f"unknown data source {source!r}; choose from {known}")
    splits = SOURCES[source](settings)
    # A part of a mixture may be for one thing alone, with all that it has for it.
    for setting, kept in (("weight", "test"), ("test_fraction", "train")):
        if settings.get(setting) == 0:
            whole = splits.get("all") or splits.get(kept)
            if not whole:
                raise DataError(f"with a {setting} of 0 there are no images left; set another")
            return {kept: whole}
    if "all" in splits:
        rest, chosen = random_split(splits["all"], settings["test_fraction"], seed)
        splits = {"train": rest, "test": chosen}
    return splits


def load_splits(settings: Mapping[str, Any], seed: int) -> dict[str, Split]:
    """Return what there is of 'train', 'validation' and 'test'.

    The validation split is drawn from the source's training split; in a mixture, from that of
    each part.

    Raises:
        ConfigError: the source is unknown or lacks a setting.
        DataError: its data is missing or unusable.
    """
    if settings["source"] == MIXTURE:
        return _mixed(load_splits, settings, seed)
    splits = load(settings, seed)
    if "train" in splits:
        train, validation = random_split(splits.pop("train"), settings["validation_fraction"], seed)
        return {"train": train, "validation": validation, **splits}
    return splits


def _mixed(
    load_part: Callable[[Mapping[str, Any], int], dict[str, Split]],
    settings: Mapping[str, Any],
    seed: int,
) -> dict[str, Split]:
    found: dict[str, dict[str, Split]] = {"train": {}, "validation": {}, "test": {}}
    for part, own in parts_of(settings).items():
        try:
            splits = load_part(own, seed)
        except (ConfigError, DataError) as error:
            raise type(error)(f"data.parts.{part}: {error}") from error
        for name, split in splits.items():
            if len(split):  # a fraction of 0 draws nothing
                found[name][part] = split
    return {name: join(parts) for name, parts in found.items() if parts}
