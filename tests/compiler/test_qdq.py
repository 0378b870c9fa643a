"""QDQ models as onnxruntime's static quantizer makes them are kept to the integer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import TensorQuant
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model, quantize, quantize_graph
from npu_compiler.qgraph import golden
from npu_compiler.qgraph.ir import QConv, QuantizedGraph, QWindow
from npu_isa.errors import NpuError
from npu_isa.machine.config import load_machine
from npu_runtime.session.session import Session
from onnx import numpy_helper
from onnxruntime.quantization import QuantType

from tests.equality import compare
from tests.onnx_models import PIXELS, Net, example, images, model_input, run_onnx, save
from tests.quantized_models import EIGHT_BITS, quantized_by_ort

SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
ANEW = "compile with --requantize and calibration data to quantize anew"


@dataclass(frozen=True)
class Case:
    """A quantized model in a file, and the integers that it holds."""

    path: Path

    @property
    def constants(self):
        return {t.name: numpy_helper.to_array(t) for t in onnx.load(self.path).graph.initializer}

    def nodes(self, operator):
        return [n for n in onnx.load(self.path).graph.node if n.op_type == operator]

    def quantized(self) -> QuantizedGraph:
        """Return the quantized graph before its groups are reordered."""
        return quantize(import_model(self.path), images(16), PIXELS, EIGHT_BITS)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a function that quantizes the float model with onnxruntime's tool."""
    folder = tmp_path_factory.mktemp("qdq")
    source = save(example(), folder, "float.onnx")

    def build(activations=QuantType.QInt8, **options):
        path = folder / f"q{len(list(folder.iterdir()))}.onnx"
        extra = options.pop("extra_options", SYMMETRIC)
        return Case(quantized_by_ort(source, path, activations=activations, extra_options=extra, **options))

    return build


@pytest.fixture(scope="module", params=[True, False], ids=["per channel", "per tensor"])
def symmetric(request, make):
    return make(per_channel=request.param)


def test_scales_and_signs_are_kept_exactly(symmetric):
    graph, constants, seen = symmetric.quantized(), symmetric.constants, 0
    for node in symmetric.nodes("QuantizeLinear"):
        name = node.input[0]
        if name in graph.tensors:
            seen += 1
            assert graph.tensors[name].scale == float(constants[node.input[1]])
            assert graph.tensors[name].signed == (constants[node.input[2]].dtype == np.int8)
    assert seen >= len(graph.nodes) - 1  # every tensor but the image's fold


def placed(tensor):
    """Return where each logical channel stands."""
    return [tensor.channel_map.index(c) for c in range(max(tensor.channel_map) + 1)]


def test_weights_and_biases_are_kept_exactly(symmetric):
    graph, constants = symmetric.quantized(), symmetric.constants
    source = {n.output[0]: n.input for n in symmetric.nodes("DequantizeLinear")}
    found = {n.name: n for n in graph.nodes if isinstance(n, QConv | QWindow)}
    for node in symmetric.nodes("Conv") + symmetric.nodes("Gemm"):
        made, integers = found[node.name], constants[source[node.input[1]][0]]
        outs, at = len(integers), placed(graph.tensors[made.out])
        assert np.array_equal(made.epilogue.bias[at], constants[source[node.input[2]][0]])
        if isinstance(made, QWindow):
            assert np.array_equal(made.weight[at], integers[:, 0])
            continue
        wanted = integers.reshape(outs, integers.shape[1], -1).transpose(0, 2, 1)  # (out, taps, in)
        got = made.weight[at][..., placed(graph.tensors[made.src])].reshape(outs, -1)
        assert np.array_equal(got, wanted.reshape(outs, -1))


