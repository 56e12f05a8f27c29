"""Saving and restoring: the only file that knows Orbax.

A step's folder holds three items: `model` (parameters and batch statistics), `training`
(optimizer, counters, and what the model is the average of, if it is one) and `manifest` (JSON: what
the arrays mean, and a digest of each). Nothing is pickled. A step counts as saved when Orbax has
renamed its folder and all has been read back.
"""

import logging
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization

from crnn_jax.errors import CheckpointError, DamagedCheckpoint
from crnn_jax.training.integrity import check_digests, check_forms, describe, flatten
from crnn_jax.training.manifest import CHECKPOINTS, read_json, read_manifest, seal
from crnn_jax.training.state import TrainState

SCORE = "exact_match"
DAMAGED = "damaged-"  # begins the names of folders that were set aside
DELETED = ".deleted"  # ends the names of folders that are being deleted
UNFINISHED = ".orbax-checkpoint-tmp"  # is in the names of folders that are being written

HUSHES = "hushes_abandoned_reads"

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a workdir: the newest `keep` and the best one by exact match."""

    def __init__(self, workdir: Path, keep: int = 1, read_only: bool = False) -> None:
        """Opens the checkpoints; unless `read_only`, the caller has the workdir to itself."""
        self.directory = workdir.resolve() / CHECKPOINTS
        self._keep = keep
        self._read_only = read_only
        # Synchronous: nothing is reported that is not on disk. On two cores a save of the default
        # network takes a second, of the paper's network two, where an epoch takes minutes.
        self._orbax = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        _hush_abandoned_reads()
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._orbax.close()

    def newest_first(self) -> list[int]:
        """The steps that were saved, whole or not.

        Raises:
          CheckpointError: there are damaged ones alone, set aside earlier.
        """
        names = [path.name for path in self.directory.glob("*")]
        steps = sorted((int(n) for n in names if n.isascii() and n.isdecimal()), reverse=True)
        if not steps and any(name.startswith(DAMAGED) for name in names):
            raise CheckpointError(
                f"{self.directory} holds damaged checkpoints alone; put an undamaged copy there,"
                " or start anew in another --workdir"
            )
        return steps

    def best_first(self) -> list[int]:
        """The steps that were saved by falling score; those without one last, by falling step."""

        def rank(step: int) -> tuple[bool, float, int]:
            try:
                score = self.manifest(step)["score"]
            except DamagedCheckpoint:  # is named when it is tried
                score = None
            return score is not None, score or 0.0, step

        return sorted(self.newest_first(), key=rank, reverse=True)

    def first_whole(self, steps: Iterable[int], load: Callable[[int], T]) -> T:
        """`load(step)` of the first of `steps` that is not damaged.

        Those before it are named in the log and set aside, so that they can be saved again.

        Raises:
          CheckpointError: there are none, none is whole, or `load` refused one.
        """
        damaged: list[int] = []
        for step in steps:
            try:
                result = load(step)
            except DamagedCheckpoint as error:
                logger.warning("%s; trying another checkpoint", error)
                damaged.append(step)
                continue
            for number in damaged if not self._read_only else ():
                self._set_aside(number)
            return result
        if not damaged:
            raise CheckpointError(
                f"{self.directory.parent} holds no checkpoint; train first, or name another"
                " --workdir"
            )
        raise CheckpointError(
            f"no checkpoint in {self.directory} is whole: {', '.join(map(str, damaged))} cannot be"
            " restored; put an undamaged copy there, or start anew in another --workdir"
        )

    def save(self, state: TrainState, manifest: Mapping[str, Any], score: float | None) -> None:
        """Writes a step, with its score if it was evaluated, and drops those no longer kept.

        Raises:
          CheckpointError: it could not be written; the earlier ones are as they were.
          TrainingDiverged: a value is not finite.
          FileNotFoundError: the workdir has vanished.
        """
        if not self.directory.is_dir():  # Orbax would make it anew, on whatever disk is there now
            raise FileNotFoundError(2, "it has vanished", str(self.directory))
        self._clear()  # again, as threads of a save that failed may have gone on writing
        step = int(state.step)
        model, training = jax.tree.map(np.asarray, _items(state))
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
        except Exception as error:  # a full disk is an OSError, a ValueError or one of XLA's
            self._clear()
            needed = sum(array.nbytes for array in arrays.values()) / 1e6
            free = shutil.disk_usage(self.directory).free / 1e6
            raise CheckpointError(
                f"{self.directory / str(step)} cannot be saved: {_reason(error)}; it needs about"
                f" {needed:.1f} MB and {free:.1f} MB are free: make room and start the same command"
                " again, it goes on from the checkpoint before"
            ) from error
        self.restore(step, state)
        newest = self.newest_first()
        for old in set(newest[self._keep :]) - set(self.best_first()[:1]):
            # Renamed first, so that a kill leaves no half of a checkpoint.
            path = self.directory / str(old)
            shutil.rmtree(path.rename(path.with_name(path.name + DELETED)))

    def manifest(self, step: int) -> dict[str, Any]:
        """What the arrays of a step mean.

        Raises:
          DamagedCheckpoint: it cannot be read, or is not what was written.
          CheckpointError: there is no such step, or a later version of the program wrote it.
        """
        folder = self._folder(step)
        manifest = read_manifest(folder / "manifest" / "metadata")
        if manifest["format"] == 1:
            path = folder / "metrics" / "metrics"
            manifest["score"] = read_json(path)[SCORE] if path.exists() else None
        return manifest

    def restore_model(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """`params` and `batch_stats` of a step, as NumPy arrays; no optimizer is read.

        Args:
          step: a step that was saved.
          like: trees with the shapes and dtypes that belong there.

        Raises:
          DamagedCheckpoint: the arrays are not those that were saved.
          CheckpointError: there is no such step, or a later version of the program wrote it.
        """
        return self._restore(step, {"model": like})["model"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """A step as a state with the structure, shapes and types of `like`, as NumPy arrays.

        Raises: as `restore_model`.
        """
        model, training = _items(like)
        restored = self._restore(step, {"model": model, "training": training})
        state: Any = serialization.from_state_dict(
            like, {"raw": {}, **restored["model"], **restored["training"]}
        )
        return state

    def _restore(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        manifest = self.manifest(step)
        folder = self._folder(step)
        place = str(folder)
        try:
            # By shapes alone, before memory is set aside for values.
            handler = ocp.PyTreeCheckpointHandler()
            found = {item: handler.metadata(epath.Path(folder / item)).tree for item in like}
            check_forms(flatten(like), flatten(found), place)
            for path, array in flatten(found).items():
                # A chunk is unpacked whole: a small array may not be said to lie in a huge one.
                if math.prod(array.storage.chunk_shape) > max(1, math.prod(array.shape)):
                    raise DamagedCheckpoint(f"{place} is damaged: {path} has chunks beyond it")
            blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
            restored = self._orbax.restore(
                folder,
                args=ocp.args.Composite(
                    **{item: ocp.args.StandardRestore(tree) for item, tree in blank.items()}
                ),
            )
        except CheckpointError:
            raise
        except Exception as error:  # damaged files raise nearly anything there is
            raise DamagedCheckpoint(f"{place} cannot be restored: {_reason(error)}") from error
        arrays = {item: restored[item] for item in like}
        if manifest["format"] > 1:
            check_digests(manifest["arrays"], flatten(arrays), place)
        return arrays

    def _folder(self, step: int) -> Path:
        """The folder of a step, in which there are plain files and folders alone."""
        steps = self.newest_first()
        if step not in steps:
            raise CheckpointError(
                f"{self.directory} has no step {step}; the steps saved are"
                f" {', '.join(map(str, reversed(steps))) or 'none'}"
            )
        folder = self.directory / str(step)
        for path in (folder, *folder.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise DamagedCheckpoint(f"{path} is no plain file or folder; remove it")
        return folder

    def _set_aside(self, step: int) -> None:
        target = self.directory / f"{DAMAGED}{step}"
        shutil.rmtree(target, ignore_errors=True)
        (self.directory / str(step)).rename(target)

    def _clear(self) -> None:
        """Removes what a kill or a full disk has left unfinished."""
        for path in (*self.directory.glob(f"*{UNFINISHED}*"), *self.directory.glob(f"*{DELETED}")):
            shutil.rmtree(path, ignore_errors=True)


def _hush_abandoned_reads() -> None:
    """Keeps quiet about reads that Orbax gave up when another read of the same step had failed.

    They end later, in threads, find the event loop closed, and would each print a traceback.
    """
    earlier = sys.unraisablehook
    if getattr(earlier, HUSHES, False):
        return

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            earlier(unraisable)

    setattr(hook, HUSHES, True)
    sys.unraisablehook = hook


def _reason(error: Exception) -> str:
    text = str(error).partition(" [tensorstore_spec")[0]  # pages of JSON follow
    return (text.splitlines() or [type(error).__name__])[0][:300]


def _items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    tree = serialization.to_state_dict(state)
    model = {key: tree.pop(key) for key in ("params", "batch_stats")}
    if not tree["raw"]:
        del tree["raw"]  # Orbax would tell an empty one from none
    return model, tree
