"""Sums over all CTC alignments: of one text, and of all texts that an automaton allows.

These are the forward and backward recursions of Graves et al. 2006, section 4.1.
"""

import jax
import jax.numpy as jnp

from crnn_jax.decoding.viterbi import NEVER, character_starts, end_with_blanks, only_allowed
from crnn_jax.text.alphabet import BLANK

IMPOSSIBLE = -1e30  # a log probability that is finite, so that differences of two are numbers
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
    starts = character_starts(path)
    place = jnp.where(starts, jnp.cumsum(starts, 1) - 1, path.shape[1])  # past the end: dropped
    rows = jnp.arange(path.shape[0])[:, None]
    labels = jnp.full(path.shape, BLANK, path.dtype).at[rows, place].set(path, mode="drop")
    return label_log_probabilities(log_probabilities, valid, labels[:, None])[:, 0]


def label_log_probabilities(
    log_probabilities: jax.Array, valid: jax.Array, labels: jax.Array
) -> jax.Array:
    """Returns the log probabilities of C texts of each image, (B, C).

    Args:
      log_probabilities: (B, T, K).
      valid: (B, T) bool, the time steps that belong to an image.
      labels: (B, C, L), classes, padded with blanks; blanks alone are the empty text.
    """
    images, count, longest = labels.shape
    frames = jnp.maximum(end_with_blanks(log_probabilities, valid), IMPOSSIBLE)
    # Equal neighbors must have a blank between them.
    skips = jnp.pad(labels[..., 1:] != labels[..., :-1], ((0, 0), (0, 0), (1, 0)))

    def step(
        state: tuple[jax.Array, jax.Array], frame: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        # The probability of having begun n characters and read a blank, or being in the n-th.
        blank, character = state
        emitted = jnp.take_along_axis(frame[:, None, :], labels.reshape(images, 1, -1), 2)
        emitted = emitted.reshape(labels.shape)
        before = jnp.pad(character, ((0, 0), (0, 0), (1, 0)), constant_values=IMPOSSIBLE)
        skipped = jnp.where(skips, before[..., :-1], IMPOSSIBLE)
        return (
            _log_sum(blank, before) + frame[:, None, BLANK, None],
            _log_sum(character, blank[..., :-1], skipped) + emitted,
        ), None

    blank = jnp.full((images, count, longest + 1), IMPOSSIBLE).at[..., 0].set(0.0)
    character = jnp.full((images, count, longest), IMPOSSIBLE)
    (blank, character), _ = jax.lax.scan(step, (blank, character), jnp.moveaxis(frames, 1, 0))
    length = (labels != BLANK).sum(-1, keepdims=True)
    ends = (
        jnp.take_along_axis(blank, length, 2),
        jnp.take_along_axis(character, jnp.maximum(length - 1, 0), 2),
    )
    total = jnp.where(length > 0, _log_sum(*ends), ends[0])[..., 0]
    return jnp.where(total > IMPOSSIBLE / 2, total, NEVER)


def _log_sum(*terms: jax.Array) -> jax.Array:
    """The logarithm of the sum of exponentials of finite numbers."""
    largest = jnp.stack(terms).max(0) if len(terms) > 2 else jnp.maximum(*terms)
    return largest + jnp.log(sum(jnp.exp(term - largest) for term in terms))


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
