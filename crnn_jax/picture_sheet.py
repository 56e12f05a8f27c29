"""A sheet of pictures with their labels, to see what the doctor looked at."""

import numpy as np
from PIL import Image

from crnn_jax.data.report import Report
from crnn_jax.training.writers import contact_sheet

EVENLY, OFFENDERS = 40, 5  # pictures: from all over the data, and of each finding
WIDEST = 280  # pixels shown of a picture


def picture_sheet(report: Report) -> Image.Image:
    """Pictures from all over the data with their labels; offenders first, what is wrong in red."""
    pictures: list[np.ndarray] = []
    texts: list[str] = []
    references: list[str] = []

    def add(name: str, index: int, wrong: str) -> None:
        split = report.splits[name]
        if index not in split.failures:
            picture = split.picture(index)
            assert picture is not None
            label = split.split.labels[index]
            pictures.append(picture[:, :WIDEST])
            texts.append(wrong or label)
            references.append(label)

    for finding in report.findings:
        for name, index in finding.places[:OFFENDERS]:
            add(name, index, finding.kind)
    everything = [(name, i) for name, split in report.splits.items() for i in range(len(split))]
    for name, index in everything[:: max(1, len(everything) // EVENLY)][:EVENLY]:
        add(name, index, "")
    return contact_sheet(pictures, texts, references)
