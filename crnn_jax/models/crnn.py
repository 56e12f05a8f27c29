"""The CRNN: convolution stack, two bidirectional LSTMs, and logits for CTC."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from crnn_jax.models.bilstm import BiLSTM
from crnn_jax.models.conv_stack import PAPER_CHANNELS, ConvStack, width_mask
from crnn_jax.models.ops.layers import Conv, Dense


def normalize_images(images: jax.Array, mask: jax.Array, per_image: bool) -> jax.Array:
    """uint8 images (B, H, W, C) as floats, zero where the mask (B, 1, W, 1) is false.

    Fixed: [0, 255] becomes [-1, 1]. Per image: zero mean and unit variance over the valid part of
    each image, which makes faint print as strong as bold.
    """
    x = images.astype(jnp.float32) / 127.5 - 1.0
    if per_image:
        count = mask.sum((1, 2, 3), keepdims=True) * (x.shape[1] * x.shape[3])
        mean = jnp.where(mask, x, 0).sum((1, 2, 3), keepdims=True) / count
        var = jnp.where(mask, jnp.square(x - mean), 0).sum((1, 2, 3), keepdims=True) / count
        # The floor keeps the noise of an almost blank image from filling the range.
        x = (x - mean) * jax.lax.rsqrt(var + 1e-4)
    return jnp.where(mask, x, 0)


class CRNN(nn.Module):
    """Convolutional recurrent network (Shi, Bai, Yao 2015, arXiv:1507.05717, section 2).

    ConvStack - map to sequence - BiLSTM(hidden) - Dense(hidden) - BiLSTM(hidden) -
    Dense(num_classes). Class 0 is CTC's blank.

    With `shortcut` a second head reads the column features before the LSTMs when training, and
    sows its logits (B, T, K) as `logits` in the collection `shortcut` (Retsinas et al. 2022,
    arXiv:2404.11339, "CTC shortcut", whose loss is added there with weight 0.1).
    """

    num_classes: int
    channels: Sequence[int] = PAPER_CHANNELS
    hidden: int = 256
    batch_norm: str = "bgshih"
    fold: bool = False
    leaky: bool = False
    momentum: float = 0.99
    dropout: float = 0.0
    per_image: bool = False
    freeze_conv_stack: bool = False
    shortcut: bool = False
    dtype: jnp.dtype | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, widths: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Scores every character at every time step.

        Args:
          images: (B, H, W, C) uint8; H of 32 to 47 or 64 to 95 (see ConvStack).
          widths: (B,) true widths in pixels; what lies to the right of them counts for nothing.
          train: use the batch's own statistics in normalization, and move the running ones.

        Returns:
          Logits (B, T, K) in float32 with T = num_time_steps(W, H), and the valid time steps (B,).
        """
        x = normalize_images(images, width_mask(widths, images.shape[2]), self.per_image)
        x, lengths = ConvStack(
            self.channels,
            self.batch_norm,
            self.fold,
            self.leaky,
            self.momentum,
            self.dtype,
            self.axis_name,
            name="conv_stack",
        )(x.astype(self.dtype or jnp.float32), widths, train and not self.freeze_conv_stack)
        x = nn.Dropout(self.dropout, deterministic=not train)(x[:, 0])
        if self.shortcut and (train or self.is_initializing()):
            # As a Dense layer it takes 210 steps to leave the blank-only plateau, so 150.
            logits = Conv(self.num_classes, (3,), dtype=jnp.float32, name="shortcut_head")(x)
            if train:
                self.sow("shortcut", "logits", logits)
        x = BiLSTM(self.hidden, self.dtype, name="bilstm1")(x, lengths)
        x = Dense(self.hidden, dtype=self.dtype, name="between")(x)
        x = BiLSTM(self.hidden, self.dtype, name="bilstm2")(x, lengths)
        logits = Dense(self.num_classes, dtype=jnp.float32, name="head")(x)
        return logits, lengths
