"""The quantized graph: what the network computes, in integers, independent of any array size.

Every tensor is NHWC (batch left out) with channels padded to whole groups of 16, except the input image, which keeps
its own channels and is read by `QFold` alone. Unused channels are zero, or what a curve makes of zero: readers give
them weights of zero. All values are those of shared rule "numerics" (npu_isa.machine.numerics); a `QConv` means the
same at every boundary on every machine.

`QNode`, `Computed` and `Function` are closed unions, and whoever tells their members apart ends in `assert_never`: mypy
then lists every place that a new member must touch.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, assert_never

import numpy as np
from npu_isa.file.binary import HostPart
from numpy.typing import NDArray

from npu_compiler.graph.ir import Place as Place
from npu_compiler.outputs import Output, tensors_of

GROUP = 16
Extraction = Literal["static", "dynamic"]

I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class QTensor:
    """A quantized tensor.

    Attributes:
        name: unique name (the ONNX value name where there is one).
        height, width: pixels.
        channels: physical channels, a multiple of 16 (the input image: its own).
        scale: real value of one step.
        bits: 8, or 16 for a wide output of the network.
        signed: -128..127 (or 16-bit signed) if true, else 0..255.
        channel_map: logical channel that each physical channel holds, -1 for padding; shape (channels,).
        zero: integer that stands for 0. For people: biases and tables know it, no value depends on it.
    """

    name: str
    height: int
    width: int
    channels: int
    scale: float
    signed: bool
    channel_map: tuple[int, ...]
    bits: int = 8
    zero: int = 0

    @property
    def groups(self) -> int:
        """Groups of 16 channels."""
        return self.channels // GROUP

    @property
    def limits(self) -> tuple[int, int]:
        """Least and largest value."""
        if self.bits == 16:
            return (-32768, 32767)
        return (-128, 127) if self.signed else (0, 255)


@dataclass(frozen=True, eq=False)
class Window:
    """Kernel geometry; pads may be negative (crop)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad_top: int = 0
    pad_left: int = 0


@dataclass(frozen=True, eq=False)
class Clamp:
    """What is scaled ends within low..high, both inclusive: a ReLU, a clip, or the limits of the output."""

    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Leaky:
    """As `Clamp`, but sums below zero are scaled by `mult`, shape (out channels,), in place of the epilogue's."""

    low: int
    high: int
    mult: I32


@dataclass(frozen=True, eq=False)
class Lookup:
    """As `Clamp`, but the byte that is left is looked up (numerics.look_up): a curve.

    Attributes:
        table: uint8, shape (256,), by the bits of the byte.
        scale: real value of one step of the byte. For people: no value depends on it.
    """

    low: int
    high: int
    table: U8
    scale: float


Function = Clamp | Leaky | Lookup


@dataclass(frozen=True, eq=False)
class Residual:
    """A tensor that is added before the rounding, scaled by `mult`, shape (out channels,).

    It has the output's shape; where its height or width is 1, its one value counts for all rows or columns.
    """

    tensor: str
    mult: I32


@dataclass(frozen=True, eq=False)
class Factor:
    """A tensor that multiplies the values of another one; its shape as that of a `Residual`."""

    tensor: str


@dataclass(frozen=True, eq=False)
class Epilogue:
    """Requantization of one node (numerics.requantize): function(((acc + bias) * mult [+ residual]) >> shift).

    Attributes:
        bias, mult, shift: shape (out channels,).
        operand: a second tensor; not with `Leaky`, which needs the second multiplier for itself.
    """

    bias: I32
    mult: I32
    shift: I32
    function: Function
    operand: Residual | Factor | None = None

    @property
    def mult2(self) -> I32 | None:
        """The machine's second multiplier: the residual's, or that of sums below zero; None without either."""
        if isinstance(self.operand, Residual):
            return self.operand.mult
        return self.function.mult if isinstance(self.function, Leaky) else None


@dataclass(frozen=True, eq=False)
class _Base:
    """What every node has: its name, its output tensor's name, and the ONNX nodes that it stands for."""

    name: str
    out: str
    onnx_nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class QFold(_Base):
    """Gather the windows of the input image: out[y, x, (ky*kw + kx)*channels + c], then zero padding to groups."""

    src: str
    window: Window

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.src,)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What calibration said of lowering the group at each place, for people: no value depends on it. A value per place.

    Attributes:
        act_bits: bits that the largest magnitude of the group's activations needs, 0..8, the sign left out.
        error: expected squared error of the layer's output when the group is lowered, in squared output steps.
        truncation: the same if the top 4 of the 8 bits were taken, without rounding: the paper's plain lowering.
    """

    act_bits: tuple[int, ...]
    error: tuple[float, ...]
    truncation: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Lowering:
    """How a convolution runs in 4 bits.

    Attributes:
        order: input group that stands at each place; the first b places run in 4 bits at boundary b. Shape (groups,).
        act_shift: s_act of each *place*, 0..4, shape (groups,); where dynamic, the positions that it clips.
        wgt_shift: s_wgt of each place and output channel, 0..4, shape (groups, out channels).
        bias_rows: bias of each boundary 0..groups, corrections included, int32, shape (groups + 1, out channels).
        score: of lowering each place, comparable between layers per multiply-accumulate, shape (groups,).
        extract: where activations take their positions from: act_shift, or at run time their own group's 16 values at
            each pixel, act_shift lower (numerics.dynamic_shift).
    """

    order: tuple[int, ...]
    act_shift: tuple[int, ...]
    wgt_shift: I8
    bias_rows: I32
    score: NDArray[np.float64]
    extract: Extraction = "static"
    evidence: Evidence | None = None


@dataclass(frozen=True, eq=False)
class _ComputedBase(_Base):
    """What nodes of arithmetic have: windows of one tensor become sums, which the epilogue makes values of."""

    src: str
    window: Window
    epilogue: Epilogue

    @property
    def residual(self) -> str | None:
        """Name of the epilogue's second tensor: what the machine calls the residual operand, added or a factor."""
        return None if self.epilogue.operand is None else self.epilogue.operand.tensor

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.src,) if self.residual is None else (self.src, self.residual)


