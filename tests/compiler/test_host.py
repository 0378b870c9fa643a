"""What is cut off for the host, and what stays a refusal."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.ir import Graph
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model
from npu_compiler.qgraph import npuq
from npu_compiler.quantize.quantize import quantize8
from npu_isa.errors import ContainerError, UnsupportedError
from npu_isa.file.binary import HostOutput
from onnx import TensorProto, helper

from tests import host_models
from tests.onnx_models import PIXELS, Net, images, refusal, save

MODELS = ("softmax", "both", "detector", "suppressed", "transposed")
GIVEN = {
    "softmax": ["logits"],
    "both": ["logits", "body"],
    "detector": ["reshape_6", "reshape_20"],
    "suppressed": ["reshape_5", "slice_8"],
    "transposed": ["body"],
}
RESULTS = {
    "softmax": [("scores", (7,))],
    "both": [("logits", (7,)), ("best", ()), ("body", (24, 12, 12))],
    "detector": [("boxes", (360, 7))],
    "suppressed": [("chosen", None)],
    "transposed": [("last", (12, 12, 24))],
}


def host_of(model: onnx.ModelProto, folder, **options) -> tuple[Graph, onnx.ModelProto]:
    graph = import_model(save(model, folder), **options)
    assert graph.host is not None
    return graph, onnx.load_from_string(graph.host.onnx.tobytes())


@pytest.mark.parametrize("name", MODELS)
def test_the_end_is_cut_off(name, tmp_path):
    model = getattr(host_models, name)()
    graph, host = host_of(model, tmp_path)
    assert [o.name for o in graph.outputs] == GIVEN[name]
    assert graph.host.outputs == tuple(HostOutput(name=n, shape=s) for n, s in RESULTS[name])
    onnx.checker.check_model(host, full_check=True)
    assert {i.name for i in host.graph.input} <= set(GIVEN[name])
    assert [n.op_type for n in host.graph.node] == [n.operator for n in graph.host.nodes]
    known = {n.name: n for n in model.graph.node}
    assert all(known[n.name].op_type == n.operator and n.reason for n in graph.host.nodes)
    assert graph.host.macs == 0


@pytest.mark.parametrize("name", MODELS)
def test_equal_models_give_equal_bytes(name, tmp_path):
    path = save(getattr(host_models, name)(), tmp_path)
    first, second = (quantize8(import_model(path), images(4), PIXELS, QuantizeOptions()).graph for _ in range(2))
    data = npuq.to_bytes(first)
    assert data == npuq.to_bytes(second)
    again = npuq.from_bytes(data, "x")
    assert npuq.to_bytes(again) == data
    assert again.host.nodes == first.host.nodes
    assert again.host.onnx.tobytes() == first.host.onnx.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_the_host_may_be_told_to_do_nothing(name, tmp_path):
    path = save(getattr(host_models, name)(), tmp_path)
    assert import_model(path).host is not None
    message = refusal(path, UnsupportedError, host="none").message
    assert "host" not in message
    assert message.startswith("output 'last'" if name == "transposed" else "node")


def test_reasons(tmp_path):
    nodes = {n.name: n.reason for n in host_of(host_models.detector(), tmp_path)[0].host.nodes}
    assert nodes["transpose_7"] == "the machine cannot give its output in that form"
    assert "reshape_6" not in nodes
    (last,) = host_of(host_models.transposed(), tmp_path)[0].host.nodes
    assert last.reason == "the machine cannot give its output in that form"


def test_views_before_a_refused_node_move_to_the_host(tmp_path):
    """The values that the host reads are given in the order in which the machine holds them."""
    net = host_models.backbone()
    turned = net.node("Relu", net.node("Transpose", "body", perm=[0, 2, 3, 1]))
    graph, host = host_of(net.model(net.node("Softmax", turned, axis=3)), tmp_path)
    assert [o.name for o in graph.outputs] == ["body"]
    assert [n.op_type for n in host.graph.node] == ["Transpose", "Relu", "Softmax"]


def test_what_no_output_needs_is_left_out_with_a_note(tmp_path):
    net = host_models.backbone()
    net.node("Softmax", "body", name="idle")
    graph = import_model(save(net.model("body"), tmp_path))
    assert graph.host is None
    assert graph.notes == ("left out, as no output needs them: idle",)
    net.node("Floor", "body", name="odd")
    graph, host = host_of(net.model("odd"), tmp_path)
    assert [n.name for n in host.graph.node] == ["odd"]
    assert graph.notes == ("left out, as no output needs them: idle",)


# -- what stays a refusal


def test_a_refused_node_in_the_middle(tmp_path):
    message = refusal(save(host_models.middle(), tmp_path), UnsupportedError, host="auto").message
    assert message.startswith(
        "node odd (Floor): a curve with any number of steps is not supported; node softmax_10 (Softmax): "
    )
    assert message.endswith("these nodes do 47.1 % of the multiply-accumulates, of 1 % at most")


@pytest.mark.parametrize("outs", [340, 360])
def test_one_percent_may_be_done_by_the_host(outs, tmp_path):
    """839,808 of the machine: 8,483 are one percent of all."""
    net = host_models.backbone()
    pooled = net.node("Flatten", net.node("GlobalAveragePool", net.node("Floor", "body")))
    path = save(net.model(net.node("Gemm", pooled, net.weight(24, outs))), tmp_path)
    if outs == 340:
        assert import_model(path).host.macs == 24 * outs
    else:
        assert "do 1.0 % of the multiply-accumulates" in refusal(path, UnsupportedError, host="auto").message


def test_multiply_accumulates_of_each_operator(tmp_path):
    """Counted by hand, for a model that is made for two images."""
    net = host_models.backbone()
    odd = net.node("Floor", net.node("MaxPool", "body", kernel_shape=[12, 12]), name="odd")  # (24, 1, 1)
    up = net.node("ConvTranspose", odd, net.weight(24, 2, 2, 2))  # 24 * 2 * 2 * 2
    conv = net.node("Conv", up, net.weight(3, 2, 2, 1))
    flat = net.node("Reshape", conv, net.constant([2, 6], np.int64))  # (3, 1, 2)
    product = net.node("MatMul", flat, net.weight(6, 5))
    model = net.model(net.node("Gemm", product, net.weight(4, 5), transB=1), batch=2)
    graph, _ = host_of(model, tmp_path)
    assert graph.host.macs == 24 * 8 + 3 * 2 * (2 * 2) + 6 * 5 + 5 * 4


def contradictions() -> dict[str, tuple[Net, str]]:
    found = {}
    for name in ("channels", "bias", "sum", "axis", "slopes"):
        net = host_models.backbone()
        pooled = net.node("Floor", net.node("GlobalAveragePool", "body"), name="odd")
        match name:
            case "channels":
                last = net.node("Conv", pooled, net.weight(2, 23, 1, 1))
            case "bias":
                last = net.node("Conv", pooled, net.weight(2, 24, 1, 1), net.weight(3))
            case "sum":
                last = net.node("Add", pooled, net.weight(1, 23, 1, 1))
            case "axis":
                last = net.node("Softmax", pooled, axis=5)
            case _:
                last = net.node("PRelu", pooled, net.weight(23, 1, 1))
        found[name] = net, last
    return found


@pytest.mark.parametrize("name", ["channels", "bias", "sum", "axis", "slopes"])
def test_a_contradiction_is_never_pushed_to_the_host(name, tmp_path):
    net, last = contradictions()[name]
    nodes = [helper.make_node("Identity", ["odd"], [last])]
    whole, net.nodes[-1:] = net.nodes[-1], nodes  # building the model infers shapes
    model = net.model(last)
    model.graph.node[-1].CopyFrom(whole)
    message = refusal(save(model, tmp_path), UnsupportedError, host="auto").message
    assert message.startswith("node odd (Floor): a curve with any number of steps is not supported")
    assert f"node {last} contradicts itself: " in message


def test_nothing_left_for_the_machine(tmp_path):
    net = Net((3, 6, 6))
    message = refusal(save(net.model(net.node("Sin", "x")), tmp_path), UnsupportedError, host="auto").message
    assert message == "node sin_0 (Sin): operator not supported"


def test_operators_that_are_no_onnx_ones(tmp_path):
    net = host_models.backbone()
    model = net.model("body")
    model.graph.node.append(helper.make_node("Odd", ["body"], ["odd"], "odd", domain="com.example"))
    model.graph.output[0].name = "odd"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    message = refusal(save(model, tmp_path), UnsupportedError, host="auto").message
    assert message.endswith("node odd (Odd) is of another domain, com.example")


def test_inner_graphs(tmp_path):
    net = host_models.backbone()
    body = helper.make_graph(
        [helper.make_node("Identity", ["body"], ["inner"])], "branch", [], [onnx.ValueInfoProto(name="inner")]
    )
    total = net.node("Cast", net.node("ReduceSum", "body", keepdims=0), to=TensorProto.BOOL)
    chosen = net.node("If", total, then_branch=body, else_branch=body, name="chosen")
    message = refusal(save(net.model(chosen), tmp_path), UnsupportedError, host="auto").message
    assert message.endswith("node chosen (If) holds graphs of its own")


def test_images_that_are_mixed(tmp_path):
    net = host_models.backbone()
    out = net.node("ReduceSum", net.node("Floor", "body"), net.constant([0], np.int64), keepdims=0)
    assert host_of(net.model(out, batch=1), tmp_path)[0].host.outputs[0].shape is None
    message = refusal(save(net.model(out, batch=2), tmp_path), UnsupportedError, host="auto").message
    assert message.endswith(f"output {out!r} may mix the 2 images that the model is made for")


# -- kinds of model


def test_half_precision(tmp_path):
    """Floating point of 16 bits is read as float32, on the host too."""
    net = host_models.backbone()
    scores = net.node("Softmax", net.node("Cast", host_models.classes(net), to=TensorProto.FLOAT16), axis=1)
    net.node("Mul", scores, net.constant(2.0), name="twice")
    model = net.model("logits")
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name))
    model.graph.output[0].name = "twice"
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    _, host = host_of(model, tmp_path)
    assert host.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert [n.op_type for n in host.graph.node] == ["Softmax", "Mul"]


@pytest.mark.parametrize("last", [False, True])
def test_an_image_of_bytes(last, tmp_path):
    net = host_models.backbone()
    cast = net.node("Cast", "x", to=TensorProto.FLOAT)
    first = net.node("Transpose", cast, perm=[0, 3, 1, 2]) if last else cast
    net.nodes[0].input[0] = first
    net.nodes[:] = [*net.nodes[-2 if last else -1 :], *net.nodes[: -2 if last else -1]]
    model = net.model("body")
    shape = [1, 12, 12, 3] if last else [1, 3, 12, 12]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.UINT8, shape))
    graph = import_model(save(model, tmp_path))
    assert graph.takes_bytes
    assert graph.shapes[graph.input] == (3, 12, 12)


def test_a_damaged_part_in_a_quantized_graph(tmp_path):
    graph = quantize8(import_model(save(host_models.softmax(), tmp_path)), images(4), PIXELS, QuantizeOptions()).graph

    def refused(**changes) -> str:
        with pytest.raises(ContainerError) as caught:
            npuq.from_bytes(npuq.to_bytes(replace(graph, host=replace(graph.host, **changes))), "x")
        return caught.value.message

    assert refused(onnx=np.zeros(0, np.uint8)) == "the host's part: the model is no bytes"
    assert refused(onnx=np.zeros(4, np.int16)) == "the host's part: the model is no bytes"
    assert refused(macs=-1) == "the host's part: -1 multiply-accumulates"
    assert refused(outputs=()) == "the host's part: it makes no output, or one twice"
    own = (HostOutput(name="logits", shape=(7,)),)
    assert refused(outputs=own) == "the host's part: it makes no output, or one twice"


def test_read_onnx_alone(tmp_path):
    graph = read_onnx(save(host_models.both(), tmp_path))
    assert [n.operator for n in graph.host.nodes] == ["ArgMax"]