def test_output_is_that_of_onnxruntime_within_few_steps(symmetric):
    """Not to the bit: onnxruntime multiplies by float32 scales and rounds halves to even.

    The machine multiplies by a 15-bit integer and rounds halves up. Each of the 14 layers can so move a value by one
    step, and the next layers average these moves out: one step of the output on average is far more than is seen.
    """
    graph, pixels = symmetric.quantized(), images(32, seed=99)
    out = graph.tensors[graph.output_tensors[0]]
    made = golden.run(graph, graph.table[np.arange(3), pixels], [0] * len(graph.lowerable))[graph.output_tensors[0]]
    real = np.array(out.channel_map) >= 0
    want = run_onnx(symmetric.path, model_input(pixels)) / out.scale
    off = np.abs(made[:, 0, 0, real] - want)
    assert off.max() <= 2.01
    assert off.mean() <= 0.25
    assert np.abs(want).max() > 60  # the comparison is not one of zeros


def test_compiled_qdq_model_runs_as_its_golden_model(symmetric):
    from npu_compiler.backend.link import compile_quantized

    graph = quantize_graph(import_model(symmetric.path), images(16), PIXELS)
    session = Session(compile_quantized(graph, load_machine("npu32")))
    for ratio in (0, 50, 100):
        result = compare(graph, session, images(4, seed=5), session.binary.boundaries_at(ratio))
        assert result.difference is None


@pytest.mark.parametrize("requantize", [False, True])
def test_zero_points_are_kept_and_dropped_on_demand(make, requantize):
    case = make(QuantType.QUInt8, extra_options={"WeightSymmetric": True})
    assert sum(bool(v.any()) for k, v in case.constants.items() if k.endswith("_zero_point")) > 3
    imported = import_model(case.path, requantize=requantize)
    assert (sum(q.zero != 0 for q in imported.quant.values()) > 3) != requantize
    graph, pixels = quantize_graph(imported, images(32), PIXELS, QuantizeOptions()), images(16, seed=7)
    out = graph.tensors[graph.output_tensors[0]]
    made = golden.run(graph, graph.table[np.arange(3), pixels], [0] * len(graph.lowerable))[graph.output_tensors[0]]
    want = run_onnx(example() if requantize else case.path, model_input(pixels))
    off = made[:, 0, 0, np.array(out.channel_map) >= 0] * out.scale - want
    assert 10 * np.log10((want**2).mean() / (off**2).mean()) > (25 if requantize else 40)


# -- single nodes


def qdq(net, x, scale, zero, dtype):
    """Quantize and dequantize a value."""
    pair = net.constant(scale), net.constant(zero, dtype)
    return net.node("DequantizeLinear", net.node("QuantizeLinear", x, *pair), *pair)


def qcdq(net, x, scale, zero, limits):
    """Quantize, clip the integers and dequantize, as Brevitas writes fewer bits."""
    pair = net.constant(scale), net.constant(zero, np.int8)
    made = net.node("QuantizeLinear", x, *pair)
    return net.node(
        "DequantizeLinear", net.node("Clip", made, *(net.constant(limit, np.int8) for limit in limits)), *pair
    )


def dequantized(net, integers, scale, dtype=np.int8, axis=None, zero=0):
    pair = net.constant(scale), net.constant(np.full_like(scale, zero, dtype=dtype), dtype)
    return net.node(
        "DequantizeLinear", net.constant(integers, dtype), *pair, **({} if axis is None else {"axis": axis})
    )


