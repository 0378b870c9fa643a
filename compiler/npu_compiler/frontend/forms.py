"""Other forms of quantized models, written as QuantizeLinear and DequantizeLinear around float operators (QDQ).

- Integer operators (QOperator): QLinearConv, QLinearMatMul and those of onnxruntime's domain. Their operands are
  dequantized, the float operator computes, its result is quantized. Operators that move integers, such as MaxPool or
  Reshape between them, are treated alike.
- QONNX, as Brevitas, FINN and others export it: Quant(x, scale, zero point, bit width). Of a constant it becomes the
  integers and their scale, of an activation a QuantizeLinear, a Clip of the integers to the bit width, and a
  DequantizeLinear (QCDQ).

So the importer sees QDQ alone. What has no such form stays, with the reason why.

Sources: ONNX operators QLinearConv-10, QLinearMatMul-10; onnxruntime's contributed operators (com.microsoft); QONNX,
operators Quant and IntQuant.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from npu_compiler.frontend.importer import Refused, attributes, text
from npu_compiler.graph.ir import unique

Array = NDArray[Any]
MICROSOFT = "com.microsoft"
QONNX = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
ROUNDINGS = ("ROUND", "HALF_EVEN")  # of QONNX, half to even
DYNAMIC = (
    "its scales are chosen at run time; quantize statically, as onnxruntime's quantize_static does, or give the float "
    "model"
)
WHOLE = "its result is whole sums, without a scale; quantize to QDQ, as onnxruntime's quantize_static does"
REASONS = {
    "DynamicQuantizeLinear": DYNAMIC,
    "DynamicQuantizeMatMul": DYNAMIC,
    "MatMulIntegerToFloat": DYNAMIC,
    "ConvInteger": WHOLE,
    "MatMulInteger": WHOLE,
    "BipolarQuant": "values of one bit are not supported; quantize to 2 to 8 bits, or give the float model",
    "Trunc": "cutting bits off is not supported; quantize anew by Quant, or give the float model",
    "FloatQuant": "small floating point is not supported; quantize to integers, or give the float model",
}
MOVING = (
    "Concat", "DepthToSpace", "Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Transpose", "Unsqueeze", "Upsample",
)  # fmt: skip


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


def to_qdq(graph: onnx.GraphProto) -> dict[str, str]:
    """Write a model's quantized operators as QDQ, in place.

    Args:
        graph: its nodes have names of their own.

    Returns:
        by node name: why a node that stays has no such form.
    """
    taken = {n.name for n in graph.node} | {v for n in graph.node for v in (*n.input, *n.output)}
    taken |= {t.name for t in graph.initializer} | {v.name for v in graph.input}
    writer, reasons = Writer({t.name: t for t in graph.initializer}, taken), dict[str, str]()
    for node in graph.node:
        before = len(writer.nodes)
        try:
            _rewrite(writer, node)
        except (Refused, IndexError, TypeError, ValueError) as error:
            known = isinstance(error, Refused)
            reasons[node.name] = str(error) if known else f"its inputs or attributes are damaged: {error}"
            writer.nodes[before:] = [node]
    del graph.node[:]
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.made)
    return reasons


def _rewrite(w: Writer, node: onnx.NodeProto) -> None:
    """Append what a node becomes, or the node."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain in ("", MICROSOFT):
        _keep_pair(w, node)
        return
    form = FORMS.get((node.domain, node.op_type))
    if node.domain in QONNX and node.op_type in ("Quant", "IntQuant"):
        form = _quant
    if form is not None:
        form(w, node)
        return
    if node.domain in ("", MICROSOFT, *QONNX) and node.op_type in REASONS:
        raise Refused(REASONS[node.op_type])
    if node.domain == MICROSOFT and node.op_type.startswith(("QLinear", "Q")):
        raise Refused("this integer operator is not supported; give the model in QDQ form (QuantFormat.QDQ)")
    if not node.domain and node.op_type == "Constant" and node.attribute:
        _note_constant(w, node)
    elif not node.domain and node.op_type == "Clip" and node.input[0] in w.grids:
        w.grids[node.output[0]] = w.grids[node.input[0]]
    elif not node.domain and node.op_type == "Transpose" and node.input[0] in w.weights:
        _transposed(w, node)
        return
    elif not node.domain and node.op_type in MOVING and any(i in w.grids for i in node.input):
        _moved(w, node)
        return
    w.nodes.append(node)


