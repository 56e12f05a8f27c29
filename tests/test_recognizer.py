"""The recognizer: whatever it is given, in whatever batches, it reads each image as if alone."""

import dataclasses
import io
import itertools
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from PIL import Image, ImageSequence

from crnn_jax import models
from crnn_jax.compiler import FIRST_VERSION
from crnn_jax.data import images as images_module
from crnn_jax.data.buckets import bucket_width
from crnn_jax.data.images import Preprocessing
from crnn_jax.errors import CheckpointError, ConfigError, DataError
from crnn_jax.recognition import jax_backend, preparing
from crnn_jax.recognition.batches import WIDTHS, batch_size
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.jax_backend import apply_network
from crnn_jax.recognition.recognizer import READ_AHEAD, Recognizer
from crnn_jax.recognition.results import Recognition
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training import checkpoint
from crnn_jax.training.checkpoint import Checkpoints
from tests.networks import CLASSES, SMALL, image, jit, random_variables

GOLDEN = Path(__file__).parent / "data" / "checkpoints" / "format2"


def trained_model(seed: int = 1) -> TrainedModel:
    # A list, as in a manifest.
    settings = {**SMALL, "channels": list(SMALL["channels"]), "space_to_depth": 1}
    network = models.create("crnn", CLASSES, settings)
    return TrainedModel(
        step=7,
        variables=random_variables(network, channels=1, seed=seed),
        alphabet=Alphabet("abcd"),
        preprocessing=Preprocessing(channels=1),
        description={"name": "crnn", "settings": settings},
        config={},
        name="runs/small",
    )


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(trained_model(), backend="jax")


def encode(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array.squeeze()).save(file, "PNG")
    return file.getvalue()


