"""Generated captchas: repeatable bytes, disjoint splits, read without TensorFlow."""

import dataclasses
import io
import logging
import multiprocessing
import secrets
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import captcha.image
import filelock
import numpy as np
import pytest
from PIL import Image

from crnn_jax.data.sources.generated import load_generated, prepare
from crnn_jax.data.sources.split import Split
from crnn_jax.data.synthetic.builder import GeneratedBuilder
from crnn_jax.data.synthetic.captcha import CONFIGS, render, render_styled
from crnn_jax.errors import DataError

TINY = CONFIGS["tiny"]
SIZES = {"train": TINY.num_train, "test": TINY.num_test}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def splits(data_dir: Path) -> dict[str, Split]:
    return load_generated({"variant": "tiny", "dir": str(data_dir)})


def test_examples_are_what_the_config_says(splits: dict[str, Split]) -> None:
    for split, source in splits.items():
        assert len(source) == SIZES[split]
        assert list(source.labels) == TINY.texts()[split]
        assert source.names[17] == f"{split}/00017"
        for i in range(0, len(source), 16):
            with Image.open(io.BytesIO(source.read(i))) as image:
                assert (image.format, image.mode) == ("PNG", "RGB")
                assert image.size == (40 * len(source.labels[i]), 60)
    assert "tensorflow" not in sys.modules


def test_each_image_can_be_drawn_again_alone(splits: dict[str, Split]) -> None:
    # Backward, so that a dependence on the order would be noticed.
    for split, source in splits.items():
        for i in reversed(range(0, len(source), 8)):
            assert source.read(i) == render(source.labels[i], TINY.render_seed(split, i))


def test_built_twice_gives_the_same_bytes(
    splits: dict[str, Split], data_dir: Path, tmp_path: Path
) -> None:
    def files(root: Path) -> dict[str, bytes]:
        paths = root.rglob("*.array_record*")
        return {str(path.relative_to(root)): path.read_bytes() for path in paths}

    prepare("tiny", str(tmp_path))
    assert len(files(tmp_path)) == len(splits)
    assert files(tmp_path) == files(data_dir)


