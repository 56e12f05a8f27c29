"""Exporting: every format from command to folder, and what stops one that is wrong."""

import ast
import errno
import itertools
import json
import os
import runpy
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from crnn_jax import export as command
from crnn_jax import models
from crnn_jax.cli import COMMANDS
from crnn_jax.commands import parse_flags
from crnn_jax.data import images as pillow
from crnn_jax.data.images import Preprocessing
from crnn_jax.errors import ConfigError, DataError, ExportFailed
from crnn_jax.exporting import Outputs, formats, proof, proof_images, writing
from crnn_jax.exporting.formats import FORMATS
from crnn_jax.exporting.jax_program import double_precision
from crnn_jax.exporting.onnx_format import OnnxFormat
from crnn_jax.exporting.proof_images import Sample, find_images, with_variants
from crnn_jax.exporting.resizing import resized, target_width
from crnn_jax.recognition.pretrained import write_pretrained
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import BLANK, Alphabet
from tests.networks import SMALL, jit, random_variables

IMAGES = Path(__file__).parent / "data" / "captcha_keras_v2"
ONE = "images/00003.png"
PROGRAMS = sorted(Path(command.__file__).parent.glob("exporting/programs/*.py"))
RUNTIMES = {"json", "sys", "itertools", "pathlib", "numpy", "PIL"}
RUNTIMES |= {"jax", "onnxruntime", "safetensors", "torch"}
RUNTIMES |= {"confidence", "layers", "network"}  # programs beside the one that reads
KINDS = {
    **{"as it is": 2, "gray": 1, "color": 1, "transparent": 1, "tiny": 1},
    **{"wider than the others": 1, "wider than the model takes": 1, "batch of one size": 2},
}
MARKS = {"torch": pytest.mark.torch, "web": pytest.mark.network}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in the form of a pretrained one, with random arrays."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    alphabet = Alphabet("0123456789abcdef")
    network = models.create("crnn", alphabet.num_classes, SMALL)
    manifest = {
        "step": 7,
        "config": {},
        "alphabet": alphabet.to_dict(),
        "preprocessing": Preprocessing(max_width=512).to_dict(),
        "model": {"name": "crnn", "settings": SMALL},
        "versions": {"crnn_jax": "0.1.0"},
    }
    variables = random_variables(network, channels=3, seed=1)
    write_pretrained(folder, json.loads(json.dumps(manifest)), variables)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labeled images of one size, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("few")
    lines = (IMAGES / "test.tsv").read_text().splitlines()[:2]
    (folder / "images").mkdir()
    for line in lines:
        name = line.split("\t")[0]
        shutil.copy(IMAGES / name, folder / name)
    (folder / "no.png").write_bytes(b"no image")
    (folder / "labels.tsv").write_text("".join(f"{line}\n" for line in [*lines, "no.png\tabc"]))
    return folder


