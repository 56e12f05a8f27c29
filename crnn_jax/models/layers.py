"""Flax's `Conv` and `Dense`, the same but for gradients that XLA computes faster on a CPU."""

import jax
from flax import linen as nn

from crnn_jax.models.channels import spread_channels


class Conv(nn.Conv):
    """`nn.Conv` with a bias whose gradient is `sum_to_channels`, from memory to memory.

    Without `learn_bias` it has no gradient. Before batch normalisation, which takes any bias away
    again, it is zero but for rounding, of which Adam would make steps of full length.
    """

    use_bias: bool = False  # of nn.Conv; the bias is added here
    learn_bias: bool = True

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Convolves features (B, H, W, C)."""
        return _with_bias(self, super().__call__(_written(inputs)), self.learn_bias)


class Dense(nn.Dense):
    """`nn.Dense` with a bias whose gradient is `sum_to_channels`."""

    use_bias: bool = False  # of nn.Dense; the bias is added here

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Multiplies features (..., C)."""
        return _with_bias(self, super().__call__(inputs))


def _with_bias(layer: Conv | Dense, outputs: jax.Array, learn_bias: bool = True) -> jax.Array:
    bias = layer.param("bias", layer.bias_init, (layer.features,), layer.param_dtype)
    if not learn_bias:
        bias = jax.lax.stop_gradient(bias)
    biases: jax.Array = spread_channels(bias.astype(outputs.dtype), outputs.shape)
    return outputs + biases


def _written(inputs: jax.Array) -> jax.Array:
    """The inputs, on a CPU written to memory once.

    The gradient of a kernel reads them transposed. Left to itself XLA computes all that they come
    from (pool, mask, rectifier) again for it, in the order that it reads them in: 3 % of a step.
    """
    return jax.lax.platform_dependent(
        inputs, cpu=jax.lax.optimization_barrier, default=lambda inputs: inputs
    )