def _note_constant(w: Writer, node: onnx.NodeProto) -> None:
    ((name, value), *_) = attributes(node).items()
    if name == "value":
        w.constants[node.output[0]] = value
    elif name in ("value_float", "value_floats", "value_int", "value_ints"):
        kind = np.float32 if "float" in name else np.int64
        w.constants[node.output[0]] = numpy_helper.from_array(np.array(value, kind))


def _keep_pair(w: Writer, node: onnx.NodeProto) -> None:
    """Keep a QuantizeLinear or DequantizeLinear, and what it says of integers; onnxruntime has names of its own."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.domain = ""
    w.nodes.append(made)
    if len(node.input) < 2:
        return
    grid = Grid(node.input[1], node.input[2] if len(node.input) > 2 else "", int(attributes(node).get("axis", 1)))
    if node.op_type == "QuantizeLinear":
        w.grids[node.output[0]] = grid
    elif node.input[0] in w.constants:
        w.weights[node.output[0]] = (node.input[0], grid)


def _transposed(w: Writer, node: onnx.NodeProto) -> None:
    """Transpose integer weights and their axis of scales, so that what comes out is such weights again."""
    name, grid = w.weights[node.input[0]]
    integers = w.array(name, "the weight")
    perm = list(attributes(node).get("perm", range(integers.ndim)[::-1]))
    if sorted(perm) != list(range(integers.ndim)):
        raise Refused(f"perm {perm} of a weight of shape {list(integers.shape)}")
    axis = grid.axis % max(integers.ndim, 1)
    turned = w.constant(integers.transpose(perm), f"{name}.transposed")
    grid = Grid(grid.scale, grid.zero, perm.index(axis) if perm else 0)
    w.dequantized(turned, grid, node.name, node.output[0])


def _moved(w: Writer, node: onnx.NodeProto) -> None:
    """Let an operator that moves integers move the real values."""
    grids = [w.grids[i] for i in node.input if i in w.grids]
    if any(not _same(w, grids[0], g) for g in grids) or (node.op_type == "Concat" and len(grids) < len(node.input)):
        raise Refused("it moves integers of different scales or zero points")
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for index, name in enumerate(node.input):
        if name in w.grids:
            made.input[index] = w.dequantized(name, grids[0], node.name)
    if node.op_type == "Pad":
        _pad_value(w, node, made, grids[0])
    w.nodes.append(made)
    for index, out in enumerate(node.output):
        if out:
            made.output[index] = unique(f"{out}.real", w.taken)
            w.quantized(made.output[index], grids[0], out, node.name)


def _same(w: Writer, a: Grid, b: Grid) -> bool:
    names = ((a.scale, b.scale), (a.zero, b.zero))
    return all(
        x == y or (bool(x and y) and np.array_equal(w.array(x, "the scale"), w.array(y, "the scale"))) for x, y in names
    )


def _pad_value(w: Writer, node: onnx.NodeProto, made: onnx.NodeProto, grid: Grid) -> None:
    """Make the integer that a Pad writes a real value."""
    zero = float(w.array(grid.zero, "the zero point").reshape(-1)[0]) if grid.zero else 0.0
    given = node.input[2] if len(node.input) > 2 else ""
    value = float(w.array(given, "the value").reshape(-1)[0]) if given else 0.0
    real = (value - zero) * float(w.array(grid.scale, "the scale").reshape(-1)[0])
    name = w.constant(np.array(real, np.float32), f"{node.name}.value")
    if len(made.input) < 2:
        raise Refused("pads must be constant")
    rest = list(made.input[3:])
    del made.input[2:]
    made.input.extend([name, *rest])


# -- integer operators


def _inputs(node: onnx.NodeProto, least: int, most: int) -> list[str]:
    """Return the inputs, "" where left out."""
    if not least <= len(node.input) <= most or not all(node.input[:least]):
        raise Refused(f"it has {sum(map(bool, node.input))} inputs, needs {least}")
    return [*node.input, *[""] * (most - len(node.input))]


def _computed(
    w: Writer, node: onnx.NodeProto, operator: str, operands: list[str], result: Grid | None, **attrs: Any
) -> None:
    """Append the float operator under the node's own name, and the quantization of its result."""
    out = node.output[0]
    if result is None:
        w.node(operator, operands, out, node.name, **attrs)
        return
    real = w.node(operator, operands, unique(f"{out}.real", w.taken), node.name, **attrs)
    w.quantized(real, result, out, node.name)


def _kept_attributes(node: onnx.NodeProto, *less: str) -> dict[str, Any]:
    return {name: value for name, value in attributes(node).items() if name not in less}


