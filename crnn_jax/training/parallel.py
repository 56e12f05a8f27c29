"""Devices: the one file that knows `jax.pmap`.

Every function takes the devices that share a batch; None stands for all devices of this process.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from crnn_jax.errors import ConfigError

AXIS = "batch"
Devices: TypeAlias = Sequence[Any] | None  # of jax.Device, which type checkers do not accept
Tree = TypeVar("Tree")


def local_devices() -> list[Any]:
    """All devices of this process.

    Raises:
      ConfigError: JAX was told to use a platform that has no device here.
    """
    try:
        return jax.local_devices()
    # JAX raises one or the other, depending on how it was installed.
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = (str(error).splitlines() or ["no such backend"])[0]
        raise ConfigError(
            f"JAX_PLATFORMS={platforms} names a device that is missing or has no driver ({reason});"
            " set JAX_PLATFORMS=cpu, or install crnn_jax[cuda] or crnn_jax[tpu] on a machine that"
            " has one"
        ) from error


def description(devices: Devices = None) -> str:
    """Number and platform of the devices, such as "8 tpu device(s)"."""
    devices = _chosen(devices)
    return f"{len(devices)} {devices[0].platform} device(s)"


def check_batch_size(batch_size: int, devices: Devices = None) -> None:
    """Raises ConfigError unless the batch divides equally among the devices."""
    count = len(_chosen(devices))
    if batch_size % count:
        raise ConfigError(
            f"batch_size={batch_size} does not divide among {count} devices; set"
            f" --config.batch_size={max(1, batch_size // count) * count}"
        )


def pmap(
    function: Callable[..., Any], devices: Devices = None, donate_first: bool = False
) -> Callable[..., Any]:
    """Compiles `function` for the devices; its collectives use the axis named AXIS.

    With `donate_first` the results may reuse the memory of the first argument.
    """
    donated = (0,) if donate_first else ()
    return jax.pmap(function, axis_name=AXIS, devices=_chosen(devices), donate_argnums=donated)


def replicate(tree: Tree, devices: Devices = None) -> Tree:
    """Copies arrays to every device, along a new leading axis.

    The copies are laid out over the axis AXIS like the results of `pmap`. Otherwise a step that
    takes its own result would be compiled a second time.
    """
    devices = _chosen(devices)
    copy = jax.pmap(lambda _, tree: tree, AXIS, in_axes=(0, None), devices=devices)
    return copy(jnp.arange(len(devices)), tree)


def unreplicate(tree: Tree) -> Tree:
    """The first device's copy of replicated arrays, on the host."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def shard(tree: Tree, devices: Devices = None) -> Tree:
    """Splits leading axes (B, ...) into (devices, B / devices, ...)."""
    count = len(_chosen(devices))
    # NumPy cannot infer -1 for an array without elements, such as the ids of empty labels (B, 0).
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), tree)


def gather(tree: Tree) -> Tree:
    """Undoes `shard`, on the host."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)


def _chosen(devices: Devices) -> Sequence[Any]:
    return local_devices() if devices is None else devices
