"""What the importer refuses: the exact message with the node's name, the place, the way out, and all nodes at once."""

import numpy as np
import onnx
import pytest
from npu_compiler.frontend.importer import OPERATORS
from npu_compiler.frontend.reader import read_onnx
from npu_isa.errors import ModelError, NpuError, UnsupportedError
from onnx import TensorProto, helper

from tests.onnx_models import Net, save

HINT = f"supported operators: {', '.join(sorted(OPERATORS))}; change or cut the model"
NEEDS = "needs (N, C, H, W) or (N, C, W)"
PIXELS = "differs between pixels: only one value, or one per channel, is supported"


def refusal(model, folder, kind=UnsupportedError):
    """Return the error; the host takes nothing here: tests/compiler/test_host.py."""
    with pytest.raises(NpuError) as caught:
        read_onnx(save(model, folder), host="none")
    assert type(caught.value) is kind
    assert caught.value.where == "net.onnx"
    return caught.value


def big(net):
    """An image of 80 x 80 pixels."""
    return net.node("Resize", "x", "", "", net.constant([1, 3, 80, 80], np.int64))


# name: (what is built, the refused operator, the reason)
NODES = {
    "softmax": (
        lambda n: n.node("Softmax", "x"),
        "Softmax",
        "the machine divides by no computed sum",
    ),
    "conv weight computed": (
        lambda n: n.node("Conv", "x", n.node("GlobalAveragePool", n.conv("x", 3, 3, (1, 1)))),
        "Conv",
        "the weight must be constant",
    ),
    "window too large": (
        lambda n: n.node("Conv", "x", n.weight(2, 3, 7, 7)),
        "Conv",
        "the window 7x7 is larger than the padded image",
    ),
    "transA": (
        lambda n: n.node("Gemm", n.node("Flatten", n.node("GlobalAveragePool", "x")), n.weight(1, 4), transA=1),
        "Gemm",
        "transA is not supported",
    ),
    "gemm of an image": (
        lambda n: n.node("MatMul", "x", n.weight(5, 3)),
        "MatMul",
        "matrix wants 5 values, its input has 4",
    ),
    "matmul of a stack": (
        lambda n: n.node("MatMul", n.node("Flatten", "x"), n.weight(1, 60, 3)),
        "MatMul",
        "right side of shape [1, 60, 3]: must be a matrix",
    ),
    "training": (
        lambda n: n.node("BatchNormalization", "x", *(n.weight(3) for _ in range(4)), training_mode=1, outputs=3),
        "BatchNormalization",
        "training_mode is not supported; export the model for inference",
    ),
    "dropout that drops": (
        lambda n: n.node("Dropout", "x", n.constant(0.5), n.constant(True, np.bool_)),
        "Dropout",
        "training_mode is not supported; export the model for inference",
    ),
    "prelu by column": (
        lambda n: n.node("PRelu", "x", n.weight(4)),
        "PRelu",
        f"a constant of shape [4] {PIXELS}",
    ),
    "limits that are no numbers": (
        lambda n: n.node("Clip", "x", n.constant(np.nan)),
        "Clip",
        "limits nan..inf",
    ),
    "slope that is no number": (
        lambda n: n.node("LeakyRelu", "x", alpha=float("inf")),
        "LeakyRelu",
        "a slope is not finite",
    ),
    "shapes that differ": (
        lambda n: n.node("Mul", n.node("Slice", "x", *(n.constant([v], np.int64) for v in (0, 2, 2))), "x"),
        "Mul",
        "shapes (3, 2, 4) and (3, 5, 4) do not fit each other",
    ),
    "power of two tensors": (
        lambda n: n.node("Pow", "x", n.node("Relu", "x")),
        "Pow",
        "a power of two computed tensors is not supported; one of them must be constant",
    ),
    "product of two tensors": (
        lambda n: n.node("MatMul", "x", n.node("Transpose", "x", perm=[0, 1, 3, 2])),
        "MatMul",
        "a product of two computed tensors is not supported; one side must be constant",
    ),
    "choice": (
        lambda n: n.node("Where", n.constant(np.ones((1, 3, 5, 4)), np.bool_), "x", "x"),
        "Where",
        "a choice by conditions is not supported",
    ),
    "instance normalization": (
        lambda n: n.node("InstanceNormalization", "x", n.weight(3), n.weight(3)),
        "InstanceNormalization",
        "mean and variance of the image at hand are not supported; train with BatchNormalization instead",
    ),
    "constant by row": (
        lambda n: n.node("Mul", "x", n.weight(5, 1)),
        "Mul",
        f"a constant of shape [5, 1] {PIXELS}",
    ),
    "indices": (
        lambda n: n.node("MaxPool", "x", kernel_shape=[2, 2], outputs=2),
        "MaxPool",
        "the second output (indices) is not supported",
    ),
    "column major": (
        lambda n: n.node("MaxPool", "x", kernel_shape=[2, 2], storage_order=1),
        "MaxPool",
        "storage_order is not supported",
    ),
    "maximum over channels": (
        lambda n: n.node("ReduceMax", n.conv("x", 3, 65, (1, 1)), axes=[1]),
        "ReduceMax",
        "over 65 channels: at most 64 are supported",
    ),
    "flatten of rows": (
        lambda n: n.node("Flatten", "x", axis=2),
        "Flatten",
        "only axis=1 (everything but the batch) is supported",
    ),
    "reshape": (
        lambda n: n.node("Reshape", "x", n.constant([0, 5, 12], np.int64)),
        "Reshape",
        "to [0, 5, 12]: an axis of (N, 3, 5, 4) would be torn: axes can be joined, or split into factors",
    ),
    "squeeze of an image": (
        lambda n: n.node("Squeeze", "x", n.constant([2], np.int64)),
        "Squeeze",
        "axes [2] of shape (N, 3, 5, 4): not of size 1",
    ),
    "transpose": (
        lambda n: n.node("Transpose", "x", perm=[3, 1, 2, 0]),
        "Transpose",
        "perm [3, 1, 2, 0]: the batch axis must stay first",
    ),
    "image whose pixels must be moved one by one": (
        lambda n: n.node("GlobalMaxPool", n.node("Transpose", big(n), perm=[0, 2, 3, 1])),
        "GlobalMaxPool",
        "its input has the values of an image in another order, or flattened: to move them takes 19200 parts, at most "
        "1024 are supported",
    ),
    "mosaic of too many parts": (
        lambda n: n.node("ConvTranspose", "x", n.weight(3, 2, 1, 1), strides=[1000, 1000]),
        "ConvTranspose",
        "the image would be put together of 1000000 parts, at most 1024 are supported",
    ),
    "resize of no mode": (
        lambda n: n.node("Resize", "x", "", n.constant([1, 1, 2, 2]), mode="area"),
        "Resize",
        "mode 'area': only nearest, linear and cubic are supported",
    ),
    "resize of channels": (
        lambda n: n.node("Resize", "x", "", n.constant([1, 2, 2, 2])),
        "Resize",
        "to shape (1, 6, 10, 8): only height and width can be resized",
    ),
    "resize of a crop": (
        lambda n: n.node(
            "Resize", "x", "", n.constant([1, 1, 2, 2]), coordinate_transformation_mode="tf_crop_and_resize"
        ),
        "Resize",
        "coordinate_transformation_mode 'tf_crop_and_resize': only half_pixel, asymmetric, align_corners, "
        "pytorch_half_pixel, half_pixel_symmetric are supported",
    ),
    "resize to more than there is memory": (
        lambda n: n.node("Resize", "x", "", "", n.constant([1, 3, 1 << 40, 2], np.int64)),
        "Resize",
        "sizes [1, 3, 1099511627776, 2] for 4 axes: needs 1..65536 each",
    ),
    "split of the batch": (
        lambda n: n.node("Split", "x", axis=0, outputs=2),
        "Split",
        "the batch axis must stay as it is",
    ),
    "cast": (
        lambda n: n.node("Cast", "x", to=TensorProto.INT8),
        "Cast",
        "only a cast from float to float is supported",
    ),
    "dropout mask": (
        lambda n: n.node("Cast", f"{n.node('Dropout', 'x', outputs=2)}.1", to=TensorProto.FLOAT),
        "Cast",
        "input 'dropout_0.1' is a constant or not computed from the image",
    ),
    "pad of the batch": (
        lambda n: n.node("Pad", "x", n.constant([1, 0, 0, 0] * 2, np.int64)),
        "Pad",
        "the batch axis cannot be padded",
    ),
    "slice of the batch": (
        lambda n: n.node("Slice", "x", *(n.constant([v], np.int64) for v in (0, 1, 0))),
        "Slice",
        "the batch axis cannot be sliced",
    ),
    "no stride": (
        lambda n: n.node("MaxPool", "x", kernel_shape=[2, 2], strides=[0, 1]),
        "MaxPool",
        "strides [0, 1]: must be 1 or more",
    ),
    "pads that are missing": (
        lambda n: n.conv("x", 3, 3, (3, 3), pads=[1, 1]),
        "Conv",
        "pads [1, 1]: needs four values of 0 or more",
    ),
    "pads as large as the window": (
        lambda n: n.node("MaxPool", "x", kernel_shape=[2, 2], pads=[0, 2, 0, 0]),
        "MaxPool",
        "pads [0, 2, 0, 0] are not smaller than the window [2, 2]",
    ),
    "unknown auto_pad": (
        lambda n: n.conv("x", 3, 3, (3, 3), auto_pad="SOME"),
        "Conv",
        "auto_pad 'SOME' is unknown",
    ),
    "other kernel_shape": (
        lambda n: n.conv("x", 3, 3, (3, 3), kernel_shape=[3, 1]),
        "Conv",
        "kernel_shape [3, 1] is not that of the weight, [3, 3]",
    ),
    "groups": (
        lambda n: n.node("Conv", "x", n.weight(4, 1, 1, 1), group=3),
        "Conv",
        "4 output channels cannot be divided into 3 groups",
    ),
    "bias of the wrong size": (
        lambda n: n.node("Conv", "x", n.weight(4, 3, 1, 1), n.weight(5)),
        "Conv",
        "a bias of 5 values for 4 channels",
    ),
    "bias of a matrix": (
        lambda n: n.node("Gemm", n.node("Flatten", "x"), n.weight(60, 4), n.weight(3)),
        "Gemm",
        "a bias of 3 values for 4 results",
    ),
    "empty weight": (
        lambda n: n.node("Conv", "x", n.weight(10**9, 3, 0, 1)),
        "Conv",
        "the weight must hold values",
    ),
    "statistics of other channels": (
        lambda n: n.node("BatchNormalization", "x", *(n.weight(4) for _ in range(4))),
        "BatchNormalization",
        "statistics of [4, 4, 4, 4] channels, its input has 3",
    ),
    "negative variance": (
        lambda n: n.node("BatchNormalization", "x", *(n.constant([-1.0] * 3) for _ in range(4))),
        "BatchNormalization",
        "its factors or terms are not finite",
    ),
    "several limits": (
        lambda n: n.node("Clip", "x", n.constant([-1.0, -2.0])),
        "Clip",
        "a limit must be one value, has shape [2]",
    ),
    "axis that is not there": (
        lambda n: n.node("ReduceMean", "x", axes=[2, 7]),
        "ReduceMean",
        "axis 7 of a value with 4 axes",
    ),
    "slice of unequal lists": (
        lambda n: n.node("Slice", "x", n.constant([0, 1], np.int64), n.constant([9], np.int64)),
        "Slice",
        "starts [0, 1], ends [9], axes None and steps None do not fit each other",
    ),
    "split into more than there is": (
        lambda n: n.node("Split", "x", n.constant([2, 2], np.int64), axis=1, outputs=2),
        "Split",
        "3 channels cannot be split into 2 parts of [2, 2]",
    ),
    "padding that fills the memory": (
        lambda n: n.node("Pad", "x", n.constant([0, 10**12, 0, 0, 0, 0, 0, 0], np.int64)),
        "Pad",
        "pads [0, 1000000000000, 0, 0, 0, 0, 0, 0]: too large",
    ),
    "output that fills the memory": (
        lambda n: n.node("Pad", "x", n.constant([0, 0, 10**6, 0, 0, 0, 0, 10**6], np.int64)),
        "Pad",
        "the output would have shape (3, 1000005, 1000004): too large",
    ),
    "cropped to nothing": (
        lambda n: n.node("Pad", "x", n.constant([0, 0, -3, 0, 0, 0, -3, 0], np.int64)),
        "Pad",
        "the output would have shape (3, -1, 4)",
    ),
    "shape of floats": (
        lambda n: n.node("Reshape", "x", n.constant([0, -1])),
        "Reshape",
        "the shape must be integers, not float32",
    ),
    "scale of zero": (
        lambda n: n.node("QuantizeLinear", "x", n.constant(0.0)),
        "QuantizeLinear",
        "a scale is not a number above 0",
    ),
    "scales that do not fit": (
        lambda n: n.node("DequantizeLinear", n.constant([[1, 2, 3]], np.int8), n.constant([1.0, 2.0]), axis=1),
        "DequantizeLinear",
        "2 scales on axis 1 of a tensor of shape [1, 3]",
    ),
    "cast of quantized integers": (
        lambda n: n.node("Cast", n.node("QuantizeLinear", "x", n.constant(0.5), n.constant(0, np.int8)), to=1),
        "Cast",
        "only a cast from float to float is supported",
    ),
    "conv of a flat image": (
        lambda n: n.node("GlobalAveragePool", n.node("Reshape", "x", n.constant([0, -1], np.int64), name="flat")),
        "GlobalAveragePool",
        f"its input has shape (N, 60), {NEEDS}",
    ),
}


