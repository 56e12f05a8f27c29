"""Flax's `Conv` and `Dense`, the same but for forms that XLA computes faster on a CPU."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from crnn_jax.models.ops import winograd
from crnn_jax.models.ops.channels import spread_channels


class Conv(nn.Module):
    """`nn.Conv` over features (B, ..., C), by Winograd's method where that is faster.

    The gradient of its bias is `sum_to_channels`. Without `learn_bias` it has none. Before batch
    normalization, which takes any bias away again, it is zero but for rounding, of which Adam would
    make steps of full length.
    """

    features: int
    kernel_size: Sequence[int]
    padding: str = "SAME"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    learn_bias: bool = True
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Convolves features (B, H, W, C), or (B, T, C)."""
        shape = (*self.kernel_size, inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        inputs, kernel = promote_dtype(inputs, kernel, dtype=self.dtype)
        return _with_bias(self, _convolve(_written(inputs), kernel, self.padding), self.learn_bias)


class Dense(nn.Dense):
    """`nn.Dense` with a bias whose gradient is `sum_to_channels`."""

    use_bias: bool = False  # of nn.Dense; the bias is added here

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Multiplies features (..., C)."""
        return _with_bias(self, super().__call__(inputs))


def _convolve(inputs: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    def plain(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        axes = "NHWC", "HWIO", "NHWC"
        return jax.lax.conv_general_dilated(
            inputs,
            kernel,
            (1,) * (kernel.ndim - 2),
            padding,
            dimension_numbers=axes if kernel.ndim == 4 else ("NWC", "WIO", "NWC"),
        )

    if padding != "SAME" or not winograd.pays(inputs, kernel):
        return plain(inputs, kernel)
    outputs: jax.Array = jax.lax.platform_dependent(
        inputs, kernel, cpu=winograd.convolve_3x3, default=plain
    )
    return outputs


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
