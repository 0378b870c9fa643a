"""Axes that are a part of the channels: branches that are stacked, weighed and summed, as split attention does it."""

import numpy as np
import pytest
from npu_compiler.graph.ir import Channels, Mosaic

from tests.onnx_models import Net, same_meaning


def split(net: Net, shape: tuple[int, ...]) -> str:
    """Return 24 channels of 4 x 6 pixels as a value of this shape."""
    return net.node("Reshape", net.conv("x", 3, 24, (1, 1)), net.constant([-1, *shape], np.int64))


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [2], [1, 3], [2, 4, 5], [1, 2]])
@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"])
def test_reduced(operator, axes, keepdims, tmp_path):
    net = Net((3, 4, 6), opset=18)
    made = net.node(operator, split(net, (2, 3, 4, 4, 6)), net.constant(axes, np.int64), keepdims=keepdims)
    same_meaning(net, net.node("Relu", made), tmp_path)


def test_a_sum_of_branches_is_one_convolution(tmp_path):
    net = Net((3, 4, 6), opset=13)
    made = net.node("ReduceSum", split(net, (2, 12, 4, 6)), net.constant([1], np.int64), keepdims=0)
    graph = same_meaning(net, net.conv(made, 12, 8, (1, 1)), tmp_path)
    assert not any(isinstance(n, Channels | Mosaic) for n in graph.nodes)


@pytest.mark.parametrize("axis", [1, 2])
def test_stacked(axis, tmp_path):
    """Along a new axis before the channels that is one convolution's input; behind them it needs a move."""
    net = Net((3, 4, 6), opset=13)
    parts = [net.node("Unsqueeze", net.conv("x", 3, 8, (1, 1)), net.constant([1], np.int64)) for _ in range(3)]
    joined = net.node("Concat", *parts, axis=1)
    if axis == 2:
        joined = net.node("Transpose", joined, perm=[0, 2, 1, 3, 4])
    made = net.node("ReduceSum", joined, net.constant([axis], np.int64), keepdims=0)
    same_meaning(net, net.conv(made, 8, 4, (3, 3)), tmp_path)


def test_stacks_are_stacked(tmp_path):
    net = Net((3, 4, 6), opset=13)
    wide = net.node("Reshape", net.conv("x", 3, 36, (1, 1)), net.constant([-1, 3, 12, 4, 6], np.int64))
    joined = net.node("Concat", split(net, (2, 12, 4, 6)), wide, axis=1)
    weighed = net.node("Mul", joined, net.node("Sigmoid", joined))
    made = net.node("ReduceMean", weighed, axes=[1], keepdims=0)
    same_meaning(net, made, tmp_path)
