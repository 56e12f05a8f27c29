"""How large a network may be: a model from anyone neither fills memory nor takes minutes."""

from flax import linen as nn

from crnn_jax.errors import ConfigError
from crnn_jax.files import TRUSTED, trusted

MAX_LAYERS = 32
"""Convolutions. The paper's network has 7; each takes 10 ms or more to trace, and compiling takes
much longer."""

MAX_FEATURES = 8_192
"""Features of a convolution, or units of an LSTM. The paper's network has up to 512."""

MAX_ACTIVATIONS = 2**26
"""Values of the largest layer for one image; in single precision they take 0.27 GB. The paper's
network has 2**24 for an image of 64 x 4,096 pixels."""


def check_budget(network: nn.Module, height: int, width: int) -> None:
    """Checks that a network can be traced, and read one image, in reasonable time and memory.

    Nothing is computed. A model of one's own may be larger, see `files.trusted`.

    Args:
      network: one of MODELS, as `create` returns it.
      height: of images, in pixels.
      width: of the widest images, in pixels.

    Raises:
      ConfigError: it is too large.
    """
    if trusted():
        return
    remedy = f"use a smaller one, or set {TRUSTED}=1 if it is your own"
    channels = tuple(getattr(network, "channels", ()))
    hidden = getattr(network, "hidden", 1)
    if len(channels) > MAX_LAYERS:
        raise ConfigError(
            f"the network has {len(channels):,} convolutions, more than {MAX_LAYERS}; {remedy}"
        )
    if (largest := max((*channels, hidden))) > MAX_FEATURES:
        raise ConfigError(
            f"the network has a layer of {largest:,} features, more than {MAX_FEATURES:,}; {remedy}"
        )
    # The first two pools quarter the pixels, and leave a time step for each four columns.
    pixels, steps = height * width, width // 4 + 1
    layers = [pixels // 4 ** min(place, 2) * features for place, features in enumerate(channels)]
    classes = getattr(network, "num_classes", 1)
    if (most := max((pixels, *layers, steps * 8 * hidden, steps * classes))) > MAX_ACTIVATIONS:
        raise ConfigError(
            f"for an image of {height:,} x {width:,} pixels (height x max_width) a layer of the"
            f" network has {most:,} values, more than {MAX_ACTIVATIONS:,}; {remedy}"
        )
