"""Reading in lower case."""

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from crnn_jax.decoding import Decoder, Decoding, with_step_probabilities
from crnn_jax.text.alphabet import BLANK, Alphabet


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
        return cls(decoder, jnp.eye(alphabet.num_classes)[lower_case(alphabet)])

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """See `Decoder`."""
        sums = self.sums(logits)
        return with_step_probabilities(self.decoder(sums, lengths), sums)

    def sums(self, logits: jax.Array) -> jax.Array:
        """Returns the logits (B, T, K) of the sums."""
        return jnp.log(jax.nn.softmax(logits) @ self.lower)


def lower_case(alphabet: Alphabet) -> np.ndarray:
    """Returns the class of each character's lower case, (K,); its own class if there is none."""
    found = [BLANK]
    for own, character in enumerate(alphabet.characters, BLANK + 1):
        lower = alphabet.classes(character.lower()).tolist()
        found.append(lower[0] if len(lower) == 1 and lower[0] > BLANK else own)
    return np.array(found)
