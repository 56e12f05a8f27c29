"""Where labelled pictures come from: `SOURCES` by name, and the splits that a run needs of them.

A source is a function of the settings `config.data`; it returns the `Split`s 'train' and 'test',
or 'test' alone, which can be evaluated only, or 'all', of which the test split is drawn here.
"""

from collections.abc import Callable, Mapping
from typing import Any

from crnn_jax.data.sources.folder import load_folder
from crnn_jax.data.sources.generated import load_generated
from crnn_jax.data.sources.lmdb_database import load_lmdb
from crnn_jax.data.sources.split import Split, hold_out
from crnn_jax.data.sources.tfds_builder import load_tfds
from crnn_jax.errors import ConfigError

SOURCES: dict[str, Callable[[Mapping[str, Any]], dict[str, Split]]] = {
    "folder": load_folder,
    "generated": load_generated,
    "lmdb": load_lmdb,
    "tfds": load_tfds,
}


def load(settings: Mapping[str, Any], seed: int) -> dict[str, Split]:
    """Return 'train' (where there is one) and 'test' of what the settings `data` describe.

    Raises:
        ConfigError: the source is unknown or lacks a setting.
        DataError: its data is missing or unusable.
    """
    source = settings["source"]
    if source not in SOURCES:
        raise ConfigError(f"unknown data source {source!r}; choose from {', '.join(SOURCES)}")
    splits = SOURCES[source](settings)
    if "all" in splits:
        rest, held = hold_out(splits["all"], settings["test_fraction"], seed)
        return {"train": rest, "test": held}
    return splits


def load_splits(settings: Mapping[str, Any], seed: int) -> dict[str, Split]:
    """Return 'train' and 'validation' (where there is one to train on) and 'test'.

    The validation split is held out of the source's training split.

    Raises:
        ConfigError: the source is unknown or lacks a setting.
        DataError: its data is missing or unusable.
    """
    splits = load(settings, seed)
    if "train" not in splits:
        return splits
    train, validation = hold_out(splits["train"], settings["validation_fraction"], seed)
    return {"train": train, "validation": validation, "test": splits["test"]}
