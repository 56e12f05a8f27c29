"""The most likely texts of an image."""

import numpy as np

from crnn_jax.recognition.backends import Reading
from crnn_jax.recognition.results import Alternative
from crnn_jax.text.alphabet import Alphabet


def find_alternatives(reading: Reading, alphabet: Alphabet) -> list[tuple[Alternative, ...]]:
    """Returns the texts of each image of a batch, the best first; none if a decoder finds one."""
    if reading.labels is None or reading.label_log_probabilities is None:
        return [()] * len(reading.path)
    probabilities = np.exp(reading.label_log_probabilities).tolist()
    texts = map(alphabet.spell, reading.labels)
    return [
        tuple(Alternative(text, p) for text, p in zip(*of_image, strict=True) if p > 0)
        for of_image in zip(texts, probabilities, strict=True)
    ]
