"""Values in an order of their own at the end of a model: the host puts the machine's tensors in order."""

import numpy as np
import onnx
import pytest
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import Channels, Graph, Mosaic
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import check_fit, import_model
from npu_isa.errors import UnsupportedError
from npu_isa.machine.config import load_machine
from onnx.reference import ReferenceEvaluator

from tests.onnx_models import TOLERANCE, Net, refusal, run_outputs, save


def same_outputs(model: onnx.ModelProto, folder, images: np.ndarray) -> Graph:
    """Assert that the graph and the host's part after it give what onnxruntime gives; return the graph."""
    graph = import_model(save(model, folder))
    assert graph.host is not None
    tensors = evaluate(graph, images)
    batch = len(images)
    given = {o.name: tensors[o.tensor].reshape(batch, *o.shape) for o in graph.outputs}
    host = ReferenceEvaluator(onnx.load_from_string(graph.host.onnx.tobytes()))
    reads = {name: given[name] for name in host.input_names}
    found = dict(zip(host.output_names, host.run(None, reads), strict=True)) | given
    for name, want in run_outputs(model, images).items():
        assert found[name].shape == want.shape
        assert np.abs(found[name] - want).max() <= TOLERANCE * (1 + np.abs(want).max())
    return graph


def reader(classes: int, more: bool = False) -> onnx.ModelProto:
    """Return a reader of text: columns of an image are classified by one matrix; with `more` by a second one."""
    net = Net((3, 16, 24), opset=13)
    body = net.node("Relu", net.conv("x", 3, 24, (3, 3), strides=[2, 2], pads=[1] * 4))
    steps = net.node("Transpose", net.node("ReduceMean", body, axes=[2], keepdims=0), perm=[0, 2, 1])
    scores = net.node("Add", net.node("MatMul", steps, net.weight(24, classes), name="product"), net.weight(classes))
    outputs = [net.node("Softmax", scores, axis=2)]
    if more:
        outputs.append(net.node("MatMul", scores, net.weight(classes, 30)))
    return net.model(*outputs, batch=1)


def test_a_matrix_over_channels_stays_with_the_machine(tmp_path):
    """Its result has the channels last: with the matrix the host would do more than it may."""
    graph = same_outputs(reader(20), tmp_path, Net((3, 16, 24)).images(1))
    assert [n.operator for n in graph.host.nodes] == ["Transpose", "Add", "Softmax"]
    assert graph.host.nodes[0].reason == "puts a tensor of the machine in the model's order"
    assert graph.host.macs == 0


def test_what_the_machine_reads_too_stays_with_the_machine(tmp_path):
    """The sum is read by a matrix: to move it would move the matrix."""
    graph = same_outputs(reader(20, more=True), tmp_path, Net((3, 16, 24)).images(1))
    assert [n.operator for n in graph.host.nodes] == ["Transpose", "Transpose", "Softmax"]


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_count(operator, gates, tmp_path):
    net = Net((3, 16, 24), opset=13)
    body = net.node("Relu", net.conv("x", 3, 24, (3, 3), strides=[2, 2], pads=[1] * 4))
    steps = net.node("Transpose", net.node("ReduceMean", body, axes=[2], keepdims=0), perm=[2, 0, 1])
    weights = [net.weight(1, 5 * gates, size) for size in (24, 5)]
    read = net.node(operator, steps, *weights, hidden_size=5)
    path = save(net.model(read, batch=1), tmp_path)
    macs = 12 * 5 * gates * (24 + 5)
    share = 100 * macs / (macs + 24 * 27 * 96)
    assert share > 1
    assert f"these nodes do {share:.1f} % of the multiply" in refusal(path, UnsupportedError, host="auto").message


@pytest.mark.parametrize(
    ("equation", "macs"),
    [("nchw, nkhw -> nck", 24 * 24 * 96), ("n...hw,n...hw->n...", 24 * 96), ("nc...,nk...->nck...", 24 * 24 * 96)],
)
def test_einsum_counts(equation, macs, tmp_path):
    net = Net((3, 16, 24), opset=13)
    body = net.node("Relu", net.conv("x", 3, 24, (3, 3), strides=[2, 2], pads=[1] * 4))
    path = save(net.model(net.node("Einsum", body, body, equation=equation), batch=1), tmp_path)
    share = 100 * macs / (macs + 24 * 27 * 96)
    assert f"these nodes do {share:.1f} % of the multiply" in refusal(path, UnsupportedError, host="auto").message


def heads(host_end: bool) -> onnx.ModelProto:
    """Return a detector's head as exporters write it: channels last, flattened, joined."""
    net = Net((3, 32, 32), opset=13)
    body = net.node("Relu", net.conv("x", 3, 16, (3, 3), strides=[2, 2], pads=[1] * 4))
    parts = []
    for src in (body, net.node("MaxPool", body, kernel_shape=[2, 2], strides=[2, 2])):
        last = net.node("Transpose", net.conv(src, 16, 12, (1, 1)), perm=[0, 2, 3, 1])
        parts.append(net.node("Reshape", last, net.constant([1, -1, 4], np.int64)))
    joined = net.node("Concat", *parts, axis=1)
    return net.model(net.node("Softmax", joined, axis=2) if host_end else joined, batch=1)


@pytest.mark.parametrize("host_end", [False, True])
def test_many_parts_at_the_end_are_the_hosts(host_end, tmp_path):
    """256 pixels would become channels one by one."""
    graph = same_outputs(heads(host_end), tmp_path, Net((3, 32, 32)).images(1))
    assert [o.shape for o in graph.outputs] == [(12, 16, 16), (12, 8, 8)]
    assert not any(isinstance(n, Channels | Mosaic) for n in graph.nodes)


def test_many_parts_before_a_matrix_stay_with_the_machine(tmp_path):
    """The host may do little: it does no matrix in order to spare the machine a move."""
    net = Net((3, 6, 8), opset=13)
    body = net.node("Relu", net.conv("x", 3, 16, (3, 3), pads=[1] * 4))
    flat = net.node("Transpose", net.node("Reshape", body, net.constant([0, 16, 48], np.int64)), perm=[0, 2, 1])
    weighed = net.node("Mul", body, net.node("Reshape", flat, net.constant([0, 16, 6, 8], np.int64)))
    last = net.node("Gemm", net.node("Flatten", net.node("GlobalAveragePool", weighed)), net.weight(16, 3))
    graph = import_model(save(net.model(last), tmp_path))
    assert graph.host is None
    assert len(graph.nodes) > 64


def test_a_choice_of_more_channels_than_a_layer_reads(tmp_path):
    net = Net((3, 8, 8), opset=13)
    wide = net.conv("x", 3, 4112, (1, 1))
    turned = net.node("Reshape", wide, net.constant([0, 2, 2056, 8, 8], np.int64))
    turned = net.node("Transpose", turned, perm=[0, 2, 1, 3, 4])
    last = net.conv(net.node("Reshape", turned, net.constant([0, 4112, 8, 8], np.int64)), 4112, 8, (1, 1))
    message = refusal(save(net.model(last), tmp_path), UnsupportedError).message
    assert message.endswith("a choice of 4112 channels: a layer may read 4096")


def test_a_layer_that_reads_too_many_channels_does_not_fit(tmp_path):
    net = Net((3, 8, 8), opset=13)
    graph = import_model(save(net.model(net.conv(net.conv("x", 3, 4112, (1, 1)), 4112, 8, (1, 1))), tmp_path))
    with pytest.raises(UnsupportedError, match="4112 input channels, a layer may read 4096"):
        check_fit(graph, load_machine("npu32"), QuantizeOptions())
