"""Orders of axes: images with their channels last, transposes, vectors and parts of them, against onnxruntime."""

import numpy as np
import pytest
from npu_compiler.graph.ir import Conv
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import check_fit, import_model
from npu_isa.errors import ModelError, UnsupportedError
from npu_isa.machine.config import load_machine

from tests.onnx_models import Net, refusal, same_meaning, same_values, save


def channels_last(net, x):
    return net.node("Transpose", x, perm=[0, 2, 3, 1])


def channels_first(net, x):
    return net.node("Transpose", x, perm=[0, 3, 1, 2])


@pytest.mark.parametrize("batch", ["N", 4])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled before"])
def test_channels_last_image(scaled, batch, tmp_path):
    """As tf2onnx writes it: a Transpose behind the input, maybe normalization between; Dense after Flatten."""
    net = Net((3, 9, 8))
    pixels, net.shape = net.images(4), (9, 8, 3)
    x = "x"
    if scaled:
        x = net.node("Sub", net.node("Div", "x", net.constant(2.0)), net.constant([0.1, 0.2, 0.3]))
    conv = net.node("Relu", net.conv(channels_first(net, x), 3, 4, (3, 3)))
    last = channels_last(net, net.node("MaxPool", conv, kernel_shape=[2, 2]))
    again = net.node("Add", net.node("Mul", last, net.weight(4)), last)
    flat = net.node("Reshape", again, net.constant([-1, 6 * 5 * 4], np.int64))
    model = net.model(net.node("MatMul", flat, net.weight(120, 5)), batch=batch)
    graph = import_model(save(model, tmp_path))
    assert graph.shapes[graph.input] == (3, 9, 8)
    same_values(model, graph, pixels, last=True)


def test_channels_last_image_of_open_size(tmp_path):
    net = Net((3, 9, 8))
    pixels, net.shape = net.images(), ("height", "width", 3)
    model = net.model(net.conv(channels_first(net, "x"), 3, 4, (3, 3)))
    path = save(model, tmp_path)
    error = refusal(path, ModelError)
    assert (
        error.message
        == "input 'x' has shape (N, height, width, 3), needs (N, height, width, channels) with known sizes"
    )
    assert "--input-shape 1,320,320,3" in error.hint
    same_values(model, import_model(path, input_shape=(9, 8, 3)), pixels, last=True)


@pytest.mark.parametrize("opset", [11, 17])
def test_vectors_with_the_channels_last(opset, tmp_path):
    """Global pools squeezed to a vector, vectors reshaped to one pixel: height and width stand before the channels."""
    net = Net((3, 5, 4), opset)
    pooled = channels_last(net, net.node("GlobalAveragePool", net.conv("x", 3, 4, (3, 3))))
    axes = {"axes": [1, 2]} if opset < 13 else {}
    more = [] if axes else [net.constant([1, 2], np.int64)]
    vector = net.node("Gemm", net.node("Squeeze", pooled, *more, **axes), net.weight(4, 6))
    pixel = net.node("Reshape", vector, net.constant([-1, 1, 1, 6], np.int64))
    conv = channels_last(net, net.conv(channels_first(net, pixel), 6, 5, (1, 1)))
    again = net.node("Unsqueeze", net.node("Flatten", conv), *more, **axes)
    same_meaning(net, net.node("Relu", channels_first(net, again)), tmp_path)


def test_transposes_that_cancel_each_other(tmp_path):
    net = Net((3, 5, 4))
    turned = net.node("Transpose", net.conv("x", 3, 3, (1, 1)), perm=[0, 3, 1, 2])
    turned = net.node("Transpose", turned, perm=[0, 3, 1, 2])
    same_meaning(net, net.conv(net.node("Transpose", turned, perm=[0, 3, 1, 2]), 3, 4, (3, 3)), tmp_path)


@pytest.mark.parametrize(("channels", "size"), [(1, (3, 3)), (4, (1, 1))], ids=["one channel", "one pixel"])
def test_output_with_the_channels_last_where_it_is_the_same(channels, size, tmp_path):
    net = Net((3, 5, 5))
    kernel = (6 - size[0], 6 - size[1])
    same_meaning(net, channels_last(net, net.conv("x", 3, channels, kernel)), tmp_path)


