"""JAX and onnxruntime read the same; which of them reads; what starts without JAX."""

import dataclasses
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crnn_jax import predict
from crnn_jax.commands import parse_flags
from crnn_jax.data.images import Preprocessing
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.recognition import backends, graph_cache
from crnn_jax.recognition.backends import choose_backend
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.results import Recognition
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.options import is_default
from tests.networks import image
from tests.test_recognizer import trained_model

IMAGES = Path(__file__).parent / "data" / "captcha_keras_v2" / "images"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel.load("captcha")


@pytest.fixture(scope="module")
def onnx(model: TrainedModel) -> Recognizer:
    return Recognizer(model, backend="onnx")


@pytest.fixture(scope="module")
def captchas() -> list[Image.Image]:
    """Real ones: whole, cut to many widths, and one squeezed to almost nothing."""
    opened = [Image.open(path).convert("RGB") for path in sorted(IMAGES.iterdir())[:10]]
    cut = [one.crop((0, 0, 60 + 9 * place, one.height)) for place, one in enumerate(opened)]
    return [*cut[5:], *opened[:4], opened[0].resize((2, 50)), *cut[:5]]


@pytest.fixture(scope="module")
def expected(model: TrainedModel, captchas: list[Image.Image]) -> list[Recognition]:
    in_jax = Recognizer(model, backend="jax")
    read = list(in_jax.stream(captchas, batch_size=len(captchas)))  # one shape to compile
    assert sum(len(one.text) >= 4 for one in read) >= 4
    assert len({one.text for one in read}) > 10
    return read


@pytest.fixture(scope="module")
def small() -> TrainedModel:
    """Gray images, no sets of characters, and a calibration."""
    return dataclasses.replace(trained_model(seed=3), calibration=Calibration(0.5, 1.5))


def assert_same(read: list[Recognition], expected: list[Recognition]) -> None:
    assert [one.text for one in read] == [one.text for one in expected]
    for one, other in zip(read, expected, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=TOLERANCE)
        for ours, theirs in zip(one.characters, other.characters, strict=True):
            assert ours.text == theirs.text
            assert ours.confidence == pytest.approx(theirs.confidence, abs=TOLERANCE)
            assert (ours.start, ours.end) == pytest.approx((theirs.start, theirs.end), abs=0.02)


# The same texts


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_both_read_the_same_in_any_batches(
    batch_size: int,
    onnx: Recognizer,
    captchas: list[Image.Image],
    expected: list[Recognition],
) -> None:
    """With what cannot be read in between."""
    mixed = [*captchas[:3], b"no image", *captchas[3:]]
    read = list(onnx.stream(mixed, batch_size, return_errors=True))
    assert isinstance(read[3], DataError)
    assert_same([one for one in read if isinstance(one, Recognition)], expected)
    assert onnx._decoder is None  # nothing of JAX is made


@pytest.mark.parametrize("width", [0, 64])
def test_both_read_and_explain_the_same_of_a_network_without_sets(
    width: int, small: TrainedModel
) -> None:
    form = Preprocessing(channels=1, width=width, max_width=96)
    model = dataclasses.replace(small, preprocessing=form)
    ours, theirs = (Recognizer(model, backend=name) for name in ("onnx", "jax"))
    images = [image(wide) for wide in (40, 8, 64, 33, 250)]
    assert_same(ours(images), theirs(images))
    assert_same([ours(images[3])], [theirs(images[3])])
    explained, expected = ours.explain(images[3]), theirs.explain(images[3])
    assert_same([explained.recognition], [expected.recognition])
    np.testing.assert_allclose(explained.probabilities, expected.probabilities, atol=TOLERANCE)
    np.testing.assert_array_equal(explained.places, expected.places)


def test_other_decoders_read_its_logits(small: TrainedModel) -> None:
    """Also one that was learned from them, and copies."""
    ours, theirs = (
        Recognizer(small, backend=name, alphabet="abc", length=(2, 6)) for name in ("onnx", "jax")
    )
    images = [image(wide) for wide in (40, 8, 64, 33, 96)]
    read = ours(images)
    assert_same(read, theirs(images))
    assert_same(pickle.loads(pickle.dumps(ours))(images), read)
    adapted, expected = ours.adapt(images), theirs.adapt(images)(images)
    assert_same(adapted(images), expected)
    assert_same(pickle.loads(pickle.dumps(adapted))(images), expected)
    assert_same(ours(images), read)


