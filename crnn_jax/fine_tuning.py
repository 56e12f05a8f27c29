"""Fine-tuning: copies a trained model's arrays by name, and its classes by character."""

import logging

import numpy as np

from crnn_jax.config import Config
from crnn_jax.data.sources import MIXTURE
from crnn_jax.errors import CheckpointError
from crnn_jax.models.conv_stack import finer_kernel
from crnn_jax.recipes import get_config, settings_of
from crnn_jax.recognition.pretrained import DEFAULT
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training.state import CONV_STACK, HEADS, SHORTCUT_HEAD, TrainState
from crnn_jax.trees import flatten, unflatten

FIRST_KERNEL = f"params/{CONV_STACK}/conv1/kernel"
SHOWN = 40  # new characters that are listed; the rest are counted

AUTO = "auto"  # the `init_from` that chooses between the pretrained model and scratch
AUTO_BELOW = 2_000
"""Training images below which `auto` starts from the pretrained model. On four sets of 736 to 1,000
images it then read 78 % of the test images on average, and 69 % from scratch; on one of 3,081 both
read 95 % (docs/results.md)."""
AUTO_KNOWN = 0.5  # the share of the alphabet that the pretrained model must know for that

logger = logging.getLogger(__name__)


def choose_start(config: Config, alphabet: Alphabet, num_images: int) -> tuple[str, str]:
    """Chooses what a run with `init_from` "auto" starts from.

    Args:
      config: the recipe of the run.
      alphabet: that of the run.
      num_images: training images.

    Returns:
      The name of the pretrained model, or "" for scratch, and the reason in a few words.
    """
    if config.data.source in ("generated", MIXTURE):
        return "", f"the data source is {config.data.source}"
    if num_images >= AUTO_BELOW:
        return "", f"{num_images:,} training images are {AUTO_BELOW:,} or more"
    origin = TrainedModel.load(DEFAULT)
    prepared = origin.preprocessing
    ours = (config.model.name, config.data.height, config.data.channels, config.data.width)
    theirs = (origin.description["name"], prepared.height, prepared.channels, prepared.width)
    if ours != theirs:
        return "", f"the pretrained model {DEFAULT} has another network or other preprocessing"
    known = int((alphabet.classes_in(origin.alphabet)[1:] >= 0).sum())
    characters = f"it knows {known} of their {len(alphabet.characters)} characters"
    if known < AUTO_KNOWN * len(alphabet.characters):
        return "", f"the pretrained model {DEFAULT} is no start, as {characters}"
    return (
        DEFAULT,
        f"{num_images:,} training images are fewer than {AUTO_BELOW:,}, and {characters}",
    )


def with_recipe(config: Config, recipe: str, base: str) -> Config:
    """A copy of a config with the settings of `recipe` where it has those of `base`.

    So settings that the user has changed stay.
    """
    config = config.copy_and_resolve_references()
    old, new, now = (settings_of(one) for one in (get_config(base), get_config(recipe), config))
    changed = {
        key: new[key]
        for key in new
        if key != "init_from" and not hasattr(new[key], "keys") and new[key] != old[key] == now[key]
    }
    config.update_from_flattened_dict(changed)
    return config


def carry_over(
    config: Config, name: str, origin: TrainedModel, state: TrainState, alphabet: Alphabet
) -> tuple[TrainState, str]:
    """Copies parameters and statistics of a trained model into a new state.

    In the heads, the blank and the characters that both alphabets have are copied, whatever their
    places; new characters keep their initial values. With `config.init_scope` "conv_stack" only the
    convolution stack is copied. A model for images 32 pixels high can be carried over to a height
    of 64 with twice the space to depth, where it sees 2 x 2 pixels as it saw one.

    Args:
      config: the recipe of the new run.
      name: the origin's name, for messages.
      origin: the trained model.
      state: a state at step 0.
      alphabet: that of the new run.

    Returns:
      The new state, and a line that says what was carried over.

    Raises:
      CheckpointError: the origin's arrays have other shapes, or it reads images with another
        number of channels.
    """
    _compare_inputs(config, name, origin)
    classes = alphabet.classes_in(origin.alphabet)
    fresh = flatten(state.variables)
    known = flatten(origin.variables)
    if _twice_as_fine(config, origin):
        known[FIRST_KERNEL] = finer_kernel(known[FIRST_KERNEL], config.data.channels)
    for path in {**fresh, **known}:
        module = path.split("/")[1]
        if config.init_scope != "all" and module != CONV_STACK:
            continue
        if module == SHORTCUT_HEAD and not (path in fresh and path in known):
            continue  # either model may lack it, as only training uses it
        if module in HEADS and path in known:
            known[path] = known[path][..., classes]  # a new character gets some column for now
        there, here = (tree[path].shape if path in tree else "missing" for tree in (known, fresh))
        if there != here:
            raise CheckpointError(
                f"init_from={name} is another model: {path} is {there} there and"
                f" {here} here; set config.model to that of its manifest"
            )
        stays = classes < 0 if module in HEADS else False
        fresh[path] = np.where(stays, fresh[path], known[path])
    variables = unflatten(fresh)
    state = state.with_variables(variables)
    carried = f"{config.init_scope} from step {origin.step} of {name}"
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
    return now == (2 * origin.preprocessing.height, 2 * origin.architecture.space_to_depth)


def _compare_inputs(config: Config, name: str, origin: TrainedModel) -> None:
    """Warns about settings that make images look unlike those that the origin was trained on.

    `data.invert` is not among them, as it makes images more like those.

    Raises:
      CheckpointError: the images have another number of channels.
    """
    preprocessing = origin.preprocessing
    if preprocessing.channels != config.data.channels:
        raise CheckpointError(
            f"init_from={name} reads images of {preprocessing.channels} channel(s),"
            f" not {config.data.channels}; set --config.data.channels={preprocessing.channels}"
        )
    settings = origin.description["settings"]
    height = preprocessing.height * (2 if _twice_as_fine(config, origin) else 1)
    for key, trained, asked in (
        ("data.height", height, config.data.height),
        ("data.width", preprocessing.width, config.data.width),
        # These change no array's shape.
        ("model.leaky", settings.get("leaky", False), config.model.leaky),
        ("model.per_image", settings.get("per_image", False), config.model.per_image),
    ):
        if trained != asked:
            logger.warning(
                "init_from=%s was trained with %s=%s; with %s it must learn much again;"
                " --config.%s=%s avoids that",
                *(name, key, trained, asked, key, trained),
            )
