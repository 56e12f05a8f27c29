"""A CRNN + CTC text recogniser in JAX and Flax."""

__version__ = "0.1.0"
