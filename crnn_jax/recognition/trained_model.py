"""A trained model as its folder describes it: network, variables, alphabet and preprocessing."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from crnn_jax import models
from crnn_jax.architecture import Architecture
from crnn_jax.compiler import enable_compilation_cache, set_cpu_flags
from crnn_jax.data.images import MIN_WIDTH, Preprocessing
from crnn_jax.errors import CheckpointError, ConfigError, DamagedCheckpoint
from crnn_jax.models.budget import check_budget
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
from crnn_jax.training import parallel

if TYPE_CHECKING:
    from crnn_jax.training.checkpoint import Checkpoints

BEST = -1
ATTEMPTS = 10  # to find the best checkpoint of a run that saves and deletes checkpoints meanwhile


@dataclass(frozen=True)
class TrainedModel:
    """Everything that inference needs; no config is asked for.

    Attributes:
      step: the training step at which it was saved.
      network: the Flax module, for inference.
      variables: its `params` and `batch_stats`.
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
    network: nn.Module
    variables: Mapping[str, Any]
    alphabet: Alphabet
    preprocessing: Preprocessing
    description: Mapping[str, Any]
    config: Mapping[str, Any]
    charsets: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    name: str = "model"

    @property
    def architecture(self) -> Architecture:
        """The layers of the network."""
        return Architecture.of(self.description["name"], self.description["settings"])

    @classmethod
    def load(cls, model: str | os.PathLike[str] | None = None, step: int = BEST) -> Self:
        """Restores a checkpoint of a workdir, or a pretrained model.

        The folder may come from anyone: what its manifest says is checked before it is used.

        Args:
          model: a workdir, the name or folder of a pretrained model, or a model folder, which may
            be an address that fsspec opens; see `find_model` and `model_folder`.
          step: by default the best checkpoint that is undamaged. A pretrained model has one step.

        Raises:
          CheckpointError: there is no such model or step, it cannot be read, or it is too large;
            see `check_budget`.
        """
        enable_compilation_cache()
        set_cpu_flags()
        parallel.local_devices()  # raises a clear error if JAX has none
        if is_address(model):
            return cls._load_folder(str(model), step)
        folder = find_model(model)
        if is_model_folder(folder):
            return cls._load_folder(folder, step)
        if is_pretrained(folder):
            return cls._load_pretrained(folder, step)
        # Not at the top: Orbax takes a while to import, and pretrained models do without it.
        from crnn_jax.training.checkpoint import Checkpoints

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
        return replace(model, variables=checkpoints.restore_model(step, model._shapes(place)))

    @classmethod
    def _load_pretrained(cls, folder: Path, step: int) -> Self:
        manifest = read_pretrained_manifest(folder)
        only = manifest["step"]
        if step not in (BEST, only):
            raise CheckpointError(f"{folder} has no step {step}; it has step {only} alone")
        packaged = folder.parent == PRETRAINED_DIR
        name = folder.name if packaged else str(folder)
        model = cls._from_manifest(name, only, manifest, folder)
        # The shapes in the package are known to be right, and finding out about them by tracing
        # the network takes a fifth of the time to the first result.
        shapes = None if packaged else model._shapes(folder)
        return replace(model, variables=read_pretrained_arrays(folder, manifest, shapes))

    @classmethod
    def _load_folder(cls, place: str | Path, step: int) -> Self:
        manifest = read_manifest_of(place)
        if step not in (BEST, manifest["step"]):
            raise CheckpointError(f"{place} has no step {step}; it has {manifest['step']} alone")
        model = cls._from_manifest(str(place), manifest["step"], manifest, Path(place))
        channels = model.preprocessing.channels
        shapes = model.architecture.arrays(model.alphabet.num_classes, channels)
        arrays = read_arrays_of(place, manifest, shapes)
        variables: Any = traverse_util.unflatten_dict(arrays, sep="/")
        return replace(model, variables={"batch_stats": {}, **variables})

    @classmethod
    def _from_manifest(cls, name: str, step: int, manifest: Mapping[str, Any], place: Path) -> Self:
        """A model without its variables."""
        described = manifest["model"]
        with _described_by(place):
            alphabet = Alphabet.from_dict(manifest["alphabet"])
            preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
            network = models.create(described["name"], alphabet.num_classes, described["settings"])
            check_budget(network, preprocessing.height, preprocessing.max_width)
        return cls(
            step=step,
            network=network,
            variables={},
            alphabet=alphabet,
            preprocessing=preprocessing,
            description=described,
            config=manifest["config"],
            charsets=manifest.get("charsets", {}),
            calibration=Calibration.from_dict(manifest.get("calibration")),
            name=name,
        )

    def _shapes(self, place: Path) -> dict[str, Any]:
        """Shapes and dtypes of the variables; nothing is computed, and no memory is taken."""
        preprocessing = self.preprocessing
        size = (1, preprocessing.height, MIN_WIDTH, preprocessing.channels)
        images = jax.ShapeDtypeStruct(size, jnp.uint8)
        widths = jax.ShapeDtypeStruct((1,), jnp.int32)
        with _described_by(place):
            shapes: Any = jax.eval_shape(self.network.init, jax.random.key(0), images, widths)
            return {"batch_stats": {}, **shapes}


@contextlib.contextmanager
def _described_by(place: Path) -> Iterator[None]:
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