def test_unsigned_activations_per_tensor_weights_and_a_matrix(tmp_path):
    """Zero point 0 of uint8, whose clamp is the ReLU; one scale for all weights; MatMul, with outputs on axis 1."""
    net = Net((3, 4, 4), opset=13)
    rng = np.random.default_rng(0)
    kernel = rng.integers(-128, 128, (5, 3, 3, 3))
    conv = net.node("Conv", qdq(net, "x", 0.02, 0, np.int8), dequantized(net, kernel, np.float32(0.01)))
    relu = qdq(net, conv, 0.03, 0, np.uint8)
    flat = net.node("Flatten", net.node("GlobalAveragePool", relu))
    matrix, scales = rng.integers(-127, 128, (5, 7)), rng.uniform(0.01, 0.02, 7).astype(np.float32)
    out = qdq(net, net.node("MatMul", flat, dequantized(net, matrix, scales, axis=1)), 0.05, 0, np.int8)
    path, pixels = save(net.model(out), tmp_path), images(16)[:, :4, :4]
    graph = quantize(import_model(path), pixels, PIXELS, EIGHT_BITS)
    convs = {n.name.split("_")[0]: n for n in graph.nodes if isinstance(n, QConv)}
    made, head = convs["conv"], convs["matmul"]
    assert (graph.tensors[made.out].signed, graph.tensors[made.out].scale) == (False, np.float32(0.03))
    at = placed(graph.tensors[made.out])
    assert np.array_equal(made.weight[at].reshape(5, -1)[:, :27], kernel.transpose(0, 2, 3, 1).reshape(5, -1))
    assert np.array_equal(head.weight[:7, 0, 0][:, placed(graph.tensors[head.src])], matrix.T)
    assert graph.tensors[graph.output_tensors[0]].bits == 8
    got = golden.run(graph, graph.table[np.arange(3), pixels], [0, 0])[graph.output_tensors[0]][:, 0, 0, :7]
    off = np.abs(got - run_onnx(path, model_input(pixels)) / np.float32(0.05))
    assert off.max() <= 1.01
    assert np.abs(got).max() > 30


@pytest.mark.parametrize("requantize", [False, True])
def test_a_clamp_is_for_those_who_read_the_quantized_value(tmp_path, requantize):
    """Another reader of the same value gets what is below zero too."""
    net = Net((3, 4, 4))
    made = net.conv("x", 3, 3, (1, 1))
    model = net.model(net.node("Add", made, qdq(net, made, 0.05, 0, np.uint8)))
    graph = import_model(save(model, tmp_path), requantize=requantize)
    x = net.images()
    off = np.abs(evaluate(graph, x)[graph.output_tensors[0]] - run_onnx(model, x))
    assert off.max() <= 0.026  # half a step, which the float graph does not round
    assert list(graph.quant.values()) == ([] if requantize else [TensorQuant(np.float32(0.05), signed=False)])


def test_a_long_chain_before_a_clamp(tmp_path):
    net = Net((3, 4, 4))
    x = "x"
    for _ in range(1200):
        x = net.node("MaxPool", x, kernel_shape=[1, 1])
    path = save(net.model(net.conv(qdq(net, x, 0.05, 0, np.uint8), 3, 3, (1, 1))), tmp_path)
    assert len(import_model(path, requantize=True).nodes) > 1


@pytest.mark.parametrize("alpha", [0.0, -1.0, 2.0])
def test_a_factor_of_a_matrix_keeps_its_integers_where_they_stay_int8(tmp_path, alpha):
    net = Net((3, 1, 1))
    integers = np.array([[-128, 3], [5, 127], [7, 0]])
    flat = net.node("Flatten", qdq(net, "x", 0.02, 0, np.int8))
    model = net.model(net.node("Gemm", flat, dequantized(net, integers, np.float32(0.01)), alpha=alpha))
    (matrix,) = read_onnx(save(model, tmp_path)).nodes
    assert np.allclose(matrix.weight[:, :, 0, 0], alpha * np.float32(0.01) * integers.T)
    assert (matrix.weight_scale is None) == (alpha <= 0)


@pytest.mark.parametrize("limits", [(-7, 7), (-8, 7), (0, 15), (-100, 127)])
def test_fewer_bits(limits, tmp_path):
    """A Clip of the integers, as Brevitas writes it, narrows the tensor."""
    net = Net((3, 4, 4))
    model = net.model(net.conv(qcdq(net, "x", 0.2, 0, limits), 3, 3, (1, 1)))
    path, pixels = save(model, tmp_path), images(16)[:, :4, :4]
    (fixed,) = import_model(path).quant.values()
    assert (fixed.integers, fixed.zero, fixed.scale) == (limits, 0, np.float32(0.2))
    graph = quantize(import_model(path), pixels, PIXELS, EIGHT_BITS)
    x = graph.table if limits[0] >= 0 else graph.table.view(np.int8)
    assert (x.min(), x.max()) == (max(limits[0], -15), min(limits[1], 12))  # the pixels reach -3..2.4


