"""Batch normalization over the valid part of padded features."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from crnn_jax.models.ops.channels import spread_channels, sum_to_channels


class MaskedBatchNorm(nn.BatchNorm):
    """`nn.BatchNorm` whose statistics exclude padding exactly, on any number of devices.

    `nn.BatchNorm` with a mask averages the means of the devices. This is not the mean of the batch
    if some devices have more padding than others. Here sums and counts are added over the devices,
    so a batch has the same statistics for every padded width and every number of devices.

    Fields, parameters and statistics are those of `nn.BatchNorm` (Ioffe and Szegedy 2015,
    arXiv:1502.03167, algorithm 1). The variances are biased, as in Flax.
    """

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: jax.Array,
        mask: jax.Array,
        use_running_average: bool | None = None,
        pool: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """Normalizes features `x` (B, H, W, C) over all axes but the last.

        Args:
          x: features, which must be finite everywhere; where the mask is false they are ignored.
          mask: (B, 1, W, 1) booleans, true at valid positions.
          use_running_average: normalize by the running statistics and do not update them.
          pool: a max pool to apply to the normalized features. It is applied before scaling, which
            gives the same values for a fraction of the arithmetic. The statistics are those of the
            features before the pool.

        Returns:
          Normalized features in the compute dtype, (B, H, W, C) or as pooled. Padding is not set
          to zero.
        """
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        features = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        scale = self.param("scale", self.scale_init, (features,), self.param_dtype)
        bias = self.param("bias", self.bias_init, (features,), self.param_dtype)

        # A negative scale turns the smallest feature into the largest, so a maximum taken before
        # scaling would be wrong. The sign of such features is flipped first, which costs nothing.
        sign = jnp.where(scale < 0, -1.0, 1.0) if pool else jnp.ones_like(scale)
        x = x * sign.astype(x.dtype)[None, None, None]
        if use_running_average:
            mean, var = running_mean.value * sign, running_var.value
        else:
            weights = mask.astype(jnp.float32)
            # Both moments in one pass over the features. The sums are float32 for any dtype.
            masked = x.astype(jnp.float32) * weights
            sums = (
                sum_to_channels(masked),
                sum_to_channels(masked * x),
                weights.sum() * x.shape[1],
            )
            if self.axis_name is not None and not self.is_initializing():
                sums = jax.lax.psum(sums, self.axis_name)
            total, total_of_squares, count = sums
            count = jnp.maximum(count, 1.0)
            mean = total / count
            var = jnp.maximum(total_of_squares / count - jnp.square(mean), 0.0)
            if not self.is_initializing():
                momentum = self.momentum
                running_mean.value = momentum * running_mean.value + (1 - momentum) * mean * sign
                running_var.value = momentum * running_var.value + (1 - momentum) * var

        dtype = self.dtype or x.dtype
        x = x.astype(dtype)
        factor = scale * sign * jax.lax.rsqrt(var + self.epsilon)
        shift = bias - mean * factor
        if pool is not None:
            x = pool(x)
        factors: jax.Array = spread_channels(factor.astype(dtype), x.shape)
        shifts: jax.Array = spread_channels(shift.astype(dtype), x.shape)
        return x * factors + shifts
