"""The convolution stack of the CRNN: it turns an image into a sequence of column features."""

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

# The convolutions, counted from 1, that are followed by batch normalization.
BATCH_NORM_VARIANTS = {
    "paper": (5, 6),  # Shi et al. 2015, table 1
    "bgshih": (3, 5, 7),  # the authors' own code, and its PyTorch ports
    "all": (1, 2, 3, 4, 5, 6, 7),
    "none": (),
}
PAPER_CHANNELS = (64, 128, 256, 256, 512, 512, 512)


def num_time_steps(width: int, space_to_depth: int = 1) -> int:
    """The time steps of an image `width` pixels wide: the number of columns of its features."""
    # Pools 1 and 2 halve the columns, pools 3 and 4 add one each, convolution 7 takes one away.
    return width // space_to_depth // 4 + 1


def pixels_per_time_step(space_to_depth: int = 1) -> int:
    """The distance of two time steps in pixels of the image.

    Time step t sees the place t * pixels_per_time_step in its middle, in pixels from the left edge
    of the image: pools 3 and 4 move the middle by half a column to the left each, and convolution 7
    moves it by half a column to the right; after pools 1 and 2 it was half a column from the edge.
    """
    return 4 * space_to_depth


def output_height(height: int, space_to_depth: int = 1) -> int:
    """Rows of the features of an image `height` pixels high; the LSTMs need exactly one."""
    # Four pools halve the rows, convolution 7 takes one away.
    return height // space_to_depth // 16 - 1


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
    """Seven convolutions and four max pools (Shi et al. 2015, arXiv:1507.05717, table 1).

    An image of 32 rows and W columns becomes features of one row and W // 4 + 1 columns. After
    each layer the features to the right of an image's width are set to zero. An image therefore
    has the same features alone, padded, and in any batch.

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
      momentum: the share of the running statistics that each step keeps.
      dtype: of the activations; float32 if None.
      axis_name: the pmapped axis over which batch statistics are summed.
    """

    channels: Sequence[int] = PAPER_CHANNELS
    batch_norm: str = "bgshih"
    space_to_depth: int = 1
    first_pool: bool = True
    leaky: bool = False
    momentum: float = 0.99
    dtype: jnp.dtype | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, widths: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C), zero beyond the widths (B,), to features and their widths.

        Returns:
          Features (B, 1, T, D) with T = num_time_steps(W, space_to_depth), and the columns of them
          that are valid, (B,).
        """
        # For 32 x 100 pixels and the paper's channels the features have these shapes:
        #
        #   layer  convolution        pool              features
        #   1      3x3                2x2               (B, 16, 50, 64)
        #   2      3x3                2x2               (B, 8, 25, 128)
        #   3      3x3                                  (B, 8, 25, 256)
        #   4      3x3                2x2, stride 2x1   (B, 4, 26, 256)
        #   5      3x3                                  (B, 4, 26, 512)
        #   6      3x3                2x2, stride 2x1   (B, 2, 27, 512)
        #   7      2x2, not padded                      (B, 1, 26, 512)
        normalized = BATCH_NORM_VARIANTS[self.batch_norm]
        halving = (1, 2) if self.first_pool else (2,)
        n = self.space_to_depth if self.first_pool else 2 * self.space_to_depth
        if n > 1:
            # `//` compiles to nine operations, which XLA would repeat in each mask. `lax.div` is
            # one, and gives the same for widths, which are never negative.
            widths = jax.lax.div(widths, n)
            x = space_to_depth(x, n)  # (B, H / n, W / n, n * n * C)
            # A last column that mixes image and padding does not exist for the image alone.
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
            # Pooled before normalization and ReLU, which then have a half or a quarter of the work.
            # The result is the same, as increasing functions commute with a maximum.
            # (MaskedBatchNorm flips the sign of features that it would scale by a negative factor.)
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
            # An odd last column was pooled with padding; it lies beyond the halved width.
            if layer in halving:
                widths = jax.lax.div(widths, 2)
            elif layer in (4, 6):
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
