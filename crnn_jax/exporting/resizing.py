"""Images of any size become images as a network takes them, in a JAX program.

The result is that of `data.images.resize`, bit for bit, for which Pillow is used. Sizes may be
symbols; see `jax.export.symbolic_shape`. The program has to be traced in double precision.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import core

from crnn_jax.data.images import MIN_WIDTH, ROWS_MAY_BE_FIRST, Preprocessing

ONE = 2**22  # what stands for 1 in the whole numbers by which Pillow multiplies
GRAY = (19595, 38470, 7471)  # Pillow's weights of red, green and blue, in units of 1/65536


def target_width(height: Any, width: Any, preprocessing: Preprocessing) -> Any:
    """The function of this name in `data.images`, for symbols: halves become the even number."""
    if preprocessing.width:
        return preprocessing.width
    double = 2 * width * preprocessing.height + height
    rounded, rest = double // (2 * height), double % (2 * height)
    is_half = 1 - core.min_dim(rest, 1)
    rounded = rounded - is_half * (rounded % 2)
    return core.min_dim(core.max_dim(rounded, MIN_WIDTH), preprocessing.max_width)


def resized(images: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """Resizes images (B, H, W, C) uint8, with 3 channels (RGB) or 1 (gray).

    Returns:
      uint8 (B, height, target width, channels).
    """
    _, height, width, channels = images.shape
    colors = jnp.array([0, channels // 2, channels - 1])
    images = jnp.take(images, colors, axis=3, mode="clip").astype(jnp.int32)
    if preprocessing.channels == 1:
        weights = jnp.array(GRAY, jnp.int32)[None, None, None]
        images = ((images * weights).sum(-1, keepdims=True, dtype=jnp.int32) + 2**15) >> 16
    new_height, new_width = preprocessing.height, target_width(height, width, preprocessing)

    def columns_first(images: jax.Array) -> jax.Array:
        return _resampled(_resampled(images, 2, new_width), 1, new_height)

    def rows_first(images: jax.Array) -> jax.Array:
        return _resampled(_resampled(images, 1, new_height), 2, new_width)

    if ROWS_MAY_BE_FIRST:
        rows, columns = (
            jnp.asarray(old) - jnp.asarray(new)
            for old, new in ((height, new_height), (width, new_width))
        )
        first = rows > jnp.maximum(2 * columns, 0)
        images = jax.lax.cond(first, rows_first, columns_first, images)
    else:
        images = columns_first(images)
    images = images.astype(jnp.uint8)
    return 255 - images if preprocessing.invert else images


def _resampled(images: jax.Array, axis: int, size: Any) -> jax.Array:
    """Resizes an axis of images int32, 0 to 255.

    This is `precompute_coeffs` of Pillow's Resample.c for a triangle as wide as the source of two
    target pixels, or as two source pixels if there are fewer.
    """
    old = images.shape[axis]
    scale = jnp.asarray(old, jnp.float64) / jnp.asarray(size, jnp.float64)
    support = jnp.maximum(scale, 1.0)
    middle = (jnp.arange(size) + 0.5) * scale
    start = jnp.maximum(jnp.floor(middle - support + 0.5), 0)
    stop = jnp.minimum(jnp.floor(middle + support + 0.5), jnp.asarray(old, jnp.float64))
    most = core.max_dim(2, -(-2 * old // size))  # twice the support, rounded up
    places = jnp.arange(most)[None, :] + start[:, None]  # (size, most)
    inside = places < stop[:, None]
    distance = jnp.abs((places - middle[:, None] + 0.5) * (1 / support))
    weights = jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
    weights = weights / weights.sum(1, keepdims=True)
    weights = jnp.floor(weights * ONE + 0.5).astype(jnp.int32)
    places = jnp.where(inside, places, 0).astype(jnp.int32)
    pixels = jnp.take(images, places.reshape(-1), axis=axis, mode="clip")
    shape = (*images.shape[:axis], size, most, *images.shape[axis + 1 :])
    weights = jnp.expand_dims(weights, [*range(axis), *range(axis + 2, images.ndim + 1)])
    return ((pixels.reshape(shape) * weights).sum(axis + 1, dtype=jnp.int32) + ONE // 2) // ONE
