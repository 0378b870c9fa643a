"""A model being written anew in QDQ form: its constants, what its integers stand for, its nodes so far."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from npu_compiler.frontend.importer import Refused
from npu_compiler.graph.ir import unique

Array = NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """Names of the scale and zero point of integers; axis of several scales."""

    scale: str
    zero: str
    axis: int = 0


@dataclass
class Writer:
    """The model being written anew.

    Attributes:
        constants: initializers and outputs of Constant nodes.
        grids: of integers that are computed.
        weights: dequantized constants: name of the integers, and their grid.
        nodes: so far.
        made: new initializers.
        taken: names of nodes and values.
    """

    constants: dict[str, onnx.TensorProto]
    taken: set[str]
    grids: dict[str, Grid] = field(default_factory=dict)
    weights: dict[str, tuple[str, Grid]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    made: list[onnx.TensorProto] = field(default_factory=list)

    def array(self, name: str, what: str) -> Array:
        """Return a constant.

        Raises:
            Refused: it is none, or cannot be read.
        """
        if name not in self.constants:
            raise Refused(f"{what} must be constant")
        try:
            return numpy_helper.to_array(self.constants[name])
        except Exception:  # the library raises many types; all mean a damaged tensor
            raise Refused(f"{what} cannot be read") from None

    def constant(self, array: Array, base: str) -> str:
        """Add an initializer and return its name."""
        name = unique(base, self.taken)
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        self.made.append(self.constants[name])
        return name

    def node(self, operator: str, inputs: Iterable[str], out: str, name: str, **attrs: Any) -> str:
        """Append a standard node and return its output; an existing name, such as that of what it replaces, is kept."""
        self.nodes.append(helper.make_node(operator, list(inputs), [out], name, **attrs))
        return out

    def dequantized(self, name: str, grid: Grid, owner: str, out: str = "") -> str:
        """Return the real values of integers; with `out` the node takes the owner's place and name."""
        title = owner if out else unique(f"{owner}.dequantize", self.taken)
        out = out or unique(f"{name}.real", self.taken)
        zero = grid.zero or self._zero_of(name)
        if name in self.constants:
            self.weights[out] = (name, grid)
        operands = [name, grid.scale, zero] if zero else [name, grid.scale]
        return self.node("DequantizeLinear", operands, out, title, axis=grid.axis)

    def _zero_of(self, name: str) -> str:
        """Return the zero point of computed integers if it is 0: who leaves it out means that, of their type."""
        zero = self.grids[name].zero if name in self.grids else ""
        return zero if zero and not self.array(zero, "the zero point").any() else ""

    def quantized(self, source: str, grid: Grid, out: str, owner: str) -> None:
        """Make integers of real values; `out` names them."""
        if not grid.zero:
            raise Refused("its result needs a zero point, which says the type")
        self.node("QuantizeLinear", [source, grid.scale, grid.zero], out, unique(f"{owner}.quantize", self.taken))
        self.grids[out] = grid


def inputs_of(node: onnx.NodeProto, least: int, most: int) -> list[str]:
    """Return the inputs, "" where left out."""
    if not least <= len(node.input) <= most or not all(node.input[:least]):
        raise Refused(f"it has {sum(map(bool, node.input))} inputs, needs {least}")
    return [*node.input, *[""] * (most - len(node.input))]
