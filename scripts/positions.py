"""Measures how well a model finds the characters of generated captchas.

    python scripts/positions.py [MODEL] [--images 500] [--seed 0]

Draws captchas of the variants `lower` and `cased`, whose characters have known places, and reads
those whose characters the model knows. Of the images that are read without a mistake, it compares
the horizontal span of each character with the true one: the length of what they share by the length
of what they cover together (intersection over union, IoU). The captchas are the first test captchas
of each variant; with a seed other than 0 they are captchas that no data set has.
"""

import argparse
import dataclasses

import numpy as np

from crnn_jax.data.synthetic.captcha import CONFIGS
from crnn_jax.data.synthetic.captcha_boxes import render_with_boxes
from crnn_jax.recognition.recognizer import Recognizer

ENOUGH = 0.5


def overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    """The intersection over union of two spans."""
    shared = min(first[1], second[1]) - max(first[0], second[0])
    covered = max(first[1], second[1]) - min(first[0], second[0])
    return max(shared, 0) / covered


def overlaps(
    recognizer: Recognizer, variant: str, images: int, seed: int
) -> tuple[int, list[float]]:
    """The number of images that are read right, and the overlap of each of their characters."""
    config = dataclasses.replace(CONFIGS[variant], seed=seed)
    texts = config.texts()["test"][:images]
    drawn = [
        render_with_boxes(text, config.render_seed("test", index))
        for index, text in enumerate(texts)
    ]
    right, found = 0, []
    results = recognizer.stream(image for image, _ in drawn)
    for text, (_, boxes), result in zip(texts, drawn, results, strict=True):
        if result.text == text:
            right += 1
            found += [
                overlap((character.start, character.end), (box[0], box[2]))
                for character, box in zip(result.characters, boxes, strict=True)
            ]
    return right, found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="a workdir, or the name of a pretrained model")
    parser.add_argument("--images", type=int, default=500, help="of each variant")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recognizer = Recognizer.load(arguments.model)
    print(
        f"{'variant':8} {'images':>6} {'read':>6} {'characters':>10} {'mean IoU':>8} {'> 0.5':>7}"
    )
    for variant in ("lower", "cased"):
        if not set(CONFIGS[variant].characters) <= set(recognizer.model.alphabet.characters):
            continue
        right, found = overlaps(recognizer, variant, arguments.images, arguments.seed)
        share = np.mean(np.array(found) > ENOUGH)
        print(
            f"{variant:8} {arguments.images:6} {right:6} {len(found):10}"
            f" {np.mean(found):8.3f} {share:7.1%}"
        )


if __name__ == "__main__":
    main()
