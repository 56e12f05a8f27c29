"""Networks, by name: `create("crnn", num_classes, ...)`.

A model is a `flax.linen.Module` called with uint8 images (B, H, W, C), true widths (B,) and
`train`; it returns logits (B, T, K) with T = num_time_steps(W), and the valid time steps (B,). Its
parts `conv_stack` and `head`, a Dense layer of K features, are known by name to fine-tuning; so is
`shortcut_head`, if it has one, whose logits (B, T, K) it sows in training: `logits` in the
collection `shortcut`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crnn_jax.errors import ConfigError
from crnn_jax.models.conv_stack import num_time_steps as num_time_steps
from crnn_jax.models.crnn import CRNN

MODELS: dict[str, Callable[..., nn.Module]] = {
    "crnn": CRNN,
    # Half the channels: a quarter of the arithmetic, for machines without an accelerator.
    "crnn_half": partial(CRNN, channels=(32, 64, 128, 128, 256, 256, 256), hidden=128),
    # Pixels folded by four and fewer channels: five eighths of the arithmetic of crnn_half.
    "crnn_small": partial(CRNN, channels=(48, 64, 96, 96, 160, 160, 192), hidden=128, fold=True),
}


def create(
    name: str, num_classes: int, settings: Mapping[str, Any], axis_name: str | None = None
) -> nn.Module:
    """The model called `name` for `num_classes` classes, the blank among them.

    Args:
      name: a key of MODELS.
      num_classes: K, the last axis of the logits.
      settings: further fields of the model; "dtype" as a string such as "bfloat16".
      axis_name: the pmapped axis over which batch statistics are gathered in training.

    Raises:
      ConfigError: unknown name or dtype, or a setting the model does not have.
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
