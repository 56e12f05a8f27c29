"""The training step: forward pass, CTC loss, gradients, and the optimizer's update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from crnn_jax.training import parallel
from crnn_jax.training.losses import ctc_loss
from crnn_jax.training.parallel import Devices
from crnn_jax.training.state import TrainState, apply_if_finite

TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    shortcut_weight: optax.Schedule = lambda step: 0.0,
    ema_decay: float = 0.0,
    devices: Devices = None,
) -> TrainStep:
    """A pmapped step from a replicated state and a sharded batch to the next state and metrics.

    The loss is the mean over the samples of the global batch whose labels can be aligned. A model
    with a shortcut is trained on a weighted sum of two losses, its shortcut's and its own.

    Args:
      model: called as `crnn_jax.models` describes; its batch statistics use `parallel.AXIS`.
      optimizer: the one that the state was created with.
      seed: decides dropout, together with the step.
      shortcut_weight: the weight of the shortcut's loss at each step, in [0, 1].
      ema_decay: the decay of `state.ema`, unless that is empty.
      devices: those that share the batch; all by default.

    Returns:
      The step. Its metrics are the same on every device: `loss` (the model's own, in nats),
      `gradient_norm`, and the counters `skipped` and `skipped_in_row` of the new state.
    """

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        # The same on all devices: dropout depends on a sample's place in the global batch.
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_shares(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            outputs: Any = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["images"],
                batch["widths"],
                train=True,
                mutable=["batch_stats", "shortcut"],
                rngs={"dropout": key},
            )
            (logits, lengths), changed = outputs
            shortcut = changed.get("shortcut", {}).get("logits", ())
            of_heads = [
                ctc_loss(head, lengths, batch["label_ids"], batch["label_lengths"])
                for head in (logits, *shortcut)
            ]
            mask = of_heads[0][1] & batch["mask"]
            count = jax.lax.psum(mask.sum(), parallel.AXIS)
            # This device's share of the global mean: the shares, and their gradients, add up.
            shares = [
                jnp.where(mask, losses, 0).sum() / jnp.maximum(count, 1) for losses, _ in of_heads
            ]
            mixed = shares[0]
            if shortcut:
                weight = jnp.asarray(shortcut_weight(state.step))
                mixed = (1 - weight) * shares[0] + weight * shares[1]
            return mixed, (shares[0], changed.get("batch_stats", {}))

        (_, (loss, batch_stats)), gradients = jax.value_and_grad(loss_shares, has_aux=True)(
            state.params
        )
        loss, gradients = jax.lax.psum((loss, gradients), parallel.AXIS)
        norm = optax.tree.norm(gradients)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        updated = state.update({"params": params, "batch_stats": batch_stats}, ema_decay).replace(
            opt_state=opt_state, skipped_in_row=jnp.zeros_like(state.skipped_in_row)
        )
        state = apply_if_finite(state, updated, jnp.isfinite(loss) & jnp.isfinite(norm))
        metrics = {
            "loss": loss,
            "gradient_norm": norm,
            "skipped": state.skipped,
            "skipped_in_row": state.skipped_in_row,
        }
        return state, metrics

    return parallel.pmap(train_step, devices, donate_first=True)
