"""The most likely CTC path: of all, of those that are allowed, or of a set of characters."""

from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from flax import struct

from crnn_jax.decoding import Decoding
from crnn_jax.decoding.viterbi import best_allowed, only_allowed, valid_steps
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.constraints import Automaton, Length, classes_of

SIZE_WEIGHT = 0.5
"""How much the size of a set counts. Bayes' rule says 1, if a network knew its own uncertainty; 0.5
is better on captchas that were set aside for the choice."""


class BestPath(struct.PyTreeNode):
    """The most likely class of each time step (Graves et al. 2006, section 3.2)."""

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """See `Decoder`."""
        valid = valid_steps(logits, lengths)
        best = jnp.where(valid, jax.nn.log_softmax(logits).max(-1), 0)
        return Decoding(jnp.where(valid, jnp.argmax(logits, -1), BLANK), best.sum(-1))


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
        return Decoding(*best_allowed(log_probabilities, valid, self.following, self.accepting))


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
        return Decoding(paths[chosen, images], scores[chosen, images])

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
            before = jnp.pad(path, ((0, 0), (1, 0)))[:, :-1]
            count = ((path != BLANK) & (path != before)).sum(-1)
            size = (following >= 0).any(0).sum()
            ratio = jnp.log(logits.shape[-1] - 1) - jnp.log(size)
            evidence = score + SIZE_WEIGHT * count * ratio
            of_others = jax.nn.logsumexp(only_allowed(following, log_probabilities), -1)
            return path, evidence, score - jnp.where(valid, of_others, 0).sum(-1)

        return jax.vmap(of_set)(self.following)
