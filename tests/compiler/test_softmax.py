"""Softmax in the middle of a model, where the host cannot take it: split attention, weights of branches."""

import numpy as np
import pytest
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.pipeline import import_model
from npu_isa.errors import UnsupportedError

from tests.onnx_models import TOLERANCE, Net, refusal, run_onnx, save


def weighed(net: Net, value: str, channels: int, **attributes: int) -> str:
    """Append a Softmax of a value of 4 x 6 pixels, and a convolution that is too much for the host."""
    made = net.node("Softmax", value, **attributes)
    made = net.node("Reshape", made, net.constant([-1, channels, 4, 6], np.int64))
    return net.node("Relu", net.conv(made, channels, 16, (3, 3)), name="last")


def same(net: Net, folder) -> None:
    model, x = net.model("last"), net.images()
    graph = import_model(save(model, folder))
    assert graph.host is None
    want = run_onnx(model, x)
    got = evaluate(graph, x)[graph.output_tensors[0]].reshape(want.shape)
    assert np.abs(got - want).max() <= TOLERANCE * (1 + np.abs(want).max())


@pytest.mark.parametrize("axis", [1, 2, 3, 4, -1])
def test_over_one_axis(axis, tmp_path):
    net = Net((3, 4, 6), opset=13)
    split = net.node("Reshape", net.conv("x", 3, 12, (1, 1)), net.constant([-1, 2, 6, 4, 6], np.int64))
    weighed(net, split, 12, axis=axis)
    same(net, tmp_path)


@pytest.mark.parametrize("axis", [None, 1, 2, 3])
def test_over_all_axes_from_one_on(axis, tmp_path):
    """What it meant before opset 13, where axis 1 is the one that is not said."""
    net = Net((3, 4, 6), opset=11)
    weighed(net, net.conv("x", 3, 12, (1, 1)), 12, **({} if axis is None else {"axis": axis}))
    same(net, tmp_path)


def test_large_values_stay_finite(tmp_path):
    net = Net((3, 4, 6), opset=13)
    weighed(net, net.node("Mul", net.conv("x", 3, 12, (1, 1)), net.constant(200.0)), 12, axis=1)
    same(net, tmp_path)


def test_what_stays_refused(tmp_path):
    net = Net((3, 4, 6), opset=13)
    weighed(net, net.conv("x", 3, 65, (1, 1)), 65, axis=1)
    message = refusal(save(net.model("last"), tmp_path), UnsupportedError, host="auto").message
    assert message.startswith("node softmax_1 (Softmax): the machine divides by no computed sum")