def assert_same(read: list[Recognition], expected: list[Recognition]) -> None:
    assert [one.text for one in read] == [one.text for one in expected]
    np.testing.assert_allclose(
        [one.confidence for one in read], [one.confidence for one in expected], rtol=1e-4
    )


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Arrays (32, W) of mixed widths, in no order."""
    widths = [50, 90, 20, 64, 77, 8, 33, 96, 41, 64, 12, 85]
    return [image(width).squeeze() for width in widths]


@pytest.fixture(scope="module")
def alone(recognizer: Recognizer, images: list[np.ndarray]) -> list[Recognition]:
    """Each of `images`, read alone."""
    read = [recognizer(image) for image in images]
    assert len({one.text for one in read}) > 3
    # Two images are the same, and the least confidences are equal.
    assert len({one.confidence for one in read}) > len(read) // 2
    return read


# What it reads


def test_it_reads_what_the_network_gives_without_padding(recognizer: Recognizer) -> None:
    """Against the exact shape, a plain collapse of repeats, and the CTC loss of the text."""
    model, width = recognizer.model, 33
    outputs = jit(model.network.apply)(model.variables, image(width)[None], np.array([width]))
    logits = np.asarray(outputs[0], np.float64)[0]
    assert len(logits) == width // 4 + 1
    collapsed = [index for index, _ in itertools.groupby(logits.argmax(-1)) if index]
    read = recognizer(image(width))
    assert read.text == "".join("abcd"[index - 1] for index in collapsed)
    label, none = np.array([collapsed]), np.zeros((1, len(collapsed)))
    loss = optax.ctc_loss(logits[None], np.zeros((1, len(logits))), label, none)
    assert read.confidence == pytest.approx(np.exp(-loss[0]), rel=1e-4)
    sure = dataclasses.replace(model, calibration=Calibration(intercept=1.0, slope=2.0))
    odds = read.confidence / (1 - read.confidence)
    assert Recognizer(sure, backend="jax")(image(width)).confidence == pytest.approx(
        np.e * odds**2 / (1 + np.e * odds**2), rel=1e-6
    )


@pytest.mark.parametrize("batch_size", [1, 8])
def test_batches_do_not_change_what_is_read(
    batch_size: int,
    recognizer: Recognizer,
    images: list[np.ndarray],
    alone: list[Recognition],
) -> None:
    assert_same(list(recognizer.stream(images, batch_size)), alone)
    assert_same(recognizer(images), alone)


def test_every_kind_of_image(recognizer: Recognizer, tmp_path: Path) -> None:
    array = image(50).squeeze()
    data = encode(array)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    kinds: list[Any] = [
        *(path, str(path), data, bytearray(data), memoryview(data), Image.open(path)),
        *(array, array[..., None], np.stack([array] * 3, -1), jax.numpy.asarray(array)),
    ]
    expected = recognizer(array)
    assert expected.text
    for kind in kinds:
        read = recognizer(kind)
        assert isinstance(read, Recognition), type(kind)
        assert_same([read], [expected])
    assert_same(recognizer(kinds), [expected] * len(kinds))


def test_every_kind_of_iterable(
    recognizer: Recognizer, images: list[np.ndarray], alone: list[Recognition], tmp_path: Path
) -> None:
    assert_same(recognizer(tuple(images)), alone)
    assert_same(recognizer(image for image in images), alone)
    assert_same(recognizer(dict(enumerate(images)).values()), alone)
    assert recognizer([]) == recognizer(iter(())) == []
    # Paths in an array, as in the column of a table; and images of one size stacked.
    paths = [str(tmp_path / f"{place}.png") for place in range(3)]
    for path, array in zip(paths, images, strict=False):
        Path(path).write_bytes(encode(array))
    columns: Any = np.array(paths, object)
    assert_same(recognizer(columns), alone[:3])
    stack: Any = np.stack([np.stack([images[3]] * 3, -1), np.stack([images[9]] * 3, -1)])
    assert_same(recognizer(stack), [alone[3], alone[9]])


# Streams


def test_a_stream_takes_a_bounded_number_ahead(
    recognizer: Recognizer, images: list[np.ndarray], alone: list[Recognition]
) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        for array in itertools.cycle(images):
            taken += 1
            yield array

    stream = recognizer.stream(endless(), batch_size=1)
    assert taken == 0
    read = []
    for place in range(3 * len(images)):
        read.append(next(stream))
        assert place < taken <= place + 2 * READ_AHEAD
    assert_same(read, alone * 3)


def test_files_are_decoded_in_threads_while_the_network_reads(
    recognizer: Recognizer,
    images: list[np.ndarray],
    alone: list[Recognition],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In order; images are taken in the caller's thread; no thread outlives the stream."""
    files: list[Any] = []
    for place, array in enumerate(images):
        (tmp_path / f"{place}.png").write_bytes(encode(array))
        files += [tmp_path / f"{place}.png"] if place % 2 else [encode(array)]
    waiting = threading.Event()  # the second group is prepared while the first one is read
    threads: set[threading.Thread] = set()

    def decode(image: Any, _: object, name: str) -> Image.Image:
        threads.add(threading.current_thread())
        if name.endswith("7.png"):
            waiting.set()
        return images_module.decode(image, recognizer.model.preprocessing, name)

    def apply(*arguments: Any) -> Any:
        assert waiting.wait(60)
        return apply_network(*arguments)

    def taken() -> Iterator[Any]:
        for file in files * 3:
            assert threading.current_thread() is threading.main_thread()
            yield file

    monkeypatch.setattr(preparing, "decode", decode)
    monkeypatch.setattr(jax_backend, "apply_network", apply)
    assert_same(list(recognizer.stream(taken(), batch_size=1)), alone * 3)
    assert threads and threading.main_thread() not in threads
    stream = recognizer.stream(taken(), batch_size=1)
    assert_same([next(stream)], alone[:1])
    assert any(map(threading.Thread.is_alive, threads))
    del stream
    with pytest.raises(TypeError, match="int is no image"):
        list(recognizer.stream([*files, 3], batch_size=1))  # pyright: ignore[reportArgumentType]
    alive = set(filter(threading.Thread.is_alive, threads))
    assert alive == {threading.main_thread()}  # which has looked at the 3


