"""Saving and restoring: the only file that imports Orbax.

The folder of a step holds three items:

- `model`: the parameters and batch statistics that are evaluated (`TrainState.eval_variables`);
- `training`: the optimizer's state and the counters; if `model` is a moving average, also `raw`,
  the parameters and statistics that the optimizer updates;
- `manifest`: JSON that says what the arrays mean, with a digest of each.

Nothing is pickled. A step counts as saved once Orbax has renamed its folder and every array has
been read back.
"""

import contextlib
import errno
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization

from crnn_jax.errors import CheckpointError, DamagedCheckpoint
from crnn_jax.training.abandoned import silence_abandoned, wait_for_abandoned
from crnn_jax.training.integrity import check_digests, check_files, check_forms, describe
from crnn_jax.training.manifest import CHECKPOINTS, read_manifest, read_scores, seal
from crnn_jax.training.state import TrainState
from crnn_jax.training.unreadable import cannot_read, check_damage, reason
from crnn_jax.training.workdir import writing
from crnn_jax.trees import flatten

SCORE = "exact_match"  # the metric by which the best checkpoint is chosen
STEP = re.compile("0|[1-9][0-9]*")  # no other name: 012 would be step 12 a second time
DAMAGED = "damaged-"  # prefix of folders that were set aside
DELETED = ".deleted"  # suffix of folders that are being deleted
UNFINISHED = ".orbax-checkpoint-tmp"  # part of the names of folders that are being written

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a workdir: the newest `keep`, and the one with the best exact match."""

    def __init__(self, workdir: Path, keep: int = 1, read_only: bool = False) -> None:
        """Opens the checkpoints; unless `read_only`, the caller must hold the workdir's lock."""
        self.directory = workdir.resolve() / CHECKPOINTS
        self._keep = keep
        self._read_only = read_only
        # Synchronous, so that a reported step is on disk. On two cores a save takes one second for
        # the default network and two for the paper's, while an epoch takes minutes.
        self._orbax = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        silence_abandoned()
        if not read_only:
            with writing(workdir):
                self.directory.mkdir(parents=True, exist_ok=True)
            self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._orbax.close()

    def newest_first(self) -> list[int]:
        """The saved steps in falling order, damaged ones included.

        Raises:
          CheckpointError: the only checkpoints are damaged ones that were set aside earlier, or the
            folder cannot be read.
        """
        try:
            names = [path.name for path in self.directory.iterdir()]
        except FileNotFoundError:  # nothing was saved yet
            names = []
        except OSError as error:
            raise cannot_read(self.directory, error) from error
        steps = sorted(map(int, filter(STEP.fullmatch, names)), reverse=True)
        if not steps and any(name.startswith(DAMAGED) for name in names):
            raise CheckpointError(
                f"{self.directory} holds only damaged checkpoints; put an undamaged copy there, or"
                " start a new run in another --workdir"
            )
        return steps

    def best_first(self) -> list[int]:
        """The saved steps by falling score; steps without a score come last, the newest first.

        Raises:
          CheckpointError: a step cannot be read.
        """

        def rank(step: int) -> tuple[bool, float, int]:
            try:
                score = self.manifest(step).get("score")
            except DamagedCheckpoint as error:  # reported when it is restored
                check_damage(self.directory / str(step), error)
                score = None
            return score is not None, score or 0.0, step

        return sorted(self.newest_first(), key=rank, reverse=True)

    def first_undamaged(self, steps: Iterable[int], load: Callable[[int], T]) -> T:
        """`load(step)` of the first of `steps` that is not damaged.

        The damaged steps before it are logged and set aside, so that they can be saved again.

        Raises:
          CheckpointError: there are no steps, all are damaged, one cannot be read, or `load`
            refused one.
        """
        damaged: list[int] = []
        for step in steps:
            try:
                result = load(step)
            except DamagedCheckpoint as error:
                check_damage(self.directory / str(step), error)
                logger.warning("%s; trying another checkpoint", error)
                damaged.append(step)
                continue
            for number in damaged if not self._read_only else ():
                self._set_aside(number)
            return result
        if not damaged:
            raise CheckpointError(
                f"{self.directory.parent} holds no checkpoint; train first, or choose another"
                " --workdir"
            )
        raise CheckpointError(
            f"all checkpoints in {self.directory} are damaged ({', '.join(map(str, damaged))}); put"
            " an undamaged copy there, or start a new run in another --workdir"
        )

    def save(self, state: TrainState, manifest: Mapping[str, Any], score: float | None) -> None:
        """Writes a step, with its score if it was evaluated, and deletes steps no longer kept.

        Raises:
          CheckpointError: it cannot be written; the earlier checkpoints are unchanged.
          ConfigError: the workdir cannot be written, or no longer exists.
          TrainingDiverged: a value is not finite.
        """
        with writing(self.directory.parent):
            # Orbax would create the folder again, perhaps on another disk.
            if not self.directory.is_dir():
                raise FileNotFoundError(errno.ENOENT, "it has vanished", str(self.directory))
            self._save(state, manifest, score)

    def _save(self, state: TrainState, manifest: Mapping[str, Any], score: float | None) -> None:
        self._clear()
        step = int(state.step)
        model, training = jax.tree.map(np.asarray, _to_items(state))
        arrays = flatten({"model": model, "training": training})
        sealed = seal({**manifest, "score": score, "arrays": describe(arrays)})
        try:
            self._orbax.save(
                self.directory / str(step),
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model),
                    training=ocp.args.StandardSave(training),
                    manifest=ocp.args.JsonSave(sealed),
                ),
            )
        except Exception as error:  # a full disk raises OSError, ValueError or an error of XLA
            wait_for_abandoned()
            self._give_up()
            needed = sum(array.nbytes for array in arrays.values()) / 1e6
            free = shutil.disk_usage(self.directory).free / 1e6
            raise CheckpointError(
                f"{self.directory / str(step)} cannot be saved: {reason(error)}; it needs about"
                f" {needed:.1f} MB and {free:.1f} MB are free: free some space and start the same"
                " command again, which continues from the previous checkpoint"
            ) from error
        self.restore(step, state)
        newest = self.newest_first()
        for old in set(newest[self._keep :]) - set(self.best_first()[:1]):
            # Renamed first: if the process is killed here, no partial checkpoint remains.
            path = self.directory / str(old)
            shutil.rmtree(path.rename(path.with_name(path.name + DELETED)))

    def manifest(self, step: int) -> dict[str, Any]:
        """The manifest of a step, which says what its arrays mean.

        Raises:
          DamagedCheckpoint: it cannot be read, or has changed since it was written.
          CheckpointError: there is no such step, or a newer version of the program wrote it.
        """
        folder = self._folder(step)
        manifest = read_manifest(folder / "manifest" / "metadata")
        if manifest["format"] == 1:
            path = folder / "metrics" / "metrics"
            manifest["score"] = read_scores(path).exact_match if path.exists() else None
        return manifest

    def restore_model(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """`params` and `batch_stats` of a step, as NumPy arrays, without the optimizer.

        Args:
          step: a saved step.
          like: trees with the expected shapes and dtypes.

        Raises:
          DamagedCheckpoint: the arrays are not the ones that were saved.
          CheckpointError: there is no such step, or a newer version of the program wrote it.
        """
        return self._restore(step, {"model": like})["model"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """A step as a state with the structure, shapes and dtypes of `like`, as NumPy arrays.

        Raises: see `restore_model`.
        """
        model, training = _to_items(like)
        restored = self._restore(step, {"model": model, "training": training})
        return _from_items(like, restored["model"], restored["training"])

    def _restore(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        manifest = self.manifest(step)
        folder = self._folder(step)
        place = str(folder)
        try:
            check_files(folder, flatten(like))
            # The shapes are compared before memory is allocated for the values.
            handler = ocp.PyTreeCheckpointHandler()
            found = {item: handler.metadata(epath.Path(folder / item)).tree for item in like}
            check_forms(flatten(like), flatten(found), place)
            for path, array in flatten(found).items():
                # A chunk is unpacked as a whole, so a huge one around a small array is refused.
                if math.prod(array.storage.chunk_shape) > max(1, math.prod(array.shape)):
                    raise DamagedCheckpoint(
                        f"{place} is damaged: {path} has chunks larger than the array"
                    )
            blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
            restored = self._orbax.restore(
                folder,
                args=ocp.args.Composite(
                    **{item: ocp.args.StandardRestore(tree) for item, tree in blank.items()}
                ),
            )
        except CheckpointError:
            raise
        except Exception as error:  # damaged files can raise almost anything
            raise DamagedCheckpoint(f"{place} cannot be restored: {reason(error)}") from error
        arrays = {item: restored[item] for item in like}
        if manifest["format"] > 1:
            check_digests(manifest["arrays"], flatten(arrays), place)
        return arrays

    def _folder(self, step: int) -> Path:
        """The folder of a step, checked to contain only regular files and folders."""
        steps = self.newest_first()
        if step not in steps:
            raise CheckpointError(
                f"{self.directory} has no step {step}; the saved steps are"
                f" {', '.join(map(str, reversed(steps))) or 'none'}"
            )
        folder = self.directory / str(step)
        try:
            for path in (folder, *folder.rglob("*")):
                if path.is_symlink() or not (path.is_dir() or path.is_file()):
                    raise DamagedCheckpoint(f"{path} is not a regular file or folder; remove it")
        except OSError as error:
            raise cannot_read(folder, error) from error
        return folder

    def _set_aside(self, step: int) -> None:
        target = self.directory / f"{DAMAGED}{step}"
        shutil.rmtree(target, ignore_errors=True)
        with writing(self.directory.parent):
            (self.directory / str(step)).rename(target)

    def _clear(self) -> None:
        """Deletes unfinished folders, which a killed process leaves behind, and empty files."""
        for path in (*self.directory.glob(f"*{UNFINISHED}*"), *self.directory.glob(f"*{DELETED}")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _give_up(self) -> None:
        """Deletes what a failed save has written; an empty file stays in its place.

        Threads of tensorstore may still be writing. Without the file they would create the folder
        again, and the full disk would stay full.
        """
        for path in self.directory.glob(f"*{UNFINISHED}"):
            with contextlib.suppress(OSError):
                while path.is_dir():
                    moved = path.rename(path.with_name(path.name + DELETED))
                    path.touch()
                    shutil.rmtree(moved)


def _to_items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """The items `model` and `training`, as the module's docstring describes them."""
    training = serialization.to_state_dict(state)
    variables = {key: training.pop(key) for key in ("params", "batch_stats")}
    if ema := training.pop("ema"):
        return ema, {**training, "raw": variables}
    return variables, training  # without an empty `raw`, which Orbax would save, too


def _from_items(
    like: TrainState, model: Mapping[str, Any], training: Mapping[str, Any]
) -> TrainState:
    """Undoes `_to_items`; `like` has the structure of the state."""
    counters = {key: value for key, value in training.items() if key != "raw"}
    variables, ema = (training["raw"], model) if like.ema else (model, {})
    state: Any = serialization.from_state_dict(like, {**variables, "ema": ema, **counters})
    return state