@pytest.mark.parametrize("name", list(NODES))
def test_node_is_refused_by_name_with_the_reason(name, tmp_path):
    build, operator, reason = NODES[name]
    net = Net((3, 5, 4), opset=17)
    made = build(net)
    error = refusal(net.model(made), tmp_path)
    assert error.message == f"node {made} ({operator}): {reason}"
    assert error.hint == HINT


def test_all_refused_nodes_at_once_and_nodes_without_a_name(tmp_path):
    """What follows a refused node is judged as well, as far as its shape is known; an output names its node."""
    net = Net((3, 6, 6))
    a = net.node("Sin", "x", name="first")
    b = net.node("PRelu", net.conv(a, 3, 4, (1, 1)), net.weight(6), name="second")
    net.node("Cos", b, name="third")
    model = net.model("third")
    model.graph.node[-1].name = ""
    error = refusal(model, tmp_path)
    assert error.message == (
        f"node first (Sin): operator not supported; node second (PRelu): a constant of shape [6] {PIXELS}; "
        f"node third (Cos): operator not supported"
    )
    assert error.hint == HINT


def test_nodes_that_are_refused_alike_stand_together(tmp_path):
    net = Net((3, 6, 6))
    last = "x"
    for number in range(5):
        last = net.node("Sin", last, name=f"sin{number}")
    assert refusal(net.model(last), tmp_path).message == (
        "nodes sin0, sin1, sin2 and 2 more (Sin): operator not supported"
    )


