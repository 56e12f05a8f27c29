"""Where a run starts: from the pretrained model, or from scratch."""

from pathlib import Path

import ml_collections
import numpy as np
import pytest
from one_device import ONE_DEVICE

from configs import captcha
from crnn_jax.data.augment import Augmentation
from crnn_jax.errors import CheckpointError
from crnn_jax.experiment import Experiment
from crnn_jax.fine_tuning import choose_start
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet

IMAGES = Path(__file__).parent / "data" / "captcha_keras_v2"


def own_images(**changes: object) -> ml_collections.ConfigDict:
    """The default recipe on the captchas kept with the tests."""
    config = captcha.get_config()
    config.data.update(source="folder", dir=str(IMAGES), validation_fraction=0.2)
    config.update_from_flattened_dict({"batch_size": 8, **changes})
    return config


def test_few_images_start_from_the_pretrained_model() -> None:
    """With the recipe of fine-tuning, except for settings that the user has changed."""
    fine_tune = captcha.get_config("fine_tune")
    config = own_images(epochs=5, **{"augment.noise": 0.7})
    experiment = Experiment.build(config, ONE_DEVICE)
    assert (config.init_from, config.min_steps) == ("auto", 2_000)  # the user's object stays
    chosen = experiment.config
    assert (experiment.init_from, chosen.init_from) == ("captcha", "auto")
    assert (chosen.epochs, chosen.augment.noise) == (5, 0.7)
    assert chosen.model == fine_tune.model and chosen.min_steps == fine_tune.min_steps
    changed = {**fine_tune.augment.to_dict(), "noise": 0.7}
    assert experiment.augmentation == Augmentation(**changed)
    line = next(line for line in experiment.summary() if line.startswith("init_from=auto"))
    assert "26 training images" in line and "19 of their 19 characters" in line
    state, origin = experiment.initial_state()
    assert origin.endswith("of captcha, 19 characters with it")
    kernel = TrainedModel.load("captcha").variables["params"]["between"]["kernel"]
    np.testing.assert_array_equal(state.params["between"]["kernel"], kernel)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model.name": "crnn"}, "another network or other preprocessing"),
        ({"data.channels": 1}, "another network or other preprocessing"),
        ({"alphabet.characters": "2345678bcdefgmnpwxy" + "äöüßéèêàâîôçñøåæœëïû"}, "19 of their 39"),
    ],
)
def test_images_unlike_those_of_the_pretrained_model_start_from_scratch(
    changes: dict[str, object], reason: str
) -> None:
    experiment = Experiment.build(own_images(**changes), ONE_DEVICE)
    assert experiment.init_from == "" and experiment.config.model.dropout == 0
    assert any(reason in line and "from scratch" in line for line in experiment.summary())


@pytest.mark.parametrize(
    ("source", "images", "start"),
    [("folder", 1_999, "captcha"), ("lmdb", 2_000, ""), ("generated", 10, ""), ("mixture", 10, "")],
)
def test_the_number_of_images_and_their_source_decide(source: str, images: int, start: str) -> None:
    config = captcha.get_config()
    config.data.source = source
    assert choose_start(config, Alphabet("abc"), images)[0] == start


def test_a_run_keeps_the_start_that_it_began_with() -> None:
    """More images, or an older checkpoint without the choice, do not change it."""
    fine_tuned = Experiment.build(own_images(), ONE_DEVICE, {"init_from": "captcha"})
    assert fine_tuned.config.model.dropout > 0 and fine_tuned.manifest()["init_from"] == "captcha"
    for saved in ({"init_from": ""}, {}):
        scratch = Experiment.build(own_images(), ONE_DEVICE, saved)
        assert scratch.config.model.dropout == 0 and scratch.init_from == ""


def test_a_model_whose_name_is_too_long_is_named(tmp_path: Path) -> None:
    experiment = Experiment.build(own_images(init_from=str(tmp_path / ("a" * 300))), ONE_DEVICE)
    with pytest.raises(CheckpointError, match=r"the model .*/a{300} cannot be read: "):
        experiment.initial_state()
