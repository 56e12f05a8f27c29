"""The data that a run was trained with: as a config to evaluate it on, and in words."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from crnn_jax.data.images import Preprocessing
from crnn_jax.data.sources import MIXTURE, parts_of
from crnn_jax.errors import CheckpointError
from crnn_jax.recipes import DEFAULT, Config, get_config
from crnn_jax.recognition.trained_model import TrainedModel

VARIANT_SOURCES = ("generated", "tfds")  # sources whose images depend on data.variant


def config_of(model: TrainedModel, recipe: str = DEFAULT) -> Config:
    """Returns the config that evaluates a model on the data that it was trained with.

    Seed, batch size and data are those of the checkpoint, except how images are prepared, which
    the model knows by itself. All other settings, and those that an older version did not have,
    are the recipe's. The data of a pretrained model are not known; `data.source` is then empty.

    Args:
      model: the trained model.
      recipe: the name or file of a config.

    Raises:
      CheckpointError: the model's manifest cannot be used.
      ConfigError: there is no such recipe.
    """
    config, saved = get_config(recipe), model.config
    prepared = {field.name for field in dataclasses.fields(Preprocessing)}
    try:
        config.update({key: saved[key] for key in ("seed", "batch_size") if key in saved})
        data = {"source": "", **saved.get("data", {})}
        config.data.parts = ConfigDict(data.pop("parts", {}))
        config.data.update({key: value for key, value in data.items() if key not in prepared})
    except (AttributeError, TypeError, ValueError) as error:  # a stranger's manifest
        raise CheckpointError(
            f"the model's manifest has no usable config ({' '.join(str(error).split())}); use an"
            " undamaged checkpoint"
        ) from error
    return config


def describe(data: Any) -> dict[str, Any]:
    """Returns where images come from.

    Args:
      data: the settings `data` of a config, or of a part of a mixture.

    Returns:
      `source` and `directory`, an absolute path or empty; `variant` if the images depend on it;
      of a mixture `parts`, which describes each part by its name.
    """
    source, directory = data["source"], data["dir"]
    described = {"source": source, "directory": directory and str(Path(directory).absolute())}
    if source in VARIANT_SOURCES:
        described["variant"] = data["variant"]
    if source == MIXTURE:
        described["parts"] = {name: describe(part) for name, part in parts_of(data).items()}
    return described


def in_words(described: Mapping[str, Any]) -> str:
    """What `describe` returns, for people."""
    texts = (described["source"], described["directory"], described.get("variant", ""))
    of_parts = (f"{name} ({in_words(part)})" for name, part in described.get("parts", {}).items())
    return " ".join(filter(None, (*texts, ", ".join(of_parts))))
