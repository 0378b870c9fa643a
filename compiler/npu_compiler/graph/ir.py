"""The float graph: a trained network as the compiler understands it, before quantization.

Nodes are frozen; tensors are NCHW with the batch axis left out, so a shape is (channels, height, width). A matrix
product is a convolution; flattening has no node (a Gemm after it is a convolution with the whole image as kernel).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Activation:
    """What follows a sum: y = min(max(x, low), high), or alpha * x below zero when kind is "leaky"."""

    kind: Literal["none", "clip", "leaky"] = "none"
    low: float = -np.inf
    high: float = np.inf
    alpha: float = 0.0


@dataclass(frozen=True)
class TensorQuant:
    """Quantization fixed by a QDQ model: symmetric, zero point 0. Its tensor takes no values outside `limits`."""

    scale: float
    signed: bool

    @property
    def limits(self) -> tuple[float, float]:
        """Least and largest value of the tensor."""
        low, high = (-128, 127) if self.signed else (0, 255)
        return low * self.scale, high * self.scale


@dataclass(frozen=True, eq=False)
class Node:
    """A node: unique name, its output tensor, and the ONNX nodes that it stands for."""

    name: str
    out: str
    onnx_nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Conv(Node):
    """ONNX Conv, Gemm, MatMul: weight (out, in / groups, kh, kw), bias (out,), pads (top, left, bottom, right).

    weight_scale, shape (out,), and the weights as exact multiples of it, come from a QDQ model; else None.
    residual: tensor added before the activation, or None.
    """

    src: str
    weight: F32
    bias: F32
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    act: Activation = Activation()
    weight_scale: F32 | None = None
    residual: str | None = None


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """Per-channel y = act(scale * x + shift): a BatchNormalization that no convolution could take."""

    src: str
    scale: F32
    shift: F32
    act: Activation = Activation()


@dataclass(frozen=True, eq=False)
class Act(Node):
    """An activation that nothing before it could take."""

    src: str
    act: Activation


@dataclass(frozen=True, eq=False)
class Add(Node):
    """Element-wise sum of two tensors of equal shape."""

    a: str
    b: str
    act: Activation = Activation()


@dataclass(frozen=True, eq=False)
class Pool(Node):
    """Max or average pooling; a global one has the whole image as kernel. An average divides by kh * kw always."""

    src: str
    kind: Literal["max", "avg"]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Concatenation of channels."""

    srcs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Crop(Node):
    """Strided slice and zero padding of space: out[y, x] = in[y * stride - pad_top, x * stride - pad_left] or 0."""

    src: str
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # negative crops


@dataclass(frozen=True, eq=False)
class Channels(Node):
    """Choice of channels: out channel i is in channel source[i], or zero where source[i] is -1."""

    src: str
    source: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """A network with one image input and one output.

    Attributes:
        nodes: in topological order.
        shapes: (channels, height, width) of each tensor, the input included.
        input, output: tensor names.
        output_shape: shape of the ONNX output without the batch axis.
        quant: tensors whose quantization a QDQ model fixes.
        notes: remarks of the importer.
    """

    name: str
    nodes: tuple[Node, ...]
    shapes: dict[str, Shape]
    input: str
    output: str
    output_shape: tuple[int, ...]
    quant: dict[str, TensorQuant] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def users(self, tensor: str) -> tuple[Node, ...]:
        """Return the nodes that read a tensor."""
        return tuple(n for n in self.nodes if tensor in inputs(n))

    def dump(self) -> str:
        """Return one line a node; arrays as their shape."""
        lines = [f"graph {self.name}: {self.input} {self.shapes[self.input]} -> {self.output} {self.output_shape}"]
        for node in self.nodes:
            parts = []
            for f in fields(node):
                value = getattr(node, f.name)
                if isinstance(value, np.ndarray):
                    parts.append(f"{f.name}={value.shape}")
                elif f.name not in ("name", "out", "onnx_nodes") and value != f.default:
                    parts.append(f"{f.name}={value}")
            shape = "x".join(map(str, self.shapes[node.out]))
            lines.append(f"  {node.out}: {shape} = {type(node).__name__}({', '.join(parts)})")
        return "\n".join(lines) + "\n"


def inputs(node: Node) -> tuple[str, ...]:
    """Return the tensors that a node reads."""
    match node:
        case Conv(src=src, residual=None) | Affine(src=src) | Act(src=src) | Pool(src=src):
            return (src,)
        case Crop(src=src) | Channels(src=src):
            return (src,)
        case Conv(src=src, residual=str(residual)):
            return (src, residual)
        case Add(a=a, b=b):
            return (a, b)
        case Concat(srcs=srcs):
            return srcs
    raise TypeError(type(node).__name__)


def walk_back(graph: Graph, tensor: str) -> Iterator[Node]:
    """Yield the producer of a tensor, then the producer of its first input, and so on."""
    made = {n.out: n for n in graph.nodes}
    while tensor in made:
        node = made[tensor]
        yield node
        tensor = inputs(node)[0]
