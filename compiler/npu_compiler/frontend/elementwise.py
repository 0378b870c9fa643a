"""ONNX arithmetic of several tensors, computed ones or constants, with broadcasting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from npu_compiler.frontend import build
from npu_compiler.frontend.arrange import arranged, image_target, like, pieces
from npu_compiler.frontend.constants import per_channel
from npu_compiler.frontend.importer import (
    MAX_CHANNELS,
    REFUSALS,
    Constants,
    Importer,
    Refused,
    Value,
    needed_weights,
    operator,
)
from npu_compiler.frontend.layout import Axes, image_axes, size_of
from npu_compiler.frontend.pointwise import limits
from npu_compiler.graph.ir import Clip, Curve, Place

MAX_COPIES = 64  # of a row or a column that is broadcast by a mosaic

REFUSALS |= {"Where": "a choice by conditions is not supported"}

INVERSE = Curve(("x", "reciprocal"))


# -- operands that are computed


@dataclass(frozen=True)
class Operands:
    """Tensors that can be computed with element by element.

    Attributes:
        tensors: channels, height and width are equal, or 1.
        order: axes of the result.
    """

    tensors: tuple[str, ...]
    order: Axes


def operands(imp: Importer, names: Sequence[str]) -> Operands:
    """Return computed values in one arrangement: that of one that has the result's shape, or that of an image.

    Raises:
        Refused: the shapes do not fit each other, or too much would have to be moved.
    """
    rank = max(imp.rank(n) for n in names)
    if imp.batch > 1 and any(imp.rank(n) != rank for n in names):
        raise Refused(f"tensors of {sorted({1 + imp.rank(n) for n in names})} axes: the batch would be broadcast")
    values = [Value(imp.value(n).tensor, ((),) * (rank - imp.rank(n)) + imp.value(n).order) for n in names]
    shapes = [tuple(size_of(axis) for axis in v.order) for v in values]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise Refused(f"shapes {' and '.join(map(str, dict.fromkeys(shapes)))} do not fit each other") from None
    found: list[tuple[int, Axes, list[Axes]]] = []
    for reference in [v.order for v, s in zip(values, shapes, strict=True) if s == shape]:
        targets = [like(reference, v.order) for v in values]
        if None not in targets:
            found.append(_arrangement(reference, [t for t in targets if t is not None]))
    if rank <= 3:
        images = [image_target(v.order) for v in values]
        wide = [max(size_of(t[axis]) for t in images) for axis in range(3)]
        found.append(_arrangement(image_axes((wide[0], wide[1], wide[2]), rank), images))
    if not found:
        raise Refused("its inputs have their axes in other orders")
    _, order, best = min(found, key=lambda f: f[0])
    tensors = [arranged(imp, v.tensor, t) for v, t in zip(values, best, strict=True)]
    return Operands(tuple(tensors), order)


def _arrangement(order: Axes, targets: list[Axes]) -> tuple[int, Axes, list[Axes]]:
    """Return the parts that it takes to give values an arrangement, and that."""
    return sum(pieces(t) for t in targets), order, targets


def _full(imp: Importer, tensors: Sequence[str]) -> tuple[int, int, int]:
    channels, height, width = (max(imp.shapes[t][axis] for t in tensors) for axis in range(3))
    return channels, height, width


def spread(imp: Importer, tensor: str, shape: tuple[int, int, int], space: bool = True) -> str:
    """Return a tensor broadcast to a shape: its one channel repeated, and its one row or column if `space`."""
    channels, height, width = imp.shapes[tensor]
    if channels != shape[0]:
        if shape[0] > MAX_CHANNELS:
            raise Refused(f"an image of {shape[0]} channels: too large")
        tensor = build.choose(imp, tensor, (0,) * shape[0])
    rows, cols = (shape[1] if height != shape[1] else 1), (shape[2] if width != shape[2] else 1)
    if not space or rows * cols == 1:
        return tensor
    if max(rows, cols) > MAX_COPIES:
        raise Refused(f"one pixel would be repeated {rows} x {cols} times, at most {MAX_COPIES} are supported each")
    if rows > 1:
        tensor = build.mosaic(imp, [tensor] * rows, [Place(y=i) for i in range(rows)], (shape[1], width))
    if cols > 1:
        tensor = build.mosaic(imp, [tensor] * cols, [Place(x=i) for i in range(cols)], (shape[1], shape[2]))
    return tensor


def _ordered(imp: Importer, a: str, b: str) -> tuple[str, str, bool]:
    """Return two operands whose second has the first's channels, and its rows and columns or one; if they swapped."""
    shape = _full(imp, (a, b))
    swapped = imp.shapes[a][1:] != shape[1:] and imp.shapes[b][1:] == shape[1:]
    first, second = (b, a) if swapped else (a, b)
    return spread(imp, first, shape), spread(imp, second, shape, space=False), swapped


def sum_of(imp: Importer, a: str, b: str, factors: tuple[float, float] = (1.0, 1.0)) -> str:
    """Return factors[0] * a + factors[1] * b, broadcast."""
    first, second, swapped = _ordered(imp, a, b)
    return build.add(imp, first, second, factors[::-1] if swapped else factors)


def product_of(imp: Importer, a: str, b: str) -> str:
    """Return a * b, broadcast."""
    first, second, _ = _ordered(imp, a, b)
    return build.multiply(imp, first, second)


def maximum_of(imp: Importer, tensors: Sequence[str]) -> str:
    """Return the greatest of several tensors: side by side along the width, then a maximum over windows of all."""
    if len(tensors) == 1:
        return tensors[0]
    shape, count = _full(imp, tensors), len(tensors)
    wide = [spread(imp, t, shape) for t in tensors]
    places = [Place(x=i, step_x=count) for i in range(count)]
    beside = build.mosaic(imp, wide, places, (shape[1], shape[2] * count))
    return build.pool(imp, beside, "max", (1, count), (1, count))


