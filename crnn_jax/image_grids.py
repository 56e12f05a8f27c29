"""Image grids of a data set: its samples and problems, and the effect of augmentation."""

from typing import TypeVar

import numpy as np
from PIL import Image

from crnn_jax.data.augment import Augmentation, augment, drawn_changes
from crnn_jax.data.report import Report
from crnn_jax.errors import DataError
from crnn_jax.training.image_grid import image_grid

T = TypeVar("T")

SAMPLES, OFFENDERS = 40, 5  # images from all over the data, and images of each finding
AUGMENTED, VERSIONS = 12, 5  # training images, and augmented versions of each
WIDEST = 9  # an image is cut off at so many times its height


def sample_grid(report: Report) -> Image.Image:
    """Draws images with problems, which are named in red, then samples with their labels.

    Raises:
      DataError: no image can be read.
    """
    images: list[np.ndarray] = []
    texts: list[str] = []
    references: list[str] = []

    def add(name: str, index: int, wrong: str) -> None:
        split = report.splits[name]
        if index not in split.failures:
            image = split.image(index)
            assert image is not None
            label = split.split.labels[index]
            images.append(image[:, : WIDEST * len(image)])
            texts.append(wrong or label)
            references.append(label)

    for finding in report.findings:
        for name, index in finding.places[:OFFENDERS]:
            add(name, index, finding.kind)
    everything = [(name, i) for name, split in report.splits.items() for i in range(len(split))]
    for name, index in _evenly(everything, SAMPLES):
        add(name, index, "")
    if not images:
        raise DataError("no image can be read, so there is nothing to draw; omit --image_grid")
    return image_grid(images, texts, references)


def augmentation_grid(report: Report, augmentation: Augmentation, seed: int) -> Image.Image:
    """Draws training images, each followed by the versions that the first steps would train on.

    The label is below each image, and the names of the changes are below each version.

    Raises:
      DataError: no training image can be read.
    """
    train = report.splits.get("train")
    readable = [i for i in range(len(train)) if i not in train.failures] if train else []
    if not train or not readable:
        raise DataError(
            "there are no training images to augment; add some, or omit --show_augmented"
        )
    images: list[np.ndarray] = []
    texts: list[str] = []
    for index in _evenly(readable, AUGMENTED):
        image = train.image(index)
        assert image is not None
        images.append(image[:, : WIDEST * len(image)])
        texts.append(train.split.labels[index])
        for step in range(VERSIONS):
            key = (seed, step, index)
            changed = augment(image, augmentation, np.random.default_rng(key))
            images.append(changed[:, : WIDEST * len(changed)])
            names = drawn_changes(augmentation, np.random.default_rng(key))
            texts.append(", ".join(names) or "unchanged")
    return image_grid(images, texts, texts, columns=1 + VERSIONS)


def _evenly(places: list[T], count: int) -> list[T]:
    return places[:: max(1, len(places) // count)][:count]