def test_operator_of_another_domain(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Relu", "x"))
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert refusal(model, tmp_path).message == "node relu_0 (Relu): operator not supported"


def test_what_a_refused_node_makes_is_not_refused_again(tmp_path):
    net = Net((1, 8, 9))
    net.shape = (12, 9, 1)
    odd = net.node("Reshape", "x", net.constant([0, 6, 3, 3, 2], np.int64), name="odd")  # no image: nothing follows
    net.node("Relu", odd, name="after")
    error = refusal(net.model("after"), tmp_path)
    reason = "an axis of (N, 12, 9, 1) would be torn: axes can be joined, or split into factors"
    assert error.message == f"node odd (Reshape): to [0, 6, 3, 3, 2]: {reason}"


def test_batch_that_would_be_broadcast(tmp_path):
    net = Net((4, 5, 4))
    vector = net.node("Flatten", net.node("GlobalAveragePool", "x"))
    model = net.model(net.node("Add", "x", vector, name="sum"), batch=3)
    error = refusal(model, tmp_path)
    assert error.message == "node sum (Add): tensors of [2, 4] axes: the batch would be broadcast"


def test_node_whose_name_is_no_text(tmp_path):
    """protobuf gives such a name as bytes."""
    net = Net((3, 6, 6))
    path = save(net.model(net.node("Sin", "x", name="odd name")), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"odd name", b"odd \xffame"))
    with pytest.raises(NpuError) as caught:
        read_onnx(path, host="none")
    assert "operator not supported" in caught.value.message or "not a readable" in caught.value.message


