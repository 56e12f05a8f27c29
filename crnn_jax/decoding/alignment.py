"""The most likely CTC path of a given text (forced alignment)."""

import jax
import jax.numpy as jnp

from crnn_jax.decoding.viterbi import NEVER, end_with_blanks, valid_steps
from crnn_jax.text.alphabet import BLANK


def align(log_probabilities: jax.Array, lengths: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the most likely path of each label: the class of each time step.

    This is the Viterbi search over the 2L + 1 states of Graves et al. 2006, section 4.1: the
    characters of the label with blanks before, between and after them.

    Args:
      log_probabilities: (B, T, K).
      lengths: (B,), the valid time steps.
      labels: (B, L), classes, padded with blanks.

    Returns:
      The paths (B, T) int32; blanks after the valid time steps, and blanks alone where a label has
      no path with a probability above 0.
    """
    valid = valid_steps(log_probabilities, lengths)
    return jax.vmap(_align)(end_with_blanks(log_probabilities, valid), labels)


def _align(log_probabilities: jax.Array, label: jax.Array) -> jax.Array:
    """The path (T,) of one label (L,)."""
    count = (label != BLANK).sum()
    classes = jnp.full(2 * len(label) + 1, BLANK, jnp.int32).at[1::2].set(label)
    states = jnp.arange(len(classes))
    # A blank between two characters can be skipped unless they are equal.
    skips = (classes != BLANK) & (classes != jnp.roll(classes, 2)) & (states > 1)

    def step(scores: jax.Array, emitted: jax.Array) -> tuple[jax.Array, jax.Array]:
        before = jnp.pad(scores, (2, 0), constant_values=NEVER)
        sources = jnp.stack([scores, before[1:-1], jnp.where(skips, before[:-2], NEVER)])
        return sources.max(0) + emitted, jnp.argmax(sources, 0)

    start = jnp.where(states == 0, 0.0, NEVER)
    scores, moves = jax.lax.scan(step, start, log_probabilities[:, classes])
    last = jnp.maximum(2 * count - 1, 0)
    end = jnp.where(scores[2 * count] >= scores[last], 2 * count, last)

    def step_back(state: jax.Array, moves: jax.Array) -> tuple[jax.Array, jax.Array]:
        return state - moves[state], classes[state]

    _, path = jax.lax.scan(step_back, end, moves, reverse=True)
    return jnp.where(scores[end] > NEVER, path, BLANK)