def run(*arguments: str | Path) -> None:
    """Runs the command in this process."""
    saved = flagsaver.save_flag_values(command.FLAGS)
    try:
        command.main(parse_flags(command.FLAGS, ["export", *map(str, arguments)]))
    finally:
        flagsaver.restore_flag_values(saved, command.FLAGS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, ())) for name in FORMATS]
)
def test_a_format_from_command_to_program(
    name: str,
    model: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(jax, "jit", jit)  # half of the time to compile
    kinds = KINDS
    if name == "stablehlo":  # each size takes a second to compile
        kinds = {kind: KINDS[kind] for kind in ("as it is", "gray", "tiny")}
        monkeypatch.setattr(
            writing,
            "with_variants",
            lambda *given: [sample for sample in with_variants(*given) if sample.kind in kinds],
        )
    out = tmp_path / "out"
    run("--model", model, "--format", name, "--out", out, "--images", few)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    shown = capsys.readouterr().out
    assert "equal texts" in shown and "MB" in shown
    written = json.loads((out / "proof.json").read_text(encoding="utf-8"))
    assert written["images"]["compared"] == kinds
    assert written["images"]["source"] == str(few) and written["images"]["unreadable"] == 1
    assert written["format"] == name and written["versions"]["jax"] == jax.__version__
    if written["tolerance"] is not None:
        assert written["equal_texts"] == written["texts"] == sum(kinds.values())
        assert written["largest_difference"]["logits_relative"] <= written["tolerance"]
    assert (out / "README.md").is_file()
    monkeypatch.syspath_prepend(out)
    for program in out.glob("*.py"):
        monkeypatch.delitem(sys.modules, program.stem, raising=False)  # those of other formats
    for program in out.glob("read.py"):
        path = str(IMAGES / ONE)
        monkeypatch.setattr(sys, "argv", [program.name, path])
        runpy.run_path(str(program), run_name="__main__")
        printed_path, text, confidence = capsys.readouterr().out.rstrip("\n").split("\t")
        expected = Recognizer.load(model)(path)
        assert printed_path == path
        if written["tolerance"] is not None:
            assert text == expected.text
            assert float(confidence) == pytest.approx(expected.confidence, abs=1e-3)


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("onnx", ["onnxruntime"]),
        ("onnx-int8", ["onnxruntime"]),
        ("stablehlo", ["jax", "flatbuffers"]),
        ("safetensors", ["safetensors", "numpy"]),
        pytest.param("torch", ["torch", "numpy"], marks=pytest.mark.torch),
    ],
)
def test_a_program_runs_where_there_is_its_runtime_alone(
    name: str, packages: list[str], model: Path, few: Path, tmp_path: Path
) -> None:
    run("--model", model, "--format", name, "--out", tmp_path / "out", "--images", few)
    program = tmp_path / "out" / "read.py"
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *packages, "pillow"], check=True)
    # In an empty folder, and without the variables that let this process find the package.
    path, empty = IMAGES / ONE, tmp_path / "empty"
    empty.mkdir()
    kept = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT") if key in os.environ}
    ran = subprocess.run(
        [python, program, path], cwd=empty, env=kept, check=True, capture_output=True, text=True
    )
    _, text, confidence = ran.stdout.rstrip("\n").split("\t")
    if name != "onnx-int8":
        expected = Recognizer.load(model)(path)
        assert (text, float(confidence)) == (
            expected.text,
            pytest.approx(expected.confidence, abs=1e-3),
        )


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_program_is_short_and_needs_its_runtime_alone(program: Path) -> None:
    source = program.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 40
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= RUNTIMES
        elif isinstance(node, ast.ImportFrom):
            assert node.module and node.module.split(".")[0] in RUNTIMES


class Perturbed(OnnxFormat):
    """Adds a little to one parameter."""

    def __init__(self, much: float) -> None:
        self.much = much

    def write(self, model: TrainedModel, folder: Path, images: Sequence[np.ndarray]) -> None:
        def change(path: Any, array: np.ndarray) -> np.ndarray:
            changed = np.array(array)
            if "head" in str(path) and "bias" in str(path):
                changed[1] += self.much
            return changed

        variables = jax.tree_util.tree_map_with_path(change, model.variables)
        super().write(replace(model, variables=variables), folder, images)


@pytest.mark.parametrize(
    ("much", "message"),
    [
        (50.0, r"the exported model reads '0' in .*\.png, where JAX reads '.*'; nothing was"),
        (
            0.01,
            r"the logits.* of .*\.png differ from those of JAX by .*, more than 0.0001",
        ),
        (float("nan"), r"\.png"),
    ],
)
def test_an_export_that_reads_something_else_is_not_left_behind(
    much: float,
    message: str,
    model: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "load_format", lambda name: Perturbed(much))
    with pytest.raises(ExportFailed, match=message):
        writing.export(model, "onnx", tmp_path / "out", few)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_found_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainedModel, "load", lambda *_: pytest.fail("it was loaded"))
    out = tmp_path / "out"
    for arguments, message in (
        (("--out", out), "name a format and a folder"),
        (("--format", "onnx"), "name a format and a folder"),
        (("--format", "onnx", "--out", out, "model"), "what is 'model'"),
        (("--format", "tflite", "--out", out), "no format 'tflite'; choose from onnx, onnx-int8"),
        (("--format", "stablehlo", "--out", tmp_path), "exists already"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(*arguments)
    monkeypatch.setattr(formats, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r"needs torch.*pip install 'crnn_jax\[torch\]'"):
        run("--format", "torch", "--out", out)
    assert not list(tmp_path.iterdir()) and "export" in COMMANDS


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ConfigError, "No space left.*free some"),
        (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
    ],
)
def test_nothing_is_left_of_what_was_not_finished(
    raised: BaseException,
    expected: type[BaseException],
    message: str,
    model: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(self: OnnxFormat, model: TrainedModel, folder: Path, images: Any) -> None:
        (folder / "model.onnx").write_bytes(b"half")
        raise raised

    monkeypatch.setattr(OnnxFormat, "write", write)
    with pytest.raises(expected, match=message):
        writing.export(model, "onnx", tmp_path / "out", few)
    assert not list(tmp_path.iterdir())


def test_images_that_cannot_be_used(model: Path, tmp_path: Path) -> None:
    loaded = TrainedModel.load(model)
    with pytest.raises(DataError, match="nowhere"):
        find_images(loaded, tmp_path / "nowhere", 10)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=f"none of 1 images of {tmp_path} can be read"):
        find_images(loaded, tmp_path, 10)


