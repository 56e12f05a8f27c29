"""The most likely CTC path: of all, of those that are allowed, or of a set of characters."""

from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from flax import struct

from crnn_jax.decoding import Decoding, with_step_probabilities
from crnn_jax.decoding.forward import allowed_log_probability, text_log_probability
from crnn_jax.decoding.viterbi import (
    NEVER,
    best_allowed,
    character_starts,
    only_allowed,
    valid_steps,
)
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.constraints import SIZE_WEIGHT, Automaton, Length, classes_of


class BestPath(struct.PyTreeNode):
    """The most likely class of each time step (Graves et al. 2006, section 3.2)."""

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """See `Decoder`."""
        valid = valid_steps(logits, lengths)
        log_probabilities = jax.nn.log_softmax(logits)
        best = jnp.where(valid, log_probabilities.max(-1), 0).sum(-1)
        path = jnp.where(valid, jnp.argmax(logits, -1), BLANK)
        posterior = text_log_probability(log_probabilities, valid, path)
        return Decoding(path, best, log_posterior=jnp.minimum(posterior, 0))


class AllowedPath(struct.PyTreeNode):
    """The most likely path whose text an automaton allows.

    The probability is that among the classes that the automaton allows anywhere.

    Attributes:
      following: (Q, K), see `text.constraints.Automaton`.
      accepting: (Q,).
    """

    following: jax.Array
    accepting: jax.Array

    @classmethod
    def create(cls, automaton: Automaton) -> Self:
        """The decoder of an automaton."""
        return cls(jnp.asarray(automaton.following), jnp.asarray(automaton.accepting))

    def automata(self, logits: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns the automaton of all images, (Q, K)."""
        return self.following

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """See `Decoder`."""
        log_probabilities = jax.nn.log_softmax(only_allowed(self.following, logits))
        valid = valid_steps(logits, lengths)
        path, best = best_allowed(log_probabilities, valid, self.following, self.accepting)
        posterior = self.log_posterior(log_probabilities, valid, path)
        decoding = Decoding(path, best, log_posterior=jnp.where(best > NEVER, posterior, NEVER))
        return with_step_probabilities(decoding, log_probabilities)

    def log_posterior(
        self, log_probabilities: jax.Array, valid: jax.Array, path: jax.Array
    ) -> jax.Array:
        """Returns the log probability (B,) of the texts of paths among all allowed ones."""
        text = text_log_probability(log_probabilities, valid, path)
        every = allowed_log_probability(log_probabilities, valid, self.following, self.accepting)
        return _log_share(text, every)


class CharsetPath(struct.PyTreeNode):
    """The best path within the set of characters that explains an image best.

    The texts of one site are of one set, such as digits. A network that was trained on texts of all
    characters alike does not know that, and may read a 0 as an o. Here each of S sets is a
    hypothesis: its texts of n characters have the probability 1 / size^n each, while the network
    assumed 1 / (K - 1)^n. Bayes' rule compares the best paths of all hypotheses, with
    `SIZE_WEIGHT`.

    The probability of a path is that among the classes of its set.

    Attributes:
      following: (S, Q, K), the automaton of each set.
      accepting: (Q,).
      log_priors: (S,), how likely each set is before an image is seen.
    """

    following: jax.Array
    accepting: jax.Array
    log_priors: jax.Array

    @classmethod
    def create(
        cls, log_priors: Mapping[str, float], alphabet: Alphabet, length: Length | None = None
    ) -> Self:
        """The decoder of the sets `log_priors`, which are named as in `text.constraints`."""
        automata = [Automaton.of_length(classes_of(name, alphabet), length) for name in log_priors]
        return cls(
            jnp.stack([automaton.following for automaton in automata]),
            jnp.asarray(automata[0].accepting),
            jnp.array(list(log_priors.values()), jnp.float32),
        )

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """See `Decoder`."""
        paths, evidence, scores = self._of_sets(logits, lengths)
        chosen = self._chosen(evidence)
        images = jnp.arange(logits.shape[0])
        path, score = paths[chosen, images], scores[chosen, images]
        valid, log_probabilities = valid_steps(logits, lengths), jax.nn.log_softmax(logits)
        posterior = self.log_posterior(log_probabilities, valid, path)
        decoding = Decoding(path, score, log_posterior=jnp.where(score > NEVER, posterior, NEVER))
        allowed = jax.vmap(only_allowed)(self.following[chosen], logits)
        return with_step_probabilities(decoding, allowed)

    def evidence(self, logits: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns how well each set explains each image, (S, B), as a logarithm."""
        return self._of_sets(logits, lengths)[1]

    def automata(self, logits: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns the automaton of each image's set, (B, Q, K)."""
        return self.following[self._chosen(self.evidence(logits, lengths))]

    def _chosen(self, evidence: jax.Array) -> jax.Array:
        """The set of each image, (B,)."""
        return jnp.argmax(evidence + self.log_priors[:, None], 0)

    def _of_sets(
        self, logits: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The best path (S, B, T) in each set, its evidence, and its log probability."""
        valid = valid_steps(logits, lengths)
        log_probabilities = jax.nn.log_softmax(logits)

        def of_set(following: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            path, score = best_allowed(log_probabilities, valid, following, self.accepting)
            size = (following >= 0).any(0).sum()
            ratio = jnp.log(logits.shape[-1] - 1) - jnp.log(size)
            evidence = score + SIZE_WEIGHT * character_starts(path).sum(-1) * ratio
            of_others = jax.nn.logsumexp(only_allowed(following, log_probabilities), -1)
            return path, evidence, score - jnp.where(valid, of_others, 0).sum(-1)

        return jax.vmap(of_set)(self.following)

    def log_posterior(
        self, log_probabilities: jax.Array, valid: jax.Array, path: jax.Array
    ) -> jax.Array:
        """Returns the log probability (B,) of the text of each path by Bayes' rule.

        It is the sum over all sets that have its characters, divided by that of all texts. The text
        must be allowed.
        """
        classes = log_probabilities.shape[-1]
        allowed = (self.following >= 0).any(1).at[:, BLANK].set(True)  # (S, K)
        log_weights = SIZE_WEIGHT * (jnp.log(classes - 1) - jnp.log(allowed.sum(1) - 1))
        fits = allowed[:, path].all(-1)  # (S, B)
        prior = (
            self.log_priors[:, None] + log_weights[:, None] * character_starts(path).sum(-1)[None]
        )
        text = text_log_probability(log_probabilities, valid, path)
        own = text + jax.nn.logsumexp(jnp.where(fits, prior, NEVER), 0)
        every = jax.vmap(allowed_log_probability, in_axes=(None, None, 0, None, 0))(
            log_probabilities, valid, self.following, self.accepting, log_weights
        )
        return _log_share(own, jax.nn.logsumexp(every + self.log_priors[:, None], 0))


def _log_share(own: jax.Array, every: jax.Array) -> jax.Array:
    """The logarithm of a share, which rounding does not raise above 0; -inf of nothing."""
    return jnp.where(every > NEVER, jnp.minimum(own - every, 0), NEVER)
