"""The most likely texts: CTC prefix beam search."""

from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from crnn_jax.decoding import Decoding, with_step_probabilities
from crnn_jax.decoding.alignment import align
from crnn_jax.decoding.paths import AllowedPath, CharsetPath
from crnn_jax.decoding.trie import NOWHERE, Trie
from crnn_jax.decoding.viterbi import (
    NEVER,
    best_completions,
    end_with_blanks,
    only_allowed,
    valid_steps,
)
from crnn_jax.text.alphabet import BLANK
from crnn_jax.text.language_model import LanguageModel

CLASSES = 64
"""The classes that are tried at each time step, the most likely ones, where states differ."""


class Language(struct.PyTreeNode):
    """A language model, weighted.

    Attributes:
      following: (Q, K), see `text.language_model.LanguageModel`.
      scores: (Q, K), what a class adds to the score of a text.
      end: (Q,), what the end of the text adds.
    """

    following: jax.Array
    scores: jax.Array
    end: jax.Array

    @classmethod
    def create(cls, model: LanguageModel, weight: float, bonus: float = 0.0) -> Self:
        """Multiplies the logarithms by a weight, and adds a bonus for each character."""
        return cls(
            jnp.asarray(model.following),
            jnp.asarray(model.log_probabilities, jnp.float32) * weight + bonus,
            jnp.asarray(model.end, jnp.float32) * weight,
        )


class Hypotheses(struct.PyTreeNode):
    """The beam of one image: W texts, each (W,).

    Attributes:
      node: see `Trie`; NOWHERE if there are fewer than W texts.
      parent: the node of the text without its last character; below NOWHERE if it has none.
      last: the class of the last character.
      blank: log probability of the alignments that end with a blank.
      character: log probability of those that end with the last character.
      state: that of the automaton of allowed texts.
      language_state: that of the language model.
      language_score: the sum of what the language model adds.
    """

    node: jax.Array
    parent: jax.Array
    last: jax.Array
    blank: jax.Array
    character: jax.Array
    state: jax.Array
    language_state: jax.Array
    language_score: jax.Array

    @classmethod
    def create(cls, width: int) -> Self:
        """The empty text."""
        is_first = jnp.arange(width) == 0
        zero, never = jnp.zeros(width, jnp.int32), jnp.full(width, NEVER)
        return cls(
            node=jnp.where(is_first, 0, NOWHERE),
            parent=jnp.full(width, NOWHERE - 1),
            last=zero + BLANK,
            blank=jnp.where(is_first, 0.0, NEVER),
            character=never,
            state=zero,
            language_state=zero,
            language_score=jnp.zeros(width),
        )


