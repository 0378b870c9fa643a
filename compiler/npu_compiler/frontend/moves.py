"""ONNX operators that rename elements: Reshape, Transpose and their like; nothing is computed or moved."""

import math
from collections.abc import Callable

import onnx

from npu_compiler.frontend.arrange import as_image
from npu_compiler.frontend.importer import (
    Constants,
    Importer,
    Refused,
    Value,
    attributes,
    integers,
    operator,
    scalar,
    text,
)
from npu_compiler.frontend.layout import Axes, joined, regrouped, size_of
from npu_compiler.frontend.tensors import FLOATS


@operator("Flatten", limits="axis 1: everything but the batch")
def _flatten(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if imp.axis(node.input[0], int(attributes(node).get("axis", 1))) != 1:
        raise Refused("only axis=1 (everything but the batch) is supported")
    order = imp.value(node.input[0]).order
    imp.same(node, node.input[0], (joined(a for axis in order for a in axis),))


@operator("Reshape", limits="the batch stays; axes are joined, or split into factors")
def _reshape(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    given = integers(node, 1, constants, "the shape") or []
    own = (imp.batch, *imp.full_shape(node.input[0]))
    copies = not attributes(node).get("allowzero", 0)
    target = [own[i] if copies and size == 0 and i < len(own) else size for i, size in enumerate(given)]
    if target.count(-1) > 1 or min(target, default=-1) < -1 or 0 in target:
        raise Refused(f"to {given}: sizes below 0")
    if -1 in target:
        rest = -math.prod(target)
        target[target.index(-1)] = math.prod(own) // rest
    if math.prod(target) != math.prod(own):
        raise Refused(f"to {given}: its input has shape {_text(own[1:])}")
    if len(target) < 2 or target[0] != imp.batch:
        raise Refused(f"to {given}: the batch axis must stay as it is")

    def regroup(value: Value) -> Axes | None:
        return regrouped((a for axis in value.order for a in axis), target[1:])

    if not _renamed(imp, node, regroup):
        raise Refused(
            f"to {given}: an axis of {_text(own[1:])} would be torn: axes can be joined, or split into factors"
        )


def _renamed(imp: Importer, node: onnx.NodeProto, rename: Callable[[Value], Axes | None]) -> bool:
    """Give a node's input other axes; where one would be torn it is moved to an image first. Return if that helps."""
    value = imp.value(node.input[0])
    order = rename(value)
    if order is not None:
        imp.same(node, node.input[0], order)
        return True
    if len(value.order) > 3:
        return False
    moved = as_image(imp, value)
    order = rename(moved)
    if order is not None:
        imp.finish(moved.tensor, order)
    return order is not None


def _text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"


@operator("Squeeze", "Unsqueeze", limits="axes given, not the batch")
def _squeeze(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    given = attributes(node).get("axes", integers(node, 1, constants, "axes"))
    order = list(imp.value(node.input[0]).order)
    if not given:
        raise Refused("axes must be given: without them the batch axis is dropped where it is 1")
    squeezed = node.op_type == "Squeeze"
    rank = 1 + len(order) + (0 if squeezed else len(given))
    axes = [a + rank if a < 0 else a for a in given]
    if not all(0 < a < rank for a in axes) or len(set(axes)) != len(axes):
        raise Refused(f"axes {list(given)} of a value with {rank} axes: must be others than the batch")
    if squeezed:
        if any(order[a - 1] for a in axes):
            raise Refused(f"axes {list(given)} of shape {_text(imp.full_shape(node.input[0]))}: not of size 1")
        order = [axis for i, axis in enumerate(order, 1) if i not in axes]
    else:
        for axis in sorted(axes):
            order.insert(axis - 1, ())
    if not order:
        raise Refused("only the batch axis would be left")
    imp.same(node, node.input[0], tuple(order))


@operator("Transpose", limits="the batch stays first")
def _transpose(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    """Give the axes another order; what cannot read them in that order moves them, or says so."""
    order = imp.value(node.input[0]).order
    perm = list(attributes(node).get("perm", range(len(order), -1, -1)))
    if sorted(perm) != list(range(1 + len(order))) or perm[0] != 0:
        raise Refused(f"perm {perm}: the batch axis must stay first")
    imp.same(node, node.input[0], tuple(order[p - 1] for p in perm[1:]))


@operator("DepthToSpace", "SpaceToDepth", limits="both modes; pixels are moved by parts where an image is needed")
def _depth(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    """A Reshape, a Transpose and a Reshape (ONNX DepthToSpace, opset 13)."""
    attrs, name = attributes(node), node.input[0]
    if imp.rank(name) != 3:
        raise Refused(f"its input has shape {_text(imp.full_shape(name))}, needs (N, C, H, W)")
    block, mode = int(attrs["blocksize"]), text(attrs, "mode", "DCR")
    if block < 1 or mode not in ("DCR", "CRD"):
        raise Refused(f"blocksize {block}, mode {mode!r}: needs 1 or more, and DCR or CRD")
    channels, height, width = imp.full_shape(name)
    into_space = node.op_type == "DepthToSpace"
    if channels % (block * block) if into_space else height % block or width % block:
        raise Refused(f"shape {_text((channels, height, width))} cannot be divided into blocks of {block}")
    renamed = _renamed(imp, node, lambda value: _blocks(value.order, block, mode, into_space))
    assert renamed  # an image's axes can be divided


def _blocks(order: Axes, block: int, mode: str, into_space: bool) -> Axes | None:
    channels, height, width = (size_of(axis) for axis in order)
    if into_space:
        left = channels // (block * block)
        parts = regrouped(order[0], (block, block, left) if mode == "DCR" else (left, block, block))
        if parts is None:
            return None
        kept, down, right = (parts[2], parts[0], parts[1]) if mode == "DCR" else parts
        return kept, joined((*order[1], *down)), joined((*order[2], *right))
    rows, cols = regrouped(order[1], (height // block, block)), regrouped(order[2], (width // block, block))
    if rows is None or cols is None:
        return None
    return joined((*rows[1], *cols[1], *order[0])), rows[0], cols[0]


@operator("Identity", element_wise=True, limits="all of it")
@operator("Dropout", element_wise=True, limits="for inference; no mask")
@operator("Cast", element_wise=True, limits="from float to float")
def _identity(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if node.op_type == "Cast" and (attributes(node)["to"] not in FLOATS or node.input[0] in imp.integers):
        raise Refused("only a cast from float to float is supported")
    if node.op_type == "Dropout" and scalar(node, 2, constants, "training_mode"):
        raise Refused("training_mode is not supported; export the model for inference")
    imp.same(node, node.input[0])  # the mask of a Dropout has no meaning here: a reader of it is refused
