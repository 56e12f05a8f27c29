"""Models in ONNX, for onnxruntime and whatever else runs it."""

import json
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crnn_jax.errors import ConfigError
from crnn_jax.exporting import Outputs, Reader
from crnn_jax.recognition.trained_model import TrainedModel

if TYPE_CHECKING:
    import onnx

MODEL, DESCRIPTION, PROGRAM = "model.onnx", "model.json", "read_onnx.py"

README = """\
# {name} in ONNX

`model.onnx` reads images of one line of text. It was exported by crnn_jax from step {step} of
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
    extra = "onnx"
    remark = ""

    def write(self, model: TrainedModel, folder: Path, images: Sequence[np.ndarray]) -> None:
        """See `exporting.Format`."""
        check_installed(self.name)
        import onnx

        graph = self.graph(model, images)
        onnx.checker.check_model(graph, full_check=True)
        (folder / MODEL).write_bytes(graph.SerializeToString())
        description = {
            "characters": model.alphabet.characters,
            "blank": 0,
            "name": model.name,
            "step": model.step,
        }
        text = json.dumps(description, indent=2, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        program = files("crnn_jax.exporting").joinpath("programs", PROGRAM)
        (folder / PROGRAM).write_bytes(program.read_bytes())
        readme = README.format(
            name=Path(model.name).name,
            step=model.step,
            opset=graph.opset_import[0].version,
            remark=self.remark,
            program=PROGRAM,
            classes=model.alphabet.num_classes,
        )
        (folder / "README.md").write_text(readme, encoding="utf-8")

    def graph(self, model: TrainedModel, images: Sequence[np.ndarray]) -> "onnx.ModelProto":
        """Returns the graph of a model."""
        from crnn_jax.recognition.onnx_model import onnx_model

        del images
        return onnx_model(model, resize=True)

    def load(self, folder: Path) -> Reader:
        """See `exporting.Format`."""
        check_installed(self.name)
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def read(images: np.ndarray) -> Outputs:
            found = session.run(names, {"images": images})
            return Outputs(**{name: np.asarray(x) for name, x in zip(names, found, strict=True)})

        return read


def check_installed(name: str) -> None:
    """Checks that ONNX and its runtime are there.

    Raises:
      ConfigError: they are not.
    """
    missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"the format {name} needs {' and '.join(missing)}; install the package's extra of this"
            " name: pip install 'crnn_jax[onnx]'"
        )
