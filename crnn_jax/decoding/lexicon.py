"""Reading words of a lexicon: the one with the highest CTC probability (Shi et al. 2015, 2.3.2)."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from crnn_jax.decoding import Decoder, Decoding, with_step_probabilities
from crnn_jax.decoding.alignment import align
from crnn_jax.decoding.caseless import lower_case
from crnn_jax.decoding.forward import label_log_probabilities
from crnn_jax.decoding.viterbi import NEVER, character_starts, valid_steps
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.constraints import Automaton

CANDIDATES = 50
"""How many words of a larger lexicon are scored for each image."""

DISTANCE = 3
"""Words at most this many edits from the text without the lexicon are candidates first, as in the
paper."""

SHOWN = 10
"""How many words `Decoding.labels` has."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Words:
    """The distinct words of a lexicon that a model can write.

    Attributes:
      texts: the words as they are matched: normalized, and in lower case if case does not count.
      labels: (N, L) int32, their classes, padded with blanks.
      spelling: (N, L) int32, the classes of the words as the lexicon has them.
    """

    texts: list[str]
    labels: np.ndarray
    spelling: np.ndarray

    @classmethod
    def create(
        cls,
        words: Iterable[str],
        alphabet: Alphabet,
        caseless: bool = False,
        automaton: Automaton | None = None,
    ) -> Self:
        """Encodes words; those that the model cannot write are left out, with a warning.

        Args:
          words: those before others are preferred where not all can be scored.
          alphabet: that of the model.
          caseless: whether case does not count. The first of words that differ in case is kept.
          automaton: leaves out the words that it does not allow.

        Raises:
          ConfigError: no word is left.
        """
        lower, count = lower_case(alphabet), 0
        found: dict[tuple[int, ...], np.ndarray] = {}
        for count, word in enumerate(words, 1):  # noqa: B007  # it is used below
            text = alphabet.normalize(word)
            label = own = alphabet.classes(text)
            if caseless:
                for other in (str.lower, str.upper):  # a model may have one case alone
                    same_place = [alphabet.classes(other(c))[0] for c in text]
                    own = np.where(own < 0, np.array(same_place, np.int32), own)
                label = lower[own]
            is_known = len(own) > 0 and own.min() >= 0
            if is_known and (automaton is None or automaton.allows(label)):
                found.setdefault(tuple(label.tolist()), own)
        if not found:
            raise ConfigError("the model can write no word of the lexicon; check its characters")
        if left_out := count - len(found):
            logger.warning(
                "%s of the lexicon's %s words are left out: they are repeated or not allowed, or"
                " have characters that the model cannot write",
                f"{left_out:,}",
                f"{count:,}",
            )
        shape = len(found), max(map(len, found))
        labels, spelling = np.full(shape, BLANK, np.int32), np.full(shape, BLANK, np.int32)
        for place, (label, own) in enumerate(found.items()):
            labels[place, : len(label)], spelling[place, : len(own)] = label, own
        texts = ["".join(alphabet.characters[c - 1] for c in label) for label in found]
        return cls(texts, labels, spelling)

    def nearest(self, texts: Sequence[str], count: int) -> np.ndarray:
        """Returns the places (B, count) of the words that are the fewest edits from each text.

        Words of the same distance have the order of the lexicon. Those beyond `DISTANCE` do as
        well, unless no word is nearer.
        """
        measure = partial(process.cdist, choices=self.texts, scorer=Levenshtein.distance)
        distances = measure(texts, score_cutoff=DISTANCE, dtype=np.uint8)
        far = np.flatnonzero(distances.min(1) > DISTANCE)
        keys = distances.astype(np.int64)
        if len(far):
            keys[far] = measure([texts[place] for place in far.tolist()], dtype=np.int32)
        keys = keys * len(self.texts) + np.arange(len(self.texts))
        return np.argpartition(keys, count - 1)[:, :count]


