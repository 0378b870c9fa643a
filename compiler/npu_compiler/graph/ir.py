"""The float graph: a trained network as the compiler understands it, before quantization.

Nodes are frozen; tensors are NCHW with the batch axis left out, so a shape is (channels, height, width). A matrix
product is a convolution; flattening has no node (a Gemm after it is a convolution with the whole image as kernel).

`Node` and `Activation` are closed unions, and whoever tells their members apart ends in `assert_never`: mypy then lists
every place that a new member must touch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal, assert_never

import numpy as np
from npu_isa.file.binary import HostPart
from numpy.typing import NDArray

from npu_compiler.graph.curves import SPREAD, curve
from npu_compiler.outputs import Output, tensors_of

F32 = NDArray[np.float32]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Identity:
    """y = x."""


@dataclass(frozen=True)
class Clip:
    """y = min(max(x, low), high): Relu has low 0."""

    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class LeakyRelu:
    """y = x, or alpha * x where x is below zero: one slope, or one per channel (PRelu)."""

    alpha: float | tuple[float, ...]


Activation = Identity | Clip | LeakyRelu  # what follows a sum


@dataclass(frozen=True)
class Curve:
    """y = f(x) of a single value: on the machine a table of 256 bytes.

    Attributes:
        program: in postfix notation, of "x", numbers, and the names in `npu_compiler.graph.curves`: x * sigmoid(x) is
            ("x", "x", "sigmoid", "mul").
    """

    program: tuple[str | float, ...]


ANEW = "compile with --requantize and calibration data to quantize anew"  # where a quantization cannot be kept


@dataclass(frozen=True)
class TensorQuant:
    """How a tensor is held in bytes, fixed by a quantized model or chosen; it takes no values outside `limits`.

    Attributes:
        scale: real value of one step.
        signed: bytes are -128..127, else 0..255.
        zero: the byte that stands for 0.
        span: least and largest integer, where they are not those of the byte; beyond it for the output alone.
    """

    scale: float
    signed: bool
    zero: int = 0
    span: tuple[int, int] | None = None

    @property
    def integers(self) -> tuple[int, int]:
        """Least and largest integer."""
        return self.span or ((-128, 127) if self.signed else (0, 255))

    @property
    def wide(self) -> bool:
        """Whether 8 bits do not hold its integers."""
        low, high = self.integers
        least, most = (-128, 127) if self.signed else (0, 255)
        return low < least or high > most

    @property
    def multiples(self) -> tuple[int, int]:
        """Least and largest value of the tensor, in steps of `scale`."""
        low, high = self.integers
        return low - self.zero, high - self.zero

    def clamped(self, clip: Clip) -> tuple[int, int]:
        """Return the least and the largest integer that a clip leaves."""
        low, high = self.integers
        least = int(np.rint(max(clip.low / self.scale, low - self.zero))) + self.zero
        most = int(np.rint(min(clip.high / self.scale, high - self.zero))) + self.zero
        return max(low, least), min(high, most)

    @property
    def limits(self) -> tuple[float, float]:
        """Least and largest value of the tensor."""
        low, high = self.multiples
        return low * self.scale, high * self.scale


def stored(scale: float, low: int, high: int) -> tuple[TensorQuant, ...]:
    """Return how bytes can hold the multiples low..high of a scale, the zero nearest to byte 0 first.

    The integers 0..255 around 128 are those of -128..127 around 0, and so on: names of the same values. Unused channels
    are byte 0, so that must be among the integers.

    Args:
        scale: real value of one step.
        low, high: contain 0, at most 255 apart.
    """
    assert low <= 0 <= high <= low + 255, (low, high)
    found = []
    for signed, least, most in ((False, 0, 255), (True, -128, 127)):
        zero = min(max(0, least - low), most - high) if signed else -low
        span = (low + zero, high + zero)
        found.append(TensorQuant(scale, signed, zero, None if span == (least, most) else span))
    return tuple(sorted(found, key=lambda quant: abs(quant.zero)))


@dataclass(frozen=True, eq=False)
class _Base:
    """What every node has: a unique name, its output tensor, and the ONNX nodes that it stands for."""

    name: str
    out: str
    onnx_nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Conv(_Base):
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
    act: Activation = Identity()
    weight_scale: F32 | None = None
    residual: str | None = None


@dataclass(frozen=True, eq=False)
class Affine(_Base):
    """Per-channel y = act(scale * x + shift): a BatchNormalization that no convolution could take."""

    src: str
    scale: F32
    shift: F32
    act: Activation = Identity()


@dataclass(frozen=True, eq=False)
class Act(_Base):
    """An activation that nothing before it could take, or a curve."""

    src: str
    act: Activation | Curve


@dataclass(frozen=True, eq=False)
class Add(_Base):
    """Element-wise y = act(factors[0] * a + factors[1] * b).

    Where height or width of b is 1, its one value counts for all rows or columns of a.
    """

    a: str
    b: str
    act: Activation = Identity()
    factors: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Mul(_Base):
    """Element-wise y = act(a * b); b as in `Add`."""

    a: str
    b: str
    act: Activation = Identity()


@dataclass(frozen=True, eq=False)
class Pool(_Base):
    """Max or average pooling; a global one has the whole image as kernel.

    An average divides by kh * kw always, or by `count` where that is given.
    """

    src: str
    kind: Literal["max", "avg"]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    count: int | None = None


@dataclass(frozen=True, eq=False)
class Concat(_Base):
    """Concatenation of channels."""

    srcs: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where the pixels of a part of a `Mosaic` stand: pixel (i, j) is (y + i * step_y, x + j * step_x) of the whole."""

    y: int = 0
    x: int = 0
    step_y: int = 1
    step_x: int = 1

    def __repr__(self) -> str:
        """Return first row and column, and the steps between rows and columns."""
        return f"({self.y}, {self.x}) + ({self.step_y}, {self.step_x})"


