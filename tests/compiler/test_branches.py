"""Models as exporters of modules write them: choices by sizes that are known, functions of the model's own."""

import numpy as np
import onnx
import pytest
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.pipeline import import_model
from npu_isa.errors import UnsupportedError
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import Net, refusal, same_values, save


def branch(name: str, nodes: list[onnx.NodeProto], out: str, **constants: np.ndarray) -> onnx.GraphProto:
    """Return a branch of an If."""
    made = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [made], [numpy_helper.from_array(v, k) for k, v in constants.items()])


def squeezed(net: Net, src: str, name: str) -> str:
    """Append what a squeeze of axis 2 becomes where sizes are open: if it is 1, it is left out, else nothing.

    It is left out by a maximum, as onnxruntime checks the branch that is not taken too.
    """
    size = net.node("Gather", net.node("Shape", src), net.constant(2, np.int64), axis=0)
    known = net.node("Equal", size, net.constant(1, np.int64))
    half = helper.make_node("Mul", [src, "factor"], ["part"])
    less = helper.make_node("ReduceMax", ["part"], ["made"], axes=[2], keepdims=0)
    then = branch("then", [half, less], "made", factor=np.array(0.5, np.float32))
    other = branch("else", [helper.make_node("Identity", [src], ["made"])], "made")
    return net.node("If", known, name=name, then_branch=then, else_branch=other)


def classifier(height: int, *, inner: bool = False) -> tuple[Net, str]:
    """Return a network with two choices by sizes, the second in a branch of the first if `inner`."""
    net = Net((3, height, 8), opset=13)
    body = net.node("MaxPool", net.conv("x", 3, 8, (1, 1)), kernel_shape=[2, 1], strides=[2, 1])
    if not inner:
        one = squeezed(net, body, "first")
        return net, net.node("Relu", one, name="last")
    keep = len(net.nodes)
    out = squeezed(net, body, "second")
    inside = net.nodes[keep:]
    del net.nodes[keep:]
    then = branch("outer", inside, out)
    other = branch("never", [helper.make_node("Softsign", [body], ["odd"])], "odd")
    return net, net.node("If", net.constant(True, bool), name="first", then_branch=then, else_branch=other)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("height", [2, 6])
def test_a_choice_by_known_sizes_is_none(height, inner, tmp_path):
    net, out = classifier(height, inner=inner)
    model = net.model(out)
    graph = import_model(save(model, tmp_path), host="none")
    assert graph.outputs[0].shape == ((8, 8) if height == 2 else (8, height // 2, 8))
    same_values(model, graph, net.images())


def test_the_same_names_in_two_choices(tmp_path):
    net = Net((3, 1, 8), opset=13)
    body = net.conv("x", 3, 8, (1, 1))
    out = net.node("Add", squeezed(net, body, "one"), squeezed(net, net.node("Relu", body), "two"))
    same_values(net.model(out), import_model(save(net.model(out), tmp_path), host="none"), net.images())


def test_a_choice_before_the_hosts_part(tmp_path):
    net, out = classifier(2)
    graph = import_model(save(net.model(net.node("Softmax", out, axis=1)), tmp_path))
    assert [n.operator for n in graph.host.nodes] == ["Softmax"]
    assert graph.outputs[0].shape == (8, 8)


def test_a_choice_by_values_is_refused(tmp_path):
    net = Net((3, 2, 8), opset=13)
    body = net.conv("x", 3, 8, (1, 1))
    least = net.node("ReduceMin", body, axes=[0, 1, 2, 3], keepdims=0)
    found = net.node("Less", least, net.constant(0.0))
    sides = [branch(word, [helper.make_node(word, [body], ["made"])], "made") for word in ("Relu", "Abs")]
    out = net.node("If", found, then_branch=sides[0], else_branch=sides[1], name="choice")
    message = refusal(save(net.model(out), tmp_path), UnsupportedError, host="auto").message
    assert "node choice (If): operator not supported" in message
    assert message.endswith("node choice (If) holds graphs of its own")


def test_functions_of_the_model(tmp_path):
    """Exporters of modules write a function for each."""
    net = Net((3, 8, 8), opset=17)
    out = net.node("Swish", net.conv("x", 3, 8, (1, 1)), domain="own")
    model = net.model(net.node("Relu", out), domains=("own",))
    steps = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    model.functions.append(helper.make_function("own", "Swish", ["a"], ["b"], steps, [helper.make_opsetid("", 17)]))
    graph = read_onnx(save(model, tmp_path), host="none")
    same_values(model, graph, net.images())
