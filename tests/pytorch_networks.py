"""The published CRNNs as plain PyTorch modules, after the layouts of their repositories.

    python tests/pytorch_networks.py

writes tests/data/pytorch: a small state dict of each with random weights, and what PyTorch computes
with it, so that the default tests need no PyTorch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

FOLDER = Path(__file__).parent / "data" / "pytorch"
SMALL = (2, 3, 4, 4, 5, 5, 6)  # channels
CLASSES = 5


class BidirectionalLSTM(nn.Module):
    """As in crnn.pytorch: an LSTM and a projection, called `embedding` there."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True)
        self.embedding = nn.Linear(2 * hidden, outputs)

    def forward(self, x):
        return self.embedding(self.rnn(x)[0])


class CRNNPytorch(nn.Module):
    """meijieru/crnn.pytorch, models/crnn.py."""

    def __init__(self, channels: Sequence[int], hidden: int, classes: int) -> None:
        super().__init__()
        self.cnn = nn.Sequential()
        inputs = 1
        for i, outputs in enumerate(channels):
            kernel, padding = (2, 0) if i == 6 else (3, 1)
            self.cnn.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, kernel, 1, padding))
            if i in (2, 4, 6):
                self.cnn.add_module(f"batchnorm{i}", nn.BatchNorm2d(outputs))
            self.cnn.add_module(f"relu{i}", nn.ReLU())
            if i in (0, 1):
                self.cnn.add_module(f"pooling{i}", nn.MaxPool2d(2, 2))
            if i in (3, 5):
                self.cnn.add_module(f"pooling{i}", nn.MaxPool2d((2, 2), (2, 1), (0, 1)))
            inputs = outputs
        self.rnn = nn.Sequential(
            BidirectionalLSTM(channels[-1], hidden, hidden),
            BidirectionalLSTM(hidden, hidden, classes),
        )

    def forward(self, x):
        x = self.cnn(x).squeeze(2).permute(2, 0, 1)
        return self.rnn(x).permute(1, 0, 2)


class Dtrb(nn.Module):
    """clovaai/deep-text-recognition-benchmark: VGG_FeatureExtractor, BiLSTM, CTC; and EasyOCR's."""

    class SequenceModel(nn.Module):
        def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
            super().__init__()
            self.rnn = nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
            self.linear = nn.Linear(2 * hidden, outputs)

        def forward(self, x):
            return self.linear(self.rnn(x)[0])

    def __init__(self, channels: Sequence[int], hidden: int, classes: int) -> None:
        super().__init__()
        a, b, c, d, e, f, g = channels
        self.FeatureExtraction = nn.Module()
        self.FeatureExtraction.ConvNet = nn.Sequential(
            *(nn.Conv2d(1, a, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(a, b, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(b, c, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(c, d, 3, 1, 1), nn.ReLU(), nn.MaxPool2d((2, 1), (2, 1))),
            *(nn.Conv2d(d, e, 3, 1, 1, bias=False), nn.BatchNorm2d(e), nn.ReLU()),
            *(nn.Conv2d(e, f, 3, 1, 1, bias=False), nn.BatchNorm2d(f), nn.ReLU()),
            nn.MaxPool2d((2, 1), (2, 1)),
            *(nn.Conv2d(f, g, 2, 1, 0), nn.ReLU()),
        )
        self.SequenceModeling = nn.Sequential(
            self.SequenceModel(g, hidden, hidden), self.SequenceModel(hidden, hidden, hidden)
        )
        self.Prediction = nn.Linear(hidden, classes)

    def forward(self, x):
        x = self.FeatureExtraction.ConvNet(x)
        x = nn.functional.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (None, 1)).squeeze(3)
        return self.Prediction(self.SequenceModeling(x))


class NanoOcr(nn.Module):
    """nano-ocr 0.1.0 on PyPI."""

    def __init__(self, channels: Sequence[int], hidden: int, classes: int) -> None:
        super().__init__()
        a, b, c, d, e, f = channels[:6]
        rows = {"kernel_size": (2, 2), "stride": (2, 1), "padding": (0, 1)}
        self.cnn = nn.Sequential(
            *(nn.Conv2d(1, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(b, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU()),
            *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU(), nn.MaxPool2d(**rows)),
            *(nn.Conv2d(d, e, 3, padding=1), nn.BatchNorm2d(e), nn.ReLU(), nn.MaxPool2d(**rows)),
            *(nn.Conv2d(e, f, 2, padding=0), nn.BatchNorm2d(f), nn.ReLU()),
        )
        self.rnn = nn.LSTM(f, hidden, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(2 * hidden, classes)

    def forward(self, x):
        return self.fc(self.rnn(self.cnn(x).squeeze(2).permute(0, 2, 1))[0])


class Paper(nn.Module):
    """Shi et al. 2015, table 1: normalization after convolutions 5 and 6, two LSTMs in a row."""

    def __init__(self, channels: Sequence[int], hidden: int, classes: int) -> None:
        super().__init__()
        a, b, c, d, e, f, g = channels
        rows = {"kernel_size": (2, 2), "stride": (2, 1), "padding": (0, 1)}
        self.cnn = nn.Sequential(
            *(nn.Conv2d(1, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU(), nn.MaxPool2d(**rows)),
            *(nn.Conv2d(d, e, 3, padding=1), nn.BatchNorm2d(e), nn.ReLU()),
            *(nn.Conv2d(e, f, 3, padding=1), nn.BatchNorm2d(f), nn.ReLU(), nn.MaxPool2d(**rows)),
            *(nn.Conv2d(f, g, 2, padding=0), nn.ReLU()),
        )
        self.rnn = nn.LSTM(g, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(2 * hidden, classes)

    def forward(self, x):
        return self.fc(self.rnn(self.cnn(x).squeeze(2).permute(0, 2, 1))[0])


NETWORKS = {
    "crnn_pytorch": CRNNPytorch,
    "dtrb": Dtrb,
    "easyocr": Dtrb,
    "nano_ocr": NanoOcr,
    "paper": Paper,
}


def random_network(
    variant: str, channels: Sequence[int], hidden: int, classes: int, seed: int = 0
) -> nn.Module:
    """A network with random weights, and statistics that differ from those of a new one."""
    torch.manual_seed(seed)
    network = NETWORKS[variant](channels, hidden, classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


def logits(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """The logits (B, T, K) of gray images (B, H, W), uint8, which all of these scale to [-1, 1]."""
    x = torch.from_numpy(images).float()[:, None] / 127.5 - 1
    with torch.inference_mode():
        return network(x).numpy()


def main() -> None:
    """Writes the small state dicts and their logits."""
    from safetensors.torch import save_file

    FOLDER.mkdir(exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 43), np.uint8)
    outputs: dict[str, np.ndarray] = {"image": image}
    for variant in ("crnn_pytorch", "dtrb", "nano_ocr", "paper"):  # easyocr is a dtrb
        network = random_network(variant, SMALL, 4, CLASSES)
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, FOLDER / f"{variant}.safetensors")
        outputs[variant] = logits(network, image)
    np.savez_compressed(FOLDER / "logits.npz", **outputs)


if __name__ == "__main__":
    sys.exit(main())
