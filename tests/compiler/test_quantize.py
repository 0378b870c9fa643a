"""The quantizer: 8 bits are close to float, positions err least, bias rows repair the mean, results are repeatable."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import Affine, Clip, Conv, Graph, Identity
from npu_compiler.graph.passes import optimize
from npu_compiler.lowering.order import order_groups
from npu_compiler.options import QuantizeOptions
from npu_compiler.outputs import Output
from npu_compiler.pipeline import compile_model, import_model, quantize
from npu_compiler.qgraph import golden
from npu_compiler.qgraph.ir import QConv, QFold, QWindow
from npu_compiler.qgraph.verify import verify_quantized
from npu_isa.errors import DataError, UnsupportedError
from npu_isa.file.container import to_bytes
from npu_isa.machine.config import load_machine

from tests.onnx_models import PIXELS, Net, example, images, model_input, save, wide_example
from tests.qgraphs import random_images, random_qgraph
from tests.random_onnx import networks

PLAIN = QuantizeOptions(aligned=False)
LAYER = QuantizeOptions(bias_correction="layer")


def read(model, folder):
    return optimize(read_onnx(save(model, folder)))


def real_output(graph, pixels, boundaries):
    """Return the golden model's output in the units of the model, (N, channels, height, width)."""
    t = graph.tensors[graph.output_tensors[0]]
    made = golden.run(graph, graph.table[np.arange(len(graph.table)), pixels], boundaries)[graph.output_tensors[0]]
    return made[..., np.array(t.channel_map) >= 0].transpose(0, 3, 1, 2) * t.scale


def in_8_bits(graph, pixels):
    return real_output(graph, pixels, [0] * len(graph.lowerable))


def decibels(want, got):
    return 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum())


@pytest.fixture(scope="module")
def float_graph(tmp_path_factory):
    return read(example(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def wide_graph(tmp_path_factory):
    return read(wide_example(), tmp_path_factory.mktemp("wide"))


# -- 8 bits


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "aligned"])
def test_8_bits_are_close_to_float(method, float_graph):
    """More than 27 dB.

    A tensor of peak p and root mean square r in 255 steps of 8 bits has r^2 / (p^2 / 255^2 / 12) noise to signal: for
    p = 5 r, as of normal values, 45 dB (39 dB signed, 127 steps to the peak). Each of the seven layers adds the noise
    of its output and of its weights: 39 - 10 log10(14) = 27.5 dB if nothing cancels; averages over pixels only help.
    """
    options = QuantizeOptions() if method == "aligned" else replace(PLAIN, method=method)
    pixels = images(32, seed=3)
    graph = quantize(float_graph, images(64), PIXELS, options)
    want = evaluate(float_graph, model_input(pixels))[float_graph.output_tensors[0]]
    assert decibels(want, in_8_bits(graph, pixels)) > 27


@pytest.mark.slow
@given(networks())
@settings(max_examples=60)
def test_random_networks_become_valid_and_close(tmp_path_factory, case):
    """Whatever the structure, the quantized graph keeps its rules and the values; 12 dB tell a wrong tensor.

    The bound is low since random networks subtract what they have added, and 8-bit noise stays.
    """
    net, output = case
    graph = read(net.model(output), tmp_path_factory.getbasetemp())
    rng = np.random.default_rng(0)
    channels, height, width = net.shape
    pre = replace(PIXELS, mean=(0.5,) * channels, std=(0.25,) * channels)
    pixels = rng.integers(0, 256, (16, height, width, channels), dtype=np.uint8)
    quantized = order_groups(quantize(graph, pixels, pre, replace(LAYER, keep_first_8bit=False)))
    verify_quantized(quantized, "net")
    want = evaluate(graph, ((pixels / 255 - 0.5) / 0.25).astype(np.float32).transpose(0, 3, 1, 2))[
        graph.output_tensors[0]
    ]
    if np.abs(want).max() > 1e-3:
        assert decibels(want, in_8_bits(quantized, pixels)) > 12


def test_three_moves_in_a_row(tmp_path):
    """Space, channels, space: two of them become one convolution, the third stays a node of its own."""
    net = Net((3, 12, 12))
    x = net.conv("x", 3, 16, (1, 1))
    for pads in ([0, 0, 1, 1] * 2, [0, 2, 0, 0] * 2, [0, 0, -2, 0, 0, 0, 0, -1], [0, -1, 0, 0] * 2):
        x = net.node("Pad", x, net.constant(pads, np.int64))
    graph = read(net.model(net.node("Relu", x)), tmp_path)
    pixels = images(8)
    quantized = quantize(graph, pixels, PIXELS, PLAIN)
    verify_quantized(quantized, "net")
    want = evaluate(graph, model_input(pixels))[graph.output_tensors[0]]
    assert decibels(want, in_8_bits(quantized, pixels)) > 27


