"""Random damage to ONNX files, in their bytes and in their fields, and what becomes of a damaged file.

A damaged file is refused with an `NpuError`, or it is imported. Anything else is a bug.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from npu_isa.errors import NpuError
from onnx import helper

from tests.host_models import both, detector
from tests.mutations import Rng, flip
from tests.onnx_models import Net, example

Place = tuple[Message, FieldDescriptor]
INTEGERS = [0, 1, 2, 3, 7, 10, 11, 16, 99, 119, -1, -2, 1 << 20, 1 << 31, 1 << 40, 10**12, (1 << 63) - 1, -(1 << 63)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-30, 1e38, float("inf"), float("-inf"), float("nan")]
LONG = 256  # bytes: fields longer than this are weights


def small_models() -> list[bytes]:
    """Return files of small networks that hold, together, every part of an ONNX file that the importer reads."""
    return [m.SerializeToString() for m in _networks()]


def _networks() -> tuple[onnx.ModelProto, ...]:
    made = example(), _moves(), _folded(), _qdq(), _old(), _last(), _sampled(), _shuffled(), _tokens()
    return *made, detector(), both()


def mutate(data: bytes, rng: Rng) -> tuple[str, bytes]:
    """Return what was done to a valid file, and the damaged file."""
    kinds: list[Callable[..., bytes]] = [flip, cut, insert, repeat, alter_field, alter_field, alter_list, alter_name]
    made = kinds[int(rng.integers(len(kinds)))]
    return made.__name__, made(data, rng)


def outcome(path: Path) -> str:
    """Return the class of the error that refuses a file, or "accepted"."""
    from npu_compiler.pipeline import import_model

    try:
        import_model(path)
    except NpuError as error:
        str(error).encode()
        return type(error).__name__
    return "accepted"


# -- bytes


def cut(data: bytes, rng: Rng) -> bytes:
    """Take a block out, or all from a place to the end."""
    first = int(rng.integers(0, len(data)))
    end = len(data) if rng.random() < 0.5 else first + int(rng.integers(1, 64))
    return data[:first] + data[end:]


def insert(data: bytes, rng: Rng) -> bytes:
    """Put bytes into the file or behind it."""
    at = int(rng.integers(0, len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 32))) + data[at:]


def repeat(data: bytes, rng: Rng) -> bytes:
    """Put a copy of a block somewhere else, half of the time over what is there."""
    first, at, length = int(rng.integers(0, len(data))), int(rng.integers(0, len(data))), int(rng.integers(1, 128))
    block = data[first : first + length]
    return data[:at] + block + data[at + (len(block) if rng.random() < 0.5 else 0) :]


# -- fields: the file stays one that protobuf reads


def _places(message: Message) -> list[Place]:
    """Return every field that is there, of a message and of those inside it."""
    found: list[Place] = []
    for field, value in message.ListFields():
        found.append((message, field))
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                found += _places(inner)
    return found


def _changed(data: bytes, rng: Rng, wanted: Callable[[Place], bool], change: Callable[[Message, Any], None]) -> bytes:
    model = onnx.load_model_from_string(data)
    places = [p for p in _places(model) if wanted(p)]
    for _ in range(int(rng.integers(1, 3))):
        change(*places[int(rng.integers(len(places)))])
    return model.SerializeToString()


def alter_field(data: bytes, rng: Rng) -> bytes:
    """Change a number, a text or bytes; fields may be removed."""

    def change(message: Message, field: FieldDescriptor) -> None:
        if not field.is_repeated:
            if rng.random() < 0.1:
                message.ClearField(field.name)
            else:
                setattr(message, field.name, _strange(field, getattr(message, field.name), rng))
            return
        values = getattr(message, field.name)
        if len(values):
            at = int(rng.integers(len(values)))
            values[at] = _strange(field, values[at], rng)

    return _changed(data, rng, lambda p: p[1].message_type is None, change)


def _strange(field: FieldDescriptor, old: Any, rng: Rng) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_ENUM:
            return int(rng.choice([v.number for v in field.enum_type.values]))
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return FLOATS[int(rng.integers(len(FLOATS)))]
        case FieldDescriptor.CPPTYPE_STRING if isinstance(old, bytes):
            return [b"", old[: len(old) // 2], old + b"\xff", b"\xff\xfe"][int(rng.integers(4))]
        case FieldDescriptor.CPPTYPE_STRING:
            return ["", "x", old + "'", old[:-1], "\n\x00\u202e"][int(rng.integers(5))]
    value = [old + 1, old - 1, -old, *INTEGERS][int(rng.integers(3 + len(INTEGERS)))]
    low, high = (
        (-(1 << 31), (1 << 31) - 1) if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else (-(1 << 63), (1 << 63) - 1)
    )
    return min(max(value, low), high)


def alter_list(data: bytes, rng: Rng) -> bytes:
    """Remove, repeat or move an element of a list."""

    def change(message: Message, field: FieldDescriptor) -> None:
        values = list(getattr(message, field.name))
        if not values:
            return
        at = int(rng.integers(len(values)))
        match int(rng.integers(4)):
            case 0:
                del values[at]
            case 1:
                values.insert(int(rng.integers(len(values))), values[at])
            case 2:
                values.append(values.pop(at))
            case _:
                values = values[:at]
        message.ClearField(field.name)
        getattr(message, field.name).extend(values)

    return _changed(data, rng, lambda p: p[1].is_repeated, change)


def alter_name(data: bytes, rng: Rng) -> bytes:
    """Give something the name of something else."""
    model = onnx.load_model_from_string(data)
    names = [n.name for n in model.graph.node] + [t.name for t in model.graph.initializer]
    names += [i for n in model.graph.node for i in (*n.input, *n.output)] + ["", "x"]

    def change(message: Message, field: FieldDescriptor) -> None:
        name = names[int(rng.integers(len(names)))]
        if field.is_repeated:
            values = getattr(message, field.name)
            if len(values):
                values[int(rng.integers(len(values)))] = name
        else:
            setattr(message, field.name, name)

    return _changed(data, rng, lambda p: p[1].type == FieldDescriptor.TYPE_STRING, change)


# -- the networks


def _moves() -> onnx.ModelProto:
    """Return a network of the operators that move values."""
    net = Net((4, 8, 8))
    padded = net.node("Pad", "x", net.constant([0, 1, 1, 1, 0, 0, 1, 0], np.int64))
    given = [net.constant([v], np.int64) for v in (0, 8, 2, 2)]
    half = net.node("Slice", net.conv(padded, 5, 6, (3, 3), auto_pad="SAME_UPPER"), *given)
    first = net.node("Split", half, net.constant([2, 4], np.int64), outputs=2, axis=1)
    both = net.node("Concat", f"{first}.1", first, axis=1)
    axes = net.constant([2, 3], np.int64)
    flat = net.node("Squeeze", net.node("GlobalMaxPool", net.node("Dropout", both)), axes)
    image = net.node("Unsqueeze", net.node("MatMul", flat, net.weight(6, 5)), axes)
    mean = net.node("ReduceMean", net.node("PRelu", image, net.constant([0.2])), axes=[2, 3])
    return net.model(net.node("Reshape", net.node("Cast", mean, to=1), net.constant([0, -1], np.int64)))


def _folded() -> onnx.ModelProto:
    """Return a network whose weights and shapes are computed by constant nodes of many kinds."""
    net = Net((3, 6, 6))
    sizes = net.node("Constant", value_ints=[4, 3, 3, 3])
    weight = net.node("Expand", net.node("ConstantOfShape", net.constant([1], np.int64)), sizes)
    ramp = net.node("Range", *(net.constant(v) for v in (0.0, 4.0, 1.0)))
    bias = net.node("Mul", net.node("Tile", ramp, net.constant([1], np.int64)), net.constant(0.1))
    conv = net.node("Conv", "x", net.node("Add", weight, net.constant(0.01)), bias)
    stats = [net.weight(4), net.weight(4), net.weight(4), net.constant(net.rng.uniform(0.1, 2, 4))]
    pooled = net.node("AveragePool", net.node("BatchNormalization", conv, *stats), kernel_shape=[2, 2], ceil_mode=1)
    batch = net.node("Gather", net.node("Shape", pooled), net.constant([0], np.int64))
    shape = net.node("Concat", batch, net.constant([-1], np.int64), axis=0)
    return net.model(net.node("Div", net.node("Reshape", pooled, shape), net.constant(2.0)))


def _qdq() -> onnx.ModelProto:
    """Return a network that is quantized already, weights by channel."""
    net = Net((3, 6, 6))

    def passed(src: str) -> str:
        given = net.constant(0.05), net.constant(0, np.int8)
        return net.node("DequantizeLinear", net.node("QuantizeLinear", src, *given), *given)

    integers = net.constant(net.rng.integers(-127, 128, (4, 3, 3, 3)), np.int8)
    weight = net.node("DequantizeLinear", integers, net.constant([0.01] * 4), net.constant([0] * 4, np.int8), axis=0)
    conv = net.node("Relu", net.node("Conv", passed("x"), weight, strides=[1, 2]))
    return net.model(passed(net.node("LeakyRelu", passed(conv), alpha=0.1)))


def _old() -> onnx.ModelProto:
    """Return a network of opset 9, with its weights among the inputs."""
    net = Net((3, 8, 8), 9)
    clipped = net.node("Clip", net.conv(net.node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 1, 1]), 3, 4, (3, 3)), max=6.0)
    sliced = net.node("Slice", clipped, starts=[1, 0], ends=[7, 8], axes=[2, 3])
    flat = net.node("Flatten", net.node("MaxPool", net.node("Dropout", sliced), kernel_shape=[3, 3], strides=[3, 3]))
    model = net.model(net.node("Gemm", flat, net.weight(16, 3), net.weight(3)), ir_version=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return model


def _last() -> onnx.ModelProto:
    """Return a network in float16 whose image has its channels last."""
    net = Net((8, 8, 3))
    first = net.node("Transpose", net.node("Mul", "x", net.constant(0.5, np.float16)), perm=[0, 3, 1, 2])
    weights = [net.constant(net.rng.normal(0, 0.2, shape), np.float16) for shape in ((4, 3, 3, 3), (144, 5))]
    last = net.node("Transpose", net.node("Conv", first, weights[0]), perm=[0, 2, 3, 1])
    model = net.model(net.node("MatMul", net.node("Reshape", last, net.constant([0, -1], np.int64)), weights[1]))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return model


def _sampled() -> onnx.ModelProto:
    """Return a network of what is put together of parts."""
    net = Net((3, 6, 6))
    up = net.node(
        "ConvTranspose", "x", net.weight(3, 4, 3, 3), strides=[2, 2], pads=[1, 1, 0, 0], output_padding=[1, 0]
    )
    sizes = net.constant([1, 4, 8, 9], np.int64)
    smooth = net.node("Resize", up, "", "", sizes, mode="linear", coordinate_transformation_mode="align_corners")
    near = net.node("Resize", smooth, "", net.constant([1, 1, 1.5, 0.5]), nearest_mode="floor")
    mean = net.node("AveragePool", near, kernel_shape=[3, 2], pads=[1, 1, 1, 0], ceil_mode=1, strides=[2, 1])
    edge = net.node("Pad", mean, net.constant([0, 0, 1, 1, 0, 0, 0, 2], np.int64), mode="reflect")
    ones = net.node("Pad", edge, net.constant([0, 0, 1, 0, 0, 0, 0, 1], np.int64), net.constant(1.0))
    return net.model(net.node("LRN", ones, size=3, alpha=0.5))


def _shuffled() -> onnx.ModelProto:
    """Return a network whose axes change places."""
    net = Net((4, 4, 6))
    parts = net.node("Reshape", "x", net.constant([0, 2, 2, 4, 6], np.int64))
    mixed = net.node(
        "Reshape", net.node("Transpose", parts, perm=[0, 2, 1, 3, 4]), net.constant([0, 4, 4, 6], np.int64)
    )
    deep = net.node("SpaceToDepth", net.node("DepthToSpace", mixed, blocksize=2, mode="CRD"), blocksize=4)
    chosen = net.node("Gather", deep, net.constant([1, 0, 2, -1], np.int64), axis=1)
    wide = net.node("Concat", chosen, net.node("Tile", chosen, net.constant([1, 1, 1, 2], np.int64)), axis=3)
    back = net.node("Slice", wide, *(net.constant([v], np.int64) for v in (-1, -9, 3, -1)))
    gate = net.node("Expand", net.node("ReduceMax", back, axes=[2, 3]), net.constant([1, 4, 2, 1], np.int64))
    return net.model(net.node("Max", net.node("Mul", gate, back), net.node("Sub", gate, back), net.constant(0.1)))


def _tokens() -> onnx.ModelProto:
    """Return a network of functions of one value, and of matrices over channels."""
    net = Net((3, 4, 4), 20)
    tokens = net.node("Transpose", net.node("Reshape", "x", net.constant([0, 3, 16], np.int64)), perm=[0, 2, 1])
    hidden = net.node("Gelu", net.node("Add", net.node("MatMul", tokens, net.weight(3, 5)), net.weight(5)))
    bent = net.node("PRelu", net.node("Pow", hidden, net.constant(2.0)), net.weight(5))
    clipped = net.node("Clip", net.node("Elu", bent, alpha=0.5), net.constant(0.1), net.constant(0.9))
    mean = net.node("ReduceMean", net.node("HardSigmoid", clipped), net.constant([1], np.int64), keepdims=0)
    return net.model(net.node("Div", net.node("Selu", mean), net.node("Exp", mean)))
