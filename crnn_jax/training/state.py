"""What a training step changes: parameters, statistics, optimizer; and the optimizer itself."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct, traverse_util

CONV_STACK = "conv_stack"  # the name of the part that can be carried over alone, and frozen
SHORTCUT_HEAD = "shortcut_head"  # of the part that serves training alone, if there is one
HEADS = ("head", SHORTCUT_HEAD)  # of the parts whose arrays have the classes on their last axis


class TrainState(struct.PyTreeNode):
    """All that a run needs to go on, but for what its config says.

    `params` and `batch_stats` are the model: what is evaluated, and read with later. The optimizer
    moves them, or `raw`, whose moving average they are then.
    """

    step: jax.Array  # steps taken, and so the place in the data
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    skipped: jax.Array  # updates left out because something was not finite
    skipped_in_row: jax.Array
    raw: Any = struct.field(default_factory=dict)  # params and batch_stats, or empty

    @classmethod
    def create(
        cls,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        shape: tuple[int, ...],
        seed: int,
        averaged: bool = False,
    ) -> "TrainState":
        """A fresh state for images of `shape` (H, W, C), initialized from the seed."""

        @jax.jit  # all in one program, which is kept from one start to the next
        def create(key: jax.Array) -> "TrainState":
            images = jnp.zeros((1, *shape), jnp.uint8)
            variables = {"batch_stats": {}, **model.init(key, images, jnp.array([shape[1]]))}
            zero = jnp.zeros((), jnp.int32)
            return cls(
                step=zero,
                params=variables["params"],
                batch_stats=variables["batch_stats"],
                opt_state=optimizer.init(variables["params"]),
                skipped=zero,
                skipped_in_row=zero,
                raw=variables if averaged else {},
            )

        return create(jax.random.key(seed))

    @property
    def model(self) -> dict[str, Any]:
        """The variables that are evaluated."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def moved(self) -> dict[str, Any]:
        """The variables that the optimizer moves."""
        return self.raw or self.model

    def beginning_with(self, variables: Any) -> "TrainState":
        """The state with another model's variables, which may be without statistics."""
        variables = {"batch_stats": {}, **variables}
        return self.replace(**variables, raw=variables if self.raw else {})

    def moved_to(self, variables: Any, average: float) -> "TrainState":
        """The state with the variables that a step has led to.

        Of `raw` ones the model follows as their exponential moving average with the decay
        `average` (Polyak and Juditsky 1992, for the average of all steps), which is smaller in the
        first steps, as in TensorFlow's ExponentialMovingAverage: of no more than all there were.
        """
        if not self.raw:
            return self.replace(**variables)
        rest = 1 - jnp.minimum(average, (self.step + 1) / (self.step + 10))
        # In this form it leaves alone what no step moves.
        model = jax.tree.map(lambda old, new: old + rest * (new - old), self.model, variables)
        return self.replace(**model, raw=variables)


def learning_rate_schedule(settings: Mapping[str, Any], total_steps: int) -> optax.Schedule:
    """Piecewise constant, after a linear warm-up.

    Args:
      settings: `learning_rate`; `boundaries` and as many `factors`, each of which multiplies the
        rate from its boundary on; `warmup`. Boundaries and warm-up are shares of the run.
      total_steps: steps of the run.
    """

    constant = optax.piecewise_constant_schedule(
        settings["learning_rate"],
        {
            round(boundary * total_steps): factor
            for boundary, factor in zip(settings["boundaries"], settings["factors"], strict=True)
        },
    )
    warmup = round(settings["warmup"] * total_steps)
    return lambda count: constant(count) * jnp.minimum(1.0, (count + 1) / (warmup + 1))


def shortcut_weight_schedule(settings: Mapping[str, Any], total_steps: int) -> optax.Schedule:
    """The share of the shortcut in the loss: from 1 at the first step down to 0, linearly.

    Args:
      settings: `shortcut_end`, the share of the run after which it is 0.
      total_steps: steps of the run.
    """
    # In 0 steps optax would not go from 1 to 0 at once, but stay at 1.
    return optax.linear_schedule(1.0, 0.0, max(1, round(settings["shortcut_end"] * total_steps)))


def make_optimizer(
    schedule: optax.Schedule, clip_norm: float, freeze_conv_stack: bool
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015), gradients clipped by global norm unless `clip_norm` is 0."""
    adam = optax.adam(schedule)
    optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), adam) if clip_norm else adam
    if not freeze_conv_stack:
        return optimizer
    return optax.multi_transform(
        {"trained": optimizer, "frozen": optax.set_to_zero()}, frozen_labels
    )


def frozen_labels(params: Any) -> Any:
    """ "frozen" for each parameter of the convolution stack, "trained" for the others."""
    return traverse_util.path_aware_map(
        lambda path, _: "frozen" if path[0] == CONV_STACK else "trained", params
    )


def apply_if_finite(state: TrainState, updated: TrainState, finite: jax.Array) -> TrainState:
    """`updated` where `finite` holds and its norm is finite, else `state`, counted as skipped.

    Either way a step was taken: the data go on.
    """
    # A finite gradient can still make an infinite parameter. A norm tells of all arrays; of a flag
    # for each of 150 arrays XLA would put the chain, whole, into the update of every one of them:
    # 24,000 operations, which took a third of the time that a step took to compile.
    floats = [leaf for leaf in jax.tree.leaves(updated) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    finite &= jnp.isfinite(optax.tree.norm(floats))
    kept = state.replace(skipped=state.skipped + 1, skipped_in_row=state.skipped_in_row + 1)
    chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, kept)
    return chosen.replace(step=state.step + 1)
