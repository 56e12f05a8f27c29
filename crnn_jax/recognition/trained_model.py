"""A trained model as its workdir describes it: network, arrays, alphabet, preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flax import linen as nn

from crnn_jax import models
from crnn_jax.data.images import Preprocessing
from crnn_jax.text.alphabet import Alphabet
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
        """Restores a step of a workdir, by default the best.

        Raises:
          CheckpointError: there is none, or it cannot be read.
        """
        with Checkpoints(workdir, read_only=True) as checkpoints:
            step = checkpoints.best_step() if step == BEST else step
            manifest = checkpoints.manifest(step)
            alphabet = Alphabet.from_dict(manifest["alphabet"])
            model = manifest["model"]
            return cls(
                step=step,
                network=models.create(model["name"], alphabet.num_classes, model["settings"]),
                variables=checkpoints.restore_model(step),
                alphabet=alphabet,
                preprocessing=Preprocessing.from_dict(manifest["preprocessing"]),
                description=model,
            )
