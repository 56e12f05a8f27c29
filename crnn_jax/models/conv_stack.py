"""The convolution stack of the CRNN: an image becomes a sequence of column features."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from crnn_jax.models.ops.batch_norm import MaskedBatchNorm
from crnn_jax.models.ops.layers import Conv
from crnn_jax.models.ops.pooling import max_pool_2x1, max_pool_2x2

# Which of the seven convolutions (counted from 1) are followed by batch normalization.
BATCH_NORM_VARIANTS = {
    "paper": (5, 6),  # Shi et al. 2015, table 1
    "bgshih": (3, 5, 7),  # the authors' own code, and the PyTorch ports of it
    "all": (1, 2, 3, 4, 5, 6, 7),
    "none": (),
}
PAPER_CHANNELS = (64, 128, 256, 256, 512, 512, 512)
HIGH = 64  # pixels; from this height on ConvStack folds images


def num_time_steps(width: int, height: int = 32) -> int:
    """Time steps for an image of `width` x `height` pixels: two halvings, +1, +1, -1."""
    return width // _fold(height) // 4 + 1


def output_height(height: int) -> int:
    """Height of the feature map for images `height` pixels high; the stack needs 1."""
    return height // _fold(height) // 16 - 1


def _fold(height: int) -> int:
    return 2 if height >= HIGH else 1


def finer_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The first kernel for images 64 pixels high, from that for 32 (3, 3, n n C, D).

    It sees in each 2 x 2 of their pixels, of C `channels`, what that one saw in one: their mean.
    """
    rows, columns, folded, features = kernel.shape
    n = math.isqrt(folded // channels)
    kernel = kernel.reshape(rows, columns, n, n, channels, features)
    kernel = kernel.repeat(2, axis=2).repeat(2, axis=3) / 4
    return kernel.reshape(rows, columns, 4 * folded, features)


def width_mask(widths: jax.Array, width: int) -> jax.Array:
    """Booleans (B, 1, width, 1), true at columns below each of the widths (B,)."""
    return (jnp.arange(width)[None, :] < widths[:, None])[:, None, :, None]


class ConvStack(nn.Module):
    """Seven convolutions and four max pools (Shi et al. 2015, arXiv:1507.05717, table 1).

    Images 32 pixels high come out one row high; a width W becomes W // 4 + 1 columns. Of those
    64 pixels high each 2 x 2 come in as one of four times the channels: small print keeps its
    detail, in as many columns and for hardly more arithmetic. Features to the right of each
    image's true width are zero after every layer, so that an image has the same features alone,
    padded, and in any batch.

    That is space to depth, the reverse of Shi et al. 2016, arXiv:1609.05158, section 2.2. With
    `fold` it is done to 2 x 2 more, and the pool behind the first convolution, which then sees
    6 x 6 pixels, is left out. No layer has the full size any more: those that have take little
    arithmetic but much time, for all the memory they go through.
    """

    channels: Sequence[int] = PAPER_CHANNELS
    batch_norm: str = "bgshih"
    fold: bool = False
    leaky: bool = False
    momentum: float = 0.99
    dtype: jnp.dtype | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, widths: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C), zero beyond the widths (B,), to (B, 1, T, D), lengths."""
        normalized = BATCH_NORM_VARIANTS[self.batch_norm]
        halving = (2,) if self.fold else (1, 2)
        factor = _fold(x.shape[1]) * (2 if self.fold else 1)
        if factor > 1:
            # Not `//`, whose nine operations XLA would put into each mask; no width is negative.
            widths = jax.lax.div(widths, factor)
            x = _folded(x, factor)
            # A last column with padding lies beyond that width, and is none of the image alone.
            x = jnp.where(width_mask(widths, x.shape[2]), x, 0)
        for layer, channels in enumerate(self.channels, start=1):
            last = layer == len(self.channels)
            x = Conv(
                channels,
                (2, 2) if last else (3, 3),
                padding="VALID" if last else "SAME",
                kernel_init=nn.initializers.he_normal(),
                learn_bias=layer not in normalized,
                dtype=self.dtype,
                name=f"conv{layer}",
            )(x)
            widths = widths - 1 if last else widths
            mask = width_mask(widths, x.shape[2])
            pool_2x1 = partial(max_pool_2x1, mask=mask)
            # Pooled before it is normalized and rectified, not after: what increases steadily
            # can change places with a maximum, and has a half or a quarter of the work behind it.
            pools = dict.fromkeys(halving, max_pool_2x2) | {4: pool_2x1, 6: pool_2x1}
            pool = pools.get(layer)
            if layer in normalized:
                x = MaskedBatchNorm(
                    momentum=self.momentum,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"norm{layer}",
                )(x, mask, use_running_average=not train, pool=pool)
            elif pool:
                x = pool(x)
            x = nn.leaky_relu(x, 0.2) if self.leaky else nn.relu(x)
            # A last odd column of 2x2 pools with padding and is beyond the halved width.
            if layer in halving:
                widths = jax.lax.div(widths, 2)
            elif layer in (4, 6):
                widths = widths + 1
            x = jnp.where(width_mask(widths, x.shape[2]), x, 0)
        return x, widths


def _folded(x: jax.Array, n: int) -> jax.Array:
    """(B, H, W, C) as (B, H // n, W // n, n n C); what is left over of rows and columns is not."""
    batch, height, width, channels = x.shape
    x = x[:, : height // n * n, : width // n * n]
    x = x.reshape(batch, height // n, n, width // n, n, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // n, width // n, n * n * channels)
