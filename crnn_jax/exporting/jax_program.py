"""A trained model as one JAX program, from images of any size to what is read in them."""

import contextlib
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
from jax import export

from crnn_jax.decoding.options import make_decoder
from crnn_jax.exporting.resizing import resized
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.jax_backend import apply_network, decode
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.reliability import LEAST, MOST
from crnn_jax.training.integrity import Arrays
from crnn_jax.trees import flatten, unflatten

PLATFORMS = ("cpu", "cuda", "tpu")


def reading_program(model: TrainedModel) -> export.Exported:
    """Returns the program of a model.

    Its arguments are the arrays of the model by their paths, and images (B, H, W, C) uint8 with 3
    channels (RGB) or 1 (gray). It returns the values of `Outputs`, in that order.
    """
    arrays = {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for path, array in flatten(model.variables).items()
    }
    network, pixels = _network(model, arrays), model.architecture.pixels_per_time_step

    def read(arrays: Arrays, images: jax.Array) -> tuple[jax.Array, ...]:
        images = resized(images, model.preprocessing)
        batch, _, width, _ = images.shape
        padded = -(-width // pixels) * pixels
        images = jnp.pad(images, ((0, 0), (0, 0), (0, padded - width), (0, 0)))
        widths = jnp.full((batch,), width, jnp.int32)
        path, lengths, probabilities, log_share, logits = network.call(arrays, images, widths)
        sure = _confidence(model.calibration, log_share)
        return path, lengths, probabilities, sure, logits

    # Pillow computes the weights of its filter in double precision.
    with double_precision():
        sizes = export.symbolic_shape("B, H, W, C", constraints=["H >= 1", "W >= 1", "C >= 1"])
        images = jax.ShapeDtypeStruct(sizes, jnp.uint8)
        return export.export(jax.jit(read), platforms=PLATFORMS)(arrays, images)


def double_precision() -> contextlib.AbstractContextManager[None]:
    """A context in which JAX has 64-bit numbers."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    before: Any = jax.experimental  # JAX 0.7
    return before.enable_x64()


def _network(model: TrainedModel, arrays: Arrays) -> export.Exported:
    """From resized images (B, height, W, channels) and their widths, to what is read in them.

    It is a program of its own, in single precision, in which the width is a symbol, not a term: of
    the sizes of all features it is then known how they compare. The width is a multiple of a time
    step, as pools by windows and by pairs have the same size only then, or so it can be shown.
    """
    preprocessing = model.preprocessing
    decoder = make_decoder(model.alphabet, model.charsets)

    def read(arrays: Arrays, images: jax.Array, widths: jax.Array) -> tuple[jax.Array, ...]:
        # As arguments, and not as constants, arrays make the program compile twice as fast.
        variables = {"batch_stats": {}, **unflatten(arrays)}
        logits, lengths = apply_network(model.network, variables, images, widths)
        decoding = decode(decoder, logits, lengths)
        valid = jnp.arange(logits.shape[1])[None, :] < lengths[:, None]
        assert decoding.step_probabilities is not None
        log_probabilities = jnp.where(valid, jnp.log(decoding.step_probabilities), 0)
        return decoding.path, lengths, log_probabilities, decoding.log_share, logits

    batch, steps = export.symbolic_shape("B, S")
    size = (
        batch,
        preprocessing.height,
        steps * model.architecture.pixels_per_time_step,
        preprocessing.channels,
    )
    images, widths = (
        jax.ShapeDtypeStruct(size, jnp.uint8),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    return export.export(jax.jit(read), platforms=PLATFORMS)(arrays, images, widths)


def _confidence(calibration: Calibration, log_share: Any) -> jax.Array:
    """See `Calibration.confidence`."""
    probabilities = jnp.exp(log_share.astype(jnp.float64))
    clipped = jnp.clip(probabilities, LEAST, MOST)
    odds = calibration.intercept + calibration.slope * (jnp.log(clipped) - jnp.log1p(-clipped))
    sure = jnp.where(probabilities > 0, jax.nn.sigmoid(odds), 0)
    return sure.astype(jnp.float32)
