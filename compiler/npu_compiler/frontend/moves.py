"""ONNX operators that move values: flattening, padding, slicing, splitting, and those that do nothing."""

import math
from dataclasses import replace

import onnx

from npu_compiler.frontend.importer import (
    CHW,
    HWC,
    MAX_CHANNELS,
    Constants,
    Importer,
    Order,
    Refused,
    attributes,
    integers,
    operator,
    scalar,
    text,
)
from npu_compiler.frontend.tensors import FLOATS
from npu_compiler.graph.ir import Channels, Crop


@operator("Flatten")
def _flatten(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if imp.axis(node.input[0], int(attributes(node).get("axis", 1))) != 1:
        raise Refused("only axis=1 (everything but the batch) is supported")
    imp.same(node, node.input[0], flat=True)


@operator("Reshape")
def _reshape(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    given = integers(node, 1, constants, "the shape") or []
    own = (imp.batch, *imp.full_shape(node.input[0]))
    copies = not attributes(node).get("allowzero", 0)
    target = [own[i] if copies and size == 0 and i < len(own) else size for i, size in enumerate(given)]
    order = _reshaped_order(imp, node.input[0], target)
    if order is None:
        raise Refused(f"to {given}: only flattening to (N, -1) is supported")
    imp.same(node, node.input[0], flat=len(target) == 2, order=order)


def _reshaped_order(imp: Importer, name: str, target: list[int]) -> Order | None:
    """Return the order of the axes after a Reshape to a vector or to the shape of the image, or None for others."""
    value = imp.value(name)
    if not target or target[0] not in (imp.batch, -1) or target.count(-1) > 1:
        return None
    if len(target) == 2 and target[1] in (math.prod(imp.full_shape(name)), -1):
        return value.order
    if len(target) != 4:
        return None
    for order in (value.order, CHW, HWC):
        shape = [imp.shapes[value.tensor][a] for a in order]
        if not all(t in (-1, s) for t, s in zip(target[1:], shape, strict=True)):
            continue
        if order == value.order or (imp.in_memory_order(value) and imp.in_memory_order(replace(value, order=order))):
            return order
    return None


@operator("Squeeze", "Unsqueeze")
def _squeeze(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    axes = attributes(node).get("axes", integers(node, 1, constants, "axes"))
    value, squeezed = imp.value(node.input[0]), node.op_type == "Squeeze"
    orders = (value.order,) if squeezed else (CHW, HWC)
    places = [{order.index(1) + 1, order.index(2) + 1} for order in orders]
    wanted = {a + 4 if a < 0 else a for a in axes or ()}
    if imp.shapes[value.tensor][1:] != (1, 1) or value.flat == squeezed or wanted not in places:
        raise Refused("only the height and width of a one-pixel image can be dropped or added")
    imp.same(node, node.input[0], flat=squeezed, order=orders[places.index(wanted)])


@operator("Transpose")
def _transpose(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    """Give the axes another order; what cannot read them in that order says so."""
    perm = list(attributes(node).get("perm", ()))
    value = imp.value(node.input[0])
    rank = 1 + len(imp.full_shape(node.input[0]))
    if sorted(perm) != list(range(rank)) or perm[0] != 0:
        raise Refused(f"perm {perm}: only channels, height and width can change places")
    order = value.order
    if not value.flat:
        order = (value.order[perm[1] - 1], value.order[perm[2] - 1], value.order[perm[3] - 1])
    imp.same(node, node.input[0], order=order)


@operator("Identity", "Dropout", "Cast", element_wise=True)
def _identity(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if node.op_type == "Cast" and (attributes(node)["to"] not in FLOATS or node.input[0] in imp.integers):
        raise Refused("only a cast from float to float is supported")
    if node.op_type == "Dropout" and scalar(node, 2, constants, "training_mode"):
        raise Refused("training_mode is not supported; export the model for inference")
    imp.same(node, node.input[0])  # the mask of a Dropout has no meaning here: a reader of it is refused


@operator("Pad")
def _pad(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    src = imp.image(node.input[0])
    value = scalar(node, 2, constants, "the value")
    if text(attributes(node), "mode", "constant") != "constant" or value not in (None, 0.0):
        raise Refused("only padding with the constant 0 is supported")
    pads, axes = integers(node, 1, constants, "pads"), integers(node, 3, constants, "axes")
    rank = 1 + len(imp.full_shape(node.input[0]))
    axes = list(range(rank)) if axes is None else [imp.axis(node.input[0], a) for a in axes]
    if pads is None or len(pads) != 2 * len(axes):
        raise Refused(f"pads {pads} for {len(axes)} axes")
    begin, end = (dict(zip(axes, part, strict=True)) for part in (pads[: len(axes)], pads[len(axes) :]))
    if begin.get(0) or end.get(0):
        raise Refused("the batch axis cannot be padded")
    channels = imp.shapes[src][0]
    before, after = begin.get(1, 0), end.get(1, 0)
    if max(before, after) > MAX_CHANNELS:
        raise Refused(f"pads {pads}: too large")
    source = [-1] * max(before, 0) + list(range(channels))[max(-before, 0) : channels - max(-after, 0)]
    source += [-1] * max(after, 0)
    space = (begin.get(2, 0), begin.get(3, 0), end.get(2, 0), end.get(3, 0))
    _crop_and_choose(imp, node, src, (1, 1), space, tuple(source))


def _crop_and_choose(
    imp: Importer,
    node: onnx.NodeProto,
    src: str,
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    source: tuple[int, ...],
    origin: str = "",
) -> None:
    """Emit what is needed of a spatial crop and a choice of channels, for a node or what `origin` was split into."""
    name, out, onnx_names = imp.identity(node)
    onnx_names = (origin,) if origin else onnx_names
    channels, height, width = imp.shapes[src]
    size = tuple(
        (n + b + e - 1) // s + 1 for n, b, e, s in zip((height, width), pads[:2], pads[2:], stride, strict=True)
    )
    if not source or min(size) < 1:
        raise Refused(f"the output would have shape {(len(source), *size)}")
    choose, crop = source != tuple(range(channels)), any(pads) or stride != (1, 1)
    if not choose and not crop:
        imp.same(node, node.input[0])
        return
    if crop:
        middle = imp.tensor_name(f"{out}.space") if choose else out
        first = imp.node_name(f"{name}.space") if choose else name
        imp.emit(Crop(first, middle, onnx_names, src, stride, pads), (channels, *size))
        src = middle
    if choose:
        made = Channels(name, out, onnx_names, src, source)
        imp.emit(made, (len(source), *imp.shapes[src][1:]), flat=imp.value(node.input[0]).flat)


@operator("Slice")
def _slice(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    src = imp.image(node.input[0])
    starts, ends = (integers(node, i, constants, "starts and ends") or [] for i in (1, 2))
    axes, steps = (integers(node, i, constants, "axes and steps") for i in (3, 4))
    names = [imp.axis(node.input[0], a) for a in (range(len(starts)) if axes is None else axes)]
    jumps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(names) == len(jumps) or len(set(names)) != len(names):
        raise Refused(f"starts {starts}, ends {ends}, axes {axes} and steps {steps} do not fit each other")
    shape = (1, *imp.shapes[src])
    spans = [range(n) for n in shape]
    for axis, start, end, step in zip(names, starts, ends, jumps, strict=True):
        if step < 1:
            raise Refused("negative steps are not supported")
        if axis == 0:
            if start != 0 or end < (1 << 30) or step != 1:
                raise Refused("the batch axis cannot be sliced")
            continue
        spans[axis] = range(shape[axis])[start:end:step]
        if not len(spans[axis]):
            raise Refused("the slice is empty")
    rows, cols = spans[2], spans[3]
    pads = (-rows.start, -cols.start, rows[-1] + 1 - shape[2], cols[-1] + 1 - shape[3])
    _crop_and_choose(imp, node, src, (rows.step, cols.step), pads, tuple(spans[1]))


@operator("Split")
def _split(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    if imp.axis(node.input[0], int(attrs.get("axis", 0))) != 1:
        raise Refused("only channels can be split")
    given = attrs.get("split", integers(node, 1, constants, "split"))
    channels, count = imp.shapes[src][0], len(node.output)
    if given is None:
        part = -(-channels // count)
        given = [min(part, channels - i * part) for i in range(count)]
    if len(given) != count or min(given) < 1 or sum(given) != channels:
        raise Refused(f"{channels} channels cannot be split into {count} parts of {list(given)}")
    first = 0
    for out, size in zip(node.output, given, strict=True):
        piece = onnx.NodeProto()
        piece.CopyFrom(node)
        del piece.output[:]
        piece.output.append(out)
        piece.name = imp.node_name(f"{node.name}.{out}")
        chosen = tuple(range(first, first + int(size)))
        _crop_and_choose(imp, piece, src, (1, 1), (0, 0, 0, 0), chosen, node.name)
        first += int(size)
