"""Sums over all axes but the channels, and the reverse broadcast: each is the other's gradient.

XLA computes such a sum on a single CPU core with strided reads. Batch normalization has two of them
forward and two backward; on features of 32 x 4 x 25 x 512 it took 26 ms, and takes 4.5 ms with
these.
"""

from functools import partial

import jax
import jax.numpy as jnp


@jax.custom_vjp
def sum_to_channels(x: jax.Array) -> jax.Array:
    """Sums features (..., C) over all axes but the last, to (C,) in float32."""
    return _sum(x)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def spread_channels(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcasts values (C,) to features of `shape` (..., C)."""
    return jnp.broadcast_to(values[(None,) * (len(shape) - 1)], shape)


def _sum(x: jax.Array) -> jax.Array:
    def as_product(x: jax.Array) -> jax.Array:
        x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        return (jnp.ones((1, x.shape[0]), jnp.float32) @ x)[0]

    def as_sum(x: jax.Array) -> jax.Array:
        return x.sum(range(x.ndim - 1), dtype=jnp.float32)

    return jax.lax.platform_dependent(x, cpu=as_product, default=as_sum)


def _sum_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _sum(x), x  # x is kept for its shape and dtype


def _sum_backward(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    return (jnp.broadcast_to(g.astype(x.dtype)[(None,) * (x.ndim - 1)], x.shape),)


def _spread_forward(values: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    return spread_channels(values, shape), values[:0]


def _spread_backward(shape: tuple[int, ...], values: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    del shape
    return (_sum(g).astype(values.dtype),)


sum_to_channels.defvjp(_sum_forward, _sum_backward)
spread_channels.defvjp(_spread_forward, _spread_backward)
