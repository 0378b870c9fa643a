"""ONNX pools and reductions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from npu_compiler.frontend import build
from npu_compiler.frontend.arrange import as_image, image
from npu_compiler.frontend.elementwise import MAX_COPIES, maximum_of
from npu_compiler.frontend.importer import (
    REFUSALS,
    Constants,
    Importer,
    Refused,
    Value,
    attributes,
    integers,
    operator,
    text,
)
from npu_compiler.frontend.layout import Atom, Axes, axis_atoms, image_axes, joined, size_of
from npu_compiler.frontend.windows import Window, explicit_pads, pair, window
from npu_compiler.graph.ir import Curve, Place

REFUSALS |= {
    "GlobalLpPool": "a norm over the image is not supported; export it as ReduceL2",
    "LpPool": "a norm over windows is not supported",
}


@operator("MaxPool", limits="one or two axes of space; no indices, no storage_order")
def _max_pool(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    src, found, rank = _window(imp, node)
    made = build.pool(imp, src, "max", found.kernel, found.stride, found.pads, found.dilation)
    imp.finish(made, image_axes(imp.shapes[made], rank + 1))


def _window(imp: Importer, node: onnx.NodeProto) -> tuple[str, Window, int]:
    """Return the image that a pool reads, how its window moves, and the axes of space in the model."""
    attrs, src = attributes(node), image(imp, node.input[0], (2, 3))
    rank = imp.rank(node.input[0]) - 1
    if any(node.output[1:]):
        raise Refused("the second output (indices) is not supported")
    if attrs.get("storage_order", 0):
        raise Refused("storage_order is not supported")
    kernel = pair(attrs["kernel_shape"], "kernel_shape", rank)
    found = window(attrs, kernel, imp.shapes[src], rank)
    pads = explicit_pads(attrs, rank)
    if text(attrs, "auto_pad", "NOTSET") == "NOTSET" and any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        raise Refused(f"pads {list(attrs['pads'])} are not smaller than the window {list(attrs['kernel_shape'])}")
    return src, found, rank


@operator(
    "AveragePool",
    limits="one or two axes of space; where the divisor varies, one pool for each part of the image with one divisor",
)
def _average_pool(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    src, found, rank = _window(imp, node)
    counted = bool(attributes(node).get("count_include_pad", 0))
    rows, cols = (_runs(found, axis, imp.shapes[src][1 + axis], counted) for axis in (0, 1))
    build.check_parts(len(rows) * len(cols))
    srcs, places = [], []
    for first_row, count_rows, taps_rows in rows:
        for first_col, count_cols, taps_cols in cols:
            spans = ((first_row, count_rows), (first_col, count_cols))
            srcs.append(_part(imp, src, found, spans, taps_rows * taps_cols))
            places.append(Place(first_row, first_col))
    made = build.mosaic(imp, srcs, places, found.size)
    imp.finish(made, image_axes(imp.shapes[made], rank + 1))


def _runs(found: Window, axis: int, size: int, counted: bool) -> list[tuple[int, int, int]]:
    """Return outputs along an axis whose windows have equally many taps that count: first, how many, taps."""
    low = -found.own_pads[axis] if counted else 0
    high = size + found.own_pads[axis + 2] if counted else size
    starts = np.arange(found.size[axis]) * found.stride[axis] - found.pads[axis]
    taps = starts[:, None] + np.arange(found.kernel[axis]) * found.dilation[axis]
    counts = ((taps >= low) & (taps < high)).sum(1)
    firsts = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist()]
    ends = [*firsts[1:], len(counts)]
    if not counts.all():
        raise Refused("a window lies in the padding alone")
    return [(f, e - f, int(counts[f])) for f, e in zip(firsts, ends, strict=True)]


def _part(imp: Importer, src: str, found: Window, spans: tuple[tuple[int, int], ...], count: int) -> str:
    """Append the pool of some rows and columns of the output."""
    begin, end = [], []
    for axis, (first, outs) in enumerate(spans):
        start = first * found.stride[axis] - found.pads[axis]
        reach = (outs - 1) * found.stride[axis] + (found.kernel[axis] - 1) * found.dilation[axis] + 1
        begin.append(-start)
        end.append(start + reach - imp.shapes[src][1 + axis])
    ends = (*begin, *end)
    inner, outer = [min(p, 0) for p in ends], [max(p, 0) for p in ends]
    part = build.pad(imp, src, (inner[0], inner[1], inner[2], inner[3]))
    pads = (outer[0], outer[1], outer[2], outer[3])
    return build.pool(imp, part, "avg", found.kernel, found.stride, pads, found.dilation, count)


@operator("GlobalAveragePool", "GlobalMaxPool", limits="one or two axes of space")
def _global_pool(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    src = image(imp, node.input[0], (2, 3))
    kind: Literal["max", "avg"] = "avg" if node.op_type == "GlobalAveragePool" else "max"
    made = build.pool(imp, src, kind, imp.shapes[src][1:])
    imp.finish(made, image_axes(imp.shapes[made], imp.rank(node.input[0])))


# -- reductions

SQUARE, ROOT = Curve(("x", "x", "mul")), Curve(("x", "sqrt"))
LOG, EXP, MAGNITUDE = Curve(("x", "log")), Curve(("x", "exp")), Curve(("x", "abs"))
SUMS: dict[str, tuple[Curve | None, Curve | None]] = {  # what comes before and after the sum
    "ReduceSum": (None, None),
    "ReduceMean": (None, None),
    "ReduceL1": (MAGNITUDE, None),
    "ReduceL2": (SQUARE, ROOT),
    "ReduceSumSquare": (SQUARE, None),
    "ReduceLogSum": (None, LOG),
    "ReduceLogSumExp": (EXP, LOG),
}


@dataclass(frozen=True)
class Over:
    """What of a tensor is reduced.

    Attributes:
        axes: height (1) and width (2), all of them.
        sets: (channels that stay, channels that become one): which channels each is made of; None where all stay.
    """

    axes: frozenset[int]
    sets: NDArray[np.int64] | None


@operator(*SUMS, limits="over channels or a part of them, height, width, or several of these; space first")
def _reduce(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    before, after = SUMS[node.op_type]

    def reduced(tensor: str, over: Over) -> str:
        tensor = tensor if before is None else build.activate(imp, tensor, before)
        tensor = sum_over(imp, tensor, over, mean=node.op_type == "ReduceMean")
        return tensor if after is None else build.activate(imp, tensor, after)

    _reduced(imp, node, constants, reduced)


@operator("ReduceMax", "ReduceMin", limits="over height, width, and up to 64 channels")
def _reduce_extreme(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    least = node.op_type == "ReduceMin"

    def reduced(tensor: str, over: Over) -> str:
        tensor = build.affine(imp, tensor, -1, 0) if least else tensor
        tensor = greatest(imp, tensor, over)
        return build.affine(imp, tensor, -1, 0) if least else tensor

    _reduced(imp, node, constants, reduced)


def _kernel(imp: Importer, tensor: str, over: Over) -> tuple[int, int]:
    _, height, width = imp.shapes[tensor]
    return (height if 1 in over.axes else 1, width if 2 in over.axes else 1)


def sum_over(imp: Importer, tensor: str, over: Over, mean: bool) -> str:
    """Return a sum or a mean."""
    kernel = _kernel(imp, tensor, over)
    if kernel != (1, 1):
        tensor = build.pool(imp, tensor, "avg", kernel, count=kernel[0] * kernel[1] if mean else 1)
    if over.sets is None:
        return tensor
    weight = np.zeros((len(over.sets), imp.shapes[tensor][0], 1, 1), np.float32)
    weight[np.arange(len(over.sets))[:, None], over.sets] = 1 / over.sets.shape[1] if mean else 1.0
    return build.conv(imp, tensor, weight)


def greatest(imp: Importer, tensor: str, over: Over) -> str:
    """Return a maximum."""
    kernel = _kernel(imp, tensor, over)
    if kernel != (1, 1):
        tensor = build.pool(imp, tensor, "max", kernel)
    if over.sets is None:
        return tensor
    if over.sets.shape[1] > MAX_COPIES:
        raise Refused(f"over {over.sets.shape[1]} channels: at most {MAX_COPIES} are supported")
    return maximum_of(imp, [build.choose(imp, tensor, each) for each in over.sets.T.tolist()])


def _reduced(imp: Importer, node: onnx.NodeProto, constants: Constants, reduced: Callable[[str, Over], str]) -> None:
    """Reduce the axes that a node names."""
    attrs, name = attributes(node), node.input[0]
    given = attrs.get("axes", integers(node, 1, constants, "axes"))
    if given is not None and not len(given):
        given = None
    if given is None and attrs.get("noop_with_empty_axes", 0):
        places = set[int]()
    elif given is None:
        raise Refused("it reduces the batch axis too; give the other axes")
    else:
        places = {imp.axis(name, int(a)) - 1 for a in given}
    if -1 in places:
        raise Refused("the batch axis cannot be reduced")
    value, over, left = reduction(imp, imp.value(name), places)
    if not attrs.get("keepdims", 1):
        left = tuple(axis for i, axis in enumerate(left) if i not in places)
    if not left:
        raise Refused("only the batch axis would be left; set keepdims=1")
    imp.finish(reduced(value.tensor, over), left)


def reduction(imp: Importer, value: Value, places: set[int]) -> tuple[Value, Over, Axes]:
    """Return a value, moved to an image if it must be, what of its tensor some axes of it are, and what is left."""
    gone = {a for i in places for a in value.order[i]}
    if not all({a.axis for a in gone} & {axis} <= {0} or set(axis_atoms(value.order, axis)) <= gone for axis in (1, 2)):
        value = as_image(imp, value)
        gone = {a for i in places for a in value.order[i]}
    channels = axis_atoms(value.order, 0)
    kept = [a for a in channels if a not in gone]
    sets = None
    if len(kept) < len(channels):
        index = np.arange(size_of(channels), dtype=np.int64).reshape([a.size for a in channels])
        turned = index.transpose(sorted(range(len(channels)), key=lambda i: channels[i] in gone))
        sets = turned.reshape(size_of(kept), -1)
    moved = {atom: Atom(0, atom.size, size_of(kept[i + 1 :])) for i, atom in enumerate(kept)}
    left = tuple(joined(moved.get(a, a) for a in axis if a not in gone) for axis in value.order)
    return value, Over(frozenset(a.axis for a in gone) - {0}, sets), left
