"""The convolution stack of the CRNN: it turns an image into a sequence of column features."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from crnn_jax.architecture import PAPER_CHANNELS, SEVEN_LAYERS, Architecture, ConvLayer
from crnn_jax.models.ops.batch_norm import MaskedBatchNorm
from crnn_jax.models.ops.layers import Conv
from crnn_jax.models.ops.pooling import max_pool


def finer_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The first kernel for images of twice the height and twice the space to depth.

    On an image whose pixels were each repeated 2 x 2 times, it gives what `kernel` gives on the
    original.

    Args:
      kernel: (3, 3, n * n * C, D), for a space to depth by n.
      channels: C, of the images.

    Returns:
      (3, 3, 4 * n * n * C, D): each weight spread equally over the four pixels.
    """
    rows, columns, depth, features = kernel.shape
    n = math.isqrt(depth // channels)
    kernel = kernel.reshape(rows, columns, n, n, channels, features)
    kernel = kernel.repeat(2, axis=2).repeat(2, axis=3) / 4
    return kernel.reshape(rows, columns, 4 * depth, features)


def width_mask(widths: jax.Array, width: int) -> jax.Array:
    """A mask (B, 1, width, 1) that is true at the columns below each of the widths (B,)."""
    return (jnp.arange(width)[None, :] < widths[:, None])[:, None, :, None]


class ConvStack(nn.Module):
    """Convolutions and max pools (Shi et al. 2015, arXiv:1507.05717, table 1).

    With the layers of the paper an image of 32 rows and W columns becomes features of one row and
    W // 4 + 1 columns. After each layer the features to the right of an image's width are set to
    zero. An image therefore has the same features alone, padded, and in any batch.

    Attributes:
      channels: the features of each convolution.
      batch_norm: the convolutions that batch normalization follows, a key of BATCH_NORM_VARIANTS.
      space_to_depth: n, for images n times as high as those of the paper. Each n x n pixels become
        one pixel with n * n times the channels, the inverse of the shuffle in Shi et al. 2016
        (arXiv:1609.05158, section 2.2). This keeps the details of small print, for little more
        arithmetic and as many time steps.
      first_pool: if false, a space to depth by 2 before the first convolution replaces the pool
        after it, and that convolution sees 6 x 6 pixels. Layers at full resolution do little
        arithmetic but move much memory; without the first pool there are none.
      leaky: LeakyReLU(0.2) instead of ReLU.
      convs: the convolutions with their pools.
      momentum: the share of the running statistics that each step keeps.
      dtype: of the activations; float32 if None.
      axis_name: the pmapped axis over which batch statistics are summed.
    """

    channels: Sequence[int] = PAPER_CHANNELS
    batch_norm: str = "bgshih"
    space_to_depth: int = 1
    first_pool: bool = True
    leaky: bool = False
    convs: Sequence[ConvLayer] = SEVEN_LAYERS
    momentum: float = 0.99
    dtype: jnp.dtype | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, widths: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C), zero beyond the widths (B,), to features and their widths.

        Returns:
          Features (B, R, T, D) with R = Architecture.rows(H) and T = Architecture.time_steps(W),
          and the columns of them that are valid, (B,).
        """
        # For 32 x 100 pixels and the paper's layers the features have these shapes:
        #
        #   layer  convolution        pool              features
        #   1      3x3                2x2               (B, 16, 50, 64)
        #   2      3x3                2x2               (B, 8, 25, 128)
        #   3      3x3                                  (B, 8, 25, 256)
        #   4      3x3                2x2, stride 2x1   (B, 4, 26, 256)
        #   5      3x3                                  (B, 4, 26, 512)
        #   6      3x3                2x2, stride 2x1   (B, 2, 27, 512)
        #   7      2x2, not padded                      (B, 1, 26, 512)
        described = Architecture(
            convs=self.convs,
            batch_norm=self.batch_norm,
            space_to_depth=self.space_to_depth,
            first_pool=self.first_pool,
        )
        if (n := described.block) > 1:
            # `//` compiles to nine operations, which XLA would repeat in each mask. `lax.div` is
            # one, and gives the same for widths, which are never negative.
            widths = jax.lax.div(widths, n)
            x = space_to_depth(x, n)  # (B, H / n, W / n, n * n * C)
            # A last column that mixes image and padding does not exist for the image alone.
            x = jnp.where(width_mask(widths, x.shape[2]), x, 0)
        layers = zip(self.convs, self.channels, described.pools, strict=True)
        for layer, (conv, channels, pool) in enumerate(layers, start=1):
            normalized = layer in described.normalized
            x = Conv(
                channels,
                (conv.kernel, conv.kernel),
                padding="SAME" if conv.padding else "VALID",
                kernel_init=nn.initializers.he_normal(),
                use_bias=conv.bias,
                learn_bias=not normalized,
                dtype=self.dtype,
                name=f"conv{layer}",
            )(x)
            widths = widths if conv.padding else widths - (conv.kernel - 1)
            mask = width_mask(widths, x.shape[2])
            # Pooled before normalization and ReLU, which then have a half or a quarter of the work.
            # The result is the same, as increasing functions commute with a maximum.
            # (MaskedBatchNorm flips the sign of features that it would scale by a negative factor.)
            pooled = partial(max_pool, pool=pool, mask=mask) if pool else None
            if normalized:
                x = MaskedBatchNorm(
                    momentum=self.momentum,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"norm{layer}",
                )(x, mask, use_running_average=not train, pool=pooled)
            elif pooled:
                x = pooled(x)
            x = nn.leaky_relu(x, 0.2) if self.leaky else nn.relu(x)
            if pool and pool.stride[1] > 1:
                # An odd last column was pooled with padding; it lies beyond the halved width.
                widths = jax.lax.div(widths, pool.stride[1])
            elif pool and pool.padding[1]:
                widths = widths + 1
            x = jnp.where(width_mask(widths, x.shape[2]), x, 0)
        return x, widths


def space_to_depth(x: jax.Array, n: int) -> jax.Array:
    """Turns each n x n pixels of (B, H, W, C) into one: (B, H // n, W // n, n * n * C).

    Rows and columns that do not fill a block are dropped.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // n * n, : width // n * n]
    x = x.reshape(batch, height // n, n, width // n, n, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // n, width // n, n * n * channels)
