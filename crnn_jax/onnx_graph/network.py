"""The network of an `Architecture` as ONNX nodes; batch normalization is folded.

The layers are those of `models/`, where it is said why they are so. Features are (B, D, H, W).
"""

from collections.abc import Mapping

import numpy as np

from crnn_jax.architecture import Architecture, Pool, dense_name
from crnn_jax.onnx_graph.nodes import Graph

EPSILON = 1e-5  # of batch normalization
ZERO, LOWEST = np.float32(0), np.finfo(np.float32).min
Arrays = Mapping[str, np.ndarray]


def network(
    graph: Graph, architecture: Architecture, arrays: Arrays, images: str, widths: str | None
) -> tuple[str, str]:
    """Adds the network.

    Args:
      graph: where to.
      architecture: the layers.
      arrays: those that `Architecture.arrays` lists.
      images: (B, C, H, W) float32, 0 to 255.
      widths: (B,) int64, the valid columns of each image; None if all are valid.

    Returns:
      The logits (B, T, K), and the valid time steps (B,) int64.
    """
    stack = _ConvStack(graph, architecture, arrays, widths)
    x = stack(stack.normalized(images))
    rows = np.array([2])
    if architecture.mean_rows:
        x = graph("ReduceMean", x, rows, keepdims=0)
    else:
        x = graph("Squeeze", x, rows)
    x = graph("Transpose", x, perm=[2, 0, 1])  # (T, B, D)
    lengths = stack.widths
    if lengths is None:
        lengths = graph("Expand", graph.size(x, 0), graph.size(x, 1))
    steps = graph.cast(lengths, np.int32)
    for layer, dense in enumerate(architecture.dense_after, start=1):
        x = _bilstm(graph, arrays, f"bilstm{layer}", x, steps)
        if dense:
            x = _dense(graph, arrays, dense_name(layer), x)
    logits = _dense(graph, arrays, "head", x)
    return graph("Transpose", logits, perm=[1, 0, 2]), lengths