def _products(w: Writer, source: str, weight: str, factor: float, base: str) -> str:
    """Return the name of the scales of whole sums: those of the weights times that of the source."""
    scales = [w.array(name, "a scale").astype(np.float32).reshape(-1) for name in (source, weight)]
    if scales[0].size != 1:
        raise Refused("activations need one scale for the tensor")
    made = np.asarray(scales[1] * scales[0] * np.float32(factor), np.float32)
    return w.constant(made if made.size > 1 else made.reshape(()), f"{base}.bias_scale")


def _conv(w: Writer, node: onnx.NodeProto) -> None:
    x, xs, xz, k, ks, kz, ys, yz, bias = _inputs(node, 8, 9)
    operands = [w.dequantized(x, Grid(xs, xz), node.name), w.dequantized(k, Grid(ks, kz, 0), node.name)]
    if bias:
        scale = _products(w, xs, ks, 1.0, node.name)
        operands.append(w.dequantized(bias, Grid(scale, "", 0), node.name))
    _computed(w, node, "Conv", operands, Grid(ys, yz), **attributes(node))


def _matmul(w: Writer, node: onnx.NodeProto) -> None:
    a, as_, az, b, bs, bz, ys, yz = _inputs(node, 8, 8)
    operands = [w.dequantized(a, Grid(as_, az), node.name), w.dequantized(b, Grid(bs, bz, 1), node.name)]
    _computed(w, node, "MatMul", operands, Grid(ys, yz))


def _gemm(w: Writer, node: onnx.NodeProto) -> None:
    a, as_, az, b, bs, bz, c, ys, yz = _inputs(node, 6, 9)
    attrs = attributes(node)
    axis = 0 if attrs.get("transB", 0) else 1
    operands = [w.dequantized(a, Grid(as_, az), node.name), w.dequantized(b, Grid(bs, bz, axis), node.name)]
    if c:
        scale = _products(w, as_, bs, float(attrs.get("alpha", 1.0)), node.name)
        operands.append(w.dequantized(c, Grid(scale, "", 0), node.name))
    _computed(w, node, "Gemm", operands, Grid(ys, yz) if ys else None, **attrs)


def _two(operator: str) -> Callable[[Writer, onnx.NodeProto], None]:
    def form(w: Writer, node: onnx.NodeProto) -> None:
        a, as_, az, b, bs, bz, ys, yz = _optional_zeros(node)
        operands = [w.dequantized(a, Grid(as_, az), node.name), w.dequantized(b, Grid(bs, bz), node.name)]
        _computed(w, node, operator, operands, Grid(ys, yz))

    return form


def _optional_zeros(node: onnx.NodeProto) -> list[str]:
    """Return the eight inputs of an operator with two operands, whose zero points may be left out."""
    given = [*node.input, *[""] * (8 - len(node.input))]
    if len(given) != 8 or not all(given[i] for i in (0, 1, 3, 4, 6)):
        raise Refused("operands and scales are missing")
    return given


def _one(operator: str) -> Callable[[Writer, onnx.NodeProto], None]:
    def form(w: Writer, node: onnx.NodeProto) -> None:
        given = [*node.input, *[""] * (5 - len(node.input))]
        if len(given) != 5 or not all(given[i] for i in (0, 1, 3)):
            raise Refused("operands and scales are missing")
        if attributes(node).get("channels_last", 0):
            raise Refused("channels_last is not supported; export the model with its channels first")
        x, xs, xz, ys, yz = given
        operand = w.dequantized(x, Grid(xs, xz), node.name)
        _computed(w, node, operator, [operand], Grid(ys, yz), **_kept_attributes(node, "channels_last"))

    return form


def _concat(w: Writer, node: onnx.NodeProto) -> None:
    ys, yz, *parts = node.input
    if not parts or len(parts) % 3:
        raise Refused(f"it has {len(node.input)} inputs, needs a scale, a zero point, and three of each operand")
    operands = [
        w.dequantized(x, Grid(xs, xz), node.name)
        for x, xs, xz in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]
    _computed(w, node, "Concat", operands, Grid(ys, yz), **attributes(node))


# -- QONNX


@dataclass(frozen=True)
class _Range:
    """Integers of a Quant: least, most, bits."""

    low: int
    high: int
    bits: int


def _range(w: Writer, node: onnx.NodeProto, bits_name: str) -> _Range:
    attrs, given = attributes(node), w.array(bits_name, "the bit width").reshape(-1)
    if given.size != 1 or not float(given[0]).is_integer():
        raise Refused(f"bit width {given.tolist()}: must be one whole number")
    bits, signed, narrow = int(given[0]), attrs.get("signed", 1), attrs.get("narrow", 0)
    if not 2 <= bits <= 32:
        raise Refused(f"{bits} bits: 2 to 8 are supported, 32 for constants such as a bias")
    if signed:
        return _Range(-(1 << bits - 1) + bool(narrow), (1 << bits - 1) - 1, bits)
    return _Range(0, (1 << bits) - 1 - bool(narrow), bits)


