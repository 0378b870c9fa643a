"""ONNX operators that move values: flattening, padding, slicing, splitting, and those that do nothing."""

import numpy as np
import onnx

from npu_compiler.frontend.importer import Constants, Importer, Refused, attributes, constant, operator
from npu_compiler.graph.ir import Channels, Crop


@operator("Flatten")
def _flatten(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    rank = 1 + len(imp.full_shape(node.input[0]))
    if int(attributes(node).get("axis", 1)) % rank != 1:
        raise Refused("only axis=1 (everything but the batch) is supported")
    imp.same(node, node.input[0], flat=True)


@operator("Reshape")
def _reshape(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    target = constant(node, 1, constants, "the shape")
    assert target is not None
    shape = imp.full_shape(imp.value(node.input[0]).tensor)
    allow_zero = attributes(node).get("allowzero", 0)
    wanted = [
        (1, *imp.full_shape(node.input[0]))[i] if d == 0 and not allow_zero else int(d)
        for i, d in enumerate(target.reshape(-1).tolist())
    ]
    count = int(np.prod(shape))
    batch, rest = wanted[0], wanted[1:]
    if batch in (1, -1) and len(rest) == 1 and rest[0] in (count, -1):
        imp.same(node, node.input[0], flat=True)
    elif batch in (1, -1) and (
        tuple(rest) == shape
        or (rest.count(-1) == 1 and all(r in (-1, s) for r, s in zip(rest, shape, strict=False)) and len(rest) == 3)
    ):
        imp.same(node, node.input[0], flat=False)
    else:
        raise Refused(f"to {target.tolist()}: only flattening to (N, -1) is supported")


@operator("Squeeze", "Unsqueeze")
def _squeeze(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    axes = attributes(node).get("axes")
    if axes is None:
        given = constant(node, 1, constants, "axes")
        axes = None if given is None else given.reshape(-1).tolist()
    value = imp.value(node.input[0])
    if imp.shapes[value.tensor][1:] != (1, 1) or axes is None or sorted(a % 4 for a in axes) != [2, 3]:
        raise Refused("only the height and width of a one-pixel image can be dropped or added")
    imp.same(node, node.input[0], flat=node.op_type == "Squeeze")


@operator("Transpose")
def _transpose(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    perm = list(attributes(node).get("perm", ()))
    if perm != list(range(len(perm))) or not perm:
        raise Refused(f"perm {perm}: only the order (N, C, H, W) is supported")
    imp.same(node, node.input[0])


@operator("Identity", "Dropout", "Cast")
def _identity(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if node.op_type == "Cast" and attributes(node)["to"] != onnx.TensorProto.FLOAT:
        raise Refused("only a cast to float32 is supported")
    if node.op_type == "Dropout" and len(node.output) > 1 and node.output[1]:
        raise Refused("the mask output is not supported")
    imp.same(node, node.input[0])


@operator("Pad")
def _pad(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    mode = attrs.get("mode", b"constant").decode()
    value = constant(node, 2, constants, "the value")
    if mode != "constant" or (value is not None and value.size and float(value.reshape(-1)[0]) != 0.0):
        raise Refused("only padding with the constant 0 is supported")
    given = constant(node, 1, constants, "pads")
    assert given is not None
    axes_given = constant(node, 3, constants, "axes")
    axes = list(range(4)) if axes_given is None else [int(a) % 4 for a in axes_given.reshape(-1)]
    pads, n = given.reshape(-1).tolist(), len(axes)
    begin = {a: int(pads[i]) for i, a in enumerate(axes)}
    end = {a: int(pads[n + i]) for i, a in enumerate(axes)}
    if begin.get(0) or end.get(0):
        raise Refused("the batch axis cannot be padded")
    channels = imp.shapes[src][0]
    before, after = begin.get(1, 0), end.get(1, 0)
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
) -> None:
    """Emit what is needed of a spatial crop and a choice of channels."""
    name, out, onnx_names = imp.identity(node)
    channels, height, width = imp.shapes[src]
    size = tuple(
        (n + b + e - 1) // s + 1 for n, b, e, s in zip((height, width), pads[:2], pads[2:], stride, strict=True)
    )
    choose, crop = source != tuple(range(channels)), any(pads) or stride != (1, 1)
    if not choose and not crop:
        imp.same(node, node.input[0])
        return
    if crop:
        middle = f"{out}.space" if choose else out
        imp.emit(Crop(f"{name}.space" if choose else name, middle, onnx_names, src, stride, pads), (channels, *size))
        src = middle
    if choose:
        imp.emit(Channels(name, out, onnx_names, src, source), (len(source), *imp.shapes[src][1:]))


@operator("Slice")
def _slice(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    src = imp.image(node.input[0])
    starts, ends = (constant(node, i, constants, "starts and ends") for i in (1, 2))
    assert starts is not None
    assert ends is not None
    axes, steps = constant(node, 3, constants, "axes"), constant(node, 4, constants, "steps")
    names = list(range(starts.size)) if axes is None else [int(a) % 4 for a in axes.reshape(-1)]
    jumps = [1] * starts.size if steps is None else [int(s) for s in steps.reshape(-1)]
    shape = (1, *imp.shapes[src])
    spans = [range(n) for n in shape]
    for axis, start, end, step in zip(names, starts.reshape(-1), ends.reshape(-1), jumps, strict=True):
        if step < 1:
            raise Refused("negative steps are not supported")
        if axis == 0:
            if int(start) != 0 or int(end) < (1 << 30) or step != 1:
                raise Refused("the batch axis cannot be sliced")
            continue
        spans[axis] = range(shape[axis])[int(start) : int(end) : step]
        if not len(spans[axis]):
            raise Refused("the slice is empty")
    rows, cols = spans[2], spans[3]
    pads = (-rows.start, -cols.start, rows[-1] + 1 - shape[2], cols[-1] + 1 - shape[3])
    _crop_and_choose(imp, node, src, (rows.step, cols.step), pads, tuple(spans[1]))


@operator("Split")
def _split(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    if int(attrs.get("axis", 0)) not in (1, -3):
        raise Refused("only channels can be split")
    given = attrs.get("split")
    if given is None:
        array = constant(node, 1, constants, "split")
        given = None if array is None else array.reshape(-1).tolist()
    channels = imp.shapes[src][0]
    count = len(node.output)
    if given is None:
        part = -(-channels // count)
        given = [min(part, channels - i * part) for i in range(count)]
    first = 0
    for out, size in zip(node.output, given, strict=True):
        piece = onnx.NodeProto()
        piece.CopyFrom(node)
        del piece.output[:]
        piece.output.append(out)
        piece.name = f"{node.name or node.output[0]}.{out}"
        _crop_and_choose(imp, piece, src, (1, 1), (0, 0, 0, 0), tuple(range(first, first + int(size))))
        first += int(size)