# -- whole models


def with_input(shape, kind=TensorProto.FLOAT):
    """A model of one Relu whose input has this shape."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (["N", 3, "H", "W"], "(N, 3, H, W)"),
        (["N", "C", 8, 8], "(N, C, 8, 8)"),
        (["N", 3, -1, 8], "(N, 3, -1, 8)"),
        ([16], "(16)"),
        (["N", "L", 3], "(N, L, 3)"),
        ([1, 3, 4, 8, 8], "(1, 3, 4, 8, 8)"),
        (None, "()"),
    ],
)
def test_dynamic_or_other_shapes(shape, text, tmp_path):
    error = refusal(with_input(shape), tmp_path, ModelError)
    assert error.message == f"input 'x' has shape {text}, needs (N, channels, height, width) with known sizes"
    assert error.hint == "give the sizes, such as --input-shape 1,3,320,320, or export the model with fixed ones"


def test_input_of_another_type(tmp_path):
    error = refusal(with_input(["N", 3, 8, 8], TensorProto.UINT8), tmp_path)
    assert error.message == "input 'x' is uint8, needs floating point"
    assert error.hint == "export the model with float inputs, or with uint8 ones that a Cast reads and nothing else"


def test_input_that_fills_the_memory(tmp_path):
    error = refusal(with_input([1, 10**6, 10**6, 10**6]), tmp_path)
    assert error.message == "input 'x' has shape (1, 1000000, 1000000, 1000000): too large"


def test_two_inputs(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Add", "x", "x"))
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 3, 6, 6]))
    error = refusal(model, tmp_path)
    assert error.message == "the model has 2 inputs: x, more; needs one"
    assert error.hint == "cut the model to one image input"


def test_no_output_or_two_of_one_name(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Relu", "x", name="y"))
    model.graph.output.append(model.graph.output[0])
    assert refusal(model, tmp_path, ModelError).message == "several outputs are called y"
    del model.graph.output[:]
    assert refusal(model, tmp_path, ModelError).message == "the model has no outputs"


def test_output_that_is_the_input_or_a_constant(tmp_path):
    net = Net((3, 6, 6))
    assert refusal(net.model(net.node("Identity", "x")), tmp_path, ModelError).message == "the model computes nothing"
    net = Net((3, 6, 6))
    made = net.node("Relu", net.weight(1, 3, 6, 6), name="fixed")
    error = refusal(net.model(made), tmp_path, ModelError)
    assert error.message == "output 'fixed' is not computed from the image"


def test_no_file(tmp_path):
    with pytest.raises(ModelError) as caught:
        read_onnx(tmp_path / "none.onnx")
    assert str(caught.value) == f"{tmp_path / 'none.onnx'}: no such file\n  hint: give the path of an ONNX model"


@pytest.mark.parametrize("damage", ["text", "cut", "empty", "zeros"])
def test_damaged_file(damage, tmp_path):
    net = Net((3, 6, 6))
    path = save(net.model(net.conv("x", 3, 8, (3, 3))), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(
        {"text": b"a text, no model", "cut": whole[: len(whole) // 2], "empty": b"", "zeros": bytes(len(whole))}[damage]
    )
    with pytest.raises(ModelError) as caught:
        read_onnx(path)
    assert caught.value.message.startswith("not a readable ONNX model: ")
    assert "\n" not in caught.value.message
    assert caught.value.where == "net.onnx"


def test_shapes_that_contradict_each_other(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Conv", "x", net.weight(4, 3, 3, 3)))
    del model.graph.value_info[:]
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((4, 5, 3, 3), np.float32), "c0"))
    with pytest.raises(NpuError) as caught:
        read_onnx(save(model, tmp_path))
    assert "5 channels, its input has 3" in caught.value.message
