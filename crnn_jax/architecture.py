"""What a network is made of, as data: layers, and what they make of an image's size; without JAX.

`models/` builds Flax modules of it. Importing weights, exporting and reading without JAX start from
the same description.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

from crnn_jax.errors import ConfigError


class Pool(NamedTuple):
    """A max pool: (rows, columns) of its windows, of its strides, and of its padding each side."""

    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)


class ConvLayer(NamedTuple):
    """A convolution with a square kernel, and the max pool after it.

    `padding` is in pixels on each side; `bias` is false where the original has none, because batch
    normalization follows.
    """

    kernel: int = 3
    padding: int = 1
    pool: Pool | None = None
    bias: bool = True


HALVE = Pool((2, 2), (2, 2))
HALVE_ROWS = Pool((2, 1), (2, 1))
OVERLAPPING = Pool((2, 2), (2, 1), (0, 1))  # one more column than before

# Shi et al. 2015 (arXiv:1507.05717), table 1, with the pools of the authors' code.
SEVEN_LAYERS = (
    ConvLayer(pool=HALVE),
    ConvLayer(pool=HALVE),
    ConvLayer(),
    ConvLayer(pool=OVERLAPPING),
    ConvLayer(),
    ConvLayer(pool=OVERLAPPING),
    ConvLayer(kernel=2, padding=0),
)
# Baek et al. 2019 (arXiv:1904.01906), the "VGG" of their code.
DTRB_LAYERS = (
    ConvLayer(pool=HALVE),
    ConvLayer(pool=HALVE),
    ConvLayer(),
    ConvLayer(pool=HALVE_ROWS),
    ConvLayer(bias=False),
    ConvLayer(pool=HALVE_ROWS, bias=False),
    ConvLayer(kernel=2, padding=0),
)
SIX_LAYERS = (
    ConvLayer(pool=HALVE),
    ConvLayer(pool=HALVE),
    ConvLayer(),
    ConvLayer(pool=OVERLAPPING),
    ConvLayer(pool=OVERLAPPING),
    ConvLayer(kernel=2, padding=0),
)
PAPER_CHANNELS = (64, 128, 256, 256, 512, 512, 512)

# The convolutions, counted from 1, that are followed by batch normalization.
BATCH_NORM_VARIANTS = {
    "paper": (5, 6),  # Shi et al. 2015, table 1
    "bgshih": (3, 5, 7),  # the authors' own code, and its PyTorch ports
    "nano_ocr": (3, 5, 6),
    "all": tuple(range(1, 33)),
    "none": (),
}


@dataclass(frozen=True)
class Architecture:
    """The layers of a CRNN, from the image to the logits.

    Attributes:
      convs: the convolutions.
      channels: the features of each of them.
      batch_norm: the convolutions that batch normalization follows, a key of BATCH_NORM_VARIANTS.
      hidden: units of each LSTM in each direction.
      dense_after: for each bidirectional LSTM, whether a Dense layer of `hidden` features follows.
      mean_rows: whether several rows of features are averaged; otherwise there must be one.
      space_to_depth: n; each n x n pixels become one with n * n times the channels.
      first_pool: if false, a space to depth by 2 replaces the pool after the first convolution.
      leaky: LeakyReLU(0.2) instead of ReLU.
      per_image: zero mean and unit variance for each image, instead of [-1, 1] for all.
    """

    convs: Sequence[ConvLayer] = SEVEN_LAYERS
    channels: Sequence[int] = PAPER_CHANNELS
    batch_norm: str = "bgshih"
    hidden: int = 256
    dense_after: Sequence[bool] = (True, False)
    mean_rows: bool = False
    space_to_depth: int = 1
    first_pool: bool = True
    leaky: bool = False
    per_image: bool = False

    @classmethod
    def of(cls, name: str, settings: Mapping[str, Any]) -> Self:
        """The architecture of a model as its manifest describes it.

        Args:
          name: a key of ARCHITECTURES.
          settings: values that replace those of the named one; settings of training are ignored.

        Raises:
          ConfigError: there is no such name, or the channels are not those of its convolutions.
        """
        if name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ConfigError(f"model.name={name!r} is unknown; it is one of {known}")
        named = {field.name: getattr(ARCHITECTURES[name], field.name) for field in fields(cls)}
        given = {key: settings[key] for key in named if key in settings}
        described = cls(**{**named, **given})
        if len(described.channels) != len(described.convs):
            raise ConfigError(
                f"model.channels has {len(described.channels):,} numbers, but {name} has"
                f" {len(described.convs)} convolutions; give one number for each"
            )
        return described

    @property
    def normalized(self) -> tuple[int, ...]:
        """The convolutions, counted from 1, that batch normalization follows."""
        layers = range(1, len(self.convs) + 1)
        return tuple(layer for layer in BATCH_NORM_VARIANTS[self.batch_norm] if layer in layers)

    @property
    def block(self) -> int:
        """n, where each n x n pixels become one before the first convolution."""
        return self.space_to_depth * (1 if self.first_pool else 2)

    @property
    def pools(self) -> tuple[Pool | None, ...]:
        """The max pool after each convolution."""
        first, *others = (layer.pool for layer in self.convs)
        return (first if self.first_pool else None, *others)

    def rows(self, height: int) -> int:
        """Rows of the features of an image `height` pixels high."""
        return self._size(height, 0)

    def fits(self, height: int) -> bool:
        """Whether images `height` pixels high leave one row of features, or a mean of several."""
        rows = self.rows(height)
        return rows == 1 or (self.mean_rows and rows > 1)

    def time_steps(self, width: Any) -> Any:
        """Time steps of images `width` pixels wide, an int or an array: columns of the features."""
        return self._size(width, 1)

    @property
    def pixels_per_time_step(self) -> int:
        """The distance of two time steps in pixels of the image."""
        pixels = self.block
        for pool in self.pools:
            pixels *= pool.stride[1] if pool else 1
        return pixels

    @property
    def first_place(self) -> float:
        """The middle of what the first time step sees, in pixels from the left of the image."""
        # Of an element at place p of its inputs, each `pixels` wide, the middle is at
        # (p + 1/2) * pixels; a window of n elements moves it by (n - 1) / 2, padding back by as
        # many elements as there are.
        pixels, middle = float(self.block), self.block / 2
        for layer, pool in zip(self.convs, self.pools, strict=True):
            middle += ((layer.kernel - 1) / 2 - layer.padding) * pixels
            if pool:
                middle += ((pool.window[1] - 1) / 2 - pool.padding[1]) * pixels
                pixels *= pool.stride[1]
        return middle

    def arrays(
        self, num_classes: int, channels: int, shortcut: bool = False
    ) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of a model, by their paths, such as params/head/kernel.

        Args:
          num_classes: K, the characters and the blank.
          channels: of the images, 1 or 3.
          shortcut: whether there is a second head, which only training uses; see `models.crnn`.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        inputs = channels * self.block**2
        for layer, (conv, outputs) in enumerate(
            zip(self.convs, self.channels, strict=True), start=1
        ):
            place = f"params/conv_stack/conv{layer}"
            shapes[f"{place}/kernel"] = (conv.kernel, conv.kernel, inputs, outputs)
            if conv.bias:
                shapes[f"{place}/bias"] = (outputs,)
            if layer in self.normalized:
                norm = f"conv_stack/norm{layer}"
                shapes |= {f"params/{norm}/{name}": (outputs,) for name in ("scale", "bias")}
                shapes |= {f"batch_stats/{norm}/{name}": (outputs,) for name in ("mean", "var")}
            inputs = outputs
        if shortcut:
            shapes["params/shortcut_head/kernel"] = (3, inputs, num_classes)
            shapes["params/shortcut_head/bias"] = (num_classes,)
        for layer, dense in enumerate(self.dense_after, start=1):
            for direction in ("forward", "backward"):
                place, gates = f"params/bilstm{layer}/{direction}", 4 * self.hidden
                shapes[f"{place}_input/kernel"] = (inputs, gates)
                shapes[f"{place}_input/bias"] = (gates,)
                shapes[f"{place}/recurrent/kernel"] = (self.hidden, gates)
            inputs = 2 * self.hidden
            if dense:
                place = f"params/{dense_name(layer)}"
                shapes[f"{place}/kernel"] = (inputs, self.hidden)
                shapes[f"{place}/bias"] = (self.hidden,)
                inputs = self.hidden
        shapes["params/head/kernel"] = (inputs, num_classes)
        shapes["params/head/bias"] = (num_classes,)
        return shapes

    def _size(self, pixels: Any, axis: int) -> Any:
        size = pixels // self.block
        for layer, pool in zip(self.convs, self.pools, strict=True):
            size += 2 * layer.padding - layer.kernel + 1
            if pool:
                size = (size + 2 * pool.padding[axis] - pool.window[axis]) // pool.stride[axis] + 1
        return size


def dense_name(lstm: int) -> str:
    """The name of the Dense layer after an LSTM, which is counted from 1."""
    return "between" if lstm == 1 else f"between{lstm}"


ARCHITECTURES = {
    "crnn": Architecture(),
    # Half the channels: a quarter of the arithmetic, for machines without an accelerator.
    "crnn_half": Architecture(channels=(32, 64, 128, 128, 256, 256, 256), hidden=128),
    # No layer at full resolution and fewer channels: 5/8 of the arithmetic of crnn_half.
    "crnn_small": Architecture(
        channels=(48, 64, 96, 96, 160, 160, 192), hidden=128, first_pool=False
    ),
    # Shi et al. 2015, table 1: the LSTMs follow each other directly.
    "paper": Architecture(batch_norm="paper", dense_after=(False, False)),
    # meijieru/crnn.pytorch and its descendants, such as Holmeyoung's and Sierkinhane's.
    "crnn_pytorch": Architecture(),
    # Baek et al. 2019: clovaai/deep-text-recognition-benchmark with VGG, BiLSTM and CTC.
    "dtrb": Architecture(
        convs=DTRB_LAYERS, batch_norm="paper", dense_after=(True, True), mean_rows=True
    ),
    # The same with half the channels: english_g2 and the other second-generation models of EasyOCR.
    "easyocr": Architecture(
        convs=DTRB_LAYERS,
        channels=(32, 64, 128, 128, 256, 256, 256),
        batch_norm="paper",
        dense_after=(True, True),
        mean_rows=True,
    ),
    # nano-ocr on PyPI: six convolutions and one LSTM.
    "nano_ocr": Architecture(
        convs=SIX_LAYERS,
        channels=(64, 128, 256, 256, 512, 512),
        batch_norm="nano_ocr",
        dense_after=(False,),
    ),
}