def test_images_that_change_when_the_next_one_is_taken(
    recognizer: Recognizer, images: list[np.ndarray]
) -> None:
    """The frames of an animation are one Pillow image; a camera may fill one array again."""
    same_size = [np.roll(images[4], 9 * place, axis=1) for place in range(5)]
    expected = recognizer(same_size)
    assert len({one.confidence for one in expected}) == 5
    file = io.BytesIO()
    first, *others = map(Image.fromarray, same_size)
    first.save(file, "TIFF", save_all=True, append_images=others)
    assert_same(recognizer(ImageSequence.Iterator(Image.open(file))), expected)
    buffers: list[Any] = [np.empty_like(images[4]), bytearray(len(encode(images[4])) + 1_000)]

    def filled(buffer: Any) -> Iterator[Any]:
        for array in same_size:
            if isinstance(buffer, bytearray):
                buffer[:] = encode(array)
            else:
                buffer[:] = array
            yield buffer

    for buffer in buffers:
        assert_same(recognizer(filled(buffer)), expected)


def test_what_cannot_be_read_is_raised_at_its_turn_or_returned_in_its_place(
    recognizer: Recognizer, images: list[np.ndarray], alone: list[Recognition], tmp_path: Path
) -> None:
    mixed = [images[0], tmp_path / "no.png", images[1], b"no image", images[2], tmp_path]
    read = list(recognizer.stream(mixed, batch_size=8, return_errors=True))
    assert_same([one for one in read if isinstance(one, Recognition)], alone[:3])
    errors = [str(one) for one in read[1::2]]
    assert all(isinstance(one, DataError) for one in read[1::2])
    assert re.match(r"cannot read image '.*no\.png': No such file.*; check the path$", errors[0])
    assert re.match(r"cannot read image 'image 3': its 8 bytes are not PNG", errors[1])
    assert errors[2] == f"{tmp_path} is a folder; name its images, such as {tmp_path / '*.png'}"

    stream = recognizer.stream(mixed, batch_size=8)
    assert_same([next(stream)], alone[:1])
    with pytest.raises(DataError, match=r"no\.png"):
        next(stream)
    for single, message in (
        (tmp_path / "no.png", "no.png"),
        ("a\0b", "null"),
        (b"", "0 bytes"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            recognizer(single)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        (None, "NoneType"),
        (3, "int"),
        (3.5, "float"),
        (np.float32(1), "float32"),
        (np.zeros((32, 50)), r"array \(32, 50\) float64"),
        ([np.zeros((32, 50), np.float32)], r"array \(32, 50\) float32"),
        ([None], "NoneType"),
        ([["a.png"]], "list"),
        (np.zeros((32, 50, 2), np.uint8), r"array \(32, 50, 2\) uint8"),
        (np.zeros((3, 32, 50), np.uint8), r"array \(3, 32, 50\) uint8"),
    ],
)
def test_another_type_is_named(argument: Any, found: str, recognizer: Recognizer) -> None:
    with pytest.raises(TypeError, match=rf"^{found} is no .*image.*; pass "):
        recognizer(argument)


def test_a_stream_needs_an_iterable_and_a_batch_size(recognizer: Recognizer) -> None:
    """It says so at once, not when it is first asked for a result."""
    for one in ("a.png", b"", image(32), None):
        argument: Any = one
        with pytest.raises(TypeError, match=f"^{type(one).__name__} is no iterable of images; "):
            recognizer.stream(argument)
    with pytest.raises(ValueError, match="batch size of 0"):
        recognizer.stream([], 0)


# Compilations


