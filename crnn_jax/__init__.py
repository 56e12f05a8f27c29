"""A CRNN + CTC text recognizer in JAX and Flax."""

__version__ = "0.1.0"
