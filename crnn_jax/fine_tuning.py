"""What a new run takes over from a trained model: arrays by their names, classes by character."""

import logging
from typing import Any

import numpy as np
from flax import traverse_util

from crnn_jax.config import Config
from crnn_jax.errors import CheckpointError
from crnn_jax.models.conv_stack import finer_kernel
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training.integrity import flatten
from crnn_jax.training.state import CONV_STACK, HEADS, SHORTCUT_HEAD, TrainState

FIRST_KERNEL = f"params/{CONV_STACK}/conv1/kernel"
SHOWN = 40  # new characters that are shown; the rest are counted

logger = logging.getLogger(__name__)


def carry_over(
    config: Config, origin: TrainedModel, state: TrainState, alphabet: Alphabet
) -> tuple[TrainState, str]:
    """`state` with the origin's parameters and statistics, and what was carried over.

    Of the heads these are the blank and the characters that the origin knows, wherever they stand
    in either alphabet; new characters are as they were. `config.init_scope` may leave all but the
    convolution stack as it was. Images may be twice as high as the origin's, with twice the space
    to depth: each 2 x 2 pixels are then read as one was.

    Raises:
      CheckpointError: the origin has other shapes, or reads another kind of images.
    """
    _compare_inputs(config, origin)
    classes = alphabet.classes_in(origin.alphabet)
    fresh = flatten(state.model)
    known = flatten(origin.variables)
    if _twice_as_fine(config, origin):
        known[FIRST_KERNEL] = finer_kernel(known[FIRST_KERNEL], config.data.channels)
    for path in {**fresh, **known}:
        part = path.split("/")[1]
        if config.init_scope != "all" and part != CONV_STACK:
            continue
        if part == SHORTCUT_HEAD and not (path in fresh and path in known):
            continue  # nothing is read with it
        if part in HEADS and path in known:
            known[path] = known[path][..., classes]  # any column for a new character, as yet
        there, here = (tree[path].shape if path in tree else "missing" for tree in (known, fresh))
        if there != here:
            raise CheckpointError(
                f"init_from={config.init_from} holds another model: {path} is {there} there and"
                f" {here} here; set config.model to that of its manifest"
            )
        stays = classes < 0 if part in HEADS else False
        fresh[path] = np.where(stays, fresh[path], known[path])
    variables: Any = traverse_util.unflatten_dict(fresh, sep="/")
    state = state.beginning_with(variables)
    carried = f"{config.init_scope} from step {origin.step} of {config.init_from}"
    if config.init_scope != "all":
        return state, carried
    new = [c for c, index in zip(alphabet.characters, classes[1:], strict=True) if index < 0]
    carried += f", {len(alphabet.characters) - len(new)} characters with it"
    if new:
        more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
        carried += f"; new: {''.join(new[:SHOWN])}{more}"
    return state, carried


def _twice_as_fine(config: Config, origin: TrainedModel) -> bool:
    """Whether 2 x 2 pixels stand where the origin has one, as high a line in time steps."""
    now = config.data.height, config.model.space_to_depth
    return now == (2 * origin.preprocessing.height, 2 * origin.space_to_depth)


def _compare_inputs(config: Config, origin: TrainedModel) -> None:
    """Warns of what makes images look unlike those that the origin was trained on.

    `data.invert` is not among it: it makes images like those.

    Raises:
      CheckpointError: they have another number of channels.
    """
    preprocessing = origin.preprocessing
    if preprocessing.channels != config.data.channels:
        raise CheckpointError(
            f"init_from={config.init_from} reads images of {preprocessing.channels} channel(s),"
            f" not {config.data.channels}; set --config.data.channels={preprocessing.channels}"
        )
    settings = origin.description["settings"]
    height = preprocessing.height * (2 if _twice_as_fine(config, origin) else 1)
    for key, learned, asked in (
        ("data.height", height, config.data.height),
        ("data.width", preprocessing.width, config.data.width),
        # No array has another shape for these.
        ("model.leaky", settings.get("leaky", False), config.model.leaky),
        ("model.per_image", settings.get("per_image", False), config.model.per_image),
    ):
        if learned != asked:
            logger.warning(
                "init_from=%s was trained with %s=%s, so with %s much is to be learned anew;"
                " --config.%s=%s avoids that",
                *(config.init_from, key, learned, asked, key, learned),
            )
