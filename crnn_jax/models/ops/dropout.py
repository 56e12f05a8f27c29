"""Dropout that does not depend on how many devices share a batch."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) with one random key for each sample of the global batch.

    `nn.Dropout` draws one mask for all samples of a device, so the mask of a sample depends on the
    number of devices. Here a sample's key is a function of its place in the global batch: eight
    devices drop what one device drops.

    Attributes:
      rate: the probability of dropping an element, in [0, 1).
      deterministic: drop nothing.
      axis_name: the pmapped axis over which the batch is split; None if it is not.
    """

    rate: float
    deterministic: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Drops elements of features (B, ...), and scales the others by 1 / (1 - rate).

        Unless it is deterministic, it needs a random stream `dropout`, the same on every device.
        """
        if self.deterministic or self.rate == 0:
            return x
        kept = 1 - self.rate
        places = jnp.arange(x.shape[0])
        if self.axis_name is not None:
            places += jax.lax.axis_index(self.axis_name) * x.shape[0]
        keys = jax.vmap(partial(jax.random.fold_in, self.make_rng("dropout")))(places)
        draw = partial(jax.random.bernoulli, p=kept, shape=x.shape[1:])
        return jnp.where(jax.vmap(draw)(keys), x / kept, 0)
