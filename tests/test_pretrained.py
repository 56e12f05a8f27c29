"""Pretrained models: they read as the runs they come from, by name, and damage is found."""

import hashlib
import io
import json
import pickle
import random
import re
import shutil
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from one_device import score

from configs.captcha import get_config
from crnn_jax import models, predict
from crnn_jax.commands import parse_flags
from crnn_jax.data.images import Preprocessing, pad_batch, prepare
from crnn_jax.data.synthetic.captcha import render
from crnn_jax.errors import CheckpointError, DamagedCheckpoint
from crnn_jax.experiment import Experiment
from crnn_jax.recognition import pretrained
from crnn_jax.recognition.pretrained import find_model, write_pretrained
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training.checkpoint import Checkpoints
from crnn_jax.training.manifest import seal
from crnn_jax.training.state import TrainState
from crnn_jax.trees import flatten
from tests.networks import PlainCRNN, plain_variables, random_variables
from tests.test_checkpoint import Trap
from tests.test_train import IMAGES, small_config

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import package_model

ALPHABET = Alphabet("2345678bcdefgmnpwxy")
NAMES = [line.split("\t")[0] for line in (IMAGES / "test.tsv").read_text().splitlines()]
TEST = {"step": 7, "split": "test", "exact_match": 0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir as training leaves it; the values of its arrays are random."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    settings = small_config().model.to_dict()
    model = {"name": settings.pop("name"), "settings": settings}
    network = models.create(model["name"], ALPHABET.num_classes, settings)
    variables = random_variables(network, channels=3, seed=1)
    zero = np.zeros((), np.int32)
    state = TrainState(
        step=np.int32(7),  # pyright: ignore
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optax.sgd(1e-3).init(variables["params"]),
        skipped=zero,  # pyright: ignore
        skipped_in_row=zero,  # pyright: ignore
    )
    manifest = {
        "config": {"data": {"dir": str(workdir)}},
        "alphabet": ALPHABET.to_dict(),
        "preprocessing": Preprocessing().to_dict(),
        "model": model,
        "versions": {"crnn_jax": "0.1.0"},
    }
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(state, json.loads(json.dumps(manifest)), 0.75)
    lines = [{**TEST, "step": 3}, {**TEST, "split": "train"}, TEST, {**TEST, "split": "validation"}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


@pytest.fixture
def packaged(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`run` as the pretrained model "small"."""
    monkeypatch.setattr(pretrained, "PRETRAINED_DIR", tmp_path / "models")
    package_model.package_model(run, tmp_path / "models" / "small")
    return tmp_path / "models" / "small"


def logits(model: TrainedModel) -> np.ndarray:
    images = [prepare((IMAGES / name).read_bytes(), Preprocessing(), name) for name in NAMES]
    batch, widths = pad_batch(images, max(image.shape[1] for image in images))
    return np.asarray(jax.jit(model.network.apply)(model.variables, batch, widths)[0])


def test_a_pretrained_model_reads_as_its_run(run: Path, packaged: Path) -> None:
    model, original = TrainedModel.load(packaged), TrainedModel.load(run)
    for part in ("step", "alphabet", "preprocessing"):
        assert getattr(model, part) == getattr(original, part)
    # The head that only training uses is left out.
    settings = {**original.description["settings"], "shortcut": False}
    assert model.description == {**original.description, "settings": settings}
    name, classes = original.description["name"], ALPHABET.num_classes
    assert model.network == models.create(name, classes, settings)
    assert model.variables["params"].keys() == original.variables["params"].keys() - {
        "shortcut_head"
    }
    assert "shortcut_head" in original.variables["params"]
    ours, theirs = logits(model), logits(original)
    assert 0 < np.abs(ours - theirs).max() < 0.02 < np.ptp(theirs) / 100
    files = [(IMAGES / name).read_bytes() for name in NAMES]
    texts = [[one.text for one in Recognizer(m)(files)] for m in (model, original)]
    assert all(map(len, texts[0]))
    # Where two characters are as likely to the last digit, either may be read.
    best, second = np.sort(theirs)[..., -1], np.sort(theirs)[..., -2]
    decided = (best - second).min(1) > 2 * np.abs(ours - theirs).max()
    assert decided.sum() >= 4
    assert [a for a, d in zip(texts[0], decided, strict=True) if d] == [
        b for b, d in zip(texts[1], decided, strict=True) if d
    ]


def test_the_manifest_has_what_a_reader_needs_and_no_folder(run: Path, packaged: Path) -> None:
    text = (packaged / "manifest.json").read_text(encoding="utf-8")
    manifest = json.loads(text)
    assert manifest["metrics"] == {"test": TEST, "validation": {**TEST, "split": "validation"}}
    assert manifest["versions"] == {"crnn_jax": "0.1.0"} and manifest["step"] == 7
    assert manifest["arrays"]["bytes"] == (packaged / "arrays.npz").stat().st_size
    assert str(run.parent) not in text and "config" not in manifest
    assert sorted(path.name for path in packaged.iterdir()) == ["arrays.npz", "manifest.json"]
    with np.load(packaged / "arrays.npz", allow_pickle=False) as arrays:
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}


def test_what_half_precision_holds_comes_back_bit_for_bit(packaged: Path, tmp_path: Path) -> None:
    """A packaged model packaged again is the same."""
    model = TrainedModel.load(packaged)
    manifest = json.loads((packaged / "manifest.json").read_text(encoding="utf-8"))
    del manifest["digest"]
    write_pretrained(tmp_path / "again", manifest, model.variables)
    for name in ("arrays.npz", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (packaged / name).read_bytes()
    jax.tree.map(
        np.testing.assert_array_equal,
        TrainedModel.load(tmp_path / "again").variables,
        model.variables,
    )


def test_the_script_says_what_it_made_or_why_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(package_model, "PRETRAINED_DIR", tmp_path / "models")

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["package_model.py", *map(str, arguments)])
        package_model.main()
        return capsys.readouterr().out

    assert re.fullmatch(r".*models.mine: step 7, 0\.0\d MB\n", call(run, "mine"))
    assert TrainedModel.load(tmp_path / "models" / "mine").step == 7
    with pytest.raises(SystemExit):
        call(run, "mine")
    assert "mine is there already; choose another name, or" in capsys.readouterr().err
    assert "step 7" in call(run, "mine", "--replace")
    with pytest.raises(SystemExit, match=r"^error: there is no model .*no, "):
        call(tmp_path / "no", "other")
    with pytest.raises(SystemExit):
        call(run, "../elsewhere")
    assert "letters, digits and _, not ../elsewhere" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


# Names


def test_a_model_is_known_by_name_everywhere(
    run: Path, packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert find_model("small") == find_model(packaged) == packaged
    recognizer = Recognizer.load("small")
    rows = list(score("small", [IMAGES], 8))
    assert rows[0]["count"] == 8 and rows == list(score(packaged, [IMAGES], 8))
    config = small_config(init_from="small")
    config.alphabet.characters = ALPHABET.characters[::-1]
    state, line = Experiment.build(config).initial_state()
    assert line == "all from step 7 of small, 19 characters with it"
    np.testing.assert_array_equal(
        state.params["head"]["bias"][1:],
        recognizer.model.variables["params"]["head"]["bias"][:0:-1],
    )
    with pytest.raises(CheckpointError, match=r"small has no step 3; it has step 7 alone"):
        Recognizer.load("small", step=3)

    # Without a name it is the one called captcha, whatever folders there are.
    shutil.copytree(packaged, packaged.with_name("captcha"))
    shutil.copytree(run, tmp_path / "here" / "captcha")
    monkeypatch.chdir(tmp_path / "here")
    assert find_model() == packaged.with_name("captcha")
    image = IMAGES / NAMES[0]
    predict.main(parse_flags(predict.FLAGS, ["predict", str(image)]))
    read = recognizer([image.read_bytes()])[0]
    assert capsys.readouterr().out == f"{image}\t{read.text}\t{read.confidence:.4f}\n"


def test_a_folder_of_ones_own_goes_first_if_it_holds_a_model(
    run: Path, packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert find_model("small") == packaged
    for own in (run, packaged):
        shutil.rmtree(tmp_path / "small")
        shutil.copytree(own, tmp_path / "small")
        assert find_model("small") == Path("small")


def test_what_is_no_model_is_one_line(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(packaged, packaged.with_name("other"))
    for name in ("smal", tmp_path, "../small", str(tmp_path / "no")):
        with pytest.raises(CheckpointError, match=r"no model .*\(other, small\); train") as caught:
            Recognizer.load(name)
        assert str(name) in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(pretrained, "PRETRAINED_DIR", tmp_path / "none")
    with pytest.raises(
        CheckpointError, match=r"model captcha, .*\(there are none yet\); train first"
    ):
        Recognizer.load()


# Damage, and strangers


def test_a_flipped_bit_is_found(packaged: Path) -> None:
    rng = random.Random(0)
    model = TrainedModel.load(packaged)
    for name in ("arrays.npz", "manifest.json"):
        path = packaged / name
        whole = path.read_bytes()
        for place in {0, len(whole) - 1, *rng.sample(range(len(whole)), 30)}:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(DamagedCheckpoint, match=name):
                TrainedModel.load(packaged)
        path.write_bytes(whole[:-3])
        with pytest.raises(DamagedCheckpoint, match=name):
            TrainedModel.load(packaged)
        path.unlink()
        with pytest.raises(CheckpointError):
            TrainedModel.load(packaged)
        path.write_bytes(whole)
    jax.tree.map(
        np.testing.assert_array_equal, TrainedModel.load(packaged).variables, model.variables
    )


def forge(packaged: Path, arrays: dict[str, Any]) -> None:
    """Puts other arrays into a packaged as somebody would who knows how it is sealed."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    forge_file(packaged, file)


def forge_file(packaged: Path, file: io.BytesIO) -> None:
    (packaged / "arrays.npz").write_bytes(file.getvalue())
    manifest = json.loads((packaged / "manifest.json").read_text(encoding="utf-8"))
    del manifest["digest"]
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    text = json.dumps(seal({**manifest, "arrays": {"sha256": digest}}))
    (packaged / "manifest.json").write_text(text, encoding="utf-8")


def test_nothing_is_unpickled_nor_blown_up(packaged: Path, tmp_path: Path) -> None:
    with np.load(packaged / "arrays.npz", allow_pickle=False) as file:
        whole = dict(file)
    forge(packaged, whole)
    assert TrainedModel.load(packaged).step == 7
    path = "params/head/bias"
    sprung = tmp_path / "sprung"
    forge(packaged, {**whole, path: np.array([Trap(sprung)], object)})
    with pytest.raises(DamagedCheckpoint, match=r"npz cannot be read: .*is an array of object"):
        TrainedModel.load(packaged)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()
    forge(packaged, {**whole, path: np.zeros(10**7, np.float16)})
    with pytest.raises(DamagedCheckpoint, match="unpack to more than any pretrained"):
        TrainedModel.load(packaged)
    forge(packaged, {**whole, path: whole[path].astype(np.float32)})
    with pytest.raises(DamagedCheckpoint, match=rf"{path}.npy is an array of float32, expected"):
        TrainedModel.load(packaged)
    forge(packaged, {**whole, path: whole[path][:-1]})
    with pytest.raises(DamagedCheckpoint, match=rf"{path} is float16 .*19.*, expected .*20"):
        TrainedModel.load(packaged)
    del whole[path]
    forge(packaged, whole)
    with pytest.raises(DamagedCheckpoint, match=f"{path} is missing"):
        TrainedModel.load(packaged)


def header(shape: tuple[int, ...], dtype: Any) -> bytes:
    file = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


HALF = header((1,), "<f2") + b"xx"
# Members of an archive, and what is said of them.
MEMBERS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "no array": ([("a.npy", b"hello, world")], "magic string is not correct"),
    "nothing": ([("a.npy", b"")], "EOF"),
    "text": ([("a.txt", b"hello, world")], "magic string is not correct"),
    "another format": ([("a.npy", b"\x93NUMPY\x03\x00" + HALF[8:])], "another format"),
    "strings": ([("a.npy", header((1,), "<U1") + b"xxxx")], "a.npy is an array of <U1"),
    "records": ([("a.npy", header((1,), [("x", "<f2")]) + b"xx")], "a.npy is an array of"),
    "huge": ([("a.npy", header((10**9,), "<f2") + b"xx")], "a.npy has another size than its"),
    "beyond 64 bits": ([("a.npy", header((10**30, 2), "<f2"))], "a.npy has another size"),
    "negative": ([("a.npy", header((-1,), "<f2") + b"xx")], "a.npy has another size"),
    "twice negative": ([("a.npy", header((-1, -1), "<f2") + b"xx")], "a.npy has another size"),
    "twice": ([("a.npy", HALF)] * 2, "two members of one name"),
    "many": ([(f"{n}.npy", HALF) for n in range(1_001)], "1,001 members, more than 1,000"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", MEMBERS)
def test_members_that_are_no_arrays_of_a_model(name: str, packaged: Path) -> None:
    members, message = MEMBERS[name]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
    forge_file(packaged, file)
    manifest = pretrained.read_pretrained_manifest(packaged)
    tracemalloc.start()
    with pytest.raises(DamagedCheckpoint, match=rf"npz cannot be read: .*{message}"):
        pretrained.read_pretrained_arrays(packaged, manifest, shapes={})
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_members_are_packed_as_numpy_packs_them(method: int, packaged: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.npy", HALF)
    forge_file(packaged, file)
    manifest = pretrained.read_pretrained_manifest(packaged)
    with pytest.raises(DamagedCheckpoint, match="compressed in another way"):
        pretrained.read_pretrained_arrays(packaged, manifest, shapes={})


# What cannot be packaged


def test_what_half_precision_cannot_hold_is_refused(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TrainedModel.load(packaged)
    name = "batch_stats/conv_stack/norm3/var"

    def package_with(var: np.ndarray) -> Any:
        statistics = model.variables["batch_stats"]["conv_stack"]
        others = {**statistics, "norm3": {**statistics["norm3"], "var": var}}
        variables = {**model.variables, "batch_stats": {"conv_stack": others}}
        manifest = json.loads((packaged / "manifest.json").read_text(encoding="utf-8"))
        del manifest["digest"], manifest["arrays"]
        write_pretrained(tmp_path / "packaged", manifest, variables)
        return TrainedModel.load(tmp_path / "packaged").variables["batch_stats"]["conv_stack"]

    var = model.variables["batch_stats"]["conv_stack"]["norm3"]["var"]
    for wrong in (var * 0 + 65_520, var * 1e-7, np.where(var == var[0], np.nan, var)):
        with pytest.raises(CheckpointError, match=rf"{name} cannot be packaged: .*; use another"):
            package_with(wrong)
        assert not (tmp_path / "packaged").exists()
    # The range that there is, in one array: what is lost of the least is little beside the epsilon
    # of batch normalization.
    wide = np.geomspace(1e-8, 65_000, len(var)).astype(np.float32)
    kept = package_with(wide)["norm3"]["var"]
    np.testing.assert_allclose(kept + 1e-5, wide + 1e-5, rtol=4e-3)
    monkeypatch.setattr(pretrained, "MAX_BYTES", 5_000)
    shutil.rmtree(tmp_path / "packaged")
    with pytest.raises(CheckpointError, match=r"would take .* may take 5,000; package a smaller"):
        package_with(var)
    assert not (tmp_path / "packaged").exists()


@pytest.mark.parametrize(
    "folder",
    [path.parent for path in pretrained.PRETRAINED_DIR.glob("*/manifest.json")],
    ids=lambda f: f.name,
)
def test_the_models_of_the_package_have_the_shapes_of_their_networks(
    folder: Path, tmp_path: Path
) -> None:
    """A copy elsewhere, as in anybody's folder, is read in the same way."""
    model = TrainedModel.load(folder.name)
    assert model.name == folder.name
    shutil.copytree(folder, tmp_path / "copy")
    checked = TrainedModel.load(tmp_path / "copy")
    assert checked.name == str(tmp_path / "copy")
    assert flatten(model.variables).keys() == flatten(checked.variables).keys()
    jax.tree.map(np.testing.assert_array_equal, model.variables, checked.variables)


def test_the_pretrained_captcha_model_reads_captchas() -> None:
    rng = random.Random(8)
    characters = "0123456789abcdefghijklmnopqrstuvwxyz"
    texts = ["".join(rng.choices(characters, k=rng.randint(4, 8))) for _ in range(32)]
    images = [render(text, seed=rng.getrandbits(32)) for text in texts]
    read = [recognition.text for recognition in Recognizer.load()(images)]
    right = sum(one == text for one, text in zip(read, texts, strict=True))
    assert right >= 24  # of 2,000 it reads 93 %, with which fewer of 32 come once in 3,900 times


def test_the_pretrained_captcha_model_is_the_network_of_the_paper() -> None:
    """With space to depth by 2, though its manifest is older than that setting."""
    manifest = json.loads((find_model("captcha") / "manifest.json").read_text(encoding="utf-8"))
    assert "space_to_depth" not in manifest["model"]["settings"]
    model = TrainedModel.load("captcha")
    image = prepare(render("2ab4", seed=0), model.preprocessing, "")[None, :, :160]
    logits, _ = jax.jit(model.network.apply)(model.variables, image, np.array([image.shape[2]]))
    plain = PlainCRNN(
        channels=(32, 64, 128, 128, 256, 256, 256),
        hidden=128,
        classes=model.alphabet.num_classes,
        normalized=range(1, 8),
        slope=0.0,
        depth=2,
        per_image=True,
    )
    expected = jax.jit(plain.apply)(plain_variables(model.variables), image)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    assert np.ptp(expected) > 5


def test_the_fine_tune_variant_starts_from_it() -> None:
    config = get_config("fine_tune")
    config.batch_size = 16  # of 30 images
    config.data.update(source="folder", dir=str(IMAGES))
    state, beginning = Experiment.build(config).initial_state()
    assert "all from step" in beginning
    layers = TrainedModel.load("captcha").variables["params"]["conv_stack"]
    started = {name: state.params["conv_stack"][name] for name in layers}
    jax.tree.map(np.testing.assert_array_equal, started, layers)
