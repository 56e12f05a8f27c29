"""JAX and onnxruntime read the same; which of them reads; and what is kept between runs."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import platformdirs
import pytest
from PIL import Image

from crnn_jax import models
from crnn_jax.data.images import Preprocessing
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.recognition import graph_cache, onnx_model
from crnn_jax.recognition.backends import choose_backend
from crnn_jax.recognition.batches import MOST_PADDING, in_few_shapes, in_tight_shapes
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.model_folder import write_model_folder
from crnn_jax.recognition.pretrained import find_model, read_pretrained_manifest
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.results import Recognition
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training.manifest import IDENTITY
from tests.networks import SMALL, random_variables

IMAGES = Path(__file__).parent / "data" / "captcha_keras_v2" / "images"
CHARACTERS = "012abc"


def trained_model(seed: int = 1, **changes: Any) -> TrainedModel:
    """A small model with random parameters."""
    settings = {**SMALL, "channels": list(SMALL["channels"]), "space_to_depth": 1}
    network = models.create("crnn", len(CHARACTERS) + 1, settings)
    model = TrainedModel(
        step=7,
        variables=random_variables(network, channels=1, seed=seed),
        alphabet=Alphabet(CHARACTERS),
        preprocessing=Preprocessing(channels=1),
        description={"name": "crnn", "settings": settings},
        config={},
        calibration=Calibration(intercept=1.0, slope=0.5),
    )
    return dataclasses.replace(model, **changes)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return trained_model(seed=11, charsets={"digits": -0.7, "lower": -0.7})


@pytest.fixture(scope="module")
def both(model: TrainedModel) -> tuple[Recognizer, Recognizer]:
    return Recognizer(model, backend="jax"), Recognizer(model, backend="onnx")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Real images of many widths, in no order."""
    widths = [60, 100, 60, 33, 64, 90, 41, 60]
    files = sorted(IMAGES.iterdir())
    opened = [Image.open(file).convert("RGB") for file in files[: len(widths)]]
    return [image.resize((width, 32)) for image, width in zip(opened, widths, strict=True)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for graphs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return platformdirs.user_cache_path("crnn_jax") / "onnx"


def assert_same(read: list[Recognition], expected: list[Recognition]) -> None:
    assert [one.text for one in read] == [one.text for one in expected]
    np.testing.assert_allclose(
        [one.confidence for one in read], [one.confidence for one in expected], rtol=1e-3
    )
    for one, other in zip(read, expected, strict=True):
        assert [(c.text, c.start, c.end) for c in one.characters] == [
            (c.text, c.start, c.end) for c in other.characters
        ]
        np.testing.assert_allclose(
            [c.confidence for c in one.characters],
            [c.confidence for c in other.characters],
            atol=1e-4,
        )


# What is read


@pytest.mark.parametrize("batch_size", [1, 8])
def test_they_read_the_same(
    batch_size: int, both: tuple[Recognizer, Recognizer], images: list[Image.Image]
) -> None:
    """In batches and alone; one image cannot be read."""
    given: list[Any] = [*images[:3], b"no image", *images[3:]]
    read = [list(one.stream(given, batch_size, return_errors=True)) for one in both]
    for results in read:
        assert isinstance(results.pop(3), DataError)
    by_jax, by_onnx = ([r for r in one if isinstance(r, Recognition)] for one in read)
    assert_same(by_onnx, by_jax)
    assert len({one.text for one in by_jax}) > 3
    assert by_onnx[1].text != by_onnx[0].text
    assert_same([both[1](image) for image in images], by_jax)
    assert both[1]([]) == []


def test_they_explain_the_same(
    both: tuple[Recognizer, Recognizer], images: list[Image.Image]
) -> None:
    by_jax, by_onnx = (one.explain(images[1]) for one in both)
    np.testing.assert_allclose(by_onnx.probabilities, by_jax.probabilities, atol=1e-4)
    np.testing.assert_array_equal(by_onnx.places, by_jax.places)
    assert_same([by_onnx.recognition], [by_jax.recognition])


def test_what_is_known_of_the_texts_is_read_by_jax_of_the_same_logits(
    model: TrainedModel, images: list[Image.Image]
) -> None:
    by_jax, by_onnx = (
        Recognizer(model, backend=name, alphabet="012", length=3) for name in ("jax", "onnx")
    )
    assert by_onnx.backend == "onnx"
    assert_same(by_onnx(images[:1]), by_jax(images[:1]))
    adapted = by_onnx.adapt(images)
    assert adapted.backend == "onnx" and len(adapted(images[0]).text) == 3


def test_it_can_be_pickled_and_used_by_threads(
    both: tuple[Recognizer, Recognizer], images: list[Image.Image]
) -> None:
    expected = both[1](images)
    copy = pickle.loads(pickle.dumps(both[1]))
    assert copy.backend == "onnx"
    with ThreadPoolExecutor(4) as pool:
        for read in pool.map(copy, [images] * 8):
            assert_same(read, expected)


def test_batches_of_any_shape_have_little_padding() -> None:
    widths = sorted(np.random.default_rng(0).integers(8, 1025, 200).tolist())
    images = [np.full((32, width, 1), 7, np.uint8) for width in widths]
    batches = list(in_tight_shapes(images, 32))
    assert [width for batch in batches for width in batch.widths] == widths
    for batch in batches:
        assert batch.size == len(batch.images) <= 32
        assert batch.images.shape[2] == batch.widths[-1] <= MOST_PADDING * batch.widths[0]
    few = list(in_few_shapes(images, 32))
    assert [width for batch in few for width in batch.widths[: batch.size]] == widths
    assert len({batch.images.shape for batch in few}) < len({b.images.shape for b in batches})


# Which one reads


@pytest.fixture
def without_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX is installed, for CPUs alone, and not imported."""
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())


def installed(*, more: tuple[str, ...] = (), less: tuple[str, ...] = ()) -> Callable[..., Any]:
    find = importlib.util.find_spec

    def found(name: str) -> Any:
        return None if name in less else object() if name in more else find(name)

    return found


@pytest.mark.usefixtures("without_jax")
@pytest.mark.parametrize(
    ("platforms", "more", "less", "chosen"),
    [
        (None, (), (), "onnx"),
        ("cpu", (), (), "onnx"),
        ("cpu", ("libtpu",), (), "onnx"),
        ("cuda", (), (), "jax"),
        ("cpu,cuda", (), (), "jax"),
        (None, ("libtpu",), (), "jax"),
        (None, ("jax_plugins",), (), "jax"),
        (None, (), ("onnxruntime",), "jax"),
        (None, (), ("onnx",), "jax"),
    ],
)
def test_onnx_reads_on_a_cpu_where_it_is_installed(
    platforms: str | None,
    more: tuple[str, ...],
    less: tuple[str, ...],
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr("crnn_jax.recognition.backends.find_spec", installed(more=more, less=less))
    assert choose_backend("auto", True) == chosen
    assert choose_backend("auto", False) == "jax"
    assert choose_backend("jax", True) == "jax"
    if "jax_plugins" not in more and not less:
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ("a plugin",))
        assert choose_backend("auto", True) == ("onnx" if platforms == "cpu" else "jax")


@pytest.mark.parametrize(("device", "chosen"), [("cpu", "onnx"), ("gpu", "jax"), (None, "jax")])
def test_where_jax_is_imported_its_device_decides(
    device: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def default_backend() -> str:
        if device is None:
            raise RuntimeError("Unable to initialize backend")
        return device

    monkeypatch.setattr(jax, "default_backend", default_backend)
    assert choose_backend("auto", True) == chosen


def test_the_options_of_a_recognizer_decide(model: TrainedModel) -> None:
    assert Recognizer(model, alphabet=None, caseless=False).backend == "onnx"
    assert Recognizer(model, alphabet="012").backend == "jax"
    assert Recognizer(model, Recognizer(model).decoder).backend == "jax"


def test_a_backend_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: Any = "tpu"
    with pytest.raises(ConfigError, match="no backend 'tpu'; choose from auto, jax, onnx"):
        Recognizer.load(backend=wrong)
    for package in ("onnxruntime", "onnx"):
        monkeypatch.setattr("crnn_jax.recognition.backends.find_spec", installed(less=(package,)))
        with pytest.raises(
            ConfigError, match=rf'^the backend onnx needs {package}: pip install "crnn_jax\[onnx\]"'
        ):
            Recognizer.load(backend="onnx")


# What is kept


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TrainedModel]]:
    """The models whose graphs were built."""
    models_seen: list[TrainedModel] = []

    def build(model: TrainedModel, resize: bool) -> Any:
        models_seen.append(model)
        name = f"graph {len(models_seen)}".encode()
        return SimpleNamespace(SerializeToString=lambda: name)

    monkeypatch.setattr(onnx_model, "onnx_model", build)
    yield models_seen


def test_a_graph_is_built_once(built: list[TrainedModel], cache: Path) -> None:
    model = trained_model()
    assert graph_cache.graph_of(model) == graph_cache.graph_of(model) == b"graph 1"
    assert graph_cache.graph_of(trained_model()) == b"graph 1" and len(built) == 1
    head = {"kernel": model.variables["params"]["head"]["kernel"] + 1e-3}
    params = model.variables["params"]
    head = {**params["head"], **head}
    others = (
        {"variables": {**model.variables, "params": {**params, "head": head}}},
        {"alphabet": Alphabet("xyzabc")},
        {"charsets": {"digits": 0.0}},
        {"calibration": Calibration()},
        {"preprocessing": Preprocessing(channels=1, invert=True)},
        {"description": {"name": "crnn", "settings": {**SMALL, "leaky": True}}},
    )
    for changes in others:
        graph_cache.graph_of(dataclasses.replace(model, **changes))
    assert len(built) == 1 + len(others) == len(list(cache.iterdir()))


def test_a_graph_of_other_code_is_not_used(
    built: list[TrainedModel], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph_cache.graph_of(trained_model())
    monkeypatch.setattr(graph_cache, "_code", lambda: [b"changed"])
    graph_cache.graph_of(trained_model())
    assert len(built) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "another model's", "folder"])
def test_a_damaged_file_is_not_used(damage: str, built: list[TrainedModel], cache: Path) -> None:
    graph_cache.graph_of(trained_model(seed=2))
    (other,) = cache.iterdir()
    expected = graph_cache.graph_of(trained_model())
    (file,) = set(cache.iterdir()) - {other}
    data = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        changed = {
            "flipped": data[:-1] + bytes([data[-1] ^ 1]),
            "cut": data[:-1],
            "empty": b"",
            "another model's": other.read_bytes(),
        }
        file.write_bytes(changed[damage])
    assert graph_cache.graph_of(trained_model()) == b"graph 3" != expected
    assert len(built) == 3
    graph_cache.graph_of(trained_model())
    assert len(built) == (4 if damage == "folder" else 3)
    assert len(list(cache.iterdir())) == 2  # nothing half-written


def test_few_graphs_are_kept_and_none_where_nothing_can_be_written(
    built: list[TrainedModel], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_cache, "KEPT", 2)
    for seed in range(3):
        graph_cache.graph_of(trained_model(seed))
        for age, file in enumerate(sorted(cache.iterdir(), key=os.path.getmtime, reverse=True)):
            os.utime(file, (1_000 - age, 1_000 - age))
    assert len(list(cache.iterdir())) == 2
    graph_cache.graph_of(trained_model(2))
    assert len(built) == 3
    for file in cache.iterdir():
        file.unlink()
    cache.rmdir()
    cache.touch()
    for _ in range(2):
        graph_cache.graph_of(trained_model())
    assert len(built) == 5


# Starting


def test_reading_imports_no_jax(tmp_path: Path) -> None:
    """The command with the pretrained model, and a model folder; the graph is in the cache."""
    captcha, folder = TrainedModel.load(), tmp_path / "folder"
    manifest = read_pretrained_manifest(find_model())
    described = {key: manifest[key] for key in ("step", "charsets", "calibration", *IDENTITY)}
    write_model_folder(folder, described, captcha.variables, "The pretrained model.")
    image = str(IMAGES / "00000.png")
    expected = Recognizer(captcha, backend="onnx")(image)
    code = """if True:
        import sys
        from crnn_jax.cli import main
        main(["crnn-jax", "predict", "--format=jsonl", sys.argv[2]])
        from crnn_jax import Recognizer
        print(Recognizer.load(sys.argv[1])(sys.argv[2]).text)
        slow = {"jax", "jaxlib", "flax", "optax", "orbax", "tensorflow", "onnx", "scipy", "rich"}
        print(slow & sys.modules.keys() or "nothing")
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), image],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    row, text, imported = done.stdout.splitlines()
    assert json.loads(row)["text"] == text == expected.text
    assert imported == "nothing"
