"""Models as StableHLO, for JAX alone: on CPUs, CUDA and TPUs, and without this package."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export

from crnn_jax.exporting import Outputs, Reader
from crnn_jax.exporting.contents import PROGRAM, write_contents
from crnn_jax.exporting.jax_program import PLATFORMS, reading_program
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.trees import flatten

MODEL, ARRAYS = "model.stablehlo", "arrays.npz"

TEXT = """\
# {name} in StableHLO

`{model}` reads images of one line of text, with the parameters in `{arrays}`. It was exported by
crnn_jax with JAX {version} from step {step} of {name}, for {platforms}. JAX reads such programs for
at least six months after its version; export the model again for later versions.

```
pip install jax flatbuffers pillow
python {program} image.png
```

The program takes the arrays and images (B, H, W, C) uint8 of one size; C is 3 (RGB) or 1 (gray).
JAX compiles it once for each B, H, W and C. It returns

| | type | shape | |
|---|---|---|---|
| classes | int32 | (B, T) | the class of each time step; 0 is the blank of CTC |
| lengths | int32 | (B,) | the valid time steps |
| log probabilities | float32 | (B, T) | those of the classes, as natural logarithms |
| confidence | float32 | (B,) | how likely the text is right |
| logits | float32 | (B, T, {classes}) | the scores of all classes |

To get the text, take the valid time steps, drop repeated classes, then blanks; class k is the k-th
of `characters` in `model.json`. Images are upright and on white where they are transparent; all
else is in the program. It was run on a CPU before it was written, and nowhere else.
"""


class StableHloFormat:
    """A program for `jax.export` and an archive of arrays; see `exporting.Format`."""

    name = "stablehlo"
    tolerance: float | None = 1e-4

    def write(self, model: TrainedModel, folder: Path, images: Sequence[np.ndarray]) -> None:
        """See `exporting.Format`."""
        del images
        (folder / MODEL).write_bytes(reading_program(model).serialize())
        arrays = {path: np.asarray(array) for path, array in flatten(model.variables).items()}
        np.savez(folder / ARRAYS, allow_pickle=False, **arrays)
        name = Path(model.name).name
        readme = TEXT.format(
            name=name,
            model=MODEL,
            arrays=ARRAYS,
            version=jax.__version__,
            step=model.step,
            platforms=", ".join(PLATFORMS),
            program=PROGRAM,
            classes=model.alphabet.num_classes,
        )
        write_contents(model, folder, "read_stablehlo.py", readme)

    def load(self, folder: Path) -> Reader:
        """See `exporting.Format`."""
        program = jax.jit(export.deserialize(bytearray((folder / MODEL).read_bytes())).call)
        with np.load(folder / ARRAYS, allow_pickle=False) as file:
            arrays = jax.device_put(dict(file))

        def read(images: np.ndarray) -> Outputs:
            return Outputs(*map(np.asarray, program(arrays, images)))

        return read
