"""What a training step changes: parameters, statistics, optimizer; and the optimizer itself."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct, traverse_util

CONV_STACK = "conv_stack"  # the module that can be carried over alone, and frozen
SHORTCUT_HEAD = "shortcut_head"  # the module, if there is one, that only training uses
HEADS = ("head", SHORTCUT_HEAD)  # modules whose arrays have the classes on their last axis


class TrainState(struct.PyTreeNode):
    """Everything that a run needs to continue, apart from its config.

    Attributes:
        step: steps taken, skipped ones included; it also decides the next batch.
        params: the parameters that the optimizer updates.
        batch_stats: the statistics of batch normalization that go with `params`.
        opt_state: the optimizer's own state.
        skipped: updates that were skipped because something was not finite.
        skipped_in_row: how many of the latest steps were skipped.
        ema: `params` and `batch_stats` as exponential moving averages; empty without averaging.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    skipped: jax.Array
    skipped_in_row: jax.Array
    ema: Any = struct.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        shape: tuple[int, ...],
        seed: int,
        with_ema: bool = False,
    ) -> "TrainState":
        """A new state for images of `shape` (H, W, C), initialized from the seed."""

        @jax.jit  # one program, which the compilation cache keeps
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
                ema=variables if with_ema else {},
            )

        return create(jax.random.key(seed))

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the optimizer updates: `params` and `batch_stats`."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The variables that are evaluated and used for inference: the average, if there is one."""
        return self.ema or self.variables

    def with_variables(self, variables: Mapping[str, Any]) -> "TrainState":
        """The state with another model's variables; `batch_stats` may be missing."""
        variables = {"batch_stats": {}, **variables}
        return self.replace(**variables, ema=variables if self.ema else {})

    def update(self, variables: dict[str, Any], ema_decay: float) -> "TrainState":
        """The state after a step has led to these variables, its average updated.

        The decay is lower at first, min(ema_decay, (1 + step) / (10 + step)), so that the average
        soon forgets the initial values (TensorFlow's ExponentialMovingAverage does the same).
        """
        if not self.ema:
            return self.replace(**variables)
        weight = 1 - jnp.minimum(ema_decay, (self.step + 1) / (self.step + 10))
        # In this form an array that no step changes stays exactly as it is.
        ema = jax.tree.map(lambda old, new: old + weight * (new - old), self.ema, variables)
        return self.replace(**variables, ema=ema)


def learning_rate_schedule(settings: Mapping[str, Any], total_steps: int) -> optax.Schedule:
    """Piecewise constant, after a linear warm-up.

    Args:
      settings: `learning_rate`; `boundaries` and as many `factors`, each of which multiplies the
        rate from its boundary on; `warmup`. Boundaries and warm-up are shares of the run.
      total_steps: steps of the run.

    Returns:
      A function from the number of updates made so far to the learning rate of the next one.
    """
    factors: dict[int, float] = {}
    for boundary, factor in zip(settings["boundaries"], settings["factors"], strict=True):
        step = round(boundary * total_steps)
        factors[step] = factors.get(step, 1.0) * factor  # a short run may round two to one step
    constant = optax.piecewise_constant_schedule(settings["learning_rate"], factors)
    warmup = round(settings["warmup"] * total_steps)
    return lambda count: constant(count) * jnp.minimum(1.0, (count + 1) / (warmup + 1))


def shortcut_weight_schedule(settings: Mapping[str, Any], total_steps: int) -> optax.Schedule:
    """The weight of the shortcut's loss: linearly from 1 at the first step to 0.

    Args:
      settings: `shortcut_end`, the share of the run after which the weight is 0.
      total_steps: steps of the run.
    """
    # With 0 transition steps optax would stay at 1.
    return optax.linear_schedule(1.0, 0.0, max(1, round(settings["shortcut_end"] * total_steps)))


def make_optimizer(
    schedule: optax.Schedule, clip_norm: float, freeze_conv_stack: bool
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015); gradients are clipped by global norm unless `clip_norm` is 0."""
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
    """`updated` if `finite` holds and its norm is finite; else `state`, with the skip counted.

    The step counter grows in both cases, so that the run goes on with the next batch.
    """
    # A finite gradient can still make an infinite parameter. One norm covers all arrays. With a
    # flag for each of 150 arrays, XLA would copy the whole chain of flags into every update:
    # 24,000 operations, a third of the time that compiling a step took.
    floats = [leaf for leaf in jax.tree.leaves(updated) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    finite &= jnp.isfinite(optax.tree.norm(floats))
    kept = state.replace(skipped=state.skipped + 1, skipped_in_row=state.skipped_in_row + 1)
    chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, kept)
    return chosen.replace(step=state.step + 1)
