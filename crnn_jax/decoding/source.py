"""What the texts of one source have in common, learned from its images alone.

The texts of one source, such as a site's captchas, are of one set of characters, of which some may
not occur, and of few lengths. A sample of images shows it, if what is read in each is compared with
what is read in the others. Labels are not needed.
"""

from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from crnn_jax.decoding import Decoding
from crnn_jax.decoding.forward import allowed_log_probability, text_log_probability
from crnn_jax.decoding.paths import CharsetPath
from crnn_jax.decoding.viterbi import NEVER, best_weighted, character_starts, valid_steps
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.constraints import Automaton

MOST = 16
"""Texts of so many characters, or more, count as of one length."""

# All chosen on captchas that were set aside for the choice.
ROUNDS = 4  # of reading the sample; later ones change nothing
LENGTH_WEIGHT = 2.0  # Bayes' rule says 1, but a length that is wrong is often wrong in many images
CHARACTER_WEIGHT = 2.0  # of characters that are rare; the frequencies of the others are not used
RARE = 0.3  # times the frequency of each character if all were equally frequent
PSEUDO_IMAGES, PSEUDO_CHARACTERS = 0.1, 0.5  # added to all counts of lengths and characters
OUTLIERS = 0.02  # the share of images that may be of other characters


class SourcePath(struct.PyTreeNode):
    """The most likely path, given how frequent each length and character is.

    Attributes:
      following: (MOST + 1, K), an automaton that counts characters up to `MOST`.
      weights: (K,), the logarithm of a weight of each character.
      ends: (MOST + 1,), the logarithm of a weight of each length.
    """

    following: jax.Array
    weights: jax.Array
    ends: jax.Array

    @classmethod
    def learn(
        cls,
        logits: jax.Array,
        lengths: jax.Array,
        log_priors: Mapping[str, float],
        alphabet: Alphabet,
        classes: np.ndarray,
        allowed: np.ndarray,
    ) -> Self:
        """Learns from the logits of a sample of images.

        Args:
          logits: (B, T, K).
          lengths: (B,), the valid time steps.
          log_priors: the model's sets of characters, see `CharsetPath`; empty if `classes` are
            known to be the set.
          alphabet: the model's.
          classes: (K,) bool, those that may occur.
          allowed: (MOST + 1,) bool, the lengths that may occur.
        """
        if log_priors:
            sets = CharsetPath.create(log_priors, alphabet)
            chosen = _common_set(sets, logits, lengths)
            classes = np.asarray(sets.following[int(chosen), 0] >= 0)
        following = jnp.asarray(counting(classes))
        return cls(following, *_learn(following, jnp.asarray(allowed), logits, lengths))

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """See `Decoder`. The log probability is that of the path among the source's characters."""
        decoding = _read(self.following, self.weights, self.ends, logits, lengths)
        path, valid = decoding.path, valid_steps(logits, lengths)
        log_probabilities = jax.nn.log_softmax(logits)
        begins = character_starts(path)
        text = text_log_probability(log_probabilities, valid, path)
        prior = jnp.where(begins, self.weights[path], 0).sum(-1)
        prior += self.ends[jnp.minimum(begins.sum(-1), MOST)]
        every = allowed_log_probability(
            log_probabilities, valid, self.following, jnp.exp(self.ends), self.weights
        )
        is_read = (decoding.log_probability > NEVER) & (every > NEVER)
        posterior = jnp.where(is_read, jnp.minimum(text + prior - every, 0), NEVER)
        return decoding.replace(log_posterior=posterior)


def counting(classes: np.ndarray) -> np.ndarray:
    """Returns an automaton (MOST + 1, K) whose states are lengths; the last one is `MOST` or more.

    Args:
      classes: (K,) bool, the characters that are allowed.
    """
    following = Automaton.of_length(classes, MOST).following.copy()
    following[-1, classes] = MOST
    return following


@jax.jit
def _common_set(sets: CharsetPath, logits: jax.Array, lengths: jax.Array) -> jax.Array:
    """The index of the set that explains all images best, but for `OUTLIERS`."""
    evidence = sets.evidence(logits, lengths)  # (S, B)
    any_set = evidence.max(0) + jnp.log(OUTLIERS)
    return jnp.argmax(jnp.logaddexp(evidence, any_set[None]).sum(-1) + sets.log_priors)


@jax.jit
def _learn(
    following: jax.Array, allowed: jax.Array, logits: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The weights of characters, (K,), and of lengths, (Q,)."""
    classes = following[0] >= 0
    size = classes.sum()

    def read_again(_: int, learned: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        path = _read(following, *learned, logits, lengths).path
        begins = character_starts(path)
        counts = jnp.zeros(classes.shape).at[path].add(begins) + PSEUDO_CHARACTERS
        frequencies = counts / jnp.where(classes, counts, 0).sum()
        weights = CHARACTER_WEIGHT * jnp.minimum(0, jnp.log(frequencies * size / RARE))
        of_length = jnp.minimum(begins.sum(-1), MOST)
        images = jnp.zeros(allowed.shape).at[of_length].add(1) + PSEUDO_IMAGES
        ends = LENGTH_WEIGHT * jnp.log(images / images.sum())
        return weights, jnp.where(allowed, ends, NEVER)

    unknown = jnp.zeros(classes.shape), jnp.where(allowed, 0.0, NEVER)
    return jax.lax.fori_loop(0, ROUNDS, read_again, unknown)


def _read(
    following: jax.Array,
    weights: jax.Array,
    ends: jax.Array,
    logits: jax.Array,
    lengths: jax.Array,
) -> Decoding:
    valid = valid_steps(logits, lengths)
    kept = (following[0] >= 0) | (jnp.arange(logits.shape[-1]) == BLANK)
    log_probabilities = jax.nn.log_softmax(jnp.where(kept, logits, NEVER))
    path, score = best_weighted(log_probabilities, valid, following, weights, ends)
    of_path = jnp.take_along_axis(log_probabilities, path[:, :, None], -1)[:, :, 0]
    log_probability = jnp.where(valid, of_path, 0).sum(-1)
    return Decoding(path, jnp.where(score > NEVER, log_probability, NEVER))