def test_threads_and_copies(
    onnx: Recognizer, captchas: list[Image.Image], expected: list[Recognition]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert_same(list(pool.map(onnx, captchas * 2)), expected * 2)
    copy = pickle.loads(pickle.dumps(onnx))
    assert copy.backend == "onnx"
    assert_same(copy(captchas), expected)


# Which of them reads


@pytest.fixture
def without_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not imported JAX, on a machine with a CPU alone."""
    monkeypatch.setattr(backends, "sys", SimpleNamespace(modules={}))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    install(monkeypatch, "onnx", "onnxruntime")
    plugins(monkeypatch)


def plugins(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    metadata = SimpleNamespace(entry_points=lambda **_: found)
    monkeypatch.setattr(backends, "importlib", SimpleNamespace(metadata=metadata))


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def find(name: str) -> object:
        return name if name in names else None

    monkeypatch.setattr(backends, "find_spec", find)


def auto() -> str:
    return choose_backend("auto", default_decoding=True)


@pytest.mark.usefixtures("without_jax")
def test_auto_takes_onnx_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("onnx", "onnxruntime")
    assert auto() == "onnx"
    assert choose_backend("auto", default_decoding=False) == "jax"
    assert choose_backend("onnx", default_decoding=False) == "onnx"
    for one in both:
        install(monkeypatch, one)
        assert auto() == "jax"
    for plugin in ("jax_plugins", "libtpu"):
        install(monkeypatch, *both, plugin)
        assert auto() == "jax"
        for platforms, chosen in (("cpu", "onnx"), ("cuda", "jax"), ("cuda,cpu", "jax")):
            monkeypatch.setenv("JAX_PLATFORMS", platforms)
            assert auto() == chosen
        monkeypatch.delenv("JAX_PLATFORMS")
    install(monkeypatch, *both)
    plugins(monkeypatch, "a plugin")
    assert auto() == "jax"


def test_auto_asks_jax_if_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "jax" in sys.modules and auto() == "onnx"
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert auto() == "jax"

    def missing() -> str:
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr("jax.default_backend", missing)
    assert auto() == "jax"  # which then says what is missing


def test_auto_leaves_other_decoders_to_jax(model: TrainedModel) -> None:
    """The default options are those of commands without flags, too."""
    nothing: dict[str, Any] = dict.fromkeys(("alphabet", "length", "shape", "lexicon"))
    nothing |= {"caseless": False, "beam_width": None, "language_weight": 0.5}
    assert Recognizer(model, **nothing).backend == Recognizer(model).backend == "onnx"
    for option in ({"alphabet": "digits"}, {"length": 5}, {"caseless": True}, {"beam_width": 2}):
        assert not is_default({**nothing, **option})
    with pytest.raises(ConfigError, match="a beam of 0 texts is not supported"):
        Recognizer(model, beam_width=0)


def test_a_backend_that_is_not_there(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no backend 'torch'; choose from auto, jax, onnx"):
        Recognizer.load(backend="torch")
    install(monkeypatch)
    for call in (
        lambda: Recognizer(model, backend="onnx"),
        lambda: predict.main(
            parse_flags(predict.FLAGS, ["predict", "--backend=onnx", str(IMAGES / "00000.png")])
        ),
    ):
        with pytest.raises(ConfigError, match=r'needs onnxruntime: pip install "crnn_jax\[onnx\]"'):
            call()


# Kept graphs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "crnn_jax" / "onnx"


def test_a_graph_is_built_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = trained_model()
    graph = graph_cache.graph_of(small)
    (file,) = folder.iterdir()
    whole = file.read_bytes()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("built again")

    with monkeypatch.context() as context:
        context.setattr("crnn_jax.recognition.onnx_model.onnx_model", never)
        assert graph_cache.graph_of(small) == graph
    for damaged in (b"", whole[:-1], whole[:50] + b"?" + whole[51:], b"0" * len(whole)):
        file.write_bytes(damaged)
        assert graph_cache.graph_of(small) == graph
        assert file.read_bytes() == whole and len(list(folder.iterdir())) == 1


def test_another_model_has_another_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = trained_model()
    variables = {**small.variables, "params": {**small.variables["params"]}}
    variables["params"]["head"] = {
        name: np.asarray(array) * 2 for name, array in variables["params"]["head"].items()
    }
    others = [
        dataclasses.replace(small, calibration=Calibration(0.1)),
        dataclasses.replace(small, charsets={"lower": 0.0}),
        dataclasses.replace(small, preprocessing=Preprocessing(channels=1, invert=True)),
        dataclasses.replace(small, variables=variables),
    ]
    monkeypatch.setattr(graph_cache, "KEPT", 3)
    assert len({graph_cache._key(one) for one in (small, *others)}) == 5
    for one in (small, *others):
        graph_cache.graph_of(one)
        assert (folder / f"{graph_cache._key(one)}.graph").exists()
    assert len(list(folder.iterdir())) == 3


def test_a_file_of_another_model_or_of_other_code_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = trained_model(), trained_model(seed=2)
    graphs = [graph_cache.graph_of(one) for one in (ours, other)]
    file, copied = (folder / f"{graph_cache._key(one)}.graph" for one in (ours, other))
    file.write_bytes(copied.read_bytes())
    assert graph_cache.graph_of(ours) == graphs[0] != graphs[1]
    monkeypatch.setattr(graph_cache, "_code", lambda: [b"changed"])
    assert graph_cache._key(ours) != file.stem


def test_a_graph_that_cannot_be_kept_is_used(folder: Path) -> None:
    folder.parent.write_bytes(b"no folder")
    assert Recognizer(trained_model(), backend="onnx")(image(40))


# Starting


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    removed = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "JAX_PLATFORMS")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    yield {**kept, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="a GPU's plugin")
@pytest.mark.parametrize("graph", ["built", "kept"])
def test_reading_imports_no_jax(graph: str, environment: dict[str, str]) -> None:
    """Nor what else takes a while to import; nothing of JAX is configured."""
    code = """if True:
        import atexit, os, sys
        slow = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "scipy"}
        def report():
            flags = os.environ.get("XLA_FLAGS")
            print(sorted(slow & set(sys.modules)), "onnx" in sys.modules, flags)
        atexit.register(report)
        from crnn_jax.cli import main
        main(["crnn-jax", "predict", *sys.argv[1:]])
    """
    paths = [str(IMAGES / f"0000{number}.png") for number in range(2)]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == paths
    assert last == f"[] {graph == 'built'} None"
    assert done.stderr == ""
