"""What benchmarks and compilations run: the paper's network and its real training step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import linen as nn

from crnn_jax import models
from crnn_jax.training import parallel
from crnn_jax.training.state import TrainState, make_optimizer

LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LEARNING_RATE = 1e-3
SEED = 0


@dataclass(frozen=True)
class Workload:
    """Batches of images of one full width, and a network that reads them."""

    model: str = "crnn"
    batch_size: int = 32
    width: int = 96
    channels: int = 1
    height: int = 32
    label_length: int = 6

    def network(self, **settings: Any) -> nn.Module:
        """The network with `settings` on top of its own."""
        return models.create(self.model, len(LETTERS) + 1, settings, axis_name=parallel.AXIS)

    def optimizer(self) -> Any:
        """Adam at a constant rate."""
        return make_optimizer(lambda count: LEARNING_RATE, clip_norm=0.0, freeze_conv_stack=False)

    def state(self, network: nn.Module) -> TrainState:
        """A fresh state."""
        shape = (self.height, self.width, self.channels)
        return TrainState.create(network, self.optimizer(), shape, SEED)

    def batch(self) -> dict[str, np.ndarray]:
        """Random images and labels, the same each time."""
        rng = np.random.default_rng(SEED)
        count = self.batch_size
        shape = (count, self.height, self.width, self.channels)
        label_ids = rng.integers(1, len(LETTERS) + 1, (count, self.label_length))
        return {
            "images": rng.integers(0, 256, shape, np.uint8),
            "widths": np.full(count, self.width, np.int32),
            "label_ids": label_ids.astype(np.int32),
            "label_lengths": np.full(count, self.label_length, np.int32),
            "mask": np.ones(count, bool),
        }
