"""Where the characters of a text are in an image.

A CTC network reads a character in one or two time steps, somewhere on the character: it is free to
do so early or late, and each model has a habit. The pretrained captcha model reads 0.8 time steps
to the left of the middle. So the characters of an image are moved together, to where the columns
of the image differ most from a plain background. Then each is given nine tenths of the usual
distance between two characters.
"""

import numpy as np

from crnn_jax.architecture import Architecture
from crnn_jax.recognition.results import Character
from crnn_jax.text.alphabet import BLANK, Alphabet

REACH = 1.5
"""How far the characters are moved at most, in time steps; never by half a character."""

SHIFTS = 12  # that are tried to each side

CORE, WIDTH = 0.6, 0.9
"""Shares of the distance of two characters: what must be ink, and what a character is given."""


def time_step_places(count: int, architecture: Architecture) -> np.ndarray:
    """The middle of what each time step sees, in pixels from the left of a prepared image, (T,).

    In the paper's network the first time step sees the left border in its middle.
    """
    return architecture.first_place + np.arange(count) * float(architecture.pixels_per_time_step)


def find_characters(
    path: np.ndarray,
    probabilities: np.ndarray,
    alphabet: Alphabet,
    image: np.ndarray,
    width: int,
    architecture: Architecture,
) -> tuple[Character, ...]:
    """Finds the characters of a CTC path in an image.

    Args:
      path: (T,), the class of each time step.
      probabilities: (T,), the probability of each of them.
      alphabet: that of the model.
      image: uint8 (H, W, C), the image as the network saw it.
      width: that of the original image in pixels.
      architecture: that of the network.
    """
    is_character = path != BLANK
    begins = is_character.copy()
    begins[1:] &= path[1:] != path[:-1]
    starts = np.flatnonzero(begins)
    if not starts.size:
        return ()
    # Between the starts of two characters there are the time steps of the first, then blanks.
    repeats = np.add.reduceat(is_character, starts, dtype=np.int64)
    confidences = np.maximum.reduceat(np.where(is_character, probabilities, 0), starts)
    places = time_step_places(len(path), architecture)
    middles = (places[starts] + places[starts + repeats - 1]) / 2
    spans = _spans(middles, image, architecture.pixels_per_time_step)
    spans = np.round(spans * (width / image.shape[1]), 2)
    texts = [alphabet.characters[index - 1] for index in path[starts].tolist()]
    columns = (texts, confidences.tolist(), *spans.T.tolist())
    return tuple(map(Character, *columns))


def _spans(middles: np.ndarray, image: np.ndarray, step: int) -> np.ndarray:
    """Where characters begin and end, (N, 2), given roughly their middles (N,), in pixels."""
    height, width, channels = image.shape
    pitch = float(np.median(np.diff(middles))) if len(middles) > 1 else float(height)
    reach = min(REACH * step, pitch / 2)
    shifts = reach / SHIFTS * np.arange(-SHIFTS, SHIFTS + 1)
    shifts = shifts[(middles[0] + shifts >= 0) & (middles[-1] + shifts <= width)]
    shifts = shifts[np.argsort(np.abs(shifts), kind="stable")]  # if in doubt, the least
    # The contrast of each column, and its sum from the left border to each place.
    columns = image.reshape(height, -1).astype(np.float32)
    contrast = columns.std(0).reshape(width, channels).mean(-1)
    sums = np.concatenate([[0], np.cumsum(contrast - contrast.mean(), dtype=np.float64)])
    moved = middles + shifts[:, None]
    right, left = (
        np.interp(moved + side * pitch / 2, np.arange(width + 1), sums) for side in (CORE, -CORE)
    )
    middles = moved[np.argmax((right - left).sum(-1))]
    between = (middles[1:] + middles[:-1]) / 2
    half = WIDTH * pitch / 2
    starts = np.maximum(middles - half, np.concatenate([[0], between]))
    ends = np.minimum(middles + half, np.concatenate([between, [width]]))
    return np.stack([starts, ends], -1)