@dataclass(frozen=True, eq=False)
class QConv(_ComputedBase):
    """Dense convolution on the matrix engine.

    Attributes:
        weight: int8, shape (out channels, kernel_h, kernel_w, in channels), -127..127.
        lowering: None if the layer always runs in 8 bits.
        macs: multiply-accumulates of the original layer per image (no padding channels).
    """

    weight: I8
    lowering: Lowering | None
    macs: int


@dataclass(frozen=True, eq=False)
class QWindow(_ComputedBase):
    """Window operation on the vector engine: depthwise convolution, pooling, element-wise work (1x1 sum).

    A factor multiplies a 1x1 sum alone.

    Attributes:
        kind: "mac" (depthwise, weight int8 of shape (channels, kernel_h, kernel_w)), "max" or "sum".
        macs: multiply-accumulates of the original layer per image; 0 for pooling and element-wise work.
    """

    kind: Literal["mac", "max", "sum"]
    weight: I8 | None = None
    macs: int = 0


@dataclass(frozen=True, eq=False)
class QConcat(_Base):
    """Channels of several tensors after each other, in whole groups; all have the output's scale and sign.

    Costs nothing: each producer writes into its part. No tensor is an operand of two concats or twice of one.
    """

    srcs: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return self.srcs


@dataclass(frozen=True, eq=False)
class QMosaic(_Base):
    """An image put together of the pixels of others, of its channels, scale and sign: each pixel is in one part.

    Costs nothing: each producer writes its pixels. No tensor is an operand twice, or of a concat as well.
    """

    srcs: tuple[str, ...]
    places: tuple[Place, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return self.srcs


Computed = QConv | QWindow  # nodes of arithmetic: they have an epilogue
Assembled = QConcat | QMosaic  # nodes that cost nothing: their operands are written in place
QNode = QFold | Computed | Assembled


def _as_computed(node: QNode) -> Computed | None:
    """Return a node if it is one of arithmetic, else None."""
    match node:
        case QConv() | QWindow():
            return node
        case QFold() | QConcat() | QMosaic():
            return None
    assert_never(node)


@dataclass(frozen=True, eq=False)
class Preprocess:
    """From an image file or array to the input tensor's integers.

    A pixel p of channel c becomes q = table[c, p] (uint8 holding the two's complement byte when the input is
    signed): round(((p * pixel_scale - mean[c]) / std[c]) / scale), clamped.

    Attributes:
        resize: (height, width), or (shorter side,), or () for none; Pillow bilinear.
        crop: (height, width) centre crop, or () for none.
    """

    pixel_scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, ...]
    crop: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class QuantizedGraph:
    """A quantized network: nodes in topological order; one input image, one output or more.

    Attributes:
        tensors: by name.
        table: uint8, shape (image channels, 256): pixel value to input byte.
        outputs: what it gives, in the order of the ONNX model; no node reads these tensors.
        host: the end of the model that the host runs, on these outputs; or None.
    """

    name: str
    nodes: tuple[QNode, ...]
    tensors: dict[str, QTensor]
    input: str
    outputs: tuple[Output, ...]
    preprocess: Preprocess
    table: U8
    notes: tuple[str, ...] = field(default=())
    host: HostPart | None = None

    @cached_property
    def output_tensors(self) -> tuple[str, ...]:
        """Tensors of the outputs, in their order, each once."""
        return tensors_of(self.outputs)

    @cached_property
    def computed(self) -> tuple[Computed, ...]:
        """Nodes of arithmetic, in order."""
        return tuple(c for n in self.nodes if (c := _as_computed(n)) is not None)

    @cached_property
    def lowerable(self) -> tuple[QConv, ...]:
        """Convolutions that have a dial, in order; their place here is their boundary register."""
        return tuple(n for n in self.nodes if isinstance(n, QConv) and n.lowering is not None)

    def users(self, tensor: str) -> tuple[QNode, ...]:
        """Return the nodes that read a tensor."""
        return tuple(n for n in self.nodes if tensor in n.inputs)