def test_residual_whose_channels_stand_elsewhere(tmp_path):
    """A depthwise layer over a concat keeps the gaps of its parts; the tensor added has none and is moved first."""
    net = Net((3, 12, 12))
    parts = [net.conv("x", 3, c, (1, 1)) for c in (8, 9)]
    deep = net.conv(net.node("Concat", *parts, axis=1), 17, 17, (3, 3), 17, pads=[1] * 4)
    graph = read(net.model(net.node("Add", deep, net.conv("x", 3, 17, (1, 1)))), tmp_path)
    pixels = images(8)
    quantized = quantize(graph, pixels, PIXELS, PLAIN)
    verify_quantized(quantized, "net")
    want = evaluate(graph, model_input(pixels))[graph.output_tensors[0]]
    assert decibels(want, in_8_bits(quantized, pixels)) > 27


def test_tensor_that_hardly_leaves_zero(tmp_path):
    """Its own range would ask for steps that no multiplier reaches; it gets the finest that one does."""
    net = Net((3, 12, 12))
    conv = net.node("Conv", "x", net.constant(np.eye(3).reshape(3, 3, 1, 1)), net.constant([-2.19999] * 3))
    graph = read(net.model(net.node("Relu", net.node("MaxPool", conv, kernel_shape=[1, 1]))), tmp_path)
    pixels = np.full((4, 12, 12, 3), 128, np.uint8)
    pixels[0, 0, 0] = 255, 0, 0  # (1 - 0.4) / 0.25 = 2.4: the only value above zero, barely
    small = replace(PIXELS, mean=(0.45000001,) * 3, std=(0.25,) * 3)
    quantized = quantize(graph, pixels, small, PLAIN)
    assert (
        quantized.tensors[quantized.output_tensors[0]].scale
        >= quantized.tensors[quantized.nodes[-1].inputs[0]].scale / 16000
    )
    verify_quantized(quantized, "net")


@pytest.mark.parametrize("factor", [1e-22, 1e21])
def test_large_and_small_activations_lose_nothing(tmp_path, factor):
    """Squares of what the last layers read leave float32."""
    net = Net((3, 12, 12), seed=2)
    deep = net.node("Relu", net.conv("x", 3, 40, (3, 3)))
    deep = net.node("Relu", net.conv(deep, 40, 40, (3, 3)))
    for name in net.nodes[-2].input[1:]:
        net.constants[name] *= np.float32(factor)
    graph = read(net.model(net.conv(deep, 40, 48, (3, 3))), tmp_path)
    quantized = quantize(graph, images(8), PIXELS, QuantizeOptions(keep_last_8bit=False))
    want = evaluate(graph, model_input(images(4, 1)))[graph.output_tensors[0]]
    assert decibels(want.astype(np.float64), in_8_bits(quantized, images(4, 1))) > 25


def test_network_that_normalizes_its_image_loses_nothing(tmp_path):
    """The factor and shift of the image move into the pixel table; the convolution gathers the image while it loads."""
    net = Net((3, 12, 12))
    stats = [net.constant(v) for v in ([2.0, 0.5, 1.0], [0.1, -0.2, 0.0], [0.3, 0.0, -0.1], [1.0, 4.0, 0.25])]
    conv = net.conv(net.node("BatchNormalization", "x", *stats), 3, 8, (3, 3), pads=[1] * 4)
    graph = read(net.model(net.conv(conv, 8, 5, (1, 1))), tmp_path)
    assert isinstance(graph.nodes[0], Affine)
    pixels = images(16)
    quantized = quantize(graph, pixels, PIXELS, PLAIN)
    assert [type(n) for n in quantized.nodes] == [QFold, QConv, QConv]
    assert (quantized.preprocess.mean, quantized.preprocess.std) == (PIXELS.mean, PIXELS.std)  # what the user gave
    want = evaluate(graph, model_input(pixels))[graph.output_tensors[0]]
    assert decibels(want, in_8_bits(quantized, pixels)) > 30


def test_first_convolutions_the_last_and_small_ones_stay_in_8_bits(tmp_path):
    """Also where something else comes between the image and its first convolution."""
    net = Net((3, 12, 12))
    image = net.node("MaxPool", net.node("Relu", "x"), kernel_shape=[2, 2], strides=[2, 2])
    two = [net.conv(image, 3, 16, (1, 1)), net.conv("x", 3, 16, (2, 2), strides=[2, 2])]
    middle = net.conv(net.node("Add", *two), 16, 16, (3, 3))
    small = net.conv(middle, 16, 16, (1, 1))
    graph = read(net.model(net.conv(small, 16, 4, (1, 1))), tmp_path)
    pixels = images(4)
    names = [n.name for n in quantize(graph, pixels, PIXELS, LAYER).lowerable]
    assert names == [middle]
    with_small = quantize(graph, pixels, PIXELS, replace(LAYER, keep_small_8bit=False)).lowerable
    assert [n.name for n in with_small] == [middle, small]
    every = replace(LAYER, keep_first_8bit=False, keep_last_8bit=False, keep_small_8bit=False)
    assert len(quantize(graph, pixels, PIXELS, every).lowerable) == 5


# -- the order of groups, and repeatable results


