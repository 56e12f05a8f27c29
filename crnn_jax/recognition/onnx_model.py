"""A trained model as an ONNX graph, which reads as `Recognizer.load(model)` does by default."""

from dataclasses import asdict

import numpy as np
import onnx

from crnn_jax.data.images import MIN_WIDTH, ROWS_MAY_BE_FIRST
from crnn_jax.onnx_graph.decoding import Charsets
from crnn_jax.onnx_graph.reading import Odds, reading_graph
from crnn_jax.onnx_graph.resize import ImageForm
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.constraints import classes_of
from crnn_jax.trees import flatten


def onnx_model(model: TrainedModel, resize: bool) -> onnx.ModelProto:
    """Returns the graph of a model.

    Args:
      model: the model.
      resize: whether the graph takes images of any size; see `reading_graph`.
    """
    charsets = None
    if model.charsets:
        allowed = [classes_of(name, model.alphabet) for name in model.charsets]
        charsets = Charsets(np.stack(allowed), np.array(list(model.charsets.values())))
    return reading_graph(
        model.architecture,
        {path: np.asarray(array) for path, array in flatten(model.variables).items()},
        ImageForm(
            **asdict(model.preprocessing),
            min_width=MIN_WIDTH,
            rows_first=ROWS_MAY_BE_FIRST,
        ),
        charsets,
        Odds(model.calibration.intercept, model.calibration.slope),
        resize,
    )
