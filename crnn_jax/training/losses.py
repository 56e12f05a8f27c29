"""The CTC loss, with samples that cannot be aligned left out."""

import jax
import jax.numpy as jnp
import optax


def ctc_loss(
    logits: jax.Array, lengths: jax.Array, label_ids: jax.Array, label_lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood of each label, in nats (Graves et al. 2006, section 4.1).

    A label of n characters with r adjacent repeats needs n + r time steps, for CTC tells "aa"
    from "a" by a blank between. `optax.ctc_loss` gives a shorter sequence a loss of about 1e5
    and a gradient to match, which spoils training without a word; here it has neither.

    Args:
      logits: (B, T, K); class 0 is the blank.
      lengths: (B,) valid time steps; logits behind them count for nothing.
      label_ids: (B, L) class indices in [1, K), zero-padded.
      label_lengths: (B,) characters in each label; an empty label is all blanks.

    Returns:
      Losses (B,) in float32, and booleans (B,), true where the label fits the time steps. Where
      it does not, the loss and its gradient are zero, whatever the logits.
    """
    letter = jnp.arange(label_ids.shape[1])[None, :] < label_lengths[:, None]
    repeats = ((label_ids[:, 1:] == label_ids[:, :-1]) & letter[:, 1:]).sum(1)
    feasible = lengths >= label_lengths + repeats

    # Masked going in as well as coming out: zero times an infinite gradient would be NaN.
    letter = letter & feasible[:, None]
    step = (jnp.arange(logits.shape[1])[None, :] < lengths[:, None]) & feasible[:, None]
    losses = optax.ctc_loss(
        jnp.where(step[..., None], logits.astype(jnp.float32), 0.0),
        1.0 - step.astype(jnp.float32),
        label_ids,
        1.0 - letter.astype(jnp.float32),
        blank_id=0,
    )
    return jnp.where(feasible, losses, 0.0), feasible
