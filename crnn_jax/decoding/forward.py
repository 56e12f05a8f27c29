"""Sums over all CTC alignments: of one text, and of all texts that an automaton allows.

These are the forward and backward recursions of Graves et al. 2006, section 4.1.
"""

import jax
import jax.numpy as jnp

from crnn_jax.decoding.viterbi import NEVER, only_allowed
from crnn_jax.text.alphabet import BLANK

LEAST = -1e30  # in place of an infinite logarithm, of which differences are not numbers
TINY = 1e-30  # in place of a sum that has vanished
LOST = 1e-25  # a sum this small, compared with those of other states, may have lost some terms


def text_log_probability(
    log_probabilities: jax.Array, valid: jax.Array, path: jax.Array
) -> jax.Array:
    """Returns the log probability (B,) of the text of each path, summed over its alignments.

    Args:
      log_probabilities: (B, T, K).
      valid: (B, T) bool, the time steps that belong to an image.
      path: (B, T), classes.
    """
    states, counts = _states(path)
    # A blank between two characters can be skipped unless they are equal.
    skips = (states != BLANK) & (states != jnp.pad(states, ((0, 0), (2, 0)))[:, :-2])

    def step(sums: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        emitted, is_valid = inputs
        before = jnp.pad(sums, ((0, 0), (2, 0)), constant_values=NEVER)
        sources = jnp.stack([sums, before[:, 1:-1], jnp.where(skips, before[:, :-2], NEVER)])
        largest = jnp.maximum(sources.max(0), LEAST)
        found = jnp.log(jnp.exp(sources - largest[None]).sum(0)) + largest + emitted
        return jnp.where(is_valid[:, None], found, sums), None

    emitted = jnp.take_along_axis(log_probabilities, states[:, None, :], 2)
    start = jnp.where(jnp.arange(states.shape[1]) == 0, 0.0, NEVER)
    sums, _ = jax.lax.scan(
        step, jnp.broadcast_to(start[None], states.shape), (emitted.swapaxes(0, 1), valid.T)
    )
    ends = jnp.stack([2 * counts, jnp.maximum(2 * counts - 1, 0)], 1)
    blank, character = jnp.take_along_axis(sums, ends, 1).T
    return jnp.where(counts > 0, jnp.logaddexp(blank, character), blank)


def allowed_log_probability(
    log_probabilities: jax.Array,
    valid: jax.Array,
    following: jax.Array,
    accepting: jax.Array,
    log_weight: jax.Array | None = None,
) -> jax.Array:
    """Sums the probabilities of all texts that an automaton allows.

    Args:
      log_probabilities: (B, T, K).
      valid: (B, T) bool.
      following: (Q, K), see `text.constraints.Automaton`.
      accepting: (Q,), bool; or the weight of a text that ends in each state.
      log_weight: the logarithm of a weight of each character, one for all or (K,); None: 0.

    Returns:
      The logarithms (B,); -inf where the sum is below exp(-57).
    """
    if len(accepting) == 1 and log_weight is None:  # every time step has any of the classes
        allowed = jax.nn.logsumexp(only_allowed(following, log_probabilities), -1)
        return jnp.where(valid, allowed, 0).sum(-1)
    weight = jnp.exp(jnp.float32(0) if log_weight is None else log_weight)
    of_image = jax.vmap(_allowed, in_axes=(0, 0, None, None, None))
    return of_image(jnp.exp(log_probabilities), valid, following, accepting, weight)


def _allowed(
    probabilities: jax.Array,
    valid: jax.Array,
    following: jax.Array,
    accepting: jax.Array,
    weight: jax.Array,
) -> jax.Array:
    """The logarithm of the sum for one image.

    From the end to the start, `rest` (Q, K) is the probability of all ways to go on, for each state
    and class of the time step before. It is scaled, so that it does not vanish.
    """
    states, classes = following.shape
    last = jnp.arange(classes)[None, :]
    target = jnp.where((following < 0) | (last == BLANK), states, following)  # `states`: nowhere

    def step_back(
        carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        rest, scale = carry
        frame, is_valid = inputs
        started = rest.at[target, last].get(mode="fill", fill_value=0.0)
        begins = (weight * frame)[None, :] * started
        # All classes begin a character but the last one itself. The largest one is not subtracted
        # from a sum of which it is nearly all.
        largest = jnp.argmax(begins, 1, keepdims=True) == last
        others = jnp.where(largest, 0.0, begins).sum(1, keepdims=True)
        others = jnp.where(largest, others, begins.sum(1, keepdims=True) - begins)
        goes_on = jnp.where(last == BLANK, 0.0, frame[None, :] * rest)
        found = goes_on + frame[BLANK] * rest[:, BLANK, None] + others
        total = jnp.maximum(found.max(), TINY)
        rest = jnp.where(is_valid, found / total, rest)
        return (rest, scale + jnp.where(is_valid, jnp.log(total), 0.0)), None

    end = jnp.broadcast_to(accepting.astype(jnp.float32)[:, None], following.shape)
    (rest, scale), _ = jax.lax.scan(
        step_back, (end, jnp.float32(0)), (probabilities, valid), reverse=True
    )
    found = rest[0, BLANK]
    return jnp.where(found > LOST, jnp.log(found) + scale, NEVER)


def _states(path: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The states of the texts of paths, and the number of their characters (B,).

    The states (B, 2T + 1) are classes: blanks before, between and after the characters.
    """
    before = jnp.pad(path, ((0, 0), (1, 0)), constant_values=BLANK)[:, :-1]
    begins = (path != BLANK) & (path != before)
    size = 2 * path.shape[1] + 1
    place = jnp.where(begins, 2 * jnp.cumsum(begins, 1) - 1, size)  # past the end: dropped
    rows = jnp.arange(path.shape[0])[:, None]
    states = jnp.full((path.shape[0], size), BLANK, path.dtype)
    return states.at[rows, place].set(path, mode="drop"), begins.sum(1)
