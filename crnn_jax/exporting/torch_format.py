"""Models as state dicts of PyTorch, in the layout of the repositories that published them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crnn_jax.exporting import Reader
from crnn_jax.exporting.plain_folder import TORCH, plain_reader, write_programs
from crnn_jax.exporting.plain_layers import torch_layers
from crnn_jax.exporting.safetensors_format import arrays_for_reading
from crnn_jax.exporting.state_dicts import NAMINGS, Naming, state_dict
from crnn_jax.recognition.trained_model import TrainedModel

MODEL = "model.pth"

README = """\
# {name} in PyTorch

`{model}` is a state dict. The names of its tensors are those of
{layout}. It was exported by crnn_jax
from step {step} of {name}.

```
pip install torch numpy pillow
python read.py image.png
```

`network.py` builds the network that `model.json` describes, `NETWORK`, and loads the state dict
strictly; `logits` applies it to an image. `read.py` prepares images and takes the best path.
Class 0 is the blank of CTC; class k is the k-th of `characters` in `model.json`.
"""

LAYOUTS: dict[Naming, str] = {
    "crnn_pytorch": "meijieru/crnn.pytorch",
    "dtrb": "clovaai/deep-text-recognition-benchmark (VGG, BiLSTM, CTC), and of EasyOCR",
    "plain": "an nn.Sequential `cnn`, an nn.LSTM `rnn` and an nn.Linear `fc`, as nano-ocr has them",
}


class TorchFormat:
    """A state dict and the network that it belongs to; see `exporting.Format`."""

    name = "torch"
    tolerance: float | None = 1e-4

    def write(self, model: TrainedModel, folder: Path, images: Sequence[np.ndarray]) -> None:
        """See `exporting.Format`."""
        import torch  # pyright: ignore[reportMissingImports]

        del images
        naming = NAMINGS[model.description["name"]]
        state = state_dict(model.architecture, arrays_for_reading(model), naming)
        torch.save({name: torch.tensor(array) for name, array in state.items()}, folder / MODEL)
        classes, channels = model.alphabet.num_classes, model.preprocessing.channels
        layers = torch_layers(model.architecture, classes, channels, naming)
        write_programs(model, folder, TORCH, layers)
        readme = README.format(
            name=Path(model.name).name, model=MODEL, layout=LAYOUTS[naming], step=model.step
        )
        (folder / "README.md").write_text(readme, encoding="utf-8")

    def load(self, folder: Path) -> Reader:
        """See `exporting.Format`."""
        return plain_reader(folder, TORCH)