def _quant(w: Writer, node: onnx.NodeProto) -> None:
    x, scale_name, zero_name, bits_name = _inputs(node, 4, 4)
    rounding = text(attributes(node), "rounding_mode", "ROUND").upper()
    if rounding not in ROUNDINGS:
        raise Refused(f"rounding_mode {rounding}: only {ROUNDINGS[0]} (half to even) is supported")
    scale, zero = w.array(scale_name, "the scale"), w.array(zero_name, "the zero point")
    if zero.any():
        raise Refused(f"zero point {zero.reshape(-1)[0]:g}: only 0 is supported in QONNX")
    if not (scale.size and np.isfinite(scale).all() and (scale > 0).all()):
        raise Refused("a scale is not a number above 0")
    limits = _range(w, node, bits_name)
    if x in w.constants:
        _quant_constant(w, node, w.array(x, "the weight"), scale.astype(np.float32), limits)
        return
    if limits.bits > 8:
        raise Refused(f"{limits.bits} bits: activations of 2 to 8 are supported")
    kind: Any = np.int8 if limits.low < 0 else np.uint8
    flat = scale.astype(np.float32).reshape(() if scale.size == 1 else scale.shape)
    grid = Grid(w.constant(flat, f"{node.name}.scale"), w.constant(np.array(0, kind), f"{node.name}.zero"))
    integers = unique(f"{node.name}.integers", w.taken)
    w.quantized(x, grid, integers, node.name)
    info = np.iinfo(kind)
    if (limits.low, limits.high) != (info.min, info.max):
        edges = [w.constant(np.array(v, kind), f"{node.name}.limit") for v in (limits.low, limits.high)]
        clipped = unique(f"{node.name}.clipped", w.taken)
        w.node("Clip", [integers, *edges], clipped, unique(f"{node.name}.clip", w.taken))
        integers = clipped
    w.node("DequantizeLinear", [integers, grid.scale, grid.zero], node.output[0], node.name)


def _quant_constant(w: Writer, node: onnx.NodeProto, x: Array, scale: Array, limits: _Range) -> None:
    """Write a quantized constant as its integers and their scale, by axis where there are several."""
    if x.dtype.kind != "f" or not np.isfinite(x).all():
        raise Refused("it quantizes a constant that is not finite floating point")
    wide = [1] * (x.ndim - scale.ndim) + list(scale.shape)
    several = [axis for axis, size in enumerate(wide) if size > 1]
    fits = len(wide) == x.ndim and len(several) <= 1 and all(wide[a] == x.shape[a] for a in several)
    if several and not fits:
        raise Refused(f"scales of shape {list(scale.shape)} for a constant of shape {list(x.shape)}")
    steps = x.astype(np.float32) / (scale.reshape(wide) if several else scale.reshape(()))
    integers = np.clip(np.rint(steps), limits.low, limits.high)
    kind: Any = np.int32 if limits.bits > 8 else np.int8 if limits.low < 0 else np.uint8
    name = w.constant(integers.astype(kind), f"{node.name}.integers")
    flat = scale.reshape(-1) if several else scale.reshape(())
    grid = Grid(w.constant(flat, f"{node.name}.scale"), "", several[0] if several else 0)
    w.weights[node.output[0]] = (name, grid)
    operands = [name, grid.scale]
    w.node("DequantizeLinear", operands, node.output[0], node.name, axis=grid.axis)


Form = Callable[[Writer, onnx.NodeProto], None]
FORMS: dict[tuple[str, str], Form] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (MICROSOFT, "QGemm"): _gemm,
    (MICROSOFT, "QLinearAdd"): _two("Add"),
    (MICROSOFT, "QLinearMul"): _two("Mul"),
    (MICROSOFT, "QLinearConcat"): _concat,
    (MICROSOFT, "QLinearAveragePool"): _one("AveragePool"),
    (MICROSOFT, "QLinearGlobalAveragePool"): _one("GlobalAveragePool"),
    (MICROSOFT, "QLinearLeakyRelu"): _one("LeakyRelu"),
    (MICROSOFT, "QLinearSigmoid"): _one("Sigmoid"),
    (MICROSOFT, "QLinearReduceMean"): _one("ReduceMean"),
}
