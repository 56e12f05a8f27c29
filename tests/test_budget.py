"""Models that are too large are refused before anything is traced; large sensible ones are not."""

import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from crnn_jax import models
from crnn_jax.architecture import ARCHITECTURES, Architecture
from crnn_jax.budget import MAX_ACTIVATIONS, check_budget
from crnn_jax.errors import CheckpointError, ConfigError
from crnn_jax.experiment import Experiment
from crnn_jax.files import TRUSTED
from crnn_jax.recognition.trained_model import TrainedModel
from tests.networks import random_variables
from tests.test_manifest_schema import GOLDEN, never, rewrite
from tests.test_train import small_config

LARGE: list[tuple[dict[str, Any], str]] = [
    ({"preprocessing.height": 10**9}, r"1,000,000,000 x 256 pixels"),
    (
        {"preprocessing.height": 10**5, "preprocessing.max_width": 1024},
        r"100,000 x 1,024 pixels .* 204,800,000 values, more than 67,108,864",
    ),
    ({"preprocessing.max_width": 10**7, "preprocessing.width": 10**7}, r"32 x 10,000,000 pixels"),
    ({"preprocessing.max_width": 10**30}, r"a layer of the network has"),
    ({"model.settings.channels": [10**6] * 7}, r"a layer of 1,000,000 features"),
    ({"model.settings.hidden": 10**30}, r"a layer of 1,0.*,000 features"),
]


@pytest.mark.parametrize(("entries", "message"), LARGE)
def test_a_large_model_is_refused_before_it_is_traced(
    entries: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(GOLDEN / "format3", tmp_path / "run"))
    for key, value in entries.items():
        rewrite(run / "checkpoints" / "12" / "manifest" / "metadata", key, value)
    monkeypatch.setattr(jax, "eval_shape", never)
    with pytest.raises(
        CheckpointError, match=rf"12 describes no .*{message}.*{TRUSTED}=1"
    ) as caught:
        TrainedModel.load(run)
    assert len(str(caught.value).splitlines()) == 1
    assert (run / "checkpoints" / "12").exists()


def test_a_model_of_gigabytes_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(GOLDEN / "format3", tmp_path / "run"))
    path = run / "checkpoints" / "12" / "manifest" / "metadata"
    rewrite(path, "preprocessing.max_width", 64)
    rewrite(path, "model.settings.hidden", 8_192)
    rewrite(path, "model.settings.channels", [2, 2, 8_192, 8_192, 8_192, 8_192, 2])
    monkeypatch.setattr("orbax.checkpoint.PyTreeCheckpointHandler.metadata", never)
    with pytest.raises(CheckpointError, match=rf"a model of 14 GB; .* 4 GB, .*{TRUSTED}=1"):
        TrainedModel.load(run)


def test_a_network_has_channels_for_each_convolution(tmp_path: Path) -> None:
    run = Path(shutil.copytree(GOLDEN / "format3", tmp_path / "run"))
    path = run / "checkpoints" / "12" / "manifest" / "metadata"
    rewrite(path, "model.settings.channels", [2] * 3_000)
    with pytest.raises(CheckpointError, match=r"has 3,000 numbers, but crnn has 7 convolutions"):
        TrainedModel.load(run)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_networks_of_the_package_are_far_from_the_limits(name: str) -> None:
    check_budget(ARCHITECTURES[name], 7_000, 64, 4_096)
    check_budget(ARCHITECTURES[name], 7_000, 32, 16_384)
    wide = {"channels": [512] * len(ARCHITECTURES[name].channels), "hidden": 1_024}
    check_budget(Architecture.of(name, wide), 7_000, 64, 2_048)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_largest_layer_is_counted(layer: int) -> None:
    """It is found among the outputs of all modules."""
    channels = [2 * 4**place if place == layer else 2 for place in range(7)]
    settings = {"channels": channels, "hidden": 1}
    network: Any = models.create("crnn", 2, settings)
    variables = random_variables(network)
    images, widths = jax.numpy.zeros((1, 32, 64, 1), "uint8"), jax.numpy.array([64])
    _, sown = jax.eval_shape(
        lambda: network.apply(variables, images, widths, capture_intermediates=True)
    )
    sizes = [value.size for value in jax.tree.leaves(sown["intermediates"])]
    widest = MAX_ACTIVATIONS // max(sizes) * 64
    described = Architecture.of("crnn", settings)
    check_budget(described, 2, 32, widest)
    with pytest.raises(ConfigError, match="a layer of the network has"):
        check_budget(described, 2, 32, widest + 64)


def test_a_model_of_ones_own_may_be_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError):
        check_budget(Architecture(), 11, 64, 10**6)
    monkeypatch.setenv(TRUSTED, "1")
    check_budget(Architecture(), 11, 64, 10**6)


def test_a_run_whose_checkpoints_could_not_be_read_does_not_start() -> None:
    with pytest.raises(ConfigError, match=r"32 x 10,000,000 pixels .*a layer of the network has"):
        Experiment.build(small_config(**{"data.max_width": 10**7}))
