"""From logits to a CTC path: the best of all, of those that are allowed, or of a set of characters.

A decoder is called with logits (B, T, K) and the valid time steps (B,). It returns the class of
each time step, (B, T), and the logarithm of the path's probability, (B,) float32; that is -inf
where no path is allowed. Decoders are arguments of compiled functions, so that decoders of one kind
and size share a program.
"""

from collections.abc import Mapping
from typing import Protocol, Self, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.constraints import Automaton, Length, classes_of

ALL = "all"  # the name of all characters that a model knows
NEVER = -jnp.inf

SIZE_WEIGHT = 0.5
"""How much the size of a set counts. Bayes' rule says 1, if a network knew its own uncertainty; 0.5
is better on captchas that were set aside for the choice."""


class Decoder(Protocol):
    """See the module's docstring."""

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the path of each image, and its log probability."""
        ...


class Known(TypedDict, total=False):
    """What is known of the texts before they are read.

    Attributes:
      alphabet: a name of `text.constraints.CHARSETS`, "all", or the characters that may occur.
        None, the default: one of the model's sets if it has any, else all characters.
      length: the number of characters, or the least and the most of them.
      caseless: whether to read in lower case; both cases of a letter then count as one.
    """

    alphabet: str | None
    length: Length | None
    caseless: bool


def make_decoder(own: Alphabet, log_priors: Mapping[str, float], **known: Unpack[Known]) -> Decoder:
    """Returns the decoder of a model for what is known of the texts.

    Args:
      own: the model's alphabet.
      log_priors: the model's sets of characters, see `CharsetPath`; may be empty.
      known: see `Known`.

    Raises:
      ConfigError: the model lacks a character, or the length is not supported.
    """
    alphabet, length = known.get("alphabet"), known.get("length")
    caseless = known.get("caseless", False)
    if alphabet is None and log_priors:
        decoder: Decoder = CharsetPath.create(log_priors, own, length)
    elif alphabet in (None, ALL) and length is None:
        decoder = BestPath()
    else:
        every = np.arange(own.num_classes) != BLANK
        classes = every if alphabet in (None, ALL) else classes_of(alphabet, own)
        if caseless:
            classes = np.isin(np.arange(own.num_classes), _lower_case(own)[classes])
        decoder = AllowedPath.create(Automaton.of_length(classes, length))
    return Caseless.create(decoder, own) if caseless else decoder


class BestPath(struct.PyTreeNode):
    """The most likely class of each time step (Graves et al. 2006, section 3.2)."""

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Decoder`."""
        best = jnp.where(_valid(logits, lengths), jax.nn.log_softmax(logits).max(-1), 0)
        return jnp.argmax(logits, -1), best.sum(-1)


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

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Decoder`."""
        log_probabilities = jax.nn.log_softmax(_only(self.following, logits))
        valid = _valid(logits, lengths)
        return _best_allowed(log_probabilities, valid, self.following, self.accepting)


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

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Decoder`."""
        valid = _valid(logits, lengths)
        log_probabilities = jax.nn.log_softmax(logits)

        def of_set(following: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            path, score = _best_allowed(log_probabilities, valid, following, self.accepting)
            before = jnp.pad(path, ((0, 0), (1, 0)))[:, :-1]
            count = ((path != BLANK) & (path != before)).sum(-1)
            size = (following >= 0).any(0).sum()
            ratio = jnp.log(logits.shape[-1] - 1) - jnp.log(size)
            evidence = score + SIZE_WEIGHT * count * ratio
            of_others = jax.nn.logsumexp(_only(following, log_probabilities), -1)
            return path, evidence, score - jnp.where(valid, of_others, 0).sum(-1)

        paths, evidence, scores = jax.vmap(of_set)(self.following)
        chosen = jnp.argmax(evidence + self.log_priors[:, None], 0)
        images = jnp.arange(logits.shape[0])
        return paths[chosen, images], scores[chosen, images]


class Caseless(struct.PyTreeNode):
    """Reads in lower case: the probabilities of both cases of a character are added.

    Attributes:
      decoder: what decodes the sums.
      lower: (K, K), 1 where the column is the lower case of the row, else 0.
    """

    decoder: Decoder
    lower: jax.Array

    @classmethod
    def create(cls, decoder: Decoder, alphabet: Alphabet) -> Self:
        """The decoder for an alphabet."""
        return cls(decoder, jnp.eye(alphabet.num_classes)[_lower_case(alphabet)])

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Decoder`."""
        return self.decoder(jnp.log(jax.nn.softmax(logits) @ self.lower), lengths)


def _lower_case(alphabet: Alphabet) -> np.ndarray:
    """The class of the lower case of each class's character, (K,); its own if there is none."""
    found = [BLANK]
    for own, character in enumerate(alphabet.characters, BLANK + 1):
        lower = alphabet.classes(character.lower()).tolist()
        found.append(lower[0] if len(lower) == 1 and lower[0] > BLANK else own)
    return np.array(found)


def _valid(logits: jax.Array, lengths: jax.Array) -> jax.Array:
    """Which time steps belong to an image, (B, T) bool."""
    return jnp.arange(logits.shape[1])[None, :] < lengths[:, None]


def _only(following: jax.Array, logits: jax.Array) -> jax.Array:
    """The logits (B, T, K) of the blank and of the classes that an automaton allows anywhere."""
    return jnp.where((following >= 0).any(0).at[BLANK].set(True), logits, NEVER)


def _best_allowed(
    log_probabilities: jax.Array, valid: jax.Array, following: jax.Array, accepting: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The best paths (B, T) whose texts are allowed, and their log probabilities (B,)."""
    if len(accepting) > 1:
        search = jax.vmap(_viterbi, in_axes=(0, 0, None, None))
        return search(log_probabilities, valid, following, accepting)
    # Texts of any length: every time step has its best class.
    allowed = _only(following, log_probabilities)
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
