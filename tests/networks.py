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


class PlainCRNN(nn.Module):
    """The network of the paper as one would write it in Flax, for images of equal width."""

    channels: Sequence[int]
    hidden: int
    classes: int
    normalized: Sequence[int]
    slope: float  # of the activation, below 0
    depth: int = 1  # so many pixels each way become one
    first_pool: bool = True
    per_image: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(jnp.float32) / 127.5 - 1
        if self.per_image:
            axes = (1, 2, 3)
            x = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-4)
        places = range(self.depth)
        corners = [x[:, i :: self.depth, j :: self.depth] for i in places for j in places]
        x = jnp.concatenate(corners, axis=-1)
        for layer in range(1, 8):
            size, padding = ((2, 2), "VALID") if layer == 7 else ((3, 3), "SAME")
            x = nn.Conv(self.channels[layer - 1], size, padding=padding, name=f"conv{layer}")(x)
            if layer in self.normalized:
                x = nn.BatchNorm(use_running_average=True, name=f"norm{layer}")(x)
            x = jnp.where(x > 0, x, self.slope * x)
            if layer == 2 or (layer == 1 and self.first_pool):
                x = max_pool(x, (2, 2), 0)
            if layer in (4, 6):
                x = max_pool(x, (2, 1), 1)
        x = x.reshape(x.shape[0], x.shape[2], -1)
        x = bidirectional(self.hidden, "bilstm1")(x)
        x = nn.Dense(self.hidden, name="between")(x)
        x = bidirectional(self.hidden, "bilstm2")(x)
        return nn.Dense(self.classes, name="head")(x)


def plain_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of `PlainCRNN` that are those of a CRNN."""
    params = variables["params"]
    return {
        "params": {
            **params["conv_stack"],
            **flax_cells("bilstm1", params["bilstm1"]),
            **flax_cells("bilstm2", params["bilstm2"]),
            "between": params["between"],
            "head": params["head"],
        },
        "batch_stats": variables["batch_stats"]["conv_stack"],
    }
