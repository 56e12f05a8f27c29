"""The network that model.json describes, in PyTorch, with the state dict in model.pth."""

import json
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

FOLDER = Path(__file__).resolve().parent
MODEL = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
NETWORK = nn.Module()
for name, kind, sizes in MODEL["layers"]:
    parent = NETWORK
    *parents, last = name.split(".")
    for part in parents:
        parent.add_module(part, getattr(parent, part, nn.Module()))
        parent = parent.get_submodule(part)
    parent.add_module(last, getattr(nn, kind)(**sizes))
NETWORK.load_state_dict(torch.load(FOLDER / "model.pth", weights_only=True))
NETWORK.eval()


@torch.inference_mode()
def logits(pixels: np.ndarray) -> np.ndarray:
    """The logits (T, K) of an image (H, W, C) uint8 that was resized."""
    x = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    for name, kind, sizes in MODEL["layers"]:
        if kind == "PixelUnshuffle":  # rows and columns that do not fill a block are dropped
            n = sizes["downscale_factor"]
            x = x[..., : x.shape[2] // n * n, : x.shape[3] // n * n]
        if kind == "LSTM" and x.ndim == 4:
            x = x.mean(2).transpose(1, 2)  # a column of features is a time step
        x = NETWORK.get_submodule(name)(x)
        x = x[0] if kind == "LSTM" else x
    return x[0].numpy()
