"""What the tests of networks share: small ones, images, and layers as plain Flax has them.

Images are padded with random bytes throughout: what lies beyond an image's width must count
for nothing, in values, gradients and running statistics.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from crnn_jax import models

# Compilation is nearly all of the time these tests take, and this more than halves it.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SMALL = {"channels": (4, 4, 8, 8, 8, 8, 8), "hidden": 8}
CLASSES = 5


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def small_model(**settings: Any) -> nn.Module:
    return models.create("crnn", CLASSES, {**SMALL, **settings})


def random_variables(
    model: nn.Module, channels: int = 1, seed: int = 0, height: int = 32
) -> dict[str, Any]:
    """Parameters and statistics in which nothing is 0 or 1, so that nothing goes unnoticed."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name == "kernel":
            values = rng.normal(size=leaf.shape) * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            values = rng.uniform(0.5, 2, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) * 0.3
        return jnp.asarray(values, leaf.dtype)

    images = jax.ShapeDtypeStruct((1, height, 32, channels), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, jnp.array([32]))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def image(width: int, channels: int = 1, height: int = 32) -> np.ndarray:
    """The one image there is of this size, uint8 (height, width, channels)."""
    return np.random.default_rng(width).integers(0, 256, (height, width, channels), np.uint8)


def padded(
    widths: Sequence[int], to: int, channels: int = 1, height: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """The images of these widths with random bytes on their right, and the widths."""
    garbage = np.random.default_rng(to)
    images = garbage.integers(0, 256, (len(widths), height, to, channels), np.uint8)
    for row, width in zip(images, widths, strict=True):
        row[:, :width] = image(width, channels, height)
    return images, np.array(widths, np.int32)


def assert_trees_close(actual: Any, expected: Any, rtol: float) -> None:
    """Each array within `rtol` of its largest element, and within a hundredth of that of all."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))

    def check(path: Any, a: jax.Array, b: jax.Array) -> None:
        scale = max(float(jnp.abs(b).max()), largest / 100)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=rtol * scale, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(check, actual, expected)


def max_pool(x: jax.Array, strides: tuple[int, int], border: int) -> jax.Array:
    return nn.max_pool(x, (2, 2), strides, ((0, 0), (border, border)))


def flax_cell(direction: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `nn.OptimizedLSTMCell` that are those of a direction of a BiLSTM."""
    inputs = params[f"{direction}_input"]
    recurrent = params[direction]["recurrent"]["kernel"]
    cell: dict[str, Any] = {}
    for place, gate in enumerate("ifgo"):
        hidden = recurrent.shape[0]
        columns = slice(place * hidden, (place + 1) * hidden)
        cell[f"i{gate}"] = {"kernel": inputs["kernel"][:, columns]}
        cell[f"h{gate}"] = {"kernel": recurrent[:, columns], "bias": inputs["bias"][columns]}
    return cell


def bidirectional(hidden: int, name: str) -> nn.Module:
    """The layer as plain Flax has it; its cells are called <name>_forward and <name>_backward."""
    return nn.Bidirectional(
        nn.RNN(nn.OptimizedLSTMCell(hidden, name=f"{name}_forward")),
        nn.RNN(nn.OptimizedLSTMCell(hidden, name=f"{name}_backward")),
    )


def flax_cells(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_{way}": flax_cell(way, params) for way in ("forward", "backward")}
