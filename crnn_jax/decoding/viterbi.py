"""The most likely CTC path whose text an automaton allows (Viterbi)."""

import jax
import jax.numpy as jnp

from crnn_jax.text.alphabet import BLANK

NEVER = -jnp.inf


def valid_steps(logits: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns which time steps belong to an image, (B, T) bool."""
    return jnp.arange(logits.shape[1])[None, :] < lengths[:, None]


def only_allowed(following: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns the logits (B, T, K) of the blank and the classes that an automaton allows."""
    return jnp.where((following >= 0).any(0).at[BLANK].set(True), logits, NEVER)


def best_allowed(
    log_probabilities: jax.Array, valid: jax.Array, following: jax.Array, accepting: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the best paths (B, T) whose texts are allowed, and their log probabilities (B,)."""
    if len(accepting) > 1:
        search = jax.vmap(_viterbi, in_axes=(0, 0, None, None))
        return search(log_probabilities, valid, following, accepting)
    # Texts of any length: every time step has its best class.
    allowed = only_allowed(following, log_probabilities)
    path = jnp.where(valid, jnp.argmax(allowed, -1), BLANK)
    return path, jnp.where(valid, allowed.max(-1), 0).sum(-1)


def _viterbi(
    log_probabilities: jax.Array, valid: jax.Array, following: jax.Array, accepting: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The best path (T,) of one image whose text is allowed, and its log probability.

    Scores are those of the best path so far for each state (Q) and class of the last time step (K).
    """
    states, classes = following.shape
    state, last = jnp.meshgrid(jnp.arange(states), jnp.arange(classes), indexing="ij")  # (Q, K)
    target = jnp.where((following < 0) | (last == BLANK), states, following)  # `states`: nowhere

    def step(
        scores: jax.Array, inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        frame, is_valid = inputs
        # The best class before another one: the best of all, or the second best if it is the same.
        best, place = jax.lax.top_k(scores, 2)
        is_same = place[:, :1] == last
        other, other_class = (jnp.where(is_same, two[:, 1:], two[:, :1]) for two in (best, place))
        # A class that begins a character leads to another state, perhaps from several.
        begun = jnp.full(scores.shape, NEVER).at[target, last].max(other, mode="drop")
        is_best = other == begun.at[target, last].get(mode="fill", fill_value=jnp.nan)
        candidates = jnp.where(is_best, state, states - 1)
        source = jnp.full(scores.shape, states - 1).at[target, last].min(candidates, mode="drop")
        # A class that goes on stays in its state, and so does a blank after any class.
        stays = jnp.where(last == BLANK, best[:, :1], scores)
        stays_class = jnp.where(last == BLANK, place[:, :1], last)
        begins = begun > stays
        before = (
            jnp.where(begins & is_valid, source, state),
            jnp.where(is_valid, jnp.where(begins, other_class[source, last], stays_class), last),
        )
        return jnp.where(is_valid, jnp.maximum(begun, stays) + frame[None, :], scores), before

    start = jnp.full(following.shape, NEVER).at[0, BLANK].set(0.0)
    scores, before = jax.lax.scan(step, start, (log_probabilities, valid))
    scores = jnp.where(accepting[:, None], scores, NEVER)
    end = jnp.divmod(jnp.argmax(scores), classes)

    def step_back(
        place: tuple[jax.Array, jax.Array], before: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        return (before[0][place], before[1][place]), place[1]

    _, path = jax.lax.scan(step_back, end, before, reverse=True)
    score = scores.max()
    return jnp.where(valid & (score > NEVER), path, BLANK), score