def test_built_once_is_reused(
    splits: dict[str, Split], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(GeneratedBuilder, "_generate_examples")
    again = load_generated({"variant": "tiny", "dir": str(data_dir)})["test"]
    assert again.labels == splits["test"].labels
    assert again.read(0) == splits["test"].read(0)


def count_together(barrier: Barrier, data_dir: str, counts: "multiprocessing.Queue[int]") -> None:
    barrier.wait()
    counts.put(len(load_generated({"variant": "tiny", "dir": data_dir})["train"]))


def test_processes_that_start_together_draw_the_images_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(3), context.Queue()
    arguments = (barrier, str(tmp_path), counts)
    processes = [context.Process(target=count_together, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [counts.get() for _ in processes] == [256, 256, 256]
    assert len(list(tmp_path.rglob("*.array_record*"))) == 2


def test_a_process_that_waits_for_another_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one is a lock here, which is released when the line is logged."""
    other = filelock.FileLock(tmp_path / ".generated_captcha_tiny_1.0.0.lock")
    other.acquire()

    class Release(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            other.release()

    handler = Release()
    logger = logging.getLogger("crnn_jax")
    logger.addHandler(handler)
    try:
        assert len(load_generated({"variant": "tiny", "dir": str(tmp_path)})["train"]) == 256
    finally:
        logger.removeHandler(handler)
    (line,) = [record.getMessage() for record in caplog.records]
    assert (
        line
        == f"another process is preparing generated_captcha/tiny/1.0.0 in '{tmp_path}'; waiting"
    )


def test_seed_decides_the_image() -> None:
    assert render("a7", 1) == render("a7", 1) != render("a7", 2)


def test_styled_captchas_share_only_their_text() -> None:
    assert CONFIGS["styles"].render is render_styled
    pngs = [render_styled("Wi1mLj0", seed) for seed in range(60)]
    assert pngs[7] == render_styled("Wi1mLj0", 7)
    images = [Image.open(io.BytesIO(png)) for png in pngs]
    assert {(image.format, image.mode) for image in images} == {("PNG", "RGB")}
    heights = [image.height for image in images]
    assert len(set(heights)) > 20
    assert min(heights) >= 22
    assert max(heights) <= 158
    # None has a single color or is pure noise: some columns stand out.
    for image in images:
        gray = np.asarray(image.convert("L"), float)
        assert np.ptp(gray.mean(0)) > 8
    # Longer texts are wider, whatever the style.
    wide = [Image.open(io.BytesIO(render_styled("m" * 8, seed))).width for seed in range(40)]
    narrow = [Image.open(io.BytesIO(render_styled("m" * 3, seed))).width for seed in range(40)]
    assert np.median(wide) > 1.8 * np.median(narrow)


def test_secrets_stays_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    render("a7", 1)
    assert vars(captcha.image)["secrets"] is secrets

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(captcha.image.ImageCaptcha, "generate_image", fail)
    with pytest.raises(RuntimeError):
        render("a7", 1)
    assert vars(captcha.image)["secrets"] is secrets


@pytest.mark.parametrize(
    ("variant", "alphabet_size", "num_train", "num_test", "lengths"),
    [
        ("lower", 36, 8_000, 2_000, {4, 5, 6, 7, 8}),
        ("cased", 62, 8_000, 2_000, {4, 5, 6, 7, 8}),
        ("styles", 62, 60_000, 2_000, {3, 4, 5, 6, 7, 8}),
        ("tiny", 10, 256, 64, {2, 3, 4}),
    ],
)
def test_texts(
    variant: str, alphabet_size: int, num_train: int, num_test: int, lengths: set[int]
) -> None:
    config = CONFIGS[variant]
    texts = config.texts()
    both = texts["train"] + texts["test"]
    assert (len(texts["train"]), len(texts["test"])) == (num_train, num_test)
    assert len({text.lower() for text in both}) == len(both)
    assert {len(text) for text in both} == lengths
    assert set("".join(both)) == set(config.characters)
    assert len(set(config.characters)) == alphabet_size
    assert config.texts() == texts


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'upper'.*lower, cased, styles, tiny, words, chinese"):
        prepare("upper", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_as_many_images_as_asked_for(tmp_path: Path, splits: dict[str, Split]) -> None:
    fewer = load_generated({"variant": "tiny/40", "dir": str(tmp_path)})
    assert {name: len(split) for name, split in fewer.items()} == {"train": 40, "test": 64}
    assert [fewer["train"].read(i) for i in range(40)] == [
        splits["train"].read(i) for i in range(40)
    ]
    test = splits["test"]
    assert [fewer["test"].read(i) for i in range(64)] == [test.read(i) for i in range(64)]
    for count in ("", "0", "-1", "1e6", "many"):
        with pytest.raises(DataError, match=r"is not a number of images; write tiny/100000"):
            prepare(f"tiny/{count}", str(tmp_path))


@pytest.mark.parametrize("count", [1, 8_000, 8_001, 20_000])
def test_no_test_captcha_is_a_training_captcha_whatever_their_number(count: int) -> None:
    """Neither by its text nor by its seed."""
    base = CONFIGS["lower"]
    config = dataclasses.replace(base, num_train=count)
    assert config.texts()["test"] == base.texts()["test"]
    seeds = {
        split: [config.render_seed(split, i) for i in range(size)]
        for split, size in (("train", count), ("test", 2_000))
    }
    assert seeds["test"] == [base.render_seed("test", i) for i in range(2_000)]
    assert len({*seeds["train"], *seeds["test"]}) == count + 2_000
    train = config.texts()["train"]
    assert len({text.lower() for text in (*train, *base.texts()["test"])}) == count + 2_000
    assert train[:8_000] == base.texts()["train"][:count]


def test_images_that_cannot_be_stored(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(DataError, match=r"'tiny' cannot be stored in '.*file.*another folder with"):
        prepare("tiny", str(tmp_path / "file"))


def test_no_more_texts_than_there_are(tmp_path: Path) -> None:
    # Half of the 100 numbers of two digits, 1,000 of three and 10,000 of four, minus 64.
    with pytest.raises(DataError, match=r"tiny_5487 have only 11,100 .* at most 5,486"):
        prepare("tiny/5487", str(tmp_path))