def test_images_as_they_come(tmp_path: Path, model: Path) -> None:
    loaded = TrainedModel.load(model)
    gray = Image.new("L", (30, 20), 90)
    gray.save(tmp_path / "1.png")
    clear = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
    clear.save(tmp_path / "2.png")
    Image.new("RGB", (30, 20), "red").save(tmp_path / "3.png")
    shapes = [sample.pixels.shape for sample in find_images(loaded, tmp_path, 10).samples]
    assert shapes == [(20, 30, 1), (20, 30, 3), (20, 30, 3)]
    samples = find_images(loaded, tmp_path, 2).samples
    assert [sample.label for sample in samples] == ["1", "3"]  # evenly over all
    assert (find_images(loaded, tmp_path, 3).samples[1].pixels == 255).all()


def test_captchas_are_drawn_for_a_model_without_images(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_images, "DRAWN", 3)
    monkeypatch.setattr(proof_images, "CALIBRATION", 2)
    loaded = TrainedModel.load(model)
    found = find_images(loaded, None, 10)
    assert found.source == "3 captchas that were drawn" and len(found.calibration) == 2
    for sample in found.samples:
        assert sample.label and not loaded.alphabet.unseen(sample.label)


def test_rounded_parameters_are_judged_by_the_texts_that_are_right(
    model: Path, tmp_path: Path
) -> None:
    loaded, recognizer = TrainedModel.load(model), Recognizer.load(model)
    image = Image.open(IMAGES / ONE).convert("RGB")
    label = recognizer(image).text
    assert label
    samples = [Sample(f"image {place}", image, label) for place in range(200)]
    form = OnnxFormat()
    form.write(loaded, tmp_path, [])
    right = form.load(tmp_path)
    form.tolerance = None

    def prove(wrong: int, count: int = 200) -> dict[str, Any]:
        read = itertools.count()  # how many images were read

        def reader(images: np.ndarray) -> Outputs:
            outputs = right(images)
            classes = outputs.classes.copy()
            for row in classes:
                if next(read) < wrong:
                    row[:] = BLANK
            return replace(outputs, classes=classes)

        return proof.prove(loaded, form, reader, samples[:count])

    assert prove(1)["exact_match"] == {"images": 200, "jax": 1.0, "exported": 0.995}
    with pytest.raises(ExportFailed, match=f"1.00 points fewer of 200.* '' in image 0, .*{label}"):
        prove(2)
    few = prove(2, 199)  # too few to measure
    assert few["exact_match"]["images"] < few["measured_from"]


# --- resizing in a JAX program ---


def test_widths_are_those_of_the_images_that_models_are_trained_on() -> None:
    of = (Preprocessing(), Preprocessing(height=64, max_width=300), Preprocessing(width=100))
    for preprocessing in of:
        for height in (*range(1, 70), 1001, 4000):
            for width in (*range(1, 130), 2999):
                expected = pillow.target_width((width, height), preprocessing)
                assert target_width(height, width, preprocessing) == expected


@pytest.mark.parametrize(
    ("preprocessing", "shape"),
    [
        (Preprocessing(), (60, 160, 3)),
        (Preprocessing(), (48, 33, 1)),
        (Preprocessing(), (1, 1, 3)),
        (Preprocessing(height=64, channels=1), (500, 7, 3)),  # rows first
        (Preprocessing(width=100, max_width=100, invert=True), (20, 640, 3)),
    ],
)
def test_resizing_is_that_of_pillow(
    preprocessing: Preprocessing, shape: tuple[int, int, int]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    with double_precision():
        found = jit(lambda images: resized(images, preprocessing))(images)
    for image, pixels in zip(np.asarray(found), images, strict=True):
        expected = pillow.prepare(pixels, preprocessing, "image")
        np.testing.assert_array_equal(image, expected)
