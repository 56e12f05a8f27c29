"""Models in ONNX, for onnxruntime and whatever else runs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crnn_jax.exporting import Outputs, Reader
from crnn_jax.exporting.contents import PROGRAM, write_contents
from crnn_jax.recognition.trained_model import TrainedModel

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"

TEXT = """\
# {name} in ONNX

`{model}` reads images of one line of text. It was exported by crnn_jax from step {step} of
{name}; ONNX opset {opset}.{remark}

```
pip install onnxruntime numpy pillow
python {program} image.png
```

| input | type | shape | meaning |
|---|---|---|---|
| `images` | uint8 | (B, H, W, C) | images of one size; C is 3 (RGB) or 1 (gray) |

| output | type | shape | meaning |
|---|---|---|---|
| `classes` | int32 | (B, T) | the class of each time step; 0 is the blank of CTC |
| `lengths` | int32 | (B,) | the valid time steps, which are all |
| `log_probabilities` | float32 | (B, T) | those of the classes, as natural logarithms |
| `confidence` | float32 | (B,) | how likely the text is right |
| `logits` | float32 | (B, T, {classes}) | the scores of all classes |

To get the text, drop repeated classes, then blanks; class k is the k-th of `characters` in
`model.json`. Images are upright and on white where they are transparent; all else is in the graph.
It was tested on a CPU, and not on CUDA.
"""


class OnnxFormat:
    """The network with its parameters in single precision; see `exporting.Format`."""

    name = "onnx"
    tolerance: float | None = 1e-4
    remark = ""

    def write(self, model: TrainedModel, folder: Path, images: Sequence[np.ndarray]) -> None:
        """See `exporting.Format`."""
        import onnx

        graph = self.graph(model, images)
        onnx.checker.check_model(graph, full_check=True)
        (folder / MODEL).write_bytes(graph.SerializeToString())
        readme = TEXT.format(
            name=Path(model.name).name,
            model=MODEL,
            step=model.step,
            opset=graph.opset_import[0].version,
            remark=self.remark,
            program=PROGRAM,
            classes=model.alphabet.num_classes,
        )
        write_contents(model, folder, "read_onnx.py", readme)

    def graph(self, model: TrainedModel, images: Sequence[np.ndarray]) -> "onnx.ModelProto":
        """Returns the graph of a model."""
        from crnn_jax.recognition.onnx_model import onnx_model

        del images
        return onnx_model(model, resize=True)

    def load(self, folder: Path) -> Reader:
        """See `exporting.Format`."""
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def read(images: np.ndarray) -> Outputs:
            found = session.run(names, {"images": images})
            return Outputs(**{name: np.asarray(x) for name, x in zip(names, found, strict=True)})

        return read
