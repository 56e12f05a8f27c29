"""The most likely CTC path whose text an automaton allows (Viterbi)."""

import jax
import jax.numpy as jnp

from crnn_jax.text.alphabet import BLANK

NEVER = -jnp.inf


def valid_steps(logits: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns which time steps belong to an image, (B, T) bool."""
    return jnp.arange(logits.shape[1])[None, :] < lengths[:, None]


def character_starts(path: jax.Array) -> jax.Array:
    """Returns at which time steps of paths (B, T) a character begins, (B, T) bool."""
    before = jnp.pad(path, ((0, 0), (1, 0)), constant_values=BLANK)[:, :-1]
    return (path != BLANK) & (path != before)


def only_allowed(following: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns the logits (B, T, K) of the blank and the classes that an automaton allows."""
    return jnp.where((following >= 0).any(0).at[BLANK].set(True), logits, NEVER)


def end_with_blanks(log_probabilities: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns log probabilities (B, T, K) by which each time step that is not valid is a blank.

    A path through all time steps then has the probability of its valid ones.
    """
    blank = jnp.where(jnp.arange(log_probabilities.shape[-1]) == BLANK, 0.0, NEVER)
    return jnp.where(valid[:, :, None], log_probabilities, blank[None, None])


def best_allowed(
    log_probabilities: jax.Array, valid: jax.Array, following: jax.Array, accepting: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the best paths (B, T) whose texts are allowed, and their log probabilities (B,)."""
    if len(accepting) > 1:
        ends = jnp.where(accepting, 0.0, NEVER)
        weights = jnp.zeros(following.shape[-1])
        return best_weighted(log_probabilities, valid, following, weights, ends)
    # Texts of any length: every time step has its best class.
    allowed = only_allowed(following, log_probabilities)
    path = jnp.where(valid, jnp.argmax(allowed, -1), BLANK)
    return path, jnp.where(valid, allowed.max(-1), 0).sum(-1)


def best_weighted(
    log_probabilities: jax.Array,
    valid: jax.Array,
    following: jax.Array,
    weights: jax.Array,
    ends: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the paths (B, T) of the highest weighted probabilities, and their logarithms (B,).

    Args:
      log_probabilities: (B, T, K).
      valid: (B, T), which time steps belong to an image.
      following: (Q, K), see `text.constraints.Automaton`.
      weights: (K,), the logarithm of a weight of each character of a text.
      ends: (Q,), the logarithm of the weight of a text that ends in a state.
    """
    search = jax.vmap(_best_path, in_axes=(0, None, None, None))
    return search(end_with_blanks(log_probabilities, valid), following, weights, ends)


def best_completions(
    log_probabilities: jax.Array, following: jax.Array, weights: jax.Array, ends: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns how a path of one image is best continued.

    Args:
      log_probabilities: (T, K).
      following, weights, ends: see `best_weighted`.

    Returns:
      The logarithm (T + 1, Q, K) of the weighted probability of the best rest of a path, from each
      time step to the end, for each state and class of the time step before; and that rest's first
      class, (T, Q, K).
    """
    states, classes = following.shape
    last = jnp.arange(classes)[None, :]
    target = jnp.where((following < 0) | (last == BLANK), states, following)  # `states`: nowhere

    def step_back(after: jax.Array, frame: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        stays = frame[None, :] + after  # the class goes on, or a blank does
        begins = (frame + weights)[None, :] + after.at[target, last].get(
            mode="fill", fill_value=NEVER
        )
        # The best class after another one: the best of all, or the second best if it is the same.
        best, place = _largest(begins)
        second, second_place = _largest(jnp.where(place == last, NEVER, begins))
        other = jnp.where(place == last, second, best)
        other_class = jnp.where(place == last, second_place, place)
        blank = stays[:, BLANK, None]
        found = jnp.maximum(jnp.maximum(stays, blank), other)
        first = jnp.where(found == stays, last, jnp.where(found == blank, BLANK, other_class))
        return found, (found, first)

    end = jnp.broadcast_to(ends[:, None], following.shape)
    _, (scores, first) = jax.lax.scan(step_back, end, log_probabilities, reverse=True)
    return jnp.concatenate([scores, end[None]]), first


def _best_path(
    log_probabilities: jax.Array, following: jax.Array, weights: jax.Array, ends: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The best path (T,) of one image, and the logarithm of its weighted probability."""
    scores, first = best_completions(log_probabilities, following, weights, ends)

    def step(
        place: tuple[jax.Array, jax.Array], first: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        state, last = place
        chosen = first[state, last]
        begins = (chosen != BLANK) & (chosen != last)
        return (jnp.where(begins, following[state, chosen], state), chosen), chosen

    _, path = jax.lax.scan(step, (jnp.int32(0), jnp.int32(BLANK)), first)
    score = scores[0, 0, BLANK]
    return jnp.where(score > NEVER, path, BLANK), score


def _largest(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest values of the rows, (Q, 1), and their first places.

    On a CPU, XLA sorts for `top_k` of more than two dimensions, and has slow loops for `argmax`.
    """
    largest = values.max(-1, keepdims=True)
    places = jnp.where(values == largest, jnp.arange(values.shape[-1])[None, :], values.shape[-1])
    return largest, places.min(-1, keepdims=True)
