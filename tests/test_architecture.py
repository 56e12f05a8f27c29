"""The description of the networks: against the Flax modules, and against published counts."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from crnn_jax import models
from crnn_jax.architecture import ARCHITECTURES, Architecture
from crnn_jax.errors import ConfigError
from crnn_jax.trees import flatten

# Parameters for 62 characters and gray images. PyTorch has a second bias in each LSTM: 8 * hidden
# more for each bidirectional layer, so 8,344,639 for crnn_pytorch, as in its repository.
PARAMETERS = {
    "crnn": 8_340_543,
    "crnn_half": 2_095_679,
    "crnn_small": 1_301_807,
    "paper": 8_732_991,
    "crnn_pytorch": 8_344_639 - 2 * 8 * 256,
    "dtrb": 8_458_303 - 2 * 8 * 256,
    "easyocr": 3_772_607 - 2 * 8 * 256,
    "nano_ocr": 4_800_831 - 8 * 256,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_description_is_that_of_the_network(name: str) -> None:
    described = ARCHITECTURES[name]
    network = models.create(name, 63, {})
    images = jax.ShapeDtypeStruct((2, 32, 100, 1), jnp.uint8)
    widths = jnp.array([100, 60])
    init = partial(network.init_with_output, jax.random.key(0))
    (logits, _), variables = jax.eval_shape(init, images, widths)
    shapes = {path: array.shape for path, array in flatten(variables).items()}
    assert shapes == described.arrays(63, 1)
    assert logits.shape == (2, described.time_steps(100), 63)
    params = (shape for path, shape in shapes.items() if path.startswith("params/"))
    assert sum(map(math.prod, params)) == PARAMETERS[name]


def test_settings_replace_those_of_the_named_network() -> None:
    described = Architecture.of("dtrb", {"channels": [1] * 7, "hidden": 8, "dropout": 0.3})
    assert (described.channels, described.hidden) == ([1] * 7, 8)
    assert described.convs == ARCHITECTURES["dtrb"].convs
    with pytest.raises(ConfigError, match="crnn_tiny' is unknown; it is one of crnn, crnn_half"):
        Architecture.of("crnn_tiny", {})
