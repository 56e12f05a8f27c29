"""Bidirectional LSTM layers for padded sequences."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from crnn_jax.models.ops.layers import Dense

CLOSED = -1e9  # the value before the sigmoid of a gate that is exactly 0


class ProjectedLSTMCell(nn.RNNCellBase):
    """An LSTM cell whose inputs were multiplied by their weights before the scan.

    `nn.OptimizedLSTMCell` multiplies the input inside the scan, in one small product for each time
    step. One large product over all time steps before the scan is the same arithmetic and runs
    faster; only the recurrent product stays in the scan. The equations are those of Hochreiter and
    Schmidhuber 1997 with the forget gate of Gers et al. 2000 and no peepholes. The gates are in
    the order input, forget, cell, output.
    """

    hidden: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], projected: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Advances by one time step.

        Args:
          carry: cell state and hidden state, each (B, hidden).
          projected: the input multiplied by its weights, with the bias added, (B, 4 * hidden).

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
        )(hidden)  # (B, 4 * hidden)
        i, f, g, o = jnp.split(gates, 4, axis=-1)  # each (B, hidden)
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
        """Axes of the projected input after the batch axis."""
        return 1


class BiLSTM(nn.Module):
    """A bidirectional LSTM layer whose backward direction starts at the end of each sequence.

    The backward direction reads the padding first. There its input gates are closed, so its states
    remain the zeros that it starts from. `nn.RNN` with `seq_lengths` instead reverses each
    sequence by its own length, which gathers all projected inputs and moves more bytes on a TPU.
    """

    hidden: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """Maps sequences (B, T, D) of the lengths (B,) to (B, T, 2 * hidden)."""

        def direction(name: str, reverse: bool) -> jax.Array:
            # (B, T, D) -> (B, T, 4 * hidden)
            projected = Dense(4 * self.hidden, dtype=self.dtype, name=f"{name}_input")(x)
            if reverse:
                projected = jnp.where(closed, CLOSED, projected)
            rnn = nn.RNN(
                ProjectedLSTMCell(self.hidden, self.dtype, name=name),
                reverse=reverse,
                keep_order=reverse,
                name=f"{name}_rnn",
            )
            outputs: Any = rnn(projected)  # (B, T, hidden)
            return outputs

        padding = jnp.arange(x.shape[1])[None, :, None] >= lengths[:, None, None]  # (B, T, 1)
        input_gates = jnp.arange(4 * self.hidden) < self.hidden  # (4 * hidden,)
        closed = padding & input_gates[None, None]  # (B, T, 4 * hidden)
        return jnp.concatenate([direction("forward", False), direction("backward", True)], axis=-1)