def test_one_two_and_thirty_one_images_compile_little(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: set[tuple[int, ...]] = set()

    def record(network: Any, variables: Any, images: Any, widths: Any) -> Any:
        shapes.add(images.shape)
        assert (widths >= 8).all()
        return np.zeros((len(images), 4, CLASSES)), np.full(len(images), 4)

    monkeypatch.setattr(jax_backend, "apply_network", record)
    for count in range(1, 200):
        assert len(recognizer([image(40)] * count)) == count
    assert shapes == {(1, 32, 64, 1), (8, 32, 64, 1), (32, 32, 64, 1)}
    shapes.clear()
    mixed = [image(width) for width in np.random.default_rng(0).integers(8, 1025, 200)]
    assert len(recognizer(mixed)) == 200
    assert len(shapes) <= 7  # four batches, then three


def test_padding_stays_within_bounds() -> None:
    for most in (1, 2, 7, 8, 20, 32, 100, 1000):
        for count in range(1, 2 * most + 2):
            size = batch_size(count, most)
            assert size <= most and size <= 2 * count
    assert [batch_size(count, 32) for count in (1, 3, 4, 15, 16, 31, 99)] == (
        [1, 1, 8, 8, 32, 32, 32]
    )
    padded = {width: bucket_width(width, WIDTHS) for width in range(64, 1025)}
    assert len(set(padded.values())) == 9
    assert all(width <= to <= 1.5 * width for width, to in padded.items())


def test_models_of_one_shape_share_what_is_compiled(
    recognizer: Recognizer, images: list[np.ndarray], alone: list[Recognition]
) -> None:
    before = apply_network._cache_size()
    other = Recognizer(trained_model(seed=2), backend="jax")
    read = [other(image) for image in images]
    assert apply_network._cache_size() == before > 0
    assert [one.text for one in read] != [one.text for one in alone]


def test_threads_read_the_same(
    recognizer: Recognizer, images: list[np.ndarray], alone: list[Recognition]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert_same(list(pool.map(recognizer, images * 3)), alone * 3)
        for read in pool.map(recognizer, [images] * 4):
            assert_same(read, alone)


def test_what_is_known_of_the_texts_is_kept(
    recognizer: Recognizer, images: list[np.ndarray]
) -> None:
    """All texts are of the characters and the length that were asked for, also in a copy."""
    characters, wide = (
        recognizer.model.alphabet.characters,
        [image(width) for width in (40, 64, 96)],
    )
    for known, allowed in (
        ({"alphabet": characters[:2]}, rf"[{characters[:2]}]*"),
        ({"length": 3}, r".{3}"),
        ({"alphabet": characters[1:], "length": (2, 4)}, rf"[{characters[1:]}]{{2,4}}"),
    ):
        told = Recognizer(recognizer.model, **known)
        read = told(wide)
        assert all(re.fullmatch(allowed, one.text) and 0 < one.confidence <= 1 for one in read)
        assert_same(pickle.loads(pickle.dumps(told))(wide), read)
    # Three time steps are too few for five characters.
    assert Recognizer(recognizer.model, length=5)(image(8)) == Recognition("", 0.0)


def test_the_pretrained_model_reads_digits_if_it_is_told_so() -> None:
    from crnn_jax.data.synthetic.captcha import render

    texts = ["0571", "90210", "18060", "55105"]
    images = [render(text, seed=7) for text in texts]
    read = [one.text for one in Recognizer.load(alphabet="digits")(images)]
    assert all(map(str.isdigit, read))
    assert [one.text for one in Recognizer.load(alphabet="digits", length=(4, 5))(images)] == read
    with pytest.raises(ConfigError, match="the model cannot read 'é'"):
        Recognizer.load(alphabet="é12")


def test_it_can_be_pickled(
    recognizer: Recognizer, images: list[np.ndarray], alone: list[Recognition]
) -> None:
    copy = pickle.loads(pickle.dumps(recognizer))
    before = apply_network._cache_size()
    assert_same([copy(images[0])], alone[:1])
    assert apply_network._cache_size() == before


@pytest.mark.parametrize(
    ("holder", "name"),
    [
        *((Checkpoints, "best_first"), (Checkpoints, "manifest"), (Checkpoints, "restore_model")),
        (checkpoint, "check_files"),
    ],
)
def test_a_step_that_a_run_deletes_meanwhile_is_looked_for_again(
    holder: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another step is saved and the old one deleted: after listing them, or while it is read."""
    shutil.copytree(GOLDEN, tmp_path / "run")
    original = getattr(holder, name)
    left = 2

    def overtaken(*arguments: Any) -> Any:
        nonlocal left
        listed = original(*arguments) if name == "best_first" else None
        if left:
            left -= 1
            (step,) = (tmp_path / "run" / "checkpoints").iterdir()
            step.rename(step.with_name(str(int(step.name) + 1)))
        return listed or original(*arguments)

    monkeypatch.setattr(holder, name, overtaken)
    assert TrainedModel.load(tmp_path / "run").step == 14
    left = 1_000  # it is not tried for ever
    with pytest.raises(CheckpointError):
        TrainedModel.load(tmp_path / "run")
    assert 1_000 - 20 < left < 1_000 - 5


def test_images_of_one_source_are_read_as_such(
    recognizer: Recognizer, images: list[np.ndarray], alone: list[Recognition], tmp_path: Path
) -> None:
    """Also those of a network that writes any text; the recognizer itself stays as it is."""
    (tmp_path / "no.png").write_bytes(b"x")
    adapted = recognizer.adapt([tmp_path / "no.png", *images])
    read = adapted(images)
    assert all(0 <= one.confidence <= 1 for one in read)
    assert [one.text for one in pickle.loads(pickle.dumps(adapted))(images)] == [
        one.text for one in read
    ]
    assert_same(recognizer(images), alone)
    some = Recognizer(recognizer.model, alphabet="ab", length=2).adapt(images)(images)
    assert {len(one.text) for one in some} <= {0, 2}
    assert set("".join(one.text for one in some)) <= set("ab")
    with pytest.raises(DataError, match="no image can be read, so there is none to adapt to"):
        recognizer.adapt([b"x"])
    with pytest.raises(ConfigError, match=r"a beam search.* and same_source do not go"):
        Recognizer(recognizer.model, beam_width=5).adapt(images)
    with pytest.raises(ConfigError, match="a length of 20 to 20 and same_source"):
        Recognizer(recognizer.model, length=20).adapt(images)


def test_what_is_shown_of_it(recognizer: Recognizer) -> None:
    assert repr(recognizer) == "Recognizer(runs/small, step 7, 4 characters)"
    assert repr(Recognizer.load()).startswith("Recognizer(captcha, step ")
    assert repr(Recognition("226md", 0.59217435)) == "Recognition('226md', confidence=0.592)"


# Starting


def test_a_fresh_process_imports_little_and_keeps_what_it_compiles(tmp_path: Path) -> None:
    """Even if JAX is there already; what the user has set stays."""
    code = """if True:
        import os, sys
        import jax
        if sys.argv[1:]:
            jax.config.update("jax_compilation_cache_dir", sys.argv[1])
        from crnn_jax.recognition.recognizer import Recognizer
        Recognizer.load(backend="jax")
        print(jax.config.jax_compilation_cache_dir)
        print(os.environ.get("XLA_FLAGS"))
        print(sorted({"orbax", "grain", "optax", "tensorflow_datasets"} & set(sys.modules)))
    """
    removed = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in removed}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    for arguments, folder in (((), tmp_path / "crnn_jax"), (("mine",), Path("mine"))):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        cache, flags, imported = done.stdout.splitlines()
        assert Path(cache).is_relative_to(folder)
        if jax.__version_info__ >= FIRST_VERSION:  # older ones do not know the flag
            assert "ynn" in flags
        assert imported == "[]"
