"""ONNX graphs in onnxruntime: the network and decoding against JAX, resizing against Pillow."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jax.numpy as jnp
import networks
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from crnn_jax import models
from crnn_jax.architecture import ARCHITECTURES, Architecture
from crnn_jax.data.images import MIN_WIDTH, Preprocessing, resize
from crnn_jax.decoding import Decoder
from crnn_jax.decoding.paths import BestPath, CharsetPath
from crnn_jax.onnx_graph.decoding import Charsets, confidence, decoded
from crnn_jax.onnx_graph.nodes import Graph, tensor
from crnn_jax.onnx_graph.reading import Odds, reading_graph
from crnn_jax.onnx_graph.resize import ImageForm, resized
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.jax_backend import decode
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.constraints import classes_of
from crnn_jax.trees import flatten

OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = 1


class Session:
    """A graph that onnxruntime runs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        onnx.checker.check_model(model, full_check=True)
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), OPTIONS, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self._session.run(self._names, inputs)
        return dict(zip(self._names, map(np.asarray, outputs), strict=True))


def form_of(preprocessing: Preprocessing) -> ImageForm:
    new = int(Image.__version__.split(".")[0]) >= 13
    return ImageForm(**asdict(preprocessing), min_width=MIN_WIDTH, rows_first=new)


# Each layer, pool and setting occurs in one of these networks at least.
NETWORKS: Mapping[str, tuple[Mapping[str, Any], int, int]] = {
    "crnn": ({"space_to_depth": 2, "per_image": True, "leaky": True, "batch_norm": "all"}, 64, 3),
    "crnn_small": ({}, 32, 1),
    "paper": ({}, 32, 1),
    "dtrb": ({}, 64, 1),
    "nano_ocr": ({"channels": (4, 4, 8, 8, 8, 8), "per_image": True}, 32, 1),
}
WIDTHS = (150, 9, 8, 101, 64)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_that_of_jax(name: str) -> None:
    settings, height, channels = NETWORKS[name]
    settings = {**networks.SMALL, **settings}
    architecture = Architecture.of(name, settings)
    network = models.create(name, networks.CLASSES, settings)
    variables = networks.random_variables(network, channels, height=height)
    images, widths = networks.padded(WIDTHS, 160, channels, height)
    logits, lengths = map(np.asarray, networks.jit(network.apply)(variables, images, widths))
    form = form_of(Preprocessing(height, channels))
    arrays = {path: np.asarray(array) for path, array in flatten(variables).items()}

    def check(found: dict[str, np.ndarray], rows: Sequence[int]) -> None:
        assert found["lengths"].tolist() == lengths[list(rows)].tolist()
        assert found["logits"].dtype == np.float32
        for row, own in zip(rows, found["logits"], strict=True):
            valid = slice(None, lengths[row])
            np.testing.assert_allclose(own[valid], logits[row, valid], rtol=0, atol=1e-4)

    ragged = Session(reading_graph(architecture, arrays, form, resize=False))
    check(ragged(images=images, widths=widths), range(len(WIDTHS)))
    # Alone, in a batch of its own width.
    whole = Session(reading_graph(architecture, arrays, form, resize=True))
    for row, width in enumerate(WIDTHS[:3]):
        one = images[row : row + 1, :, :width]
        check(ragged(images=one, widths=widths[row : row + 1]), [row])
        if width > MIN_WIDTH:
            check(whole(images=one), [row])


def test_each_network_has_a_graph() -> None:
    for name, architecture in ARCHITECTURES.items():
        small = Architecture.of(name, {"channels": [2] * len(architecture.convs), "hidden": 2})
        arrays = {path: np.ones(shape) for path, shape in small.arrays(4, 3).items()}
        session = Session(reading_graph(small, arrays, form_of(Preprocessing())))
        found = session(images=np.zeros((2, 10, 40, 1), np.uint8))
        assert found["logits"].shape == (2, small.time_steps(4 * 32), 4), name
        assert {key: value.dtype for key, value in found.items()} == {
            "classes": np.int32,
            "lengths": np.int32,
            "log_probabilities": np.float32,
            "confidence": np.float32,
            "logits": np.float32,
        }


ALPHABET = Alphabet("0123456789ABCabc")
PRIORS = {"alphanumeric": 0.0, "digits": -0.5, "lower": -1.0, "0a": -2.0}


