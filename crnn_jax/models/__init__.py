"""Networks by name: `create("crnn", num_classes, settings)`.

Three files hold the network: `crnn.py` is the whole, `conv_stack.py` and `bilstm.py` are its
layers. `ops/` holds what the layers are made of, in forms that XLA computes faster.

Their layers are described in `architecture.py`, without JAX: a variant of the CRNN is an entry of
ARCHITECTURES there. To add another network, write a `flax.linen.Module` in a file of its own and
add a line to MODELS. The rest of the package relies on this:

- Its fields are the settings in `config.model`, and `num_classes` and `axis_name` (the pmapped
  axis over which a batch is split).
- Like `CRNN` it is called with uint8 images (B, H, W, C), their widths in pixels (B,) and `train`.
- It returns float32 logits (B, T, K), and the valid time steps of each image (B,). Here T is
  Architecture.time_steps(W), and class 0 is the blank of CTC. What is to the right of an
  image's width must not change its logits.
- In training it takes random numbers from the stream `dropout`, which is the same on all devices.
- Its submodule `conv_stack` can be carried over alone and frozen. The arrays of its submodule
  `head` have the K classes on their last axis; fine-tuning carries these over by character.
- A network with a `shortcut_head`, also of K classes, sows the logits (B, T, K) of that head in
  training, as `logits` in the collection `shortcut`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.summary import tabulate
from rich import box

from crnn_jax.architecture import ARCHITECTURES
from crnn_jax.errors import ConfigError
from crnn_jax.models.crnn import CRNN

SUMMARY_WIDTH = 100  # characters

MODELS: dict[str, Callable[..., nn.Module]] = {
    name: partial(CRNN, **vars(architecture)) for name, architecture in ARCHITECTURES.items()
}


def create(
    name: str, num_classes: int, settings: Mapping[str, Any], axis_name: str | None = None
) -> nn.Module:
    """Creates a network.

    Args:
      name: a key of MODELS.
      num_classes: K, the characters and the blank.
      settings: further fields of the network; "dtype" is a string such as "bfloat16".
      axis_name: the pmapped axis over which a batch is split; None if it is not.

    Raises:
      ConfigError: unknown name or dtype, or a setting that the network does not have.
    """
    if name not in MODELS:
        raise ConfigError(f"model.name={name!r} is unknown; it is one of {', '.join(MODELS)}")
    # A module can be hashed, and so be a static argument of a compiled function, without the lists
    # that settings have in JSON.
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    try:
        if "dtype" in settings:
            settings["dtype"] = jnp.dtype(settings["dtype"])
        return MODELS[name](num_classes=num_classes, axis_name=axis_name, **settings)
    except TypeError as error:
        raise ConfigError(f"model {name!r} does not take these settings: {error}") from error


def summary(model: nn.Module, shape: tuple[int, int, int]) -> str:
    """A table of a network's layers for one image of `shape` (H, W, C), of SUMMARY_WIDTH columns.

    It has the inputs, outputs and number of parameters of each layer. Nothing is computed.
    """
    table = tabulate(
        model,
        jax.random.key(0),
        depth=1,  # depth 2 makes the table eight times as long, and breaks every shape into pieces
        console_kwargs={"width": SUMMARY_WIDTH, "force_terminal": False, "color_system": None},
        table_kwargs={"box": box.SIMPLE, "padding": 0},
        column_kwargs={"overflow": "fold"},
    )(jnp.zeros((1, *shape), jnp.uint8), jnp.array([shape[1]]))
    return "\n".join(line.rstrip() for line in table.splitlines() if line.strip())
