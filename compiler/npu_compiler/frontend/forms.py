"""Other forms of quantized models, written as QuantizeLinear and DequantizeLinear around float operators (QDQ).

- Integer operators (QOperator): QLinearConv, QLinearMatMul and those of onnxruntime's domain. Their operands are
  dequantized, the float operator computes, its result is quantized. Operators that move integers, such as MaxPool or
  Reshape between them, are treated alike.
- QONNX: `qonnx`.

So the importer sees QDQ alone. What has no such form stays, with the reason why.

Sources: ONNX operators QLinearConv-10, QLinearMatMul-10; onnxruntime's contributed operators (com.microsoft).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from npu_compiler.frontend import qonnx
from npu_compiler.frontend.importer import Refused, attributes
from npu_compiler.frontend.writer import Grid, Writer, inputs_of
from npu_compiler.graph.ir import unique

MICROSOFT = "com.microsoft"
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
    if node.domain in qonnx.DOMAINS and node.op_type in ("Quant", "IntQuant"):
        form = qonnx.quant
    if form is not None:
        form(w, node)
        return
    if node.domain in ("", MICROSOFT, *qonnx.DOMAINS) and node.op_type in REASONS:
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
    x, xs, xz, k, ks, kz, ys, yz, bias = inputs_of(node, 8, 9)
    operands = [w.dequantized(x, Grid(xs, xz), node.name), w.dequantized(k, Grid(ks, kz, 0), node.name)]
    if bias:
        scale = _products(w, xs, ks, 1.0, node.name)
        operands.append(w.dequantized(bias, Grid(scale, "", 0), node.name))
    _computed(w, node, "Conv", operands, Grid(ys, yz), **attributes(node))


def _matmul(w: Writer, node: onnx.NodeProto) -> None:
    a, as_, az, b, bs, bz, ys, yz = inputs_of(node, 8, 8)
    operands = [w.dequantized(a, Grid(as_, az), node.name), w.dequantized(b, Grid(bs, bz, 1), node.name)]
    _computed(w, node, "MatMul", operands, Grid(ys, yz))


def _gemm(w: Writer, node: onnx.NodeProto) -> None:
    a, as_, az, b, bs, bz, c, ys, yz = inputs_of(node, 6, 9)
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