# -- operators


def _constant(imp: Importer, node: onnx.NodeProto, index: int, constants: Constants) -> NDArray[Any]:
    return needed_weights(imp, node, index, constants, "one input")[0].astype(np.float64)


def _with_channels(imp: Importer, value: Value, array: NDArray[Any]) -> Value:
    """Return a value with its one channel repeated where a constant has several."""
    for axis in range(1, len(value.order) + 1):
        size = array.shape[-axis] if axis <= array.ndim else 1
        last = len(value.order) - axis
        if size > 1 and not value.order[last] and imp.shapes[value.tensor][0] == 1 and size <= MAX_CHANNELS:
            tensor = build.choose(imp, value.tensor, (0,) * size)
            order = list(value.order)
            order[last] = image_axes(imp.shapes[tensor], 1)[0]
            return Value(tensor, tuple(order))
    return value


@operator(
    "Add", "Sub", "Mul", "Div",
    element_wise=True,
    limits="two computed tensors with broadcasting, or one and a constant that is one value or one per channel",
)  # fmt: skip
def _arithmetic(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    a, b = node.input
    if not (imp.known(a) and imp.known(b)):
        _with_constant(imp, node, constants)
        return
    both = operands(imp, (a, b))
    left, right = both.tensors
    match node.op_type:
        case "Add":
            made = sum_of(imp, left, right)
        case "Sub":
            made = sum_of(imp, left, right, (1.0, -1.0))
        case "Mul":
            made = product_of(imp, left, right)
        case _:
            made = product_of(imp, left, build.activate(imp, right, INVERSE))
    imp.finish(made, both.order)


def _with_constant(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    flipped = not imp.known(node.input[0])
    array = _constant(imp, node, 0 if flipped else 1, constants)
    value = _with_channels(imp, imp.value(node.input[1 if flipped else 0]), array)
    value, factor = per_channel(imp, value, array)
    tensor, scale, shift = value.tensor, np.ones(1), np.zeros(1)
    match node.op_type:
        case "Add":
            shift = factor
        case "Sub":
            scale, shift = (-scale, factor) if flipped else (scale, -factor)
        case "Mul":
            scale = factor
        case _ if flipped:
            tensor, scale = build.activate(imp, tensor, INVERSE), factor
        case _ if not factor.all():
            raise Refused("Div needs a constant divisor without zeros")
        case _:
            scale = 1 / factor
    imp.finish(build.affine(imp, tensor, scale, shift), value.order)


def _several(
    imp: Importer, node: onnx.NodeProto, constants: Constants, join: Callable[[Any, Any], Any]
) -> tuple[Operands, NDArray[Any] | None]:
    """Return the computed inputs of an operator of any number, and its constant ones joined to one."""
    names = [n for n in node.input if imp.known(n)]
    arrays = [_constant(imp, node, i, constants) for i, n in enumerate(node.input) if not imp.known(n)]
    if not names:
        raise Refused("none of its inputs is computed from the image")
    found = operands(imp, names)
    if not arrays:
        return found, None
    try:
        return found, reduce(join, arrays)
    except ValueError:
        raise Refused(f"constants of shapes {[list(a.shape) for a in arrays]} do not fit each other") from None


@operator("Sum", "Mean", element_wise=True, limits="as Add; a chain of sums of two, each rounded by itself")
def _sum(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    found, array = _several(imp, node, constants, np.add)
    share = 1 / len(node.input) if node.op_type == "Mean" else 1.0
    made, *rest = found.tensors
    for number, tensor in enumerate(rest, 1):
        factor = share if number == len(rest) else 1.0
        made = sum_of(imp, made, tensor, (factor, factor))
    value = Value(made, found.order)
    if array is not None or (not rest and share != 1.0):
        array = np.zeros(1) if array is None else array
        value, term = per_channel(imp, _with_channels(imp, value, array), array)
        made = build.affine(imp, value.tensor, 1.0 if rest else share, term * share)
    imp.finish(made, value.order)


@operator(
    "Max",
    "Min",
    element_wise=True,
    limits="as Add; of computed tensors the maximum over an image that interleaves them",
)
def _extreme(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    least = node.op_type == "Min"
    found, array = _several(imp, node, constants, np.minimum if least else np.maximum)
    tensors, order = found.tensors, found.order
    if least and len(tensors) > 1:
        tensors = tuple(build.affine(imp, t, -1, 0) for t in tensors)
    made = maximum_of(imp, tensors)
    if least and len(tensors) > 1:
        made = build.affine(imp, made, -1, 0)
    if array is not None:
        value, limit = per_channel(imp, _with_channels(imp, Value(made, order), array), array)
        made, order = _with_limit(imp, value, limit, least), value.order
    imp.finish(made, order)


def _with_limit(imp: Importer, value: Value, limit: NDArray[Any], least: bool) -> str:
    """Return the lesser or the greater of a tensor and a constant."""
    if np.isnan(limit).any():
        raise Refused("a constant is not a number")
    if np.unique(limit).size == 1:
        bound = float(limit.reshape(-1)[0])
        return build.activate(imp, value.tensor, limits(-np.inf, bound) if least else limits(bound, np.inf))
    sign = -1.0 if least else 1.0  # max(x, c) = max(x - c, 0) + c
    above = build.activate(imp, build.affine(imp, value.tensor, sign, -sign * limit), Clip(low=0.0))
    return build.affine(imp, above, sign, limit)
