"""The CTC loss, which leaves out samples that cannot be aligned."""

import jax
import jax.numpy as jnp
import optax


def ctc_loss(
    logits: jax.Array, lengths: jax.Array, label_ids: jax.Array, label_lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood of each label, in nats (Graves et al. 2006, section 4.1).

    A label of n characters with r adjacent repeats needs n + r time steps, because CTC needs a
    blank between two equal characters. For a shorter sequence `optax.ctc_loss` returns a loss of
    about 1e5 with a large gradient, which silently ruins training; this function returns zero.

    Args:
      logits: (B, T, K); class 0 is the blank.
      lengths: (B,) valid time steps; logits after them are ignored.
      label_ids: (B, L) class indices in [1, K), zero-padded.
      label_lengths: (B,) characters in each label; an empty label means only blanks.

    Returns:
      Losses (B,) in float32, and booleans (B,) that are true where the label fits into the time
      steps. Where it does not, the loss and its gradient are zero, whatever the logits.
    """
    letter = jnp.arange(label_ids.shape[1])[None, :] < label_lengths[:, None]
    repeats = ((label_ids[:, 1:] == label_ids[:, :-1]) & letter[:, 1:]).sum(1)
    feasible = lengths >= label_lengths + repeats

    # The inputs are masked as well as the result: zero times an infinite gradient would be NaN.
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
