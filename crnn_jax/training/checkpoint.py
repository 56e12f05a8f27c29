"""Saving and restoring: the only file that knows Orbax.

A step's folder holds three items: `model` (parameters and batch statistics), `training`
(optimizer, counters) and `manifest` (JSON: what the arrays mean). Nothing is pickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from orbax.checkpoint import checkpoint_managers

from crnn_jax.errors import CheckpointError
from crnn_jax.training.state import TrainState

FORMAT = 1
SCORE = "exact_match"
# What must agree before a checkpoint's arrays can be used.
IDENTITY = ("alphabet", "model", "preprocessing")


class Checkpoints:
    """The checkpoints of a workdir: the newest `keep` and the best one by exact match."""

    def __init__(self, workdir: Path, keep: int = 1, read_only: bool = False) -> None:
        self.directory = workdir / "checkpoints"
        if read_only and not self.directory.is_dir():
            raise CheckpointError(
                f"{workdir} holds no checkpoint; train first, or name another --workdir"
            )
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(get_metric_fn=_score, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            best_fn=_score,
            preservation_policy=None if read_only else policy,
            # A save is complete when `save` returns: nothing is reported that is not on disk.
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(self.directory.resolve(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The newest step saved, if there is one."""
        return self._manager.latest_step()

    def best_step(self) -> int:
        """The step with the best score; the newest if none was scored.

        Raises:
          CheckpointError: nothing was saved.
        """
        step = self._manager.best_step()
        step = self._manager.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{self.directory} holds no complete checkpoint; train first")
        return step

    def best_score(self) -> float | None:
        """The best score among the checkpoints kept."""
        step = self._manager.best_step()
        return None if step is None else _score(self._manager.metrics(step))

    def save(self, state: TrainState, manifest: Mapping[str, Any], score: float | None) -> None:
        """Writes a step, with its score if it was evaluated; an existing one is left alone."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        model, training = _items(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(model),
                training=ocp.args.StandardSave(training),
                manifest=ocp.args.JsonSave({"format": FORMAT, **manifest}),
            ),
            metrics=None if score is None else {SCORE: score},
            force=True,
        )

    def manifest(self, step: int) -> dict[str, Any]:
        """What the arrays of a step mean.

        Raises:
          CheckpointError: there is no such step, or a later version of the program wrote it.
        """
        if step not in self._manager.all_steps():
            steps = ", ".join(map(str, sorted(self._manager.all_steps()))) or "none"
            raise CheckpointError(
                f"{self.directory} has no step {step}; the steps saved are {steps}"
            )
        manifest = self._restore(step, manifest=ocp.args.JsonRestore())["manifest"]
        if manifest["format"] > FORMAT:
            raise CheckpointError(
                f"{self.directory}/{step} has format {manifest['format']}, this program reads up"
                f" to {FORMAT}; install a newer crnn_jax"
            )
        return manifest

    def restore_model(self, step: int) -> dict[str, Any]:
        """`params` and `batch_stats` of a step, as NumPy arrays; no optimizer is read."""
        return self._restore(step, model=ocp.args.StandardRestore())["model"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """A step as a state with the structure, shapes and types of `like`, as NumPy arrays."""
        model, training = _items(like)
        restored = self._restore(
            step,
            model=ocp.args.StandardRestore(jax.tree.map(np.asarray, model)),
            training=ocp.args.StandardRestore(jax.tree.map(np.asarray, training)),
        )
        state: Any = serialization.from_state_dict(
            like, {**restored["model"], **restored["training"]}
        )
        return state

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{self.directory}/{step} cannot be restored: {reason}"
            ) from error


def check_same(workdir: Path, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raises CheckpointError naming the first difference between two manifests that matters."""
    for key in IDENTITY:
        if saved[key] != current[key]:
            difference = _difference(saved[key], current[key])
            raise CheckpointError(
                f"{workdir} was trained with another {key}: {difference};"
                " choose another --workdir, or go back to the old setting"
            )


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in keys)


def _score(metrics: Any) -> float:
    return metrics[SCORE]


def _items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    saved = serialization.to_state_dict(state)
    model = {key: saved.pop(key) for key in ("params", "batch_stats")}
    return model, saved
