"""Drawings of what was read: the image with its characters, and what the network said."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crnn_jax.recognition.results import Character, Explanation, Recognition
from crnn_jax.training.image_grid import Font, choose_font, drawable

# Colors that are told apart without red and green (Okabe and Ito 2008), but for the pale ones.
COLORS = ((0, 114, 178), (213, 94, 0), (0, 135, 98), (190, 90, 150), (180, 120, 0), (60, 60, 60))
INK, FAINT, LINES, PAPER = (30, 30, 30), (120, 120, 120), (222, 222, 222), (255, 255, 255)

HEIGHT = 128  # of the enlarged image, in pixels
LARGEST = 1600  # pixels; a wide image is drawn lower
LEAST = 26  # the usual width of a character in pixels, so that its confidence has a place
MOST_ENLARGED = 320  # pixels; how high an image becomes for the sake of that
MARGIN = 16
SMALL = 12  # the size of small print
PROBABILITIES = 96  # the height of the bars
SHOWN = 0.02  # lower probabilities are left out
NAMED = 0.15  # other characters than those of the text are named from here on


def draw(image: Image.Image, recognition: Recognition) -> Image.Image:
    """Draws an image with a box for each character, and the character and its confidence below it.

    Args:
      image: the image that was read, upright; `Explanation.image` is.
      recognition: what was read in it.
    """
    scale = _scale(image.size, recognition.characters)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    font = choose_font(recognition.text)
    small = _smaller(font)
    line = 28
    drawing = Image.new(
        "RGB", (size[0] + 2 * MARGIN, size[1] + 2 * MARGIN + line + SMALL + 8), PAPER
    )
    drawing.paste(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), (MARGIN, MARGIN))
    pencil = ImageDraw.Draw(drawing)
    bottom = MARGIN + size[1]
    for place, character in enumerate(recognition.characters):
        color = COLORS[place % len(COLORS)]
        left, right = (MARGIN + scale * x for x in (character.start, character.end))
        box = (left, MARGIN, max(right, left + 4), bottom - 1)
        pencil.rectangle(box, outline=PAPER, width=4)  # the color shows on dark images, too
        pencil.rectangle(box, outline=color, width=2)
        middle = (left + right) / 2
        pencil.text((middle, bottom + 4), drawable(character.text, font), color, font, "ma")
        percent = f"{math.floor(100 * character.confidence)}"
        if right - left > pencil.textlength(percent, small):
            pencil.text((middle, bottom + 4 + line), percent, FAINT, small, "ma")
    if not recognition.characters:
        pencil.text((MARGIN, bottom + 4), "(nothing)", FAINT, font)
    return drawing


def draw_explanation(explanation: Explanation) -> Image.Image:
    """Draws an image as `draw` does, and what the network said at each time step below it.

    A bar for each time step is as high as the probability that there is a character; the rest is
    the blank of CTC. Characters of the text have their colors, others are gray. Below are the text,
    its confidence, and other texts that are likely.
    """
    image, recognition = explanation.image, explanation.recognition
    scale = _scale(image.size, recognition.characters)
    above = draw(image, recognition)
    others = [(other.text, other.probability) for other in recognition.alternatives]
    texts = [
        (recognition.text, recognition.confidence),
        *(pair for pair in others if pair[0] != recognition.text),
    ]
    font = choose_font("".join(text for text, _ in texts) + explanation.alphabet[:1000])
    rows = [f"{drawable(text, font) or '(nothing)'}   {100 * p:.1f} %" for text, p in texts]
    line = 28
    top = above.height
    width = max(above.width, math.ceil(max(map(font.getlength, rows))) + 2 * MARGIN)
    height = top + PROBABILITIES + 2 * MARGIN + line * len(rows) + MARGIN // 2
    drawing = Image.new("RGB", (width, height), PAPER)
    drawing.paste(above, (0, 0))
    pencil = ImageDraw.Draw(drawing)
    floor = top + PROBABILITIES
    for level in (0, 0.5, 1):
        y = floor - round(level * PROBABILITIES)
        pencil.line((MARGIN, y, above.width - MARGIN, y), LINES)
    steps = explanation.places
    wide = 0.72 * scale * float(steps[1] - steps[0] if len(steps) > 1 else image.width)
    for place, probabilities in zip(steps, explanation.probabilities, strict=True):
        middle, y = MARGIN + scale * place, float(floor)
        for index in 1 + np.argsort(-probabilities[1:], kind="stable"):
            probability = float(probabilities[index])
            if probability < SHOWN:
                break
            text = explanation.alphabet[index - 1]
            owner = _owner(text, place, recognition.characters)
            color = LINES if owner is None else COLORS[owner % len(COLORS)]
            low, y = y, y - probability * PROBABILITIES
            pencil.rectangle((middle - wide / 2, y, middle + wide / 2, low), color)
            if owner is None and probability >= NAMED:
                name = drawable(text, font)
                pencil.text((middle, (y + low) / 2), name, INK, _smaller(font), "mm")
    y = floor + MARGIN
    for place, row in enumerate(rows):
        pencil.text((MARGIN, y + place * line), row, FAINT if place else INK, font)
    return drawing


def drawing_name(path: str) -> str:
    """The name for the drawing of an image file; another one than that of any image."""
    parts = (part for part in Path(path).parts if part not in ("..", Path(path).anchor))
    return f"{'_'.join(parts)}.drawn.png"


def _scale(size: tuple[int, int], characters: Sequence[Character]) -> float:
    """How much an image of this size (width, height) is enlarged."""
    width, height = size
    scale = HEIGHT / height
    if characters:
        usual = float(np.median([c.end - c.start for c in characters]))
        scale = max(scale, min(LEAST / usual, MOST_ENLARGED / height))
    return min(scale, LARGEST / width)


def _owner(text: str, place: float, characters: Sequence[Character]) -> int | None:
    """The index of the character of the text that a time step is about; None if there is none."""
    distances = {
        index: abs((c.start + c.end) / 2 - place) - (c.end - c.start)
        for index, c in enumerate(characters)
        if c.text == text
    }
    index = min(distances, key=distances.__getitem__, default=None)
    return index if index is not None and distances[index] <= 0 else None


def _smaller(font: Font) -> Font:
    return font.font_variant(size=SMALL) if isinstance(font, ImageFont.FreeTypeFont) else font