def fill_once(size: tuple[int, int], parts: Iterable[tuple[Place, tuple[int, int]]]) -> bool:
    """Whether parts, each a place and its height and width, fill an image of a size, no pixel twice."""
    seen = np.zeros(size, np.bool_)
    total = 0
    for at, (height, width) in parts:
        ends = at.y + (height - 1) * at.step_y + 1, at.x + (width - 1) * at.step_x + 1
        if (
            min(at.y, at.x) < 0
            or min(at.step_y, at.step_x, height, width) < 1
            or ends[0] > size[0]
            or ends[1] > size[1]
        ):
            return False
        seen[at.y : ends[0] : at.step_y, at.x : ends[1] : at.step_x] = True
        total += height * width
    return total == seen.size and bool(seen.all())


@dataclass(frozen=True, eq=False)
class Mosaic(_Base):
    """An image put together of the pixels of others, which have its channels: each of its pixels is in one part.

    What a transposed convolution, a resize, or an average whose divisor varies make, by phases and borders.

    Attributes:
        places: of each source.
        size: height and width.
    """

    srcs: tuple[str, ...]
    places: tuple[Place, ...]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Crop(_Base):
    """Strided slice and zero padding of space: out[y, x] = in[y * stride - pad_top, x * stride - pad_left] or 0."""

    src: str
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # negative crops


@dataclass(frozen=True, eq=False)
class Channels(_Base):
    """Choice of channels: out channel i is in channel source[i], or zero where source[i] is -1."""

    src: str
    source: tuple[int, ...]


Node = Conv | Affine | Act | Add | Mul | Pool | Concat | Mosaic | Crop | Channels


@dataclass(frozen=True, eq=False)
class Graph:
    """A network with one image input.

    Attributes:
        nodes: in topological order.
        shapes: (channels, height, width) of each tensor, the input included.
        input: name of the image's tensor.
        outputs: what it gives, one or more, in the order of the ONNX model; nodes may read these tensors too.
        quant: tensors whose quantization a QDQ model fixes.
        notes: remarks of the importer.
        host: the end of the model that the host runs, on these outputs; or None.
        takes_bytes: the ONNX input is uint8: pixels as they are, with no preprocessing.
    """

    name: str
    nodes: tuple[Node, ...]
    shapes: dict[str, Shape]
    input: str
    outputs: tuple[Output, ...]
    quant: dict[str, TensorQuant] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    host: HostPart | None = None
    takes_bytes: bool = False

    @cached_property
    def output_tensors(self) -> tuple[str, ...]:
        """Tensors of the outputs, in their order, each once."""
        return tensors_of(self.outputs)

    def users(self, tensor: str) -> tuple[Node, ...]:
        """Return the nodes that read a tensor."""
        return tuple(n for n in self.nodes if tensor in inputs(n))

    def dump(self) -> str:
        """Return one line a node; arrays as their shape."""
        given = ", ".join(f"{o.tensor} {o.shape}" for o in self.outputs)
        lines = [f"graph {self.name}: {self.input} {self.shapes[self.input]} -> {given}"]
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
        case Conv():
            return (node.src,) if node.residual is None else (node.src, node.residual)
        case Affine() | Act() | Pool() | Crop() | Channels():
            return (node.src,)
        case Add() | Mul():
            return (node.a, node.b)
        case Concat() | Mosaic():
            return node.srcs
    assert_never(node)


def keeps_values(node: Node) -> bool:
    """Whether every value of a node's output is one of an operand (or zero); what arithmetic makes is requantized."""
    match node:
        case Pool():
            return node.kind == "max"
        case Concat() | Mosaic() | Crop() | Channels():
            return True
        case Conv() | Affine() | Act() | Add() | Mul():
            return False
    assert_never(node)


def activation_of(node: Node) -> Activation | Curve:
    """Return what a node does to each of its sums; an identity where it has no sums of its own."""
    match node:
        case Conv() | Affine() | Act() | Add() | Mul():
            return node.act
        case Pool() | Concat() | Mosaic() | Crop() | Channels():
            return Identity()
    assert_never(node)


def clips_negative(act: Activation | Curve) -> bool:
    """Whether no value below zero comes out of an activation."""
    match act:
        case Clip():
            return act.low >= 0
        case Curve():
            return not (curve(act.program, SPREAD) < 0).any()
        case LeakyRelu():
            return bool((np.array(act.alpha) <= 0).all())
        case Identity():
            return False
    assert_never(act)


def follows_residual(act: Activation) -> bool:
    """Whether one node can add a residual before an activation: the machine has one second multiplier for either."""
    match act:
        case Identity() | Clip():
            return True
        case LeakyRelu():
            return False
    assert_never(act)


def unique(base: str, taken: set[str]) -> str:
    """Return a name, `base`, or `base_2`, `base_3` and so on if it is taken; the result is taken then."""
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name)
    return name