def decoding_graph(charsets: Charsets | None) -> Session:
    graph = Graph()
    reading = decoded(graph, "logits", graph.cast("lengths", np.int64), charsets)
    outputs = {
        "path": (reading.path, np.int64, ("B", "T")),
        "steps": (reading.log_probabilities, np.float32, ("B", "T")),
        "share": (reading.log_share, np.float32, ("B",)),
        "confidence": (confidence(graph, reading.log_share, -0.3, 1.1), np.float32, ("B",)),
    }
    for name, (value, _, _) in outputs.items():
        graph("Identity", value, name=name)
    inputs = [
        tensor("logits", np.float32, ("B", "T", ALPHABET.num_classes)),
        tensor("lengths", np.int32, ("B",)),
    ]
    described = [tensor(name, dtype, shape) for name, (_, dtype, shape) in outputs.items()]
    return Session(graph.model(inputs, described, "decoding"))


@pytest.mark.parametrize("sets", [False, True])
def test_decoding_is_that_of_jax(sets: bool) -> None:
    decoder: Decoder = BestPath()
    charsets = None
    if sets:
        decoder = CharsetPath.create(PRIORS, ALPHABET)
        allowed = np.stack([classes_of(name, ALPHABET) for name in PRIORS])
        charsets = Charsets(allowed, np.array(list(PRIORS.values())))
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=4, size=(40, 30, ALPHABET.num_classes)).astype(np.float32)
    logits[:30, :, 0] += rng.uniform(0, 14, (30, 1))  # short texts, and empty ones
    logits[20:, :, 11:] -= 6  # digits
    logits[0] = np.where(np.arange(ALPHABET.num_classes) == 3, 9, 0)  # one character throughout
    lengths = rng.integers(1, 31, 40).astype(np.int32)
    lengths[:3] = 30
    wanted = decode(decoder, jnp.asarray(logits), jnp.asarray(lengths))
    found = decoding_graph(charsets)(logits=logits, lengths=lengths)
    np.testing.assert_array_equal(found["path"], wanted.path)
    assert wanted.step_probabilities is not None
    valid = np.arange(30) < lengths[:, None]
    steps = np.where(valid, wanted.step_probabilities, 1)
    np.testing.assert_allclose(np.exp(found["steps"]), steps, atol=1e-6)
    np.testing.assert_allclose(found["share"], wanted.log_share, rtol=1e-5, atol=1e-5)
    probabilities = np.exp(np.asarray(wanted.log_share, float))
    expected = Calibration(-0.3, 1.1).confidence(probabilities)
    np.testing.assert_allclose(found["confidence"], expected, atol=1e-5)
    # The test has what it is about.
    assert len({path[path > 0].size for path in found["path"]}) > 8
    if sets:
        best = np.argmax(logits, -1)
        assert (np.where(valid, best, 0) != found["path"]).any(1).sum() > 2


FORMS = (
    Preprocessing(32, 3),
    Preprocessing(24, 1, max_width=90, invert=True),
    Preprocessing(32, 3, width=48),
)
SIZES = ((32, 60), (50, 17), (64, 130), (9, 40), (300, 20), (31, 33), (48, 700), (1, 1), (40, 47))


@pytest.mark.parametrize("preprocessing", FORMS)
def test_resizing_is_that_of_pillow(preprocessing: Preprocessing) -> None:
    graph = Graph()
    form = form_of(preprocessing)
    graph("Identity", resized(graph, form, "images"), name="resized")
    session = Session(
        graph.model(
            [tensor("images", np.uint8, ("B", "H", "W", "C"))],
            [tensor("resized", np.float32, ("B", form.channels, form.height, "N"))],
            "resizing",
        )
    )
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        for channels in (3, 1):
            images = rng.integers(0, 256, (2, height, width, channels), np.uint8)
            images[1] = images[1] // 128 * 255  # exact halves between black and white
            found = session(images=images)["resized"].transpose(0, 2, 3, 1)
            for image, own in zip(images, found, strict=True):
                pillow = Image.fromarray(image.squeeze(2) if channels == 1 else image)
                pillow = pillow.convert("L" if form.channels == 1 else "RGB")
                np.testing.assert_array_equal(own, resize(pillow, preprocessing))


def test_odds_change_the_confidence_alone() -> None:
    small = Architecture.of("crnn_half", {"channels": [2] * 7, "hidden": 2})
    rng = np.random.default_rng(0)
    arrays = {path: rng.uniform(size=shape) for path, shape in small.arrays(4, 1).items()}
    images = rng.integers(0, 256, (1, 32, 64, 1), np.uint8)
    form = form_of(Preprocessing(32, 1))
    plain, doubled = (
        Session(reading_graph(small, arrays, form, odds=odds))(images=images)
        for odds in (Odds(), Odds(0.5, 2.0))
    )
    share = plain["confidence"].astype(float)
    odds = np.exp(0.5) * (share / (1 - share)) ** 2
    np.testing.assert_allclose(doubled["confidence"], odds / (1 + odds), rtol=1e-4)
    np.testing.assert_array_equal(doubled["logits"], plain["logits"])
