"""Folders with a plain network: in NumPy and in PyTorch, against PyTorch itself, Flax, and sums."""

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from crnn_jax.decoding.paths import CharsetPath
from crnn_jax.exporting import plain_folder
from crnn_jax.exporting.importing import write_imported
from crnn_jax.exporting.plain_folder import NUMPY, READ, TORCH
from crnn_jax.exporting.plain_layers import description
from crnn_jax.exporting.safetensors_format import SafetensorsFormat
from crnn_jax.exporting.torch_format import TorchFormat
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.trained_model import TrainedModel
from tests.networks import SMALL, image, jit, normal, random_variables

STATES = Path(__file__).parent / "data" / "pytorch"
VARIANTS = ("crnn_pytorch", "dtrb", "nano_ocr", "paper")
FORMS = (
    pytest.param(SafetensorsFormat(), NUMPY, id="safetensors"),
    pytest.param(TorchFormat(), TORCH, id="torch", marks=pytest.mark.torch),
)
CHARSETS = {"alphanumeric": -0.6, "digits": -1.0, "letters": -0.4}


def program(folder: Path, programs: dict[str, str], name: str) -> Any:
    """One of the modules that were written into a folder."""
    own: Any = {}
    for file, source in {**programs, **READ}.items():
        place = folder / file
        own[place.stem] = plain_folder._run(source, place, own)
    return own[name]


def imported(variant: str, folder: Path) -> TrainedModel:
    """A small model of a variant, whose weights PyTorch wrote."""
    (folder / "alphabet.txt").write_text("abcd\n")
    state = STATES / f"{variant}.safetensors"
    write_imported(state, folder / "alphabet.txt", folder / "model", variant)
    return TrainedModel.load(folder / "model")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("form", "programs"), FORMS)
