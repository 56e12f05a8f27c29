"""Bidirectional LSTM layers over padded sequences."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from crnn_jax.models.ops.layers import Dense

SHUT = -1e9  # of a gate before its sigmoid, which then is 0 exactly


class ProjectedLSTMCell(nn.RNNCellBase):
    """An LSTM cell whose input products were computed before the scan.

    `nn.OptimizedLSTMCell` multiplies the input inside the scan, one small product for each time
    step. One product over all the time steps ahead of the scan costs the same arithmetic in one
    large matrix product; the scan keeps the recurrent product alone. The equations are those of
    Hochreiter and Schmidhuber 1997 with forget gates (Gers et al. 2000), no peepholes; gates in
    the order input, forget, cell, output.
    """

    hidden: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], projected: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """One time step.

        Args:
          carry: cell and hidden state, each (B, hidden).
          projected: input products with the bias, (B, 4 * hidden).

        Returns:
          The new carry, and the hidden state (B, hidden).
        """
        cell, hidden = carry
        gates = projected + nn.Dense(
            4 * self.hidden,
            use_bias=False,
            kernel_init=nn.initializers.orthogonal(),
            dtype=self.dtype,
            name="recurrent",
        )(hidden)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * nn.tanh(g)
        hidden = nn.sigmoid(o) * nn.tanh(cell)
        return (cell, hidden), hidden

    @nn.nowrap
    def initialize_carry(
        self, rng: jax.Array, input_shape: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array]:
        """Zero states for inputs of shape (B, 4 * hidden)."""
        del rng
        zeros = jnp.zeros((*input_shape[:-1], self.hidden), self.dtype or jnp.float32)
        return zeros, zeros

    @property
    def num_feature_axes(self) -> int:
        """Of the projected input, after the batch axis."""
        return 1


class BiLSTM(nn.Module):
    """A bidirectional LSTM layer; the backward direction starts at each sequence's true end.

    Behind that end its input gates are shut, so that its states stay the zeros that it starts with.
    Turning each sequence round by its length instead, as `nn.RNN` does with `seq_lengths`, gathers
    all that was projected, and takes more bytes on a TPU.
    """

    hidden: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """Maps sequences (B, T, D) with true lengths (B,) to (B, T, 2 * hidden)."""

        def direction(name: str, reverse: bool) -> jax.Array:
            projected = Dense(4 * self.hidden, dtype=self.dtype, name=f"{name}_input")(x)
            if reverse:
                projected = jnp.where(shut, SHUT, projected)
            rnn = nn.RNN(
                ProjectedLSTMCell(self.hidden, self.dtype, name=name),
                reverse=reverse,
                keep_order=reverse,
                name=f"{name}_rnn",
            )
            outputs: Any = rnn(projected)
            return outputs

        behind = jnp.arange(x.shape[1])[None, :, None] >= lengths[:, None, None]
        shut = behind & (jnp.arange(4 * self.hidden) < self.hidden)[None, None]
        return jnp.concatenate([direction("forward", False), direction("backward", True)], axis=-1)