class Lexicon(struct.PyTreeNode):
    """Reads words of a lexicon.

    Of up to `CANDIDATES` words all are scored. Of larger lexicons those are scored that are the
    nearest to the text that another decoder reads. They are found on the host.

    The log probability is that of the word, summed over all of its alignments.

    Attributes:
      decoder: what reads without the lexicon.
      labels: (N, L), see `Words`.
      spelling: (N, L).
      words: the words.
      alphabet: that of the model.
    """

    decoder: Decoder
    labels: jax.Array
    spelling: jax.Array
    words: Words = struct.field(pytree_node=False)
    alphabet: Alphabet = struct.field(pytree_node=False)

    @classmethod
    def create(cls, decoder: Decoder, words: Words, alphabet: Alphabet) -> Self:
        """The decoder of a lexicon."""
        labels, spelling = jnp.asarray(words.labels), jnp.asarray(words.spelling)
        return cls(decoder, labels, spelling, words, alphabet)

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """See `Decoder`."""
        images, count = logits.shape[0], len(self.labels)
        if count <= CANDIDATES:
            places = jnp.broadcast_to(jnp.arange(count), (images, count))
        else:
            places = jax.pure_callback(
                self._candidates,
                jax.ShapeDtypeStruct((images, CANDIDATES), jnp.int32),
                self.decoder(logits, lengths).path,
            )
        return most_likely(logits, lengths, self.labels[places], self.spelling[places])

    def _candidates(self, path: jax.Array) -> np.ndarray:
        texts = self.alphabet.decode_batch(np.asarray(path))
        return self.words.nearest(texts, CANDIDATES).astype(np.int32)


class OwnLexicons(struct.PyTreeNode):
    """Reads a batch of images that have a lexicon each, as benchmarks of scene text do.

    Attributes:
      labels: (B, C, L), see `Words`; blanks alone where an image has fewer words.
      spelling: (B, C, L).
    """

    labels: jax.Array
    spelling: jax.Array

    @classmethod
    def create(
        cls, lexicons: Sequence[Iterable[str]], alphabet: Alphabet, caseless: bool = False
    ) -> Self:
        """The decoder of a batch; for `caseless`, see `Words`. Sizes are multiples of 8."""
        found = [Words.create(words, alphabet, caseless) for words in lexicons]
        count, longest = np.max([words.labels.shape for words in found], 0)
        shape = len(found), -(-int(count) // 8) * 8, -(-int(longest) // 8) * 8
        labels, spelling = np.full(shape, BLANK, np.int32), np.full(shape, BLANK, np.int32)
        for place, words in enumerate(found):
            count, length = words.labels.shape
            labels[place, :count, :length] = words.labels
            spelling[place, :count, :length] = words.spelling
        return cls(jnp.asarray(labels), jnp.asarray(spelling))

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """See `Decoder`."""
        return most_likely(logits, lengths, self.labels, self.spelling)


def most_likely(
    logits: jax.Array, lengths: jax.Array, labels: jax.Array, spelling: jax.Array
) -> Decoding:
    """Returns the most likely of C words for each of B images.

    Args:
      logits: (B, T, K).
      lengths: (B,), the valid time steps.
      labels: (B, C, L), the words' classes, padded with blanks; no word where they are all blanks.
      spelling: (B, C, L), the classes to return instead.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    scores = label_log_probabilities(log_probabilities, valid_steps(logits, lengths), labels)
    scores = jnp.where((labels != BLANK).any(-1), scores, NEVER)
    every = jax.nn.logsumexp(scores, 1)
    scores, order = jax.lax.top_k(scores, min(SHOWN, labels.shape[1]))
    places = order[:, :, None]
    labels, spelling = (jnp.take_along_axis(of, places, 1) for of in (labels, spelling))
    path = align(log_probabilities, lengths, labels[:, 0])
    character = jnp.cumsum(character_starts(path), -1) - 1
    spelled = jnp.take_along_axis(spelling[:, 0], jnp.maximum(character, 0), 1)
    # The probabilities are those of what was scored, which may be spelled in another case.
    decoding = with_step_probabilities(Decoding(path, scores[:, 0]), logits)
    path = jnp.where(path == BLANK, BLANK, spelled)
    spelling = jnp.where(scores[:, :, None] > NEVER, spelling, BLANK)
    best = scores[:, 0]
    return decoding.replace(
        path=path,
        labels=spelling,
        label_log_probabilities=scores,
        log_posterior=jnp.where(best > NEVER, best - every, NEVER),
    )
