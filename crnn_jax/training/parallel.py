"""Devices: the one file that knows of `jax.pmap`."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from crnn_jax.errors import ConfigError

AXIS = "batch"
Tree = TypeVar("Tree")


def devices() -> list[Any]:
    """The devices that share each batch: all of this process.

    Raises:
      ConfigError: there are none of the kind that JAX was told to use.
    """
    try:
        return jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # JAX has both, as the installation may be
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = (str(error).splitlines() or ["no such backend"])[0]
        raise ConfigError(
            f"JAX_PLATFORMS={asked} asks for a device that is not there or has no driver"
            f" ({reason}); set JAX_PLATFORMS=cpu, or install"
            " crnn_jax[cuda] or crnn_jax[tpu] on a machine that has one"
        ) from error


def description() -> str:
    """The devices, for people."""
    return f"{len(devices())} {devices()[0].platform} device(s)"


def check_batch_size(batch_size: int) -> None:
    """Raises ConfigError unless the local devices can share a batch equally."""
    count = len(devices())
    if batch_size % count:
        raise ConfigError(
            f"batch_size={batch_size} does not divide among {count} devices; set"
            f" --config.batch_size={max(1, batch_size // count) * count}"
        )


def pmap(function: Callable[..., Any], donate_first: bool = False) -> Callable[..., Any]:
    """`function` compiled for all local devices, its collectives over the axis named AXIS."""
    donated = (0,) if donate_first else ()
    return jax.pmap(function, axis_name=AXIS, devices=devices(), donate_argnums=donated)


def replicate(tree: Tree) -> Tree:
    """A copy of the arrays on every local device, along a new leading axis.

    Placed over the axis AXIS, as results of `pmap` are: otherwise a step that takes its own result
    would be compiled once more for that.
    """
    copy = jax.pmap(lambda _, tree: tree, AXIS, in_axes=(0, None), devices=devices())
    return copy(jnp.arange(len(devices())), tree)


def unreplicate(tree: Tree) -> Tree:
    """The first device's copy of replicated arrays, on the host."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def shard(tree: Tree) -> Tree:
    """Splits leading axes (B, ...) into (devices, B / devices, ...)."""
    count = len(devices())
    # Not -1, which NumPy cannot tell for labels (B, 0), of which none can be written.
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), tree)


def gather(tree: Tree) -> Tree:
    """Undoes `shard`, on the host."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)
