"""From logits to texts.

A decoder is called with logits (B, T, K) and the valid time steps (B,), in a compiled function, and
returns a `Decoding`. Decoders are arguments of compiled functions, so that decoders of one kind and
size share a program.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct


class Decoding(struct.PyTreeNode):
    """What a decoder read in B images.

    Attributes:
      path: (B, T) int32, the class of each time step on the most likely path of the text; blanks
        after the valid time steps.
      log_probability: (B,) float32, the logarithm of the probability of the text as the decoder
        counts it; -inf, with a path of blanks, where no text is allowed.
      labels: (B, N, L) int32, the classes of the N most likely texts, the best first, padded with
        blanks; None of decoders that find one text.
      label_log_probabilities: (B, N) float32, the logarithms of their probabilities, summed over
        all alignments; -inf where there are fewer than N.
      log_posterior: (B,) float32, the logarithm of the probability of the text among all texts that
        the decoder could have read, both summed over all alignments; None of decoders that do not
        compute it.
      step_probabilities: (B, T) float32, the probability of the class of each time step, among the
        classes that the decoder allows; see `with_step_probabilities`.
    """

    path: jax.Array
    log_probability: jax.Array
    labels: jax.Array | None = None
    label_log_probabilities: jax.Array | None = None
    log_posterior: jax.Array | None = None
    step_probabilities: jax.Array | None = None

    @property
    def log_share(self) -> jax.Array:
        """What confidence is made of, (B,): `log_posterior`, or else `log_probability`."""
        return self.log_probability if self.log_posterior is None else self.log_posterior


class Decoder(Protocol):
    """See the module's docstring."""

    def __call__(self, logits: jax.Array, lengths: jax.Array) -> Decoding:
        """Reads logits (B, T, K) of which the first `lengths` (B,) time steps are valid."""
        ...


def with_step_probabilities(decoding: Decoding, logits: jax.Array) -> Decoding:
    """Adds the probabilities of the path's time steps by these logits (B, T, K), if it has none."""
    if decoding.step_probabilities is not None:
        return decoding
    probabilities = jnp.take_along_axis(jax.nn.softmax(logits), decoding.path[..., None], -1)
    return decoding.replace(step_probabilities=probabilities[..., 0])