def test_the_network_of_a_folder_computes_what_pytorch_computed(
    form: Any, programs: dict[str, str], variant: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    form.write(imported(variant, tmp_path), out, [])
    network = program(out, programs, "network")
    with np.load(STATES / "logits.npz") as computed:
        logits = network.logits(computed["image"][0, ..., None])
        np.testing.assert_allclose(logits, computed[variant][0], atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_original_network_takes_a_state_dict_that_was_exported(
    variant: str, tmp_path: Path
) -> None:
    import pytorch_networks
    import torch  # pyright: ignore[reportMissingImports]

    out = tmp_path / "out"
    out.mkdir()
    TorchFormat().write(imported(variant, tmp_path), out, [])
    network = pytorch_networks.random_network(
        variant, pytorch_networks.SMALL, 4, pytorch_networks.CLASSES, seed=1
    )
    network.load_state_dict(torch.load(out / "model.pth", weights_only=True), strict=True)
    with np.load(STATES / "logits.npz") as computed:
        logits = pytorch_networks.logits(network, computed["image"])
        np.testing.assert_allclose(logits, computed[variant], atol=1e-5)


@pytest.fixture(scope="module")
def own_model() -> TrainedModel:
    """A model of ours with all settings that change what it computes."""
    from crnn_jax import models

    captcha = TrainedModel.load()
    settings = {**SMALL, "per_image": True, "leaky": True, "space_to_depth": 2}
    settings |= {"first_pool": False, "batch_norm": "all"}
    network = models.create("crnn", captcha.alphabet.num_classes, settings)
    return replace(
        captcha,
        variables=random_variables(network, channels=3, height=64),
        description={"name": "crnn", "settings": settings},
        charsets=CHARSETS,
        calibration=Calibration(intercept=-0.5, slope=0.8),
    )


@pytest.mark.parametrize(("form", "programs"), FORMS)
def test_the_network_of_a_folder_computes_what_flax_computes(
    form: Any, programs: dict[str, str], own_model: TrainedModel, tmp_path: Path
) -> None:
    form.write(own_model, tmp_path, [])
    pixels = image(103, channels=3, height=64)  # three columns do not fill a block
    widths = jnp.array([103])
    logits, lengths = jit(own_model.network.apply)(own_model.variables, pixels[None], widths)
    found = program(tmp_path, programs, "network").logits(pixels)
    assert found.shape == (lengths[0], own_model.alphabet.num_classes)
    np.testing.assert_allclose(found, logits[0, : lengths[0]], rtol=1e-4, atol=1e-4)


def test_a_folder_is_read_back(own_model: TrainedModel, tmp_path: Path) -> None:
    SafetensorsFormat().write(own_model, tmp_path, [])
    model = TrainedModel.load(tmp_path)
    assert (model.charsets, model.calibration) == (own_model.charsets, own_model.calibration)
    assert (model.alphabet, model.preprocessing) == (own_model.alphabet, own_model.preprocessing)
    assert model.step == own_model.step
    arrays = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        arrays["params/head/kernel"], own_model.variables["params"]["head"]["kernel"]
    )


def test_code_in_a_folder_is_not_run(own_model: TrainedModel, tmp_path: Path) -> None:
    form = SafetensorsFormat()
    form.write(own_model, tmp_path, [])
    for file in tmp_path.glob("*.py"):
        file.write_text("raise AssertionError")
    outputs = form.load(tmp_path)(image(60, channels=1, height=30)[None])
    assert outputs.classes.shape == outputs.logits.shape[:2]


# What is read


def test_text_and_confidence_are_those_of_the_decoder(own_model: TrainedModel) -> None:
    """On random logits with sets of characters, whose texts are now of one set, now of another."""
    described = description(own_model, [])
    network = type("network", (), {"MODEL": described, "logits": None})
    confidence: Any = plain_folder._run("confidence.py", Path("confidence.py"), {})
    modules: Any = {"network": network, "confidence": confidence}
    reading = plain_folder._run("read_images.py", Path("read.py"), modules)
    logits = 3 * normal(12, 9, own_model.alphabet.num_classes)
    logits[:4, :, 11:] -= 5  # digits are likely
    logits[4:8, :, 1:11] -= 9
    logits[11, :, 1:] -= 20  # there is no text
    decoder = CharsetPath.create(CHARSETS, own_model.alphabet)
    lengths = jnp.full(len(logits), 9)
    decoding = jit(lambda logits: decoder(logits, lengths))(logits)
    sets = set()
    for one, path, share in zip(
        logits, np.asarray(decoding.path), np.exp(decoding.log_share), strict=True
    ):
        found, classes = reading.best_path(one)
        assert found == path.tolist()
        sets.add(len(classes))
        text = [k for k, _ in itertools.groupby(found) if k]
        expected = own_model.calibration.confidence(share)
        assert confidence.confidence(one, text, described) == pytest.approx(expected, abs=1e-5)
    assert len(sets) == 3


def test_sums_over_alignments_are_those_over_all_paths() -> None:
    confidence: Any = plain_folder._run("confidence.py", Path("confidence.py"), {})
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=5)
    sums: Counter[tuple[int, ...]] = Counter()
    for path in itertools.product(range(3), repeat=5):
        text = tuple(k for k, _ in itertools.groupby(path) if k)
        sums[text] += math.prod(p[range(5), path])
    for text, probability in sums.items():
        assert confidence.of_text(p, list(text)) == pytest.approx(probability)
    weighted = sum(0.3 ** len(text) * probability for text, probability in sums.items())
    assert confidence.of_all(p, 0.3) == pytest.approx(weighted)
    assert confidence.of_text(p, [1, 1, 1, 1]) == 0  # it takes seven time steps


def test_a_text_that_cannot_be_has_no_confidence(own_model: TrainedModel) -> None:
    confidence: Any = plain_folder._run("confidence.py", Path("confidence.py"), {})
    described = json.loads(json.dumps(description(own_model, [])))
    logits = normal(3, own_model.alphabet.num_classes)
    assert confidence.confidence(logits, [1, 1, 1], described) == 0
