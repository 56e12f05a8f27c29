"""Calibrates the confidence of a trained model on labeled images, and writes that into its folder.

    python scripts/calibrate.py runs/mine DIR

A training run calibrates its model on its validation images. This script is for images of another
kind, such as those that the model is to read. Images that the model was trained on are of no use:
it is too sure of them. A DIR is a folder of labeled images; its training images are taken, so that
a test split stays unseen.

The pretrained model captcha was calibrated by

    python scripts/calibrate.py captcha DATA/iiit5k --generated styles lower \\
        --caseless DATA/captcha_mixed_10k

on images that it was not trained on: generated captchas, in random styles and in that of the
library, words of scene text, and captchas of another style, whose labels are in lower case.
"""

import argparse
import dataclasses
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from package_model import write_digests

from crnn_jax.data.sources.folder import folder
from crnn_jax.data.sources.split import Split
from crnn_jax.data.synthetic.captcha import CONFIGS
from crnn_jax.errors import CrnnError, DataError
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.pretrained import MANIFEST, PRETRAINED_DIR, find_model, is_pretrained
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.constraints import CHARSETS
from crnn_jax.text.reliability import expected_calibration_error
from crnn_jax.training.manifest import CHECKPOINTS, seal
from crnn_jax.training.workdir import rewrite

SEED = 77  # of generated captchas; that of no data set
MOST = 1000  # images of each set, so that none outweighs the others


def training_images(directory: Path) -> Split:
    """The training images of a folder, or all of it; at most `MOST` of them, drawn at random."""
    splits = folder(directory)
    split = splits.get("train") or next(iter(splits.values()))
    return split.select(
        sorted(random.Random(SEED).sample(range(len(split)), min(MOST, len(split))))
    )


def generated_images(variant: str) -> Split:
    """Captchas as a variant of the generated ones draws them, each of one set of characters."""
    config, rng = CONFIGS[variant], random.Random(SEED)
    texts = [
        "".join(rng.choices(rng.choice(list(CHARSETS.values())), k=rng.randint(*lengths)))
        for lengths in [(config.min_length, config.max_length)] * MOST
    ]
    names = tuple(f"{variant}:{i}" for i in range(MOST))
    return Split(names, tuple(texts), lambda i: config.render(texts[i], (SEED << 32) + i))


def read(model: TrainedModel, split: Split, caseless: bool) -> tuple[list[float], list[bool]]:
    """The probability of each text, and whether it is right; unreadable images are left out."""
    plain = dataclasses.replace(model, calibration=Calibration())
    recognizer = Recognizer(plain, caseless=caseless)
    images = (split.read(index) for index in range(len(split)))
    results = recognizer.stream(images, return_errors=True)
    pairs = [
        (result, model.alphabet.normalize(label.lower() if caseless else label))
        for result, label in zip(results, split.labels, strict=True)
        if not isinstance(result, DataError)
    ]
    return [one.confidence for one, _ in pairs], [one.text == label for one, label in pairs]


def write(model: TrainedModel, calibration: Calibration) -> Path:
    """Puts a calibration into the manifest of a model, and seals it again."""
    place = find_model(model.name)
    path = place / MANIFEST
    if not is_pretrained(place):
        path = place / CHECKPOINTS / str(model.step) / "manifest" / "metadata"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest.pop("digest", None)
    sealed = seal({**manifest, "calibration": calibration.to_dict()})
    rewrite(path, (json.dumps(sealed, indent=2, ensure_ascii=False) + "\n").encode())
    if place.parent == PRETRAINED_DIR:
        write_digests(PRETRAINED_DIR)
    return path


def calibrate(name: str, sets: Sequence[tuple[str, Split, bool]]) -> Calibration:
    """Calibrates a model on sets of images, each with a name and whether its case counts.

    Raises:
      CrnnError: the model or the images cannot be read.
    """
    model = TrainedModel.load(name)
    probabilities: list[float] = []
    right: list[bool] = []
    found: list[tuple[str, list[float], list[bool]]] = []
    for title, split, caseless in sets:
        found.append((title, *read(model, split, caseless)))
        probabilities += found[-1][1]
        right += found[-1][2]
    calibration = Calibration.fit(probabilities, right)
    print(write(model, calibration))
    print(json.dumps(calibration.to_dict()))
    for title, own, hits in found:
        before, after = (
            expected_calibration_error(values, hits)
            for values in (own, calibration.confidence(own))
        )
        print(f"{title}: {len(hits)} images, ECE {before:.3f} before, {after:.3f} after")
    return calibration


def main() -> None:
    """Calibrates the model that the command line names."""
    parser = argparse.ArgumentParser(description="Calibrates the confidence of a trained model.")
    parser.add_argument("model", help="a workdir, or the name of a pretrained model")
    parser.add_argument("directory", type=Path, nargs="*", help="a folder of labeled images")
    parser.add_argument(
        "--caseless", type=Path, nargs="+", default=[], help="folders whose labels are lower case"
    )
    parser.add_argument(
        "--generated", nargs="+", choices=sorted(CONFIGS), default=[], help="captchas to draw"
    )
    arguments = parser.parse_args()
    try:
        calibrate(
            arguments.model,
            [
                *((name, generated_images(name), False) for name in arguments.generated),
                *((str(path), training_images(path), False) for path in arguments.directory),
                *((str(path), training_images(path), True) for path in arguments.caseless),
            ],
        )
    except CrnnError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