def test_integers_of_4_bits(tmp_path):
    """Opset 21 has int4 and uint4 weights."""
    net = Net((3, 4, 4), opset=21)
    integers = net.rng.integers(-8, 8, (5, 3, 1, 1))
    net.node("DequantizeLinear", "w", net.constant(np.full(5, 0.1, np.float32)), name="real", axis=0)
    model = net.model(net.node("Conv", "x", "real"))
    model.graph.initializer.append(
        onnx.helper.make_tensor("w", onnx.TensorProto.INT4, integers.shape, integers.reshape(-1))
    )
    (conv,) = read_onnx(save(model, tmp_path)).nodes
    assert np.array_equal(np.rint(conv.weight / np.float32(0.1)), integers)
    assert conv.weight_scale is not None


REFUSED = {
    "activation per channel": (
        lambda net: net.node("Relu", qdq(net, "x", [0.1] * 3, [0] * 3, np.int8)),
        "activations need one scale for the tensor",
    ),
    "two scales": (
        lambda net: net.node(
            "DequantizeLinear",
            net.node("QuantizeLinear", "x", net.constant(0.1), net.constant(0, np.int8)),
            net.constant(0.2),
            net.constant(0, np.int8),
        ),
        "QuantizeLinear and DequantizeLinear have different scales",
    ),
    "quantized twice": (
        lambda net: net.node("Add", qdq(net, "x", 0.1, 0, np.int8), qdq(net, "x", 0.2, 0, np.int8)),
        "the tensor is quantized twice, with different scales",
    ),
    "weights with a zero point": (
        lambda net: net.node("Conv", "x", dequantized(net, np.full((2, 3, 1, 1), 200), 0.1, np.uint8, zero=70)),
        "integers 130..130 less their zero points: weights must be -128..127; " + ANEW,
    ),
    "unsigned weights": (
        lambda net: net.node("Conv", "x", dequantized(net, np.full((2, 3, 1, 1), 200), 0.1, np.uint8)),
        "integers 200..200: weights must be -128..127; " + ANEW,
    ),
    "weights of 16 bits": (
        lambda net: net.node("Conv", "x", dequantized(net, np.full((2, 3, 1, 1), -300), 0.1, np.int16)),
        "integers -300..-300: weights must be -128..127; " + ANEW,
    ),
    "scales by input channel": (
        lambda net: net.node("Conv", "x", dequantized(net, np.ones((2, 3, 1, 1)), np.ones(3, np.float32), axis=1)),
        "scales on axis 1 of the weights, which is not that of the outputs, 0; " + ANEW,
    ),
    "another zero point": (
        lambda net: net.node(
            "DequantizeLinear",
            net.node("QuantizeLinear", "x", net.constant(0.1), net.constant(3, np.int8)),
            net.constant(0.1),
            net.constant(0, np.int8),
        ),
        "QuantizeLinear and DequantizeLinear have different scales or zero points",
    ),
    "a scale of 0": (
        lambda net: net.node("Relu", qdq(net, "x", 0.0, 0, np.int8)),
        "a scale is not a number above 0",
    ),
    "a clip without the zero point": (
        lambda net: net.node("Relu", qcdq(net, "x", 0.1, 0, (3, 7))),
        "limits 3.0..7.0 exclude the zero point 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused(name, tmp_path):
    build, message = REFUSED[name]
    net = Net((3, 4, 4), opset=13)
    made = build(net)
    with pytest.raises(NpuError) as caught:
        import_model(save(net.model(made), tmp_path))
    assert message in caught.value.message


def test_wide_integers_are_refused(tmp_path):
    net = Net((3, 4, 4), opset=21)
    made = net.node("Relu", qdq(net, "x", 0.1, 0, np.int16))
    with pytest.raises(NpuError, match="int16 integers are not supported"):
        import_model(save(net.model(made), tmp_path))
