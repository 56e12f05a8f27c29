"""A small builder of ONNX graphs: nodes are added one by one, in the order of their arithmetic."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18  # in which all reductions take their axes as an input; onnxruntime 1.14 has it
IR_VERSION = 8  # that of ONNX 1.13, which introduced the opset

Value = str | np.ndarray | np.generic
"""The name of a tensor, or a constant."""

TYPES = {
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.bool_): TensorProto.BOOL,
}
Shape = Sequence[int | str]


class Graph:
    """Nodes and constants of a graph, of a body that a `Scan` repeats, or of a branch of an `If`.

    Bodies and branches can use the tensors of the graph around it.
    """

    def __init__(self, around: Self | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[Any, onnx.TensorProto] = around._constants if around else {}
        self._numbers: itertools.count[int] = around._numbers if around else itertools.count(1)

    def __call__(self, operator: str, *inputs: Value, name: str = "", **attributes: Any) -> str:
        """Adds a node and returns the name of its first output.

        Args:
          operator: its name, such as Conv.
          inputs: tensors and constants; "" stands for an optional input that is left out.
          name: that of the output; a number is given if there is none.
          attributes: those of the operator.
        """
        name = name or f"{operator}_{next(self._numbers)}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], name, **attributes))
        return name

    def constant(self, value: np.ndarray | np.generic, name: str = "") -> str:
        """Adds a constant, once for all equal ones without a name."""
        array = np.asarray(value)
        key = name or (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = name or f"constant_{len(self._constants) + 1}"
            self._constants[key] = numpy_helper.from_array(array.copy("C"), name)
        return self._constants[key].name

    def cast(self, value: Value, to: type[np.generic]) -> str:
        """Converts a tensor to another type."""
        return self("Cast", value, to=TYPES[np.dtype(to)])

    def size(self, value: str, axis: int) -> str:
        """The size of an axis, int64 of shape (1,)."""
        return self("Shape", value, start=axis, end=axis + 1)

    def range(self, size: str) -> str:
        """The numbers from 0 to a size of shape (1,) without it, int64."""
        scalar = self("Squeeze", size, np.array([0]))
        return self("Range", np.int64(0), scalar, np.int64(1))

    def scan(
        self,
        body: Callable[["Graph", str, str], tuple[str, str]],
        start: str,
        inputs: str,
        shape: Shape,
    ) -> tuple[str, str]:
        """Repeats a body for each element of `inputs` along its first axis.

        Args:
          body: takes its graph, the state and an element; returns the next state, and an output.
          start: the first state.
          inputs: the elements.
          shape: that of the state, of the elements and of the outputs, as far as it is known.

        Returns:
          The last state, and all outputs, stacked along a new first axis.
        """
        inner, number = Graph(self), next(self._numbers)
        state, element = f"state_{number}", f"element_{number}"
        following, output = body(inner, state, element)
        graph = helper.make_graph(
            inner.nodes,
            f"body_{number}",
            [tensor(name, np.float32, shape) for name in (state, element)],
            [tensor(name, np.float32, shape) for name in (following, output)],
        )
        names = [f"Scan_{number}", f"Scan_{number}_outputs"]
        self.nodes.append(
            helper.make_node(
                "Scan", [start, inputs], names, names[0], body=graph, num_scan_inputs=1
            )
        )
        return names[0], names[1]

    def either(
        self, condition: str, first: Callable[["Graph"], str], second: Callable[["Graph"], str]
    ) -> str:
        """Adds one of two branches, each of which returns the name of its output."""

        def graph(branch: Callable[["Graph"], str], name: str) -> onnx.GraphProto:
            inner = Graph(self)
            output = onnx.ValueInfoProto(name=branch(inner))  # its type is inferred
            return helper.make_graph(inner.nodes, name, [], [output])

        then, otherwise = graph(first, "first"), graph(second, "second")
        return self("If", condition, then_branch=then, else_branch=otherwise)

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        name: str,
    ) -> onnx.ModelProto:
        """Returns the model; it is not checked, as that takes as long as building it."""
        constants = list(self._constants.values())
        return helper.make_model(
            helper.make_graph(self.nodes, name, inputs, outputs, constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="crnn_jax",
        )


def tensor(name: str, dtype: type[np.generic], shape: Shape) -> onnx.ValueInfoProto:
    """Describes an input or output; an axis with a name may have any size."""
    return helper.make_tensor_value_info(name, TYPES[np.dtype(dtype)], shape)
