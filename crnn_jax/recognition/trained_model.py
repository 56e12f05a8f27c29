"""A trained model as its folder describes it: network, arrays, alphabet, preprocessing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from crnn_jax import models
from crnn_jax.data.images import MIN_WIDTH, Preprocessing
from crnn_jax.errors import CheckpointError, CrnnError
from crnn_jax.recognition.pretrained import (
    find_model,
    is_pretrained,
    read_pretrained_arrays,
    read_pretrained_manifest,
)
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training import parallel
from crnn_jax.training.checkpoint import Checkpoints

BEST = -1


@dataclass(frozen=True)
class TrainedModel:
    """All that inference needs; no config is asked for."""

    step: int
    network: nn.Module
    variables: Mapping[str, Any]  # params and batch_stats
    alphabet: Alphabet
    preprocessing: Preprocessing
    description: Mapping[str, Any]  # the model's name and settings
    config: Mapping[str, Any]  # that it was trained with; a pretrained model has none

    @property
    def space_to_depth(self) -> int:
        """The setting of this name, which `num_time_steps` takes."""
        return self.description["settings"]["space_to_depth"]

    @classmethod
    def load(cls, model: str | Path | None = None, step: int = BEST) -> Self:
        """Restores a step of a model, by default the best that is whole.

        The folder may come from anyone: what its manifest says is checked before it is used.

        Args:
          model: a workdir, or a pretrained model by its name or folder; see `find_model`.
          step: a pretrained model has one alone.

        Raises:
          CheckpointError: there is none, or it cannot be read.
          ConfigError: its manifest describes what this program does not have.
        """
        parallel.local_devices()  # raises a clear error if JAX has none
        folder = find_model(model)
        if is_pretrained(folder):
            manifest = read_pretrained_manifest(folder)
            only = manifest["step"]
            if step not in (BEST, only):
                raise CheckpointError(f"{folder} has no step {step}; it has step {only} alone")
            return cls._build(
                only, manifest, folder, lambda like: read_pretrained_arrays(folder, manifest, like)
            )
        with Checkpoints(folder, read_only=True) as checkpoints:

            def restore(step: int) -> Self:
                return cls._build(
                    step,
                    checkpoints.manifest(step),
                    checkpoints.directory / str(step),
                    lambda like: checkpoints.restore_model(step, like),
                )

            if step == BEST:
                return checkpoints.first_whole(checkpoints.best_first(), restore)
            return restore(step)

    @classmethod
    def _build(
        cls,
        step: int,
        manifest: Mapping[str, Any],
        place: Path,
        restore: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> Self:
        alphabet = Alphabet.from_dict(manifest["alphabet"])
        preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
        model = manifest["model"]
        images = jnp.zeros((1, preprocessing.height, MIN_WIDTH, preprocessing.channels), jnp.uint8)
        try:
            network = models.create(model["name"], alphabet.num_classes, model["settings"])
            # Shapes alone: nothing is computed, nor is any memory taken.
            shapes = jax.eval_shape(network.init, jax.random.key(0), images, jnp.array([MIN_WIDTH]))
        except CrnnError:
            raise
        except Exception as error:  # anything may stand in a stranger's manifest
            raise CheckpointError(
                f"{place} describes no model that can be built:"
                f" {' '.join(str(error).split())[:200]}; use an undamaged checkpoint"
            ) from error
        return cls(
            step=step,
            network=network,
            variables=restore({"batch_stats": {}, **shapes}),
            alphabet=alphabet,
            preprocessing=preprocessing,
            description=model,
            config=manifest.get("config", {}),
        )