class _ConvStack:
    """The convolutions, and the valid columns of their features.

    Attributes:
      widths: (B,) int64, the valid columns after the layers that were added so far; None if all are
        valid.
    """

    def __init__(
        self, graph: Graph, architecture: Architecture, arrays: Arrays, widths: str | None
    ) -> None:
        self.graph = graph
        self.architecture = architecture
        self.arrays = arrays
        self.widths = widths

    def normalized(self, images: str) -> str:
        """Images (B, C, H, W) as the first layer takes them; see `models.crnn.normalize_images`."""
        graph = self.graph
        if not self.architecture.per_image:
            scaled = graph("Sub", graph("Mul", images, np.float32(1 / 127.5)), np.float32(1))
            return self._masked(scaled)
        valid = graph.size(images, 3) if self.widths is None else self.widths
        rows = graph("Mul", graph.size(images, 1), graph.size(images, 2))
        count = graph.cast(graph("Mul", valid, rows), np.float64)
        count = graph("Reshape", count, np.array([-1, 1, 1, 1]))

        def mean(x: str) -> str:
            # In double precision from the rows on, as single precision loses four digits.
            sums = graph.cast(graph("ReduceSum", x, np.array([3])), np.float64)
            return graph("Div", graph("ReduceSum", sums, np.array([1, 2])), count)

        x = graph("Sub", images, graph.cast(mean(self._masked(images)), np.float32))
        x = self._masked(x)
        var = graph("Add", mean(graph("Mul", x, x)), np.float64(1e-4 * 127.5**2))
        return graph("Div", x, graph.cast(graph("Sqrt", var), np.float32))

    def __call__(self, x: str) -> str:
        """Adds the layers after `normalized`."""
        graph, architecture = self.graph, self.architecture
        n = architecture.block
        if n > 1:
            x = self._space_to_depth(x, n)
        last = len(architecture.convs)
        layers = zip(architecture.convs, architecture.pools, strict=True)
        for layer, (conv, pool) in enumerate(layers, start=1):
            kernel, bias = self._folded(layer)
            x = graph(
                "Conv",
                x,
                graph.constant(kernel, f"conv{layer}.kernel"),
                graph.constant(bias, f"conv{layer}.bias"),
                name=f"conv{layer}",
                kernel_shape=[conv.kernel] * 2,
                pads=[conv.padding] * 4,
            )
            self._narrow(2 * conv.padding - conv.kernel + 1)
            x = graph("LeakyRelu", x, alpha=0.2) if architecture.leaky else graph("Relu", x)
            if pool:
                x = self._pooled(x, pool)
            # The LSTMs ignore what is beyond the last layer's features.
            elif layer != last:
                x = self._masked(x)
        return x

    def _pooled(self, x: str, pool: Pool) -> str:
        overlap = pool.window[1] > pool.stride[1]
        if overlap:  # invalid columns must not be the largest
            x = self._masked(x, LOWEST if self.architecture.leaky else ZERO)
        (rows, columns), (top, left) = pool.window, pool.padding
        x = self.graph(
            "MaxPool",
            x,
            kernel_shape=[rows, columns],
            strides=list(pool.stride),
            pads=[top, left, top, left],
        )
        self._narrow(2 * left - columns + pool.stride[1], pool.stride[1])
        # With ReLU the others are zero then, as there is no valid column in their windows.
        return x if overlap and not self.architecture.leaky else self._masked(x)

    def _space_to_depth(self, x: str, n: int) -> str:
        """Blocks of n x n pixels become one; rows and columns that fill no block are dropped."""
        graph = self.graph
        sizes = graph("Shape", x, start=2, end=4)
        whole = graph("Mul", graph("Div", sizes, np.array([n, n])), np.array([n, n]))
        x = graph("Slice", x, np.array([0, 0]), whole, np.array([2, 3]))
        self._narrow(0, n)
        return self._masked(graph("SpaceToDepth", x, blocksize=n))

    def _narrow(self, change: int, divisor: int = 1) -> None:
        """The widths become (widths + change) // divisor."""
        if self.widths is not None and change:
            self.widths = self.graph("Add", self.widths, np.int64(change))
        if self.widths is not None and divisor > 1:
            self.widths = self.graph("Div", self.widths, np.int64(divisor))

    def _masked(self, x: str, value: np.float32 = ZERO) -> str:
        """Sets the columns beyond the widths to a value."""
        if self.widths is None:
            return x
        graph = self.graph
        columns = graph("Reshape", graph.range(graph.size(x, 3)), np.array([1, 1, 1, -1]))
        valid = graph("Less", columns, graph("Reshape", self.widths, np.array([-1, 1, 1, 1])))
        if value == 0:  # features are finite
            return graph("Mul", x, graph.cast(valid, np.float32))
        return graph("Where", valid, x, value)

    def _folded(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (D, C, rows, columns) and bias (D,), with batch normalization."""
        arrays, place = self.arrays, f"params/conv_stack/conv{layer}"
        kernel = arrays[f"{place}/kernel"].transpose(3, 2, 0, 1).astype(np.float64)
        bias = np.zeros(len(kernel))
        if self.architecture.convs[layer - 1].bias:
            bias = bias + arrays[f"{place}/bias"]
        if layer in self.architecture.normalized:
            norm = f"conv_stack/norm{layer}"
            scale = np.asarray(arrays[f"params/{norm}/scale"], np.float64)
            factor = scale / np.sqrt(arrays[f"batch_stats/{norm}/var"] + EPSILON)
            bias = (bias - arrays[f"batch_stats/{norm}/mean"]) * factor
            bias = bias + arrays[f"params/{norm}/bias"]
            kernel = kernel * factor[:, None, None, None]
        return kernel.astype(np.float32), bias.astype(np.float32)


def _bilstm(graph: Graph, arrays: Arrays, name: str, x: str, lengths: str) -> str:
    """Adds a bidirectional LSTM: (T, B, D) to (T, B, 2 * hidden)."""
    ways, place = ("forward", "backward"), f"params/{name}"
    inputs = np.stack([_gates(arrays[f"{place}/{way}_input/kernel"]) for way in ways])
    recurrent = np.stack([_gates(arrays[f"{place}/{way}/recurrent/kernel"]) for way in ways])
    bias = np.stack([_gates(arrays[f"{place}/{way}_input/bias"][None])[:, 0] for way in ways])
    hidden = recurrent.shape[-1]
    x = graph(
        "LSTM",
        x,
        graph.constant(inputs, f"{name}.inputs"),
        graph.constant(recurrent, f"{name}.recurrent"),
        # The operator has two biases, as PyTorch has.
        graph.constant(np.concatenate([bias, 0 * bias], 1), f"{name}.bias"),
        lengths,
        name=name,
        direction="bidirectional",
        hidden_size=hidden,
    )  # (T, 2, B, hidden)
    x = graph("Transpose", x, perm=[0, 2, 1, 3])
    return graph("Reshape", x, np.array([0, 0, 2 * hidden]))


def _gates(kernel: np.ndarray) -> np.ndarray:
    """Weights (D, 4 * hidden) with the gates i, f, g, o, as (4 * hidden, D) with i, o, f, g."""
    i, f, g, o = np.split(np.asarray(kernel, np.float32).T, 4)
    return np.concatenate([i, o, f, g])


def _dense(graph: Graph, arrays: Arrays, name: str, x: str) -> str:
    place = f"params/{name}"
    kernel = graph.constant(np.asarray(arrays[f"{place}/kernel"], np.float32), f"{name}.kernel")
    bias = graph.constant(np.asarray(arrays[f"{place}/bias"], np.float32), f"{name}.bias")
    return graph("Add", graph("MatMul", x, kernel), bias, name=name)
