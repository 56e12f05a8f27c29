"""The CRNN: a convolution stack, two bidirectional LSTMs, and logits for CTC."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from crnn_jax.architecture import PAPER_CHANNELS, SEVEN_LAYERS, ConvLayer, dense_name
from crnn_jax.models.bilstm import BiLSTM
from crnn_jax.models.conv_stack import ConvStack, width_mask
from crnn_jax.models.ops.dropout import Dropout
from crnn_jax.models.ops.layers import Conv, Dense


def normalize_images(images: jax.Array, mask: jax.Array, per_image: bool) -> jax.Array:
    """Scales uint8 images (B, H, W, C) to floats, zero where the mask (B, 1, W, 1) is false.

    By default [0, 255] becomes [-1, 1]. With `per_image` the valid pixels of each image get zero
    mean and unit variance, which makes faint print as strong as bold print.
    """
    x = images.astype(jnp.float32) / 127.5 - 1.0
    if per_image:
        count = mask.sum((1, 2, 3), keepdims=True) * (x.shape[1] * x.shape[3])
        mean = jnp.where(mask, x, 0).sum((1, 2, 3), keepdims=True) / count
        var = jnp.where(mask, jnp.square(x - mean), 0).sum((1, 2, 3), keepdims=True) / count
        # The constant keeps the noise of an almost blank image from being scaled to full range.
        x = (x - mean) * jax.lax.rsqrt(var + 1e-4)
    return jnp.where(mask, x, 0)


class CRNN(nn.Module):
    """Convolutional recurrent network (Shi, Bai, Yao 2015, arXiv:1507.05717, section 2).

    The paper has three parts: convolutional layers extract a sequence of features (section 2.1),
    recurrent layers label it (2.2), and a transcription layer turns the labels of the time steps
    into text (2.3). This module has the first two. The CTC loss of the third is in
    `training/losses.py`, its decoding in `text/alphabet.py`. Class 0 is the blank of CTC.

    Attributes:
      num_classes: K, the characters and the blank.
      channels: the features of each convolution.
      hidden: units of each LSTM in each direction.
      batch_norm, space_to_depth, first_pool, leaky, convs, momentum: see `ConvStack`.
      dense_after: for each bidirectional LSTM, whether a Dense layer of `hidden` features follows.
      mean_rows: whether several rows of features are averaged; otherwise there must be one.
      dropout: the share of the column features that is dropped in training.
      per_image: see `normalize_images`.
      freeze_conv_stack: the convolution stack keeps its running statistics, and uses them in
        training too. The optimizer has to keep its parameters.
      shortcut: in training a second head reads the column features before the LSTMs. It sows its
        logits (B, T, K) as `logits` in the collection `shortcut`. This is the CTC shortcut of
        Retsinas et al. 2022, arXiv:2404.11339, who add its loss with the weight 0.1.
      dtype: of the activations; float32 if None. Parameters and logits are always float32.
      axis_name: the pmapped axis over which a batch is split.
    """

    num_classes: int
    channels: Sequence[int] = PAPER_CHANNELS
    hidden: int = 256
    batch_norm: str = "bgshih"
    space_to_depth: int = 1
    first_pool: bool = True
    leaky: bool = False
    convs: Sequence[ConvLayer] = SEVEN_LAYERS
    dense_after: Sequence[bool] = (True, False)
    mean_rows: bool = False
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
        """Scores every class at every time step.

        Args:
          images: (B, H, W, C) uint8, with H // space_to_depth from 32 to 47, or more with
            `mean_rows`.
          widths: (B,) in pixels; what lies to the right of an image's width has no effect.
          train: normalize by the statistics of the batch and update the running ones; drop out.

        Returns:
          Logits (B, T, K) in float32 with T = Architecture.time_steps(W), and the valid time steps
          (B,).
        """
        # (B, H, W, C), floats.
        x = normalize_images(images, width_mask(widths, images.shape[2]), self.per_image)
        # Section 2.1, feature sequence extraction: (B, R, T, D), for the paper with R = 1.
        x, lengths = ConvStack(
            channels=self.channels,
            batch_norm=self.batch_norm,
            space_to_depth=self.space_to_depth,
            first_pool=self.first_pool,
            leaky=self.leaky,
            convs=self.convs,
            momentum=self.momentum,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="conv_stack",
        )(x.astype(self.dtype or jnp.float32), widths, train and not self.freeze_conv_stack)
        # Map to sequence: each column is a time step, (B, T, D).
        x = x.mean(1) if self.mean_rows and x.shape[1] > 1 else x[:, 0]
        x = Dropout(self.dropout, not train, self.axis_name)(x)
        if self.shortcut and (train or self.is_initializing()):
            # As a Dense layer it leaves the blank-only plateau after 210 steps, so after 150.
            logits = Conv(self.num_classes, (3,), dtype=jnp.float32, name="shortcut_head")(x)
            if train:
                self.sow("shortcut", "logits", logits)
        # Section 2.2, sequence labeling: (B, T, 2 * hidden). As in the PyTorch ports of the paper,
        # a projection to `hidden` features is between the two layers.
        for layer, dense in enumerate(self.dense_after, start=1):
            x = BiLSTM(self.hidden, self.dtype, name=f"bilstm{layer}")(x, lengths)
            if dense:
                x = Dense(self.hidden, dtype=self.dtype, name=dense_name(layer))(x)
        # What section 2.3, transcription, starts from: (B, T, K).
        logits = Dense(self.num_classes, dtype=jnp.float32, name="head")(x)
        return logits, lengths
