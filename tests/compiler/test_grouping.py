"""Channels of like magnitude share a group, and no value of the 8-bit network changes by it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.ir import TensorQuant
from npu_compiler.graph.passes import optimize
from npu_compiler.lowering.lower import study
from npu_compiler.lowering.positions import value_counts
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import quantize
from npu_compiler.qgraph import fast_eval
from npu_compiler.qgraph.ir import GROUP
from npu_compiler.qgraph.verify import verify_quantized
from npu_compiler.quantize.prepare import prepare
from npu_compiler.quantize.quantize import calibrate, dial_nodes, quantize8

from tests.onnx_models import PIXELS, Net, example, images, save, wide_example
from tests.random_onnx import networks

OPTIONS = QuantizeOptions(aligned=False, rounding="nearest", keep_first_8bit=False, keep_last_8bit=False)


def outputs(graph, pixels):
    """Return the output in the model's own order of channels, every layer in 8 bits."""
    (made,) = fast_eval.run(graph, graph.table[np.arange(pixels.shape[3]), pixels], [0] * len(graph.lowerable)).values()
    channel_map = graph.tensors[graph.output_tensors[0]].channel_map
    return made[..., [channel_map.index(c) for c in range(max(channel_map) + 1)]]


def same_values(float_graph, pixels, preprocess):
    """Assert that both groupings give a valid network with the same outputs; return the one by magnitude."""
    by = {g: quantize(float_graph, pixels, preprocess, replace(OPTIONS, grouping=g)) for g in ("none", "magnitude")}
    verify_quantized(by["magnitude"], "net")
    assert np.array_equal(outputs(by["none"], pixels), outputs(by["magnitude"], pixels))
    return by["magnitude"]


@pytest.mark.parametrize("model", [example, wide_example])
def test_no_value_changes(model, tmp_path):
    graph = same_values(optimize(read_onnx(save(model(), tmp_path))), images(8), PIXELS)
    assert any(
        t.channel_map[: GROUP - 1] != tuple(range(GROUP - 1)) for t in graph.tensors.values() if t.channels > GROUP
    )


@pytest.mark.slow
@given(networks())
@settings(max_examples=60)
def test_no_value_of_a_random_network_changes(tmp_path_factory, case):
    net, output = case
    graph = optimize(read_onnx(save(net.model(output), tmp_path_factory.getbasetemp())))
    channels, height, width = net.shape
    pixels = np.random.default_rng(0).integers(0, 256, (4, height, width, channels), dtype=np.uint8)
    same_values(graph, pixels, replace(PIXELS, mean=(0.5,) * channels, std=(0.25,) * channels))


def test_groups_hold_channels_of_like_magnitude(tmp_path):
    """Channels stand from the smallest to the largest, also inside each part of a concat."""
    net = Net((3, 12, 12))
    scales = np.exp(net.rng.normal(0, 1.5, (48, 1, 1, 1)))
    first = net.node("Relu", net.node("Conv", "x", net.constant(net.rng.normal(0, 0.3, (48, 3, 1, 1)) * scales)))
    second = net.node("Relu", net.node("Conv", "x", net.constant(net.rng.normal(0, 0.3, (32, 3, 1, 1)) * scales[:32])))
    joined = net.node("Concat", net.node("MaxPool", first, kernel_shape=[1, 1]), second, axis=1)
    out = net.conv(joined, 80, 24, (1, 1))
    graph = optimize(read_onnx(save(net.model(out), tmp_path)))
    found = study(quantize8(graph, images(16), PIXELS, OPTIONS), OPTIONS)
    layer = next(x for x in found.layers if x.node.name == out)
    counts = value_counts(found.graph, found.image_bytes, {layer.src.name})[layer.src.name]
    size = counts @ np.arange(256.0) ** 2
    assert layer.src.channels == 80
    for part in (size[:48], size[48:]):
        assert (np.diff(part) > -1e-3 * part.max()).all()
        assert part[-1] > 20 * part[0]


def test_sums_of_concats_of_concats_keep_the_order_of_their_parts(tmp_path):
    """Both operands must agree, down to the innermost parts, whatever else reads those of one operand."""
    net = Net((3, 12, 12))
    made, other = [], ""
    for _ in range(2):
        parts = [net.node("Relu", net.conv("x", 3, 16, (1, 1))) for _ in range(3)]
        other = net.node("Concat", *parts[:2], axis=1)
        made.append(net.node("Concat", other, parts[2], axis=1))
    summed = net.node("Relu", net.node("Add", *made))
    out = net.node("Add", net.conv(summed, 48, 24, (1, 1)), net.conv(other, 32, 24, (3, 3), pads=[1] * 4))
    same_values(optimize(read_onnx(save(net.model(net.conv(out, 24, 8, (1, 1))), tmp_path))), images(8), PIXELS)


def test_tensors_are_calibrated_in_the_order_of_the_graph(tmp_path):
    """The sums over tied tensors must not follow the order of a set of names, which changes from run to run."""
    net = Net((3, 12, 12))
    out = net.conv("x", 3, 48, (1, 1))
    for _ in range(12):
        out = net.conv(out, 48, 48, (1, 1))
    graph = optimize(read_onnx(save(net.model(out), tmp_path)))
    prepared = prepare(replace(graph, quant={graph.input: TensorQuant(0.02, True)}))
    seen = calibrate(prepared, images(2), PIXELS, dial_nodes(prepared.graph, OPTIONS))
    assert list(seen.by_channel) == [n.src for n in prepared.graph.nodes[1:]]
