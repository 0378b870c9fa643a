"""ONNX operators that choose, repeat, join and surround channels, rows and columns."""

import math
from collections.abc import Sequence

import numpy as np
import onnx

from npu_compiler.frontend import build
from npu_compiler.frontend.arrange import along, as_image, resized, shape_text, tensor_axis
from npu_compiler.frontend.elementwise import spread
from npu_compiler.frontend.importer import (
    MAX_CHANNELS,
    Constants,
    Importer,
    Refused,
    Value,
    attributes,
    integers,
    needed,
    operator,
    scalar,
    text,
)
from npu_compiler.frontend.layout import Atom, size_of
from npu_compiler.frontend.resample import MAX_LENGTH, pick
from npu_compiler.frontend.windows import Pads
from npu_compiler.graph.ir import Place

MAX_PADDING = 1 << 20


def _take(imp: Importer, value: Value, axis: int, where: int, indices: Sequence[int]) -> Value:
    """Return a value with these elements along one of its axes, all of the tensor's axis `where`."""
    made = pick(imp, value.tensor, where, indices)
    return Value(made, resized(value.order, axis, where, len(indices)))


@operator("Slice", limits="not the batch; steps below 0 by parts")
def _slice(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    name = node.input[0]
    starts, ends = (integers(node, i, constants, "starts and ends") or [] for i in (1, 2))
    axes, steps = (integers(node, i, constants, "axes and steps") for i in (3, 4))
    names = [imp.axis(name, a) for a in (range(len(starts)) if axes is None else axes)]
    jumps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(names) == len(jumps) or len(set(names)) != len(names):
        raise Refused(f"starts {starts}, ends {ends}, axes {axes} and steps {steps} do not fit each other")
    if 0 in jumps:
        raise Refused("a step of 0")
    shape = (imp.batch, *imp.full_shape(name))
    spans = {
        axis: range(shape[axis])[start:end:step]
        for axis, start, end, step in zip(names, starts, ends, jumps, strict=True)
    }
    if 0 in names and (starts[names.index(0)] != 0 or ends[names.index(0)] < (1 << 30) or jumps[names.index(0)] != 1):
        raise Refused("the batch axis cannot be sliced")
    if not all(map(len, spans.values())):
        raise Refused("the slice is empty")
    value = _spanned(imp, imp.value(name), {a: s for a, s in spans.items() if a and s != range(shape[a])})
    imp.finish(value.tensor, value.order)


def _spanned(imp: Importer, value: Value, spans: dict[int, range]) -> Value:
    """Return a value with ranges of its axes: rows and columns in one step where their ranges go forward."""
    value, places = along(imp, value, list(spans))
    _, height, width = imp.shapes[value.tensor]
    forward = {p: s for p, s in zip(places, spans.values(), strict=True) if p and s.step > 0}
    tensor = build.crop(imp, value.tensor, forward.get(1, range(height)), forward.get(2, range(width)))
    value = Value(tensor, value.order)
    for (axis, span), where in zip(spans.items(), places, strict=True):
        if where in forward:
            value = Value(tensor, resized(value.order, axis, where, len(span)))
    for (axis, span), where in zip(spans.items(), places, strict=True):
        if where not in forward:
            value = _take(imp, value, axis, where, span)
    return value


@operator("Split", limits="not the batch")
def _split(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs = attributes(node)
    axis = imp.axis(node.input[0], int(attrs.get("axis", 0)))
    value, (where,) = along(imp, imp.value(node.input[0]), [axis])
    given = attrs.get("split", integers(node, 1, constants, "split"))
    size, count = imp.shapes[value.tensor][where], len(node.output)
    if given is None:
        part = -(-size // count)
        given = [min(part, size - i * part) for i in range(count)]
    if len(given) != count or min(given) < 1 or sum(given) != size:
        words = ("channels", "rows", "columns")[where]
        raise Refused(f"{size} {words} cannot be split into {count} parts of {list(given)}")
    first = 0
    for out, part in zip(node.output, given, strict=True):
        if out:
            made = _spanned(imp, value, {axis: range(first, first + int(part))})
            imp.finish(made.tensor, made.order, out)
        first += int(part)


@operator("Gather", limits="a constant index, or a list of them, not on the batch")
def _gather(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if not imp.known(node.input[0]):
        raise Refused("its data are constant and its indices computed: not supported")
    axis = imp.axis(node.input[0], int(attributes(node).get("axis", 0)))
    found = needed(node, 1, constants, "the indices")
    given = integers(node, 1, constants, "the indices") or []
    value, (where,) = along(imp, imp.value(node.input[0]), [axis])
    size = imp.shapes[value.tensor][where]
    if found.ndim > 1 or not given or not all(-size <= i < size for i in given):
        raise Refused(f"indices of shape {list(found.shape)} on {size} values: needs one or a list, in that range")
    value = _take(imp, value, axis, where, [i % size for i in given])
    order = value.order if found.ndim else (*value.order[: axis - 1], *value.order[axis:])
    if not order:
        raise Refused("only the batch axis would be left; give a list of one index")
    imp.finish(value.tensor, order)


@operator("Concat", limits="computed tensors; not on the batch")
def _concat(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    values = [imp.value(i) for i in node.input]
    axis = imp.axis(node.input[0], int(attributes(node).get("axis", 1)))
    if axis == 0:
        raise Refused("the batch axis cannot be concatenated")
    if len({len(v.order) for v in values}) > 1:
        raise Refused("its inputs differ in their number of axes")
    if len(values) == 1:
        imp.same(node, node.input[0])
        return
    stacked = _stacked(imp, values, axis)
    if stacked is not None:
        imp.finish(stacked.tensor, stacked.order)
        return
    found = [along(imp, v, [axis]) for v in values]
    if len({(where, *_others(v, axis)) for v, (where,) in found}) > 1:
        values = [as_image(imp, v) for v in values]
        found = [along(imp, v, [axis]) for v in values]
    where = found[0][1][0]
    if len({_others(v, axis) for v, _ in found}) > 1:
        raise Refused(f"shapes {', '.join(shape_text(v.order) for v in values)} differ on other axes than {axis}")
    tensors = [v.tensor for v, _ in found]
    made = build.concat(imp, tensors) if where == 0 else _in_space(imp, tensors, where)
    imp.finish(made, resized(found[0][0].order, axis, where, imp.shapes[made][where]))


def _stacked(imp: Importer, values: Sequence[Value], axis: int) -> Value | None:
    """Return values joined along an axis that is the slowest part of the channels, or a new one; None if it is not.

    An axis that is all of one of the tensor is joined there.
    """
    if all(tensor_axis(imp, v, axis - 1) is not None for v in values):
        return None
    counts = [size_of(v.order[axis - 1]) for v in values]
    rest = {imp.shapes[v.tensor][0] // n for v, n in zip(values, counts, strict=True)}
    if len(rest) > 1 or len({_others(v, axis) for v in values}) > 1:
        return None
    (stride,) = rest
    if any(v.order[axis - 1] not in ((), (Atom(0, n, stride),)) for v, n in zip(values, counts, strict=True)):
        return None
    made = build.concat(imp, [v.tensor for v in values])
    return Value(made, (*values[0].order[: axis - 1], (Atom(0, sum(counts), stride),), *values[0].order[axis:]))


def _others(value: Value, axis: int) -> tuple[object, ...]:
    return (*value.order[: axis - 1], *value.order[axis:])


def _in_space(imp: Importer, tensors: Sequence[str], where: int) -> str:
    """Join images along their rows (1) or columns (2)."""
    ends = np.cumsum([imp.shapes[t][where] for t in tensors]).tolist()
    firsts = [0, *ends[:-1]]
    places = [Place(y=f) if where == 1 else Place(x=f) for f in firsts]
    _, height, width = imp.shapes[tensors[0]]
    return build.mosaic(imp, tensors, places, (ends[-1], width) if where == 1 else (height, ends[-1]))


@operator("Expand", "Tile", limits="channels, rows and columns; not the batch")
def _repeat(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    name, value = node.input[0], imp.value(node.input[0])
    given = integers(node, 1, constants, "the repetition") or []
    own = (imp.batch, *imp.full_shape(name))
    given = [1] * (len(own) - len(given)) + given
    if len(given) != len(own) or min(given) < 1 or max(given) > MAX_CHANNELS:
        raise Refused(f"{given} for {len(own)} axes: needs one value of 1 or more for each")
    if node.op_type == "Expand":
        if not all(n in (1, g) or g == 1 for n, g in zip(own, given, strict=True)):
            raise Refused(f"shape {shape_text(value.order)} cannot be broadcast to {given}")
        given = [g if n == 1 else 1 for n, g in zip(own, given, strict=True)]
    if given[0] != 1:
        raise Refused("the batch axis cannot be repeated")
    for axis, times in enumerate(given):
        if times > 1:
            value, (where,) = along(imp, value, [axis])
            value = _repeated(imp, value, axis, where, times)
    imp.finish(value.tensor, value.order)


def _repeated(imp: Importer, value: Value, axis: int, where: int, times: int) -> Value:
    shape = list(imp.shapes[value.tensor])
    if shape[where] == 1:
        shape[where] = times
        made = spread(imp, value.tensor, (shape[0], shape[1], shape[2]))
        return Value(made, resized(value.order, axis, where, times))
    if shape[where] * times > (MAX_CHANNELS if where == 0 else MAX_LENGTH):
        raise Refused(f"{shape[where]} values {times} times: too large")
    return _take(imp, value, axis, where, list(range(shape[where])) * times)


# -- padding


@operator("Pad", limits="a constant, reflect, edge and wrap; not the batch")
def _pad(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    name, mode = node.input[0], text(attributes(node), "mode", "constant")
    number = scalar(node, 2, constants, "the value") or 0.0
    pads, given = integers(node, 1, constants, "pads"), integers(node, 3, constants, "axes")
    axes = list(range(1 + imp.rank(name))) if given is None else [imp.axis(name, a) for a in given]
    if pads is None or len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise Refused(f"pads {pads} for {len(axes)} axes")
    if max(map(abs, pads), default=0) > MAX_PADDING:
        raise Refused(f"pads {pads}: too large")
    ends = {a: e for a, *e in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True) if any(e)}
    if 0 in ends:
        raise Refused("the batch axis cannot be padded")
    value, places = along(imp, imp.value(name), list(ends))
    if mode == "constant":
        made = _constant_pad(imp, value.tensor, dict(zip(places, ends.values(), strict=True)), number)
    elif mode in ("reflect", "edge", "wrap"):
        made = _other_pad(imp, value.tensor, dict(zip(places, ends.values(), strict=True)), mode)
    else:
        raise Refused(f"mode {mode!r} is unknown")
    order = value.order
    for axis, where in zip(ends, places, strict=True):
        order = resized(order, axis, where, imp.shapes[made][where])
    imp.finish(made, order)


def _constant_pad(imp: Importer, src: str, ends: dict[int, list[int]], number: float) -> str:
    """Pad with one number; 0 needs no mosaic. Channels come first, so that the borders have them."""
    if not math.isfinite(number):
        raise Refused(f"padding with {number} is not supported: not finite")
    channels = imp.shapes[src][0]
    before, after = ends.get(0, (0, 0))
    source = [-1] * max(before, 0) + list(range(channels))[max(-before, 0) : channels - max(-after, 0)]
    source += [-1] * max(after, 0)
    (top, bottom), (left, right) = ends.get(1, (0, 0)), ends.get(2, (0, 0))
    _, height, width = imp.shapes[src]
    if not source or height + top + bottom < 1 or width + left + right < 1:
        raise Refused(f"the output would have shape {(len(source), height + top + bottom, width + left + right)}")
    if number == 0:
        return build.choose(imp, build.pad(imp, src, (top, left, bottom, right)), source)
    src = build.choose(imp, src, source)
    if -1 in source:
        src = build.affine(imp, src, 1, [number if s < 0 else 0.0 for s in source])
    return _bordered(imp, src, (top, left, bottom, right), number)


def _bordered(imp: Importer, src: str, pads: Pads, number: float) -> str:
    """Return an image, cropped where a pad is negative, with borders of one number around it."""
    inner, (top, left, bottom, right) = [min(p, 0) for p in pads], (max(p, 0) for p in pads)
    src = build.pad(imp, src, (inner[0], inner[1], inner[2], inner[3]))
    _, height, width = imp.shapes[src]
    full = width + left + right
    places = [Place(top, left), Place(0, 0), Place(top + height, 0), Place(top, 0), Place(top, left + width)]
    sizes = [(height, width), (top, full), (bottom, full), (height, left), (height, right)]
    parts = [(src, places[0])]
    for (rows, cols), place in list(zip(sizes, places, strict=True))[1:]:
        if rows and cols:
            shaped = build.pad(imp, src, (0, 0, rows - height, cols - width))
            parts.append((build.affine(imp, shaped, 0, number), place))
    return build.mosaic(imp, [p for p, _ in parts], [p for _, p in parts], (height + top + bottom, full))


def _other_pad(imp: Importer, src: str, ends: dict[int, list[int]], mode: str) -> str:
    """Pad with what is inside, axis by axis (ONNX Pad, opset 19)."""
    for where, (before, after) in ends.items():
        size = imp.shapes[src][where]
        at = np.arange(-before, size + after)
        if not 0 < len(at) <= (MAX_CHANNELS if where == 0 else MAX_LENGTH):
            raise Refused(f"{size} values padded by {before} and {after}")
        if mode == "edge":
            at = at.clip(0, size - 1)
        elif mode == "wrap" or size == 1:
            at = at % size
        else:
            at = (size - 1) - np.abs(at % (2 * size - 2) - (size - 1))
        src = pick(imp, src, where, at.tolist())
    return src
