"""The one input of an ONNX model that is an image: its shape, given or declared, and the order of its axes."""

from dataclasses import dataclass

import onnx
from npu_isa.errors import ModelError, UnsupportedError
from onnx import TensorProto

from npu_compiler.frontend.importer import CHW, ELEMENT_WISE, HWC, Order, too_large
from npu_compiler.frontend.model import shortened
from npu_compiler.frontend.tensors import FLOATS
from npu_compiler.graph.ir import Shape

CHANNELS_FIRST = [0, 3, 1, 2]  # perm of a Transpose from (N, H, W, C)
ORDERS: dict[int, Order] = {2: (0,), 3: (0, 2)}  # of inputs with fewer axes: one pixel (N, C), one row (N, C, W)


@dataclass(frozen=True)
class Image:
    """The image input.

    Attributes:
        shape: (channels, height, width).
        order: order of these axes in the model.
        batch: the number of images that the model is made for, 1 if it is open.
        is_bytes: the model takes pixels as they are, bytes 0..255, which it casts to floating point itself.
    """

    name: str
    shape: Shape
    order: Order
    batch: int
    is_bytes: bool


def find_image(
    graph: onnx.GraphProto, where: str, input_shape: tuple[int, ...] | None, assumed: Shape | None = None
) -> Image:
    """Return the image input of a model; sizes that the model leaves open are written into it.

    Args:
        graph: of the model.
        where: the file's name in errors.
        input_shape: the input's shape, in the model's order, with or without the batch; None for that of the model.
        assumed: (channels, height, width) that a model has which leaves sizes open.

    Raises:
        ModelError: sizes are not known, or contradict `input_shape`.
        UnsupportedError: more than one input, or none; or an input of integers, but for bytes that are cast at once.
    """
    value = _only_input(graph, where)
    name, tensor = value.name, value.type.tensor_type
    order = HWC if _channels_last(graph, name) else CHW
    axes = "height, width, channels" if order == HWC else "channels, height, width"
    if input_shape is not None:
        _write_shape(tensor, name, axes, input_shape, where)
    shape = [d.dim_value if d.dim_value > 0 else 0 for d in tensor.shape.dim]
    if assumed is not None and len(shape) == 4:
        shape[1:] = [size or assumed[axis] for size, axis in zip(shape[1:], order, strict=True)]
    order = ORDERS.get(len(shape), order)
    if len(shape) not in (2, 3, 4) or not all(shape[1:]):
        example = "1,320,320,3" if order == HWC else "1,3,320,320"
        raise ModelError(
            f"input {name!r} has shape {_text(tensor)}, needs (N, {axes}) with known sizes",
            where,
            f"give the sizes, such as --input-shape {example}, or export the model with fixed ones",
        )
    channels, height, width = (shape[1 + order.index(axis)] if axis in order else 1 for axis in CHW)
    if too_large((channels, height, width)):
        raise UnsupportedError(f"input {name!r} has shape {_text(tensor)}: too large", where, "check the model")
    is_bytes = tensor.elem_type == TensorProto.UINT8
    return Image(name, (channels, height, width), order, shape[0] or 1, is_bytes)


def _only_input(graph: onnx.GraphProto, where: str) -> onnx.ValueInfoProto:
    """Return the one input that is not a weight: floating point, or bytes that are cast at once."""
    weights = {t.name for t in graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [i for i in graph.input if i.name not in weights]
    if len(inputs) != 1:
        found = f": {shortened([i.name for i in inputs])}" if inputs else ""
        raise UnsupportedError(
            f"the model has {len(inputs)} inputs{found}; needs one", where, "cut the model to one image input"
        )
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in FLOATS and not (kind == TensorProto.UINT8 and _cast_at_once(graph, inputs[0].name)):
        names = {number: word.lower() for word, number in TensorProto.DataType.items()}
        raise UnsupportedError(
            f"input {inputs[0].name!r} is {names.get(kind, f'of unknown type {kind}')}, needs floating point",
            where,
            "export the model with float inputs, or with uint8 ones that a Cast reads and nothing else",
        )
    return inputs[0]


def _cast_at_once(graph: onnx.GraphProto, name: str) -> bool:
    """Whether casts to floating point, and they alone, read a value."""
    readers = [node for node in graph.node if name in node.input]
    kinds = [a.i for node in readers if node.op_type == "Cast" for a in node.attribute if a.name == "to"]
    return 0 < len(readers) == len(kinds) and set(kinds) <= set(FLOATS)


def _write_shape(tensor: onnx.TypeProto.Tensor, name: str, axes: str, input_shape: tuple[int, ...], where: str) -> None:
    """Write a given shape over the open sizes of the declared one."""
    told = "x".join(map(str, input_shape))
    rank = len(tensor.shape.dim) or 4
    if len(input_shape) not in (rank - 1, rank) or min(input_shape) < 1:
        raise ModelError(
            f"input shape {told}: needs (N, {axes}) or ({axes}), all 1 or more",
            where,
            "such as --input-shape 1,3,320,320",
        )
    dims = tensor.shape.dim
    if not dims:
        dims.extend([onnx.TensorShapeProto.Dimension()] * 4)
    skipped = rank - len(input_shape)
    if any(d.dim_value > 0 and d.dim_value != size for d, size in zip(dims[skipped:], input_shape, strict=True)):
        raise ModelError(
            f"input {name!r} has shape {_text(tensor)}, not {told}", where, "give only sizes that the model leaves open"
        )
    for dim, size in zip(dims[skipped:], input_shape, strict=True):
        dim.dim_value = size


def _text(tensor: onnx.TypeProto.Tensor) -> str:
    return f"({', '.join(d.dim_param or str(d.dim_value) for d in tensor.shape.dim)})"


def _channels_last(graph: onnx.GraphProto, name: str) -> bool:
    """Whether the first thing that happens to the image, but for element-wise operators, is to put channels first."""
    reached = {name}
    for node in graph.node:
        if not reached & set(node.input):
            continue
        if node.op_type == "Transpose":
            return any(a.name == "perm" and list(a.ints) == CHANNELS_FIRST for a in node.attribute)
        if node.op_type not in ELEMENT_WISE:
            return False
        reached.update(node.output)
    return False
