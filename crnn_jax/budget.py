"""How large a network may be: a model from anyone neither fills memory nor takes minutes."""

from crnn_jax.architecture import Architecture
from crnn_jax.errors import ConfigError
from crnn_jax.files import TRUSTED, trusted

MAX_FEATURES = 8_192
"""Features of a convolution, or units of an LSTM. The paper's network has up to 512."""

MAX_ACTIVATIONS = 2**26
"""Values of the largest layer for one image; in single precision they take 0.27 GB. The paper's
network has 2**24 for an image of 64 x 4,096 pixels."""


def check_budget(architecture: Architecture, num_classes: int, height: int, width: int) -> None:
    """Checks that a network can be built, and read one image, in reasonable time and memory.

    A model of one's own may be larger, see `files.trusted`.

    Args:
      architecture: its layers.
      num_classes: K, the characters and the blank.
      height: of images, in pixels.
      width: of the widest images, in pixels.

    Raises:
      ConfigError: it is too large.
    """
    if trusted():
        return
    remedy = f"use a smaller one, or set {TRUSTED}=1 if it is your own"
    channels, hidden = architecture.channels, architecture.hidden
    if (largest := max((*channels, hidden))) > MAX_FEATURES:
        raise ConfigError(
            f"the network has a layer of {largest:,} features, more than {MAX_FEATURES:,}; {remedy}"
        )
    pixels = height * width
    layers = [pixels]
    for features, pool in zip(channels, architecture.pools, strict=True):
        layers.append(pixels * features)
        if pool:
            pixels //= pool.stride[0] * pool.stride[1]
    steps = architecture.time_steps(width)
    if (most := max((*layers, steps * 8 * hidden, steps * num_classes))) > MAX_ACTIVATIONS:
        raise ConfigError(
            f"for an image of {height:,} x {width:,} pixels (height x max_width) a layer of the"
            f" network has {most:,} values, more than {MAX_ACTIVATIONS:,}; {remedy}"
        )
