"""A trained model as its workdir describes it: network, arrays, alphabet, preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from crnn_jax import models
from crnn_jax.data.images import MIN_WIDTH, Preprocessing
from crnn_jax.errors import CheckpointError, CrnnError
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

    @classmethod
    def load(cls, workdir: Path, step: int = BEST) -> Self:
        """Restores a step of a workdir, by default the best that is whole.

        The folder may come from anyone: what its manifest says is checked before it is used.

        Raises:
          CheckpointError: there is none, or it cannot be read.
          ConfigError: its manifest describes what this program does not have.
        """
        parallel.devices()  # says so in our words if JAX has none
        with Checkpoints(workdir, read_only=True) as checkpoints:
            if step == BEST:
                return checkpoints.first_whole(
                    checkpoints.best_first(), lambda step: cls._restore(checkpoints, step)
                )
            return cls._restore(checkpoints, step)

    @classmethod
    def _restore(cls, checkpoints: Checkpoints, step: int) -> Self:
        manifest = checkpoints.manifest(step)
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
                f"{checkpoints.directory / str(step)} describes no model that can be built:"
                f" {' '.join(str(error).split())[:200]}; use an undamaged checkpoint"
            ) from error
        return cls(
            step=step,
            network=network,
            variables=checkpoints.restore_model(step, {"batch_stats": {}, **shapes}),
            alphabet=alphabet,
            preprocessing=preprocessing,
            description=model,
        )