@pytest.mark.parametrize("flat", [False, True])
def test_output_with_the_channels_last_where_it_is_another(flat, tmp_path):
    net = Net((3, 5, 4))
    last = net.node("Transpose", net.conv("x", 3, 4, (3, 3)), perm=[0, 2, 3, 1], name="last")
    out = net.node("Flatten", last, name="flat") if flat else last
    error = refusal(save(net.model(out), tmp_path), UnsupportedError)
    assert error.message == (
        "output 'flat' has its channels not first: shape (N, 24)"
        if flat
        else "output 'last' has its channels not first: shape (N, 3, 2, 4)"
    )
    assert error.hint == "remove the Transpose before the output"


def test_sum_of_two_orders(tmp_path):
    """One of them is moved, pixel by pixel."""
    net = Net((4, 4, 4))
    same_meaning(net, net.node("Add", "x", channels_last(net, "x"), name="sum"), tmp_path)


def test_parts_of_a_vector(tmp_path):
    """The last axis of a vector is its channels."""
    net = Net((6, 1, 1))
    flat = net.node("Relu", net.node("Flatten", "x"))
    given = (net.constant([v], np.int64) for v in (1, 5, -1))
    middle = net.node("Slice", flat, *given)
    parts = net.node("Split", flat, net.constant([2, 4], np.int64), axis=-1, outputs=2)
    padded = net.node("Pad", parts, net.constant([0, 1, 0, 1], np.int64))
    both = net.node("Concat", middle, padded, f"{parts}.1", axis=-1)
    same_meaning(net, both, tmp_path)


def test_one_value_after_flattening(tmp_path):
    net = Net((3, 4, 4))
    flat = net.node("Mul", net.node("Flatten", "x"), net.constant([0.5]))
    same_meaning(net, net.node("MatMul", net.node("Add", flat, net.constant(1.0)), net.weight(48, 3)), tmp_path)


@pytest.mark.parametrize("channels", [9, 40])
def test_matrix_over_the_image_of_each_channel(channels, tmp_path):
    """As heads of poses have it: many channels would be moved pixel by pixel; of too many it stays a move."""
    net = Net((3, 9, 10), opset=13)
    flat = net.node("Reshape", net.conv("x", 3, channels, (1, 1)), net.constant([0, channels, 90], np.int64))
    made = net.node("Add", net.node("MatMul", flat, net.weight(90, 12)), net.constant(0.5))
    graph = same_meaning(net, net.node("Relu", made), tmp_path)
    assert [n.groups for n in graph.nodes if isinstance(n, Conv)][1:] == [channels]


def test_matrix_over_the_image_of_too_many_channels(tmp_path):
    net = Net((3, 32, 32), opset=13)
    flat = net.node("Reshape", net.conv("x", 3, 64, (1, 1)), net.constant([0, 64, 1024], np.int64))
    message = refusal(
        save(net.model(net.node("MatMul", flat, net.weight(1024, 12))), tmp_path), UnsupportedError
    ).message
    assert "to move them takes 65536 parts" in message


@pytest.mark.parametrize("size", [(16, 16), (31, 30), (1, 300), (300, 1), (15, 15), (2, 400)])
def test_matrix_over_a_large_flattened_image(size, tmp_path):
    """A weight memory holds few hundred taps of a group of channels: more are read in blocks."""
    net = Net((3, *size), opset=13)
    flat = net.node("Flatten", net.node("Relu", net.conv("x", 3, 20, (1, 1))))
    made = net.node("Gemm", flat, net.weight(7, 20 * size[0] * size[1], spread=0.02), net.weight(7), transB=1)
    graph = same_meaning(net, made, tmp_path)
    last = graph.nodes[-1]
    assert isinstance(last, Conv)
    assert last.weight.shape[2] * last.weight.shape[3] <= 225
    assert (last.weight.shape[1] > 20) == (size != (15, 15))
    for machine in ("npu16", "npu32"):
        check_fit(graph, load_machine(machine), QuantizeOptions())
