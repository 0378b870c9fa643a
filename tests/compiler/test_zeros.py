"""Zero points: what is kept gives the integers of the QDQ model, what cannot be kept is refused.

The exact result of a node is that of the float operator on dequantized integers. Its integer here is that result,
rounded; one step beside it only where the exact result is within EDGE of the middle between two integers.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from npu_compiler.backend.link import compile_quantized
from npu_compiler.graph.ir import Act, Graph, Identity, Mul, TensorQuant, stored
from npu_compiler.outputs import Output
from npu_compiler.pipeline import import_model, quantize_graph
from npu_compiler.quantize.offsets import offset_factors
from npu_compiler.quantize.prepare import prepare
from npu_compiler.quantize.skeleton import skeleton
from npu_compiler.quantize.zeros import place_zeros
from npu_isa.errors import CompileError, UnsupportedError
from npu_isa.machine.config import load_machine
from npu_runtime.session.session import Session
from onnxruntime.quantization import QuantType

from tests.equality import compare
from tests.onnx_models import PIXELS, Net, example, images, save
from tests.quantized_models import (
    EIGHT_BITS,
    in_8_bits,
    off_by_node,
    off_from_model,
    quantized_by_ort,
    shifted_zeros,
)

EDGE = 0.06  # steps of the output; 0.041 is the largest of `test_offsets_are_near`


def many_kinds():
    """Return a network with the nodes that the example lacks: LeakyReLU, padded averages, a slice of channels."""
    net = Net((3, 12, 12), seed=3)
    leaky = net.node("LeakyRelu", net.conv("x", 3, 16, (3, 3), pads=[1] * 4), alpha=0.1)
    deep = net.conv(leaky, 16, 16, (3, 3), 16, pads=[1] * 4, strides=[2, 2])
    added = net.node("Add", deep, net.conv(deep, 16, 16, (1, 1)))
    most = net.node("MaxPool", added, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    mean = net.node("AveragePool", most, kernel_shape=[2, 2], strides=[2, 2])
    padded = net.node("AveragePool", added, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, count_include_pad=1)
    some = net.node("Slice", mean, *(net.constant([v], np.int64) for v in (2, 12, 1)))
    last = net.conv(net.node("Concat", some, padded, axis=1), 26, 20, (3, 3), pads=[1] * 4)
    flat = net.node("Flatten", net.node("GlobalAveragePool", last))
    return net.model(net.node("Gemm", flat, net.weight(10, 20), net.weight(10), transB=1))


NETWORKS = {"example": example, "many kinds": many_kinds}


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("kind", [QuantType.QUInt8, QuantType.QInt8])
def test_every_integer_is_that_of_the_model(network, kind, tmp_path):
    path = quantized_by_ort(save(NETWORKS[network](), tmp_path), tmp_path / "q.onnx", activations=kind)
    found = off_by_node(path, images(8, seed=5))
    assert len(found) >= 13
    assert max(found.values()) <= 0.5 + EDGE, found
    off = off_from_model(path, images(32, seed=99))
    assert off.max() <= 2.01
    assert off.mean() <= 0.6  # averages of few integers often end in the middle of two: the machine rounds these up


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("seed", range(6))
def test_every_integer_is_that_of_the_model_wherever_the_zeros_are(network, seed, tmp_path):
    kind = QuantType.QInt8 if seed % 2 else QuantType.QUInt8
    path = quantized_by_ort(
        save(NETWORKS[network](), tmp_path), tmp_path / "q.onnx", activations=kind,
        extra_options={"QDQKeepRemovableActivations": False},
    )  # fmt: skip
    shifted_zeros(path, seed)
    found = off_by_node(path, images(8, seed=5))
    assert max(found.values()) <= 0.5 + EDGE, found


byte = st.integers(-128, 255)
factors = st.floats(0.01, 4.0)


@settings(max_examples=100, deadline=None)
@given(factors, st.one_of(st.just(0.0), factors), st.sampled_from([1, 2, 4, 9, 49, 3136]), byte, byte, byte, st.data())
def test_offsets_are_near(factor, factor2, taps, x0, r0, y0, data):
    """Against whole fractions: no sum of bytes errs by more than is said, and that is little."""
    factor /= taps
    factor2 = factor2 if taps == 1 else 0.0  # sums of two tensors have no window
    made = offset_factors(factor, factor2, taps, (x0, r0, y0), "n")
    total = data.draw(st.integers(-255 * taps, 255 * taps)) + taps * x0
    r = data.draw(st.integers(r0 - 255, r0 + 255)) if factor2 else r0
    exact = Fraction(factor) * (total - taps * x0) + Fraction(factor2) * (r - r0) + y0
    got = Fraction((made.weight * total + made.bias) * made.mult + r * made.mult2, 1 << made.shift)
    assert abs(got - exact) <= made.error + 1e-9
    assert made.error <= (0.04 if factor2 else 0.004) * (1 + max(factor * taps, factor2))


def test_factors_that_no_multiplier_reaches_are_refused():
    with pytest.raises(CompileError, match=r"an output step is 1e\+08 times smaller than an input step"):
        offset_factors(1e8, 0.0, 1, (3, 0, 5), "node n")


@given(st.integers(-255, 0), st.data())
def test_bytes_hold_the_multiples_they_are_for(low, data):
    high = data.draw(st.integers(0, low + 255))
    for quant in stored(0.5, low, high):
        least, most = quant.integers
        assert least <= 0 <= most
        assert quant.multiples == (low, high)
        assert not quant.wide
    assert abs(stored(0.5, low, high)[0].zero) <= 127


def test_names_of_the_same_values():
    assert stored(1.0, -128, 127)[0] == TensorQuant(1.0, True)  # uint8 around 128
    assert stored(1.0, 0, 255)[0] == TensorQuant(1.0, False)  # int8 around -128
    assert stored(1.0, -20, 235)[0] == TensorQuant(1.0, False, 20)
    assert stored(1.0, -8, 7)[0] == TensorQuant(1.0, True, 0, (-8, 7))


def qdq(net, x, zero, scale=0.05, dtype=np.uint8):
    pair = net.constant(scale), net.constant(zero, dtype)
    return net.node("DequantizeLinear", net.node("QuantizeLinear", x, *pair), *pair)


def integers(net, *shape, scale=0.01):
    pair = net.constant(scale), net.constant(0, np.int8)
    return net.node("DequantizeLinear", net.constant(net.rng.integers(-127, 128, shape), np.int8), *pair)


@pytest.mark.parametrize("zero", [1, 60, 100, 200, 255])
@pytest.mark.parametrize("image", [False, True])
def test_padding_is_the_zero_point(zero, image, tmp_path):
    """Kernels, strides and readers that pad otherwise, of the image and of a tensor inside."""
    net = Net((3, 12, 12))
    x = qdq(net, "x", zero)
    x = x if image else qdq(net, net.node("Conv", x, integers(net, 3, 3, 1, 1)), 255 - zero)
    a = net.node("Conv", x, integers(net, 8, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    b = net.node("Conv", x, integers(net, 8, 3, 5, 5), pads=[2, 1, 2, 3], strides=[2, 2])
    c = net.node("Conv", x, integers(net, 8, 3, 2, 2), strides=[2, 2])
    made = qdq(net, net.node("Add", qdq(net, a, 90, 0.2), qdq(net, b, 130, 0.2)), 70, 0.3)
    out = qdq(net, net.node("Add", made, qdq(net, c, 17, 0.1)), 99, 0.3)
    path = save(net.model(out), tmp_path)
    found = off_by_node(path, images(8, seed=2))
    assert max(found.values()) <= 0.5 + EDGE, found
    assert off_from_model(path, images(8, seed=3)).max() <= 2.01


def test_an_image_that_is_added_and_joined_keeps_its_bytes(tmp_path):
    net = Net((3, 12, 12))
    x = qdq(net, "x", 100)
    made = qdq(net, net.node("Add", qdq(net, net.node("Conv", x, integers(net, 3, 3, 1, 1)), 120), x), 70, 0.1)
    both = qdq(net, net.node("Concat", made, x, axis=1), 90, 0.1)
    path = save(
        net.model(qdq(net, net.node("Conv", both, integers(net, 5, 6, 3, 3), pads=[1] * 4), 110, 0.2)), tmp_path
    )
    found = off_by_node(path, images(8, seed=2))
    assert len(found) >= 7
    assert max(found.values()) <= 0.5 + EDGE, found
    assert not any("calibrated" in note for note in in_8_bits(import_model(path)).notes)


def test_what_is_quantized_again_is_rounded_again(tmp_path):
    """One pair after another, as where tools change a type on the way; equal pairs are one."""
    net = Net((3, 12, 12))
    first = qdq(net, qdq(net, "x", 100), 100)
    flat = qdq(net, net.node("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), -30, 0.11, np.int8)
    again = qdq(net, net.node("Conv", qdq(net, flat, 140, 0.07), integers(net, 4, 3, 1, 1)), 90, 0.1)
    path = save(net.model(qdq(net, again, 20, 0.13)), tmp_path)
    assert len(import_model(path).nodes) == 4
    found = off_by_node(path, images(8, seed=2))
    assert len(found) >= 4
    assert max(found.values()) <= 0.5 + EDGE, found
    assert off_from_model(path, images(8, seed=3)).max() <= 2.01


def test_sums_that_are_added_as_they_are_get_8_bits_of_their_own(tmp_path):
    """Beside the factor of another tensor, that of fixed weights has few bits: one rounding would be off by 2 %."""
    net = Net((3, 12, 12))
    x = qdq(net, "x", 128, 4 / 128)
    deep = qdq(net, net.node("Relu", net.node("Conv", x, integers(net, 64, 3, 1, 1))), 0, 0.01)
    sums = net.node("Conv", deep, integers(net, 64, 64, 1, 1, scale=0.001))
    path = save(net.model(qdq(net, net.node("Add", sums, deep), 128, 0.0199)), tmp_path)
    assert off_from_model(path, images(8, seed=3)).max() <= 1.01
    assert f"without a quantization in the model, so calibrated: {sums}" in in_8_bits(import_model(path)).notes


def test_tensors_without_a_quantization_are_noted(tmp_path):
    net = Net((3, 12, 12))
    first = net.node("Conv", qdq(net, "x", 100), integers(net, 3, 3, 1, 1))
    path = save(net.model(qdq(net, net.node("Conv", first, integers(net, 3, 3, 1, 1)), 70, 0.5)), tmp_path)
    assert f"without a quantization in the model, so calibrated: {first}" in in_8_bits(import_model(path)).notes


def test_a_skeleton_has_the_nodes_of_what_is_quantized(tmp_path):
    path = quantized_by_ort(save(many_kinds(), tmp_path), tmp_path / "q.onnx")
    graph = import_model(path)
    made, shapes = in_8_bits(graph), skeleton(graph, EIGHT_BITS)
    assert [(n.name, n.inputs) for n in made.nodes] == [(n.name, n.inputs) for n in shapes.nodes]
    assert {t: (q.channels, q.bits, q.signed) for t, q in made.tensors.items()} == {
        t: (q.channels, q.bits, q.signed) for t, q in shapes.tensors.items()
    }


@pytest.mark.parametrize("network", list(NETWORKS))
def test_compiled_it_runs_as_its_golden_model(network, tmp_path):
    path = quantized_by_ort(save(NETWORKS[network](), tmp_path), tmp_path / "q.onnx")
    graph = quantize_graph(import_model(path), images(16), PIXELS)
    session = Session(compile_quantized(graph, load_machine("npu32")))
    for ratio in (0, 50, 100):
        result = compare(graph, session, images(4, seed=5), session.binary.boundaries_at(ratio))
        assert result.difference is None


REFUSED = {
    "leaky of sums": (
        lambda net: qdq(net, net.node("LeakyRelu", net.conv("x", 3, 3, (1, 1)), alpha=0.1), 60),
        "has zero point 60 of uint8 (-68 of int8), which the LeakyReLU of node conv_",
    ),
    "a clamp that leaves little": (
        lambda net: qdq(net, net.node("Relu", net.conv("x", 3, 3, (1, 1))), 200),
        "has zero point 200 of uint8 (72 of int8), of which the clamp of node conv_",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_with_the_way_out(name, tmp_path):
    build, message = REFUSED[name]
    net = Net((3, 4, 4))
    path = save(net.model(net.conv(build(net), 3, 3, (1, 1))), tmp_path)
    with pytest.raises(UnsupportedError) as caught:
        prepare(import_model(path))
    assert message in caught.value.message
    assert caught.value.hint == "compile with --requantize and calibration data to quantize anew"
    prepare(import_model(path, requantize=True))


@pytest.mark.parametrize("tensor", ["a", "b"])
def test_products_need_a_zero_of_byte_0(tensor):
    nodes = Act("m", "a", (), "x", Identity()), Mul("n", "b", (), "a", "a")
    shapes = dict.fromkeys(("x", "a", "b", "y"), (3, 4, 4))
    quant = {tensor: TensorQuant(0.1, False, 60)}
    graph = Graph("g", nodes, shapes, "x", (Output("y", "y", (3, 4, 4)),), quant)
    with pytest.raises(UnsupportedError) as caught:
        place_zeros(graph, lambda g: {t: t for t in g.shapes})
    wanted = f"tensor {tensor} has zero point 60 of uint8 (-68 of int8), which the product of node n cannot keep"
    assert caught.value.message == wanted


@pytest.mark.parametrize(("before", "after"), [(60, 13), (0, 200), (128, 128), (250, 1)])
@pytest.mark.parametrize("operator", ["Sigmoid", "HardSwish", "Tanh"])
def test_tables_read_and_make_any_zero(before, after, operator, tmp_path):
    """The curve of a convolution, and that of a tensor that is read again: by its producer and by itself."""
    net = Net((3, 12, 12))
    x = qdq(net, "x", 100)
    a = qdq(net, net.node("Conv", x, integers(net, 8, 3, 3, 3)), before, 0.03)
    b = qdq(net, net.node(operator, a), after, 0.01)
    c = qdq(net, net.node("Conv", x, integers(net, 8, 3, 3, 3)), before, 0.03)
    d = qdq(net, net.node(operator, c), after, 0.01)
    made = qdq(net, net.node("Add", b, qdq(net, net.node("Add", c, d), 120, 0.03)), 100, 0.05)
    path = save(net.model(qdq(net, net.node("Conv", made, integers(net, 4, 8, 1, 1)), 99, 0.1)), tmp_path)
    found = off_by_node(path, images(8, seed=2))
    assert max(found.values()) <= 0.5 + EDGE, found
    assert off_from_model(path, images(8, seed=3)).max() <= 2.01