class Beam(struct.PyTreeNode):
    """The most likely texts, by CTC prefix beam search (Graves 2008, section 7.5; Hannun 2014).

    The probability of a text is the sum over its alignments, apart from those through prefixes that
    left the beam. With a language model texts are ordered by the score log p(CTC) + weight * log
    p(language) + bonus * length (Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech
    Recognition using Bi-Directional Recurrent DNNs", equation 5); their probabilities are still
    those of CTC alone. As in `AllowedPath`, they are those among the classes that are allowed.

    Where texts must have a certain length or shape, prefixes are ordered by their probability times
    that of their best completion. Otherwise the beam could fill with prefixes that cannot end well.

    Attributes:
      allowed: the texts that are allowed.
      language: what is known of the language, if anything is.
      width: W, the number of texts that are kept at each time step.
      classes: how many of the most likely classes of each time step are tried.
    """

    allowed: AllowedPath | CharsetPath
    language: Language | None
    width: int = struct.field(pytree_node=False)
    classes: int = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls, allowed: AllowedPath | CharsetPath, width: int, language: Language | None = None
    ) -> Self:
        """The decoder of the `width` most likely texts that are allowed."""
        # Where all states allow the same, no more classes can get into the beam: a prefix with the
        # class of rank W + 2 is less likely than those with at least W others.
        equal = len(allowed.accepting) == 1 and language is None
        classes = allowed.following.shape[-1] - 1
        return cls(allowed, language, width, min(width + 1 if equal else CLASSES, classes))

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """See `Decoder`; there are W texts."""
        following = self.allowed.automata(logits, lengths)
        each = 0 if following.ndim == 3 else None
        kept = jax.vmap(only_allowed, in_axes=(each, 0))(following, logits)
        log_probabilities = jnp.where(kept > NEVER, jax.nn.log_softmax(kept), NEVER)
        valid = valid_steps(logits, lengths)
        frames = end_with_blanks(log_probabilities, valid)
        # The most likely classes of each time step. XLA sorts for `top_k` of three dimensions on a
        # CPU, which takes ten times as long.
        characters = jnp.where(jnp.arange(kept.shape[2]) == BLANK, NEVER, kept)
        _, classes = jax.lax.top_k(characters.reshape(-1, kept.shape[2]), self.classes)
        classes = classes.reshape(*kept.shape[:2], self.classes)
        best = jnp.where(classes == BLANK, NEVER, jnp.take_along_axis(frames, classes, -1))
        search = jax.vmap(self._search, in_axes=(0, 0, 0, each))
        labels, scores = search(frames, best, classes, following)
        path = align(log_probabilities, lengths, labels[:, 0])
        best = scores[:, 0]
        posterior = self.allowed.log_posterior(jax.nn.log_softmax(logits), valid, path)
        posterior = jnp.where(best > NEVER, posterior, NEVER)
        decoding = Decoding(path, best, labels, scores, posterior)
        return with_step_probabilities(decoding, kept)

    def _search(
        self, frames: jax.Array, best: jax.Array, classes: jax.Array, following: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The texts (W, T) of one image, and the logarithms of their probabilities (W,)."""
        steps, accepting = len(frames), self.allowed.accepting
        ahead = None
        if len(accepting) > 1:
            unweighted, ends = jnp.zeros(frames.shape[1]), jnp.where(accepting, 0.0, NEVER)
            ahead = best_completions(frames, following, unweighted, ends)[0][1:]

        def step(
            carry: tuple[Hypotheses, Trie], inputs: tuple[Any, ...]
        ) -> tuple[tuple[Hypotheses, Trie], None]:
            beam, trie = carry
            time, *of_step = inputs
            beam, is_longer = self._step(beam, following, *of_step)
            trie, nodes = trie.add(1 + time * self.width, beam.parent, beam.last, is_longer)
            return (beam.replace(node=jnp.where(is_longer, nodes, beam.node)), trie), None

        start = Hypotheses.create(self.width), Trie.create(steps * self.width)
        inputs = jnp.arange(steps), frames, best, classes, ahead
        (beam, trie), _ = jax.lax.scan(step, start, inputs)
        scores = jnp.logaddexp(beam.blank, beam.character)
        scores = jnp.where(accepting[beam.state], scores, NEVER)
        totals = scores + beam.language_score
        if self.language is not None:
            totals += self.language.end[beam.language_state]
        totals, order = jax.lax.top_k(totals, self.width)
        exists = totals > NEVER
        labels = trie.labels(jnp.where(exists, beam.node[order], 0), steps)
        return labels, jnp.where(exists, scores[order], NEVER)

    def _step(
        self,
        beam: Hypotheses,
        following: jax.Array,
        frame: jax.Array,
        best: jax.Array,
        classes: jax.Array,
        ahead: jax.Array | None,
    ) -> tuple[Hypotheses, jax.Array]:
        """The beam after another time step, and which of its texts have become longer.

        Args:
          beam: the beam before.
          following: (Q, K), the automaton of allowed texts.
          frame: (K,), log probabilities of the time step.
          best: (C,), the largest ones of characters.
          classes: (C,), their classes.
          ahead: (Q, K), the log probability of the best completion after the time step, for each
            state and last class; None if all texts are allowed.
        """
        total = jnp.logaddexp(beam.blank, beam.character)
        # Texts stay as they are. Those that also come about as longer ones of others are merged.
        is_parent = beam.node[None, :] == beam.parent[:, None]
        parent = jnp.where(is_parent, jnp.arange(self.width)[None, :], NOWHERE).max(-1)
        begins = jnp.where(beam.last == beam.last[parent], beam.blank[parent], total[parent])
        stays = jnp.logaddexp(beam.character, jnp.where(parent == NOWHERE, NEVER, begins))
        blank, character = total + frame[BLANK], stays + frame[beam.last]
        # Or they get longer. A blank comes before a character that is equal to the last one.
        is_equal = classes[None, :] == beam.last[:, None]
        longer = jnp.where(is_equal, beam.blank[:, None], total[:, None]) + best[None, :]
        place = jnp.where(is_equal, jnp.arange(self.classes)[None, :], self.classes).min(-1)
        row = jnp.where(parent == NOWHERE, self.width, parent)  # out of bounds: nothing to merge
        longer = longer.at[row, place].set(NEVER, mode="drop")

        kept_score = jnp.logaddexp(blank, character)
        longer_score = longer
        if ahead is not None:
            kept_score = jnp.logaddexp(
                blank + ahead[beam.state, BLANK], character + ahead[beam.state, beam.last]
            )
            target = following[beam.state[:, None], classes[None, :]]
            target = jnp.where(target < 0, len(following), target)  # out of bounds
            longer_score = longer + ahead.at[target, classes[None, :]].get(
                mode="fill", fill_value=NEVER
            )
        if self.language is not None:
            longer_score += self.language.scores[beam.language_state[:, None], classes[None, :]]
        scores = jnp.concatenate([kept_score[:, None], longer_score], 1)
        scores, chosen = jax.lax.top_k((scores + beam.language_score[:, None]).ravel(), self.width)
        source, place = jnp.divmod(chosen, 1 + self.classes)
        is_longer, place = place > 0, jnp.maximum(place - 1, 0)
        old = jax.tree.map(lambda values: values[source], beam)
        new = old.replace(
            blank=jnp.where(is_longer, NEVER, blank[source]),
            character=jnp.where(is_longer, longer[source, place], character[source]),
            last=jnp.where(is_longer, classes[place], old.last),
            parent=jnp.where(is_longer, old.node, old.parent),
        )
        if ahead is not None:
            new = new.replace(state=jnp.where(is_longer, following[old.state, new.last], old.state))
        if self.language is not None:
            place = old.language_state, new.last
            added = jnp.where(is_longer, self.language.scores[place], 0)
            state = jnp.where(is_longer, self.language.following[place], old.language_state)
            new = new.replace(language_state=state, language_score=old.language_score + added)
        exists = scores > NEVER
        return (
            new.replace(
                node=jnp.where(exists, new.node, NOWHERE),
                parent=jnp.where(exists, new.parent, NOWHERE - 1),
                blank=jnp.where(exists, new.blank, NEVER),
                character=jnp.where(exists, new.character, NEVER),
            ),
            is_longer & exists,
        )