@pytest.mark.parametrize("seed", range(25))
def test_order_of_groups_in_memory_changes_no_value(seed):
    rng = np.random.default_rng(seed)
    graph = random_qgraph(rng)
    moved = order_groups(graph)
    verify_quantized(moved, "net")
    data = random_images(rng, graph, 2)
    for share in (0.0, 0.4, 1.0):
        boundaries = [round(share * graph.tensors[n.src].groups) for n in graph.lowerable]
        a, b = (golden.run(g, data, boundaries)[graph.output_tensors[0]] for g in (graph, moved))
        assert np.array_equal(a, b)


def test_order_of_groups_really_moves(wide_graph):
    graph = quantize(wide_graph, images(8), PIXELS, LAYER)
    moved = order_groups(graph)
    assert any(
        tuple(a.lowering.order) != tuple(b.lowering.order) and list(b.lowering.order) == sorted(b.lowering.order)
        for a, b in zip(graph.lowerable, moved.lowerable, strict=True)
    )


SCRIPT = """
import hashlib, sys
import numpy as np
from npu_compiler.pipeline import compile_model
from npu_isa.file.container import to_bytes
from npu_isa.machine.config import load_machine
from tests.onnx_models import PIXELS, images
_, binary = compile_model(sys.argv[1], load_machine("npu16"), images(16), PIXELS)
print(hashlib.sha256(to_bytes(binary)).hexdigest())
"""


@pytest.mark.slow
def test_two_compilations_give_the_same_bytes(tmp_path):
    """In one process, and in another whose sets and dictionaries of texts have another order."""
    path = save(wide_example(), tmp_path)
    found = {
        hashlib.sha256(to_bytes(compile_model(path, load_machine("npu16"), images(16), PIXELS)[1])).hexdigest()
        for _ in range(2)
    }
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found == {done.stdout.strip()}


# -- refusals


def graph_of(act):
    weight = np.ones((4, 3, 1, 1), np.float32)
    node = Conv("conv", "y", ("conv",), "x", weight, np.zeros(4, np.float32), act=act)
    return Graph("net", (node,), {"x": (3, 12, 12), "y": (4, 12, 12)}, "x", (Output("y", "y", (4, 12, 12)),))


def test_clamp_without_zero_is_refused():
    with pytest.raises(UnsupportedError) as caught:
        quantize(graph_of(Clip(low=1.0, high=2.0)), images(2), PIXELS, PLAIN)
    assert str(caught.value) == (
        "node conv: an activation clamps to 1..2; the range must contain 0\n"
        "  hint: unused channels of a group must stay zero: shift the bias into the next layer"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": "median"}, "method 'median' is not known\n  hint: one of minmax, percentile, mse"),
        ({"percentile": 30.0}, "percentile 30.0 is out of range\n  hint: above 50, at most 100"),
        ({"max_images": 0}, "max_images 0 is out of range\n  hint: at least 1"),
        ({"selection": "luck"}, "selection 'luck' is not known\n  hint: one of random, range, greedy, evolutionary"),
    ],
)
def test_options_out_of_range_are_refused(change, text):
    with pytest.raises(DataError) as caught:
        quantize(graph_of(Identity()), images(2), PIXELS, replace(PLAIN, **change))
    assert str(caught.value) == text


def test_only_the_first_images_are_used(float_graph):
    pixels = images(12)
    few, all_of_few = (
        quantize(float_graph, p, PIXELS, replace(LAYER, max_images=n)) for p, n in ((pixels, 4), (pixels[:4], 12))
    )
    for a, b in zip(few.lowerable, all_of_few.lowerable, strict=True):
        assert np.array_equal(a.weight, b.weight)
        assert np.array_equal(a.lowering.bias_rows, b.lowering.bias_rows)


def test_depthwise_and_single_channels_are_not_lowered(float_graph):
    graph = quantize(float_graph, images(4), PIXELS, replace(LAYER, keep_first_8bit=False, keep_last_8bit=False))
    assert all(isinstance(n, QConv) for n in graph.lowerable)
    assert any(isinstance(n, QWindow) and n.kind == "mac" for n in graph.nodes)


def test_conventional_int4_has_no_dynamic_positions():
    with pytest.raises(DataError, match="dynamic extraction many"):
        QuantizeOptions(uniform="mse", extract="dynamic").check()


def test_a_tensor_called_like_an_invented_one(tmp_path):
    """A convolution on the image gathers it into a tensor of a name of its own."""
    net = Net((3, 8, 8))
    first = net.node("Conv", "x", net.weight(4, 3, 3, 3), name="c")
    net.nodes[-1].output[0] = f"{first}.fold"
    both = net.node("Add", net.node("Relu", f"{first}.fold"), net.conv(f"{first}.fold", 4, 4, (1, 1)))
    graph = quantize(import_model(save(net.model(both), tmp_path)), images(4)[:, :8, :8], PIXELS, QuantizeOptions())
    assert [n.name for n in graph.nodes if isinstance(n, QFold)] == ["c.fold_2"]
