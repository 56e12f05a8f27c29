"""Flax's `Conv` and `Dense`, computed in forms that are faster on a CPU."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from crnn_jax.models.ops import winograd
from crnn_jax.models.ops.channels import spread_channels


class Conv(nn.Module):
    """`nn.Conv` for features (B, ..., C), by Winograd's method where that is faster.

    The gradient of the bias is computed by `sum_to_channels`. With `learn_bias=False` it is zero.
    Batch normalization subtracts any bias again, so before it the gradient of the bias would be
    rounding noise, from which Adam makes steps of full size.
    """

    features: int
    kernel_size: Sequence[int]
    padding: str = "SAME"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    use_bias: bool = True
    learn_bias: bool = True
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Convolves features (B, H, W, C), or (B, T, C)."""
        shape = (*self.kernel_size, inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        inputs, kernel = promote_dtype(inputs, kernel, dtype=self.dtype)
        outputs = _convolve(_written(inputs), kernel, self.padding)
        return _with_bias(self, outputs, self.learn_bias) if self.use_bias else outputs


class Dense(nn.Dense):
    """`nn.Dense` with a bias whose gradient is computed by `sum_to_channels`."""

    use_bias: bool = False  # nn.Dense adds none, as it is added here

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
    """The inputs, which a CPU then writes to memory once.

    The gradient of a kernel reads them transposed. Without the barrier XLA would compute them
    (pool, mask, ReLU) a second time for it, in transposed order, which took 3 % of a step.
    """
    return jax.lax.platform_dependent(
        inputs, cpu=jax.lax.optimization_barrier, default=lambda inputs: inputs
    )
