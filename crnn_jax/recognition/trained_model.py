"""A trained model as its folder describes it: network, variables, alphabet and preprocessing."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from crnn_jax.architecture import Architecture
from crnn_jax.budget import check_budget
from crnn_jax.compiler import configure_jax
from crnn_jax.data.images import Preprocessing
from crnn_jax.errors import CheckpointError, ConfigError, DamagedCheckpoint
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.model_folder import (
    is_address,
    is_model_folder,
    read_arrays_of,
    read_manifest_of,
)
from crnn_jax.recognition.pretrained import (
    PRETRAINED_DIR,
    find_model,
    is_pretrained,
    read_pretrained_arrays,
    read_pretrained_manifest,
)
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training.manifest_schema import SETTINGS
from crnn_jax.trees import unflatten

if TYPE_CHECKING:
    from flax import linen as nn

    from crnn_jax.training.checkpoint import Checkpoints

BEST = -1
ATTEMPTS = 10  # to find the best checkpoint of a run that saves and deletes checkpoints meanwhile


@dataclass(frozen=True)
class TrainedModel:
    """Everything that inference needs; no config is asked for.

    Attributes:
      step: the training step at which it was saved.
      variables: the `params` and `batch_stats` of its network, NumPy arrays.
      alphabet: the characters that it reads.
      preprocessing: the images that it takes.
      description: the name of the network and its settings.
      config: the config that it was trained with; empty for a pretrained model.
      charsets: the sets of characters that its texts are likely to be of, and the logarithm of how
        likely each is; empty if nothing is known. See `decoding.CharsetPath`.
      calibration: how likely texts of a probability are right; unchanged if nothing is known.
      name: the folder that it comes from, or the name of a pretrained model.
    """

    step: int
    variables: Mapping[str, Any]
    alphabet: Alphabet
    preprocessing: Preprocessing
    description: Mapping[str, Any]
    config: Mapping[str, Any]
    charsets: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    name: str = "model"

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The layers of the network."""
        return Architecture.of(self.description["name"], self.description["settings"])

    @functools.cached_property
    def network(self) -> "nn.Module":
        """The Flax module, for inference. Asking for it imports JAX."""
        from crnn_jax import models

        described = self.description
        return models.create(described["name"], self.alphabet.num_classes, described["settings"])

    @classmethod
    def load(cls, model: str | os.PathLike[str] | None = None, step: int = BEST) -> Self:
        """Restores a checkpoint of a workdir, or a pretrained model; only a workdir needs JAX.

        The folder may come from anyone: what its manifest says is checked before it is used.

        Args:
          model: a workdir, the name or folder of a pretrained model, or a model folder, which may
            be an address that fsspec opens; see `find_model` and `model_folder`.
          step: by default the best checkpoint that is undamaged. A pretrained model has one step.

        Raises:
          CheckpointError: there is no such model or step, it cannot be read, or it is too large;
            see `check_budget`.
        """
        shared = read_manifest_of, read_arrays_of
        if is_address(model):
            return cls._load_one(str(model), str(model), step, *shared)
        folder = find_model(model)
        if is_model_folder(folder):
            return cls._load_one(str(folder), folder, step, *shared)
        if is_pretrained(folder):
            name = folder.name if folder.parent == PRETRAINED_DIR else str(folder)
            pretrained = read_pretrained_manifest, read_pretrained_arrays
            return cls._load_one(name, folder, step, *pretrained)
        # Not at the top: Orbax and JAX take a while to import, and other models do without them.
        configure_jax()
        from crnn_jax.training import parallel
        from crnn_jax.training.checkpoint import Checkpoints

        parallel.local_devices()  # raises a clear error if JAX has none
        with Checkpoints(folder, read_only=True) as checkpoints:
            if step != BEST:
                return cls._restore(folder, checkpoints, step)
            for _ in range(ATTEMPTS - 1):
                steps = checkpoints.newest_first()
                try:
                    return cls._restore_best(folder, checkpoints)
                except (CheckpointError, OSError):
                    if checkpoints.newest_first() == steps:
                        raise
            return cls._restore_best(folder, checkpoints)

    @classmethod
    def _restore_best(cls, folder: Path, checkpoints: "Checkpoints") -> Self:
        def restore(step: int) -> Self:
            try:
                return cls._restore(folder, checkpoints, step)
            except (DamagedCheckpoint, OSError) as error:
                # A run renames the folder of a step before it deletes the files in it.
                if step in checkpoints.newest_first():
                    raise
                raise CheckpointError(f"step {step} was deleted while it was read") from error

        return checkpoints.first_undamaged(checkpoints.best_first(), restore)

    @classmethod
    def _restore(cls, folder: Path, checkpoints: "Checkpoints", step: int) -> Self:
        place = checkpoints.directory / str(step)
        model = cls._from_manifest(str(folder), step, checkpoints.manifest(step), place)
        like = {
            path: np.broadcast_to(np.float32(0), shape) for path, shape in model._shapes().items()
        }
        variables = checkpoints.restore_model(step, {"batch_stats": {}, **unflatten(like)})
        return replace(model, variables=variables)

    @classmethod
    def _load_one(
        cls,
        name: str,
        place: str | Path,
        step: int,
        read_manifest: Callable[[Any], dict[str, Any]],
        read_arrays: Callable[..., dict[str, Any]],
    ) -> Self:
        """Loads a model that has one step."""
        manifest = read_manifest(place)
        only = manifest["step"]
        if step not in (BEST, only):
            raise CheckpointError(f"{place} has no step {step}; it has step {only} alone")
        model = cls._from_manifest(name, only, manifest, place)
        return replace(model, variables=read_arrays(place, manifest, model._shapes()))

    @classmethod
    def _from_manifest(
        cls, name: str, step: int, manifest: Mapping[str, Any], place: str | Path
    ) -> Self:
        """A model without its variables."""
        described = manifest["model"]
        with _described_by(place):
            alphabet = Alphabet.from_dict(manifest["alphabet"])
            preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
            settings = described["settings"]
            if unknown := settings.keys() - SETTINGS:
                raise ConfigError(f"model.{min(unknown)} is no setting of a network")
            architecture = Architecture.of(described["name"], settings)
            height, width = preprocessing.height, preprocessing.max_width
            check_budget(architecture, alphabet.num_classes, height, width)
            if not architecture.fits(height):
                raise ConfigError(f"{described['name']} does not read images {height} pixels high")
            model = cls(
                step=step,
                variables={},
                alphabet=alphabet,
                preprocessing=preprocessing,
                description=described,
                config=manifest["config"],
                charsets=manifest.get("charsets", {}),
                calibration=Calibration.from_dict(manifest.get("calibration")),
                name=name,
            )
            model._shapes()  # fails if a setting makes no sense
        return model

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the variables by their paths."""
        return self.architecture.arrays(
            self.alphabet.num_classes,
            self.preprocessing.channels,
            shortcut=self.description["settings"].get("shortcut", False),
        )


@contextlib.contextmanager
def _described_by(place: str | Path) -> Iterator[None]:
    """Raises CheckpointError if the network cannot be built that a manifest describes."""
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{place} describes no model that can be built: {error}") from error
    except Exception as error:  # a manifest from a stranger may say anything
        raise CheckpointError(
            f"{place} describes no model that can be built:"
            f" {' '.join(str(error).split())[:200]}; use an undamaged checkpoint"
        ) from error
