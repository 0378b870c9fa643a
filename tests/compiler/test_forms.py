"""Other forms of quantized models: integer operators as onnxruntime makes them, QONNX as Brevitas and FINN write it.

The reference of QONNX is a twin of the model in which each Quant is a division, a rounding, a clip and a product.
"""

import itertools
from contextlib import suppress
from functools import partial

import numpy as np
import onnx
import pytest
from npu_compiler.frontend.forms import to_qdq
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import Act, Conv
from npu_compiler.pipeline import import_model
from npu_isa.errors import NpuError, UnsupportedError
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType

from tests.compiler.test_zeros import EDGE, NETWORKS
from tests.onnx_models import Net, images, model_input, run_onnx, save
from tests.quantized_models import in_8_bits, off_by_node, off_from_model, quantized_by_ort, run

MICROSOFT = "com.microsoft"


# -- what onnxruntime's quantizer writes

CASES = {
    "QDQ": {},
    "unsigned weights by channel": {"weights": QuantType.QUInt8, "per_channel": True, "reduce_range": True},
    "signed": {"activations": QuantType.QInt8},
    "symmetric": {"extra_options": {"ActivationSymmetric": True}},
    "symmetric, signed": {"activations": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}},
    "reduced range": {"reduce_range": True, "per_channel": True},
    "pairs on weights": {"extra_options": {"AddQDQPairToWeight": True}},
    "pairs on weights by channel": {"per_channel": True, "extra_options": {"AddQDQPairToWeight": True}},
    "pairs of their own": {"extra_options": {"DedicatedQDQPair": True}},
    "float biases": {"extra_options": {"QuantizeBias": False}},
    "all activations": {"extra_options": {"QDQKeepRemovableActivations": True}},
    "onnxruntime's own pairs": {"extra_options": {"UseQDQContribOps": True}},
    "integer operators": {"form": QuantFormat.QOperator},
    "integer operators by channel": {"form": QuantFormat.QOperator, "per_channel": True},
    "signed integer operators": {"form": QuantFormat.QOperator, "activations": QuantType.QInt8},
    "symmetric integer operators": {
        "form": QuantFormat.QOperator,
        "activations": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True},
    },
}


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("case", list(CASES))
def test_what_onnxruntime_writes(case, network, tmp_path):
    path = quantized_by_ort(save(NETWORKS[network](), tmp_path), tmp_path / "q.onnx", **CASES[case])
    off = off_from_model(path, images(16, seed=99))
    assert off.max() <= 3.01
    assert off.mean() <= 0.6  # averages of few integers often end in the middle of two
    anew = import_model(path, requantize=True)
    assert not anew.quant
    assert not any(isinstance(n, Conv) and n.weight_scale is not None for n in anew.nodes)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_a_normalization_left_to_itself(form, tmp_path):
    """The quantizer takes the model as it is: it quantizes the factors of a BatchNormalization too."""
    net = Net((3, 12, 12))
    x = net.conv("x", 3, 16, (3, 3), pads=[1] * 4)
    statistics = [net.constant(net.rng.uniform(low, 1.5, 16)) for low in (0.5, -1.5, -0.5, 0.5)]
    normal = net.node("Relu", net.node("BatchNormalization", x, *statistics))
    source = save(net.model(net.conv(normal, 16, 8, (3, 3))), tmp_path)
    path = quantized_by_ort(source, tmp_path / "q.onnx", form)
    assert off_from_model(path, images(16, seed=99)).max() <= 2.01
    assert max(off_by_node(path, images(4, seed=9)).values()) <= 0.5 + 2 * EDGE


@pytest.mark.parametrize("opset", [13, 15, 18, 21])
def test_opsets(opset, tmp_path):
    net = Net((3, 12, 12), opset=opset)
    both = net.node("Relu", net.conv("x", 3, 16, (3, 3), pads=[1] * 4))
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.node("Add", net.conv(both, 16, 16, (1, 1)), both)))
    source = save(net.model(net.node("MatMul", flat, net.weight(16, 10))), tmp_path)
    for per_channel in (False, True):
        path = quantized_by_ort(source, tmp_path / "q.onnx", per_channel=per_channel)
        assert next(o.version for o in onnx.load(path).opset_import if not o.domain) == opset
        assert off_from_model(path, images(16, seed=99)).max() <= 2.01


def test_weights_of_9_bits_are_refused(tmp_path):
    source = save(NETWORKS["example"](), tmp_path)
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        path = quantized_by_ort(source, tmp_path / "q.onnx", form, weights=QuantType.QUInt8)
        with pytest.raises(UnsupportedError) as caught:
            import_model(path)
        assert "integers -119..136 less their zero points: weights must be -128..127; compile" in caught.value.message
        import_model(path, requantize=True)


# -- single integer operators


class IntegerNet(Net):
    """A model under construction whose values between its ends are integers; zero points and scales by name."""

    def pair(self, scale, zero, dtype=np.uint8):
        """Return the names of a scale and a zero point."""
        return self.constant(scale), self.constant(zero, dtype)

    def integers(self, src, pair):
        """Return the integers of a real value."""
        return self.node("QuantizeLinear", src, *pair)

    def real(self, src, pair):
        """Return the real value of integers."""
        return self.node("DequantizeLinear", src, *pair)

    def contributed(self, operator, *inputs, **attributes):
        """Append one of onnxruntime's own operators."""
        return self.node(operator, *inputs, domain=MICROSOFT, **attributes)

    def weights(self, *shape, dtype=np.int8):
        """Return random integer weights."""
        return self.constant(self.rng.integers(-127, 128, shape), dtype)


def integer_conv(net, x, px):
    pk, py = (net.constant(net.rng.uniform(0.01, 0.02, 8)), net.constant([0] * 8, np.int8)), net.pair(0.1, 80)
    bias = net.constant(net.rng.integers(-3000, 3000, 8), np.int32)
    return net.node("QLinearConv", x, *px, net.weights(8, 3, 3, 3), *pk, *py, bias, pads=[1] * 4, strides=[2, 2]), py


def integer_matmul(net, x, px):
    flat = net.node("Flatten", x)
    pk, py = (net.constant(0.01), net.constant(0, np.int8)), net.pair(0.5, 128)
    return net.node("QLinearMatMul", flat, *px, net.weights(432, 10), *pk, *py), py


def integer_gemm(net, x, px, trans=0, alpha=1.0, by_channel=False):
    flat = net.node("Flatten", x)
    scales, zeros = (net.rng.uniform(0.01, 0.02, 10), [0] * 10) if by_channel else (0.01, 0)
    pk, py = (net.constant(scales), net.constant(zeros, np.int8)), net.pair(0.5, 100)
    weight = net.weights(10, 432) if trans else net.weights(432, 10)
    bias = net.constant(net.rng.integers(-9000, 9000, 10), np.int32)
    return net.contributed("QGemm", flat, *px, weight, *pk, bias, *py, transB=trans, alpha=alpha), py


def integer_pair(net, x, px, operator):
    a, pa = integer_conv(net, x, px)
    b, pb = integer_conv(net, x, px)
    return net.contributed(operator, a, *pa, b, *pb, *(pz := net.pair(0.17, 77))), pz


def integer_concat(net, x, px):
    a, pa = integer_conv(net, x, px)
    b, pb = integer_conv(net, x, px)
    pz = net.pair(0.13, 90)
    return net.contributed("QLinearConcat", *pz, a, *pa, b, *pb, axis=1), pz


def integer_unary(net, x, px, operator, **attributes):
    return net.contributed(operator, x, *px, *(py := net.pair(0.02, 50)), **attributes), py


def integer_moves(net, x, px):
    """Operators that move integers, between the others."""
    y, py = integer_conv(net, x, px)
    most = net.node("MaxPool", y, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    wide = net.node("Pad", most, net.constant([0, 0, 1, 1, 0, 0, 0, 0], np.int64), net.constant(80, np.uint8))
    halves = net.node("Split", wide, net.constant([3, 5], np.int64), outputs=2, axis=1)
    turned = net.node("Concat", f"{halves}.1", halves, axis=1)
    return net.node("Flatten", turned), py


OPERATORS = {
    "QLinearConv": integer_conv,
    "QLinearMatMul": integer_matmul,
    "QGemm": integer_gemm,
    "QGemm by channel": partial(integer_gemm, trans=1, alpha=0.5, by_channel=True),
    "QLinearAdd": partial(integer_pair, operator="QLinearAdd"),
    "QLinearConcat": integer_concat,
    "QLinearAveragePool": partial(integer_unary, operator="QLinearAveragePool", kernel_shape=[3, 3], strides=[3, 3]),
    "QLinearGlobalAveragePool": partial(integer_unary, operator="QLinearGlobalAveragePool"),
    "QLinearLeakyRelu": partial(integer_unary, operator="QLinearLeakyRelu", alpha=0.2),
    "moves": integer_moves,
}


@pytest.mark.parametrize("name", list(OPERATORS))
def test_integer_operators(name, tmp_path):
    """Against onnxruntime's own integer operators; their last rounding differs from the machine's in ties alone."""
    net = IntegerNet((3, 12, 12))
    px = net.pair(0.02, 120)
    made, py = OPERATORS[name](net, net.integers("x", px), px)
    path = save(net.model(net.real(made, py), domains=(MICROSOFT,)), tmp_path)
    graph, pixels = in_8_bits(import_model(path)), images(8)
    want = run_onnx(path, model_input(pixels)) / graph.tensors[graph.output_tensors[0]].scale
    off = np.abs(run(graph, pixels)[graph.output_tensors[0]].reshape(want.shape) - want)
    assert off.max() <= 1.01
    assert off.mean() <= 0.1
    assert len(np.unique(want)) > 20


def test_results_without_quantization(tmp_path):
    """QGemm without a scale of its result gives real values."""
    net = IntegerNet((3, 4, 4))
    px = net.pair(0.02, 120)
    flat = net.node("Flatten", net.integers("x", px))
    made = net.contributed(
        "QGemm", flat, *px, net.weights(48, 5), *net.pair(0.01, 0, np.int8), net.constant([1] * 5, np.int32)
    )
    path = save(net.model(made, domains=(MICROSOFT,)), tmp_path)
    pixels = images(8)[:, :4, :4]
    graph = in_8_bits(import_model(path), pixels)
    want = run_onnx(path, model_input(pixels))
    got = run(graph, pixels)[graph.output_tensors[0]].reshape(want.shape) * graph.tensors[graph.output_tensors[0]].scale
    assert np.abs(got - want).max() <= 2e-4 * np.abs(want).max()


DYNAMIC = "its scales are chosen at run time; quantize statically, as onnxruntime's quantize_static does, or give"
WHOLE = "its result is whole sums, without a scale; quantize to QDQ, as onnxruntime's quantize_static does"


def refused_nodes(net, x, px):
    """Return nodes that are refused, with the reason for each."""
    w = net.weights(4, 3, 1, 1)
    pk = net.pair(0.1, 0, np.int8)
    yield net.node("DynamicQuantizeLinear", "x", outputs=3), DYNAMIC
    yield net.node("ConvInteger", x, w), WHOLE
    yield net.node("MatMulInteger", x, w), WHOLE
    yield net.contributed("QLinearSoftmax", x, *px, *px, axis=1), "this integer operator is not supported"
    yield (
        net.contributed("QLinearAveragePool", x, *px, *px, kernel_shape=[2, 2], channels_last=1),
        "channels_last is not supported; export the model with its channels first",
    )
    yield net.contributed("QGemm", x, *px, w, pk[0]), "it has 5 inputs, needs 6"
    yield net.contributed("QLinearConcat", *px, x, *px, x, axis=1), "it has 6 inputs, needs a scale, a zero point"
    yield net.contributed("QLinearAdd", x, *px, x, *px), "operands and scales are missing"
    yield net.contributed("QLinearAdd", x, *px, x, *px, px[0]), "its result needs a zero point, which says the type"
    yield (
        net.node("QLinearConv", x, "x", px[1], w, *pk, *px, net.constant([0] * 4, np.int32)),
        "a scale must be constant",
    )
    yield (
        net.node("Concat", x, net.integers("x", net.pair(0.5, 3)), axis=1),
        "it moves integers of different scales or zero points",
    )


def test_what_has_no_such_form_is_refused_with_the_reason(tmp_path):
    net = IntegerNet((3, 4, 4))
    px = net.pair(0.02, 120)
    wanted = list(refused_nodes(net, net.integers("x", px), px))
    path = save(net.model(net.conv("x", 3, 3, (1, 1)), domains=(MICROSOFT, "others")), tmp_path)
    with pytest.raises(UnsupportedError) as caught:
        import_model(path)
    parts = caught.value.message.split("; node")
    for name, reason in wanted:
        assert any(name in part for part in parts), name
        assert reason in caught.value.message


@pytest.mark.parametrize(
    ("name", "inputs", "written"),
    [
        ("QLinearSigmoid", "x s z t u", ["DequantizeLinear", "Sigmoid", "QuantizeLinear"]),
        ("QLinearMul", "x s z x s z t u", ["DequantizeLinear", "DequantizeLinear", "Mul", "QuantizeLinear"]),
        ("QLinearReduceMean", "x s z t u", ["DequantizeLinear", "ReduceMean", "QuantizeLinear"]),
    ],
)
def test_operators_are_written_around_the_float_one(name, inputs, written):
    node = helper.make_node(name, inputs.split(), ["y"], "n", domain=MICROSOFT)
    real = helper.make_node("DequantizeLinear", ["y", "t", "u"], ["r"], "d")
    value = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node, real], "g", [], [value])
    assert to_qdq(graph) == {}
    assert [n.op_type for n in graph.node] == [*written, "DequantizeLinear"]
    assert next(n for n in graph.node if n.name == "n").op_type == written[-2]
    assert list(graph.node[-2].output) == ["y"]


def test_weights_turned_after_their_pair(tmp_path):
    """As PyTorch exports a linear layer: the integers, their pair, a Transpose, MatMul."""
    net = Net((3, 4, 4))
    pair = net.constant(0.02), net.constant(100, np.uint8)
    flat = net.node("DequantizeLinear", net.node("QuantizeLinear", net.node("Flatten", "x"), *pair), *pair)
    integers = net.rng.integers(-128, 128, (10, 48))
    scales = net.rng.uniform(0.01, 0.02, 10).astype(np.float32)
    weights = net.constant(integers, np.int8), net.constant(scales), net.constant([0] * 10, np.int8)
    turned = net.node("Transpose", net.node("DequantizeLinear", *weights, axis=0), perm=[1, 0])
    (made,) = import_model(save(net.model(net.node("MatMul", flat, turned)), tmp_path)).nodes
    assert np.array_equal(made.weight_scale, scales)
    assert np.array_equal(np.rint(made.weight.reshape(10, 48) / scales[:, None]), integers)


def test_integers_at_the_end_are_refused(tmp_path):
    net = IntegerNet((3, 4, 4))
    px = net.pair(0.02, 120)
    model = net.model(net.node("MaxPool", net.integers("x", px), kernel_shape=[2, 2]))
    with pytest.raises(UnsupportedError, match=r"output 'maxpool_1' is integers") as caught:
        import_model(save(model, tmp_path))
    assert caught.value.hint == "let the model end in a DequantizeLinear: keep its float output"


# -- QONNX


class QonnxNet(Net):
    """A model under construction with Quant nodes; the twin has standard operators in their place."""

    def __init__(self, *args, twin=False, domain="qonnx.custom_op.general", **options):
        super().__init__(*args, **options)
        self.twin, self.domain = twin, domain

    def quant(self, x, scale, bits, signed=1, narrow=0):
        """Quantize and dequantize, as the QONNX page says."""
        scale = np.float32(scale)
        if not self.twin:
            operands = self.constant(scale), self.constant(0.0), self.constant(float(bits))
            more = {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND", "domain": self.domain}
            return self.node("Quant", x, *operands, **more)
        low = -(2 ** (bits - 1)) + narrow if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        steps = self.node("Round", self.node("Div", x, self.constant(scale)))
        clipped = self.node("Clip", steps, self.constant(low), self.constant(high))
        return self.node("Mul", clipped, self.constant(scale))


def qonnx_network(weight_bits, act_bits, domain="qonnx.custom_op.general", twin=False):
    """Return a network as Brevitas exports it: scales by channel, biases on the accumulator's grid, a residual."""
    net = QonnxNet((3, 12, 12), twin=twin, domain=domain)
    rng = np.random.default_rng(1)
    top = 2 ** (weight_bits - 1) - 1

    def conv(x, scale, ins, outs, kernel, **attributes):
        values = rng.normal(0, (ins * kernel**2) ** -0.5, (outs, ins, kernel, kernel)).astype(np.float32)
        steps = (np.abs(values).max(axis=(1, 2, 3), keepdims=True) / top).astype(np.float32)
        weight = net.quant(net.constant(values), steps, weight_bits, narrow=1)
        grid = (np.float32(scale) * steps).reshape(-1)
        bias = net.quant(net.constant(rng.normal(0, 0.1, outs)), grid, 32)
        return net.node("Conv", x, weight, bias, **attributes)

    levels = 2**act_bits - 1
    x = net.quant("x", 4 / 128, 8)
    stem = net.quant(net.node("Relu", conv(x, 4 / 128, 3, 16, 3, pads=[1] * 4)), 3.1 / levels, act_bits, signed=0)
    deep = net.quant(conv(stem, 3.1 / levels, 16, 16, 3, pads=[1] * 4), 4.3 / levels, act_bits)
    both = net.quant(net.node("Relu", net.node("Add", deep, stem)), 4.3 / levels, act_bits, signed=0)
    flat = net.node("Flatten", net.quant(net.node("GlobalAveragePool", both), 2.3 / 255, 8, signed=0))
    matrix = rng.normal(0, 0.3, (10, 16)).astype(np.float32)
    steps = (np.abs(matrix).max(axis=1, keepdims=True) / top).astype(np.float32)
    turned = net.node("Transpose", net.quant(net.constant(matrix), steps, weight_bits), perm=[1, 0])
    return net.model(net.node("MatMul", flat, turned), domains=(domain,))


@pytest.mark.parametrize(("weight_bits", "act_bits"), list(itertools.product([2, 3, 4, 8], [2, 4, 5, 8])))
def test_qonnx_is_its_twin(weight_bits, act_bits, tmp_path):
    path = save(qonnx_network(weight_bits, act_bits), tmp_path)
    twin = qonnx_network(weight_bits, act_bits, twin=True)
    imported = import_model(path)
    spans = {q.integers for q in imported.quant.values()}
    assert spans >= {(-128, 127), (0, 2**act_bits - 1), (-(2 ** (act_bits - 1)), 2 ** (act_bits - 1) - 1)}
    for node in imported.nodes:
        if isinstance(node, Conv):
            assert node.weight_scale is not None
            steps = node.weight / node.weight_scale[:, None, None, None]
            assert np.abs(steps - np.rint(steps)).max() < 1e-3
            assert np.abs(steps).max() <= 2 ** (weight_bits - 1) + 1e-3
    graph, pixels = in_8_bits(imported), images(16, seed=9)
    want = run_onnx(twin, model_input(pixels))
    got = run(graph, pixels)[graph.output_tensors[0]].reshape(want.shape) * graph.tensors[graph.output_tensors[0]].scale
    assert np.abs(got - want).max() <= 0.03 * np.abs(want).max()
    off = off_by_node(path, pixels)
    assert len(off) == 4
    assert max(off.values()) <= 0.5 + EDGE, off


@pytest.mark.parametrize("domain", ["qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"])
def test_qonnx_anew(domain, tmp_path):
    """Activations lose their quantization and keep the ReLU; weights are the real values of their grid."""
    graph = import_model(save(qonnx_network(4, 4, domain), tmp_path), requantize=True)
    assert not graph.quant
    want = run_onnx(qonnx_network(4, 8, twin=True), model_input(images(8)))
    got = evaluate(graph, model_input(images(8)))[graph.output_tensors[0]].reshape(want.shape)
    assert np.abs(got - want).max() <= 0.1 * np.abs(want).max()


def test_a_clamp_of_few_bits_is_a_relu(tmp_path):
    """Without a Relu before it, an unsigned Quant clamps; anew, that stays as a Relu with an end."""
    net = QonnxNet((3, 4, 4))
    made = net.quant(net.conv("x", 3, 3, (1, 1)), 0.25, 4, signed=0)
    path = save(net.model(net.conv(made, 3, 3, (1, 1)), domains=(net.domain,)), tmp_path)
    (kept,) = import_model(path).quant.values()
    assert (kept.integers, kept.limits) == ((0, 15), (0.0, 3.75))
    anew = import_model(path, requantize=True)
    assert any(getattr(n, "act", None) is not None and getattr(n.act, "low", None) == 0.0 for n in anew.nodes)
    assert not any(isinstance(n, Act) for n in anew.nodes)


QONNX_REFUSED = {
    "bipolar": (
        lambda net: net.node("BipolarQuant", "x", net.constant(1.0), domain=net.domain),
        "values of one bit are not supported",
    ),
    "trunc": (
        lambda net: net.node("Trunc", "x", *(net.constant(v) for v in (1.0, 0.0, 8.0, 4.0)), domain=net.domain),
        "cutting bits off is not supported",
    ),
    "rounding": (
        lambda net: net.node(
            "Quant", "x", *(net.constant(v) for v in (1.0, 0.0, 4.0)), domain=net.domain, rounding_mode="FLOOR"
        ),
        "rounding_mode FLOOR: only ROUND (half to even) is supported",
    ),
    "zero point": (
        lambda net: net.node("Quant", "x", *(net.constant(v) for v in (1.0, 3.0, 4.0)), domain=net.domain),
        "zero point 3: only 0 is supported in QONNX",
    ),
    "too many bits": (lambda net: net.quant("x", 0.1, 16), "16 bits: activations of 2 to 8 are supported"),
    "one bit": (lambda net: net.quant("x", 0.1, 1, signed=0), "1 bits: 2 to 8 are supported"),
    "bits and a half": (
        lambda net: net.node("Quant", "x", *(net.constant(v) for v in (1.0, 0.0, 4.5)), domain=net.domain),
        "bit width [4.5]: must be one whole number",
    ),
    "scale of 0": (lambda net: net.quant("x", 0.0, 8), "a scale is not a number above 0"),
    "scale by channel": (
        lambda net: net.quant("x", np.full((1, 3, 1, 1), 0.1), 8),
        "scales of shape [1, 3, 1, 1]: only one for the tensor or one per channel is supported",
    ),
    "scale that does not fit": (
        lambda net: net.node("Conv", "x", net.quant(net.weight(3, 3, 1, 1), np.ones((2, 1, 1, 1)), 8)),
        "scales of shape [2, 1, 1, 1] for a constant of shape [3, 3, 1, 1]",
    ),
    "computed scale": (
        lambda net: net.node("Quant", "x", "x", net.constant(0.0), net.constant(8.0), domain=net.domain),
        "the scale must be constant",
    ),
    "missing inputs": (
        lambda net: net.node("Quant", "x", net.constant(1.0), domain=net.domain),
        "it has 2 inputs, needs 4",
    ),
    "weights that are not finite": (
        lambda net: net.node("Conv", "x", net.quant(net.constant(np.full((3, 3, 1, 1), np.nan)), 0.1, 8)),
        "it quantizes a constant that is not finite floating point",
    ),
}


@pytest.mark.parametrize("name", list(QONNX_REFUSED))
def test_qonnx_refused(name, tmp_path):
    build, message = QONNX_REFUSED[name]
    net = QonnxNet((3, 4, 4))
    model = net.model(net.node("Relu", build(net)), domains=(net.domain,))
    with pytest.raises(UnsupportedError) as caught:
        import_model(save(model, tmp_path))
    assert message in caught.value.message


@pytest.mark.parametrize("seed", range(60))
def test_damaged_models_are_refused(seed, tmp_path):
    """One thing broken: an input left out, a constant of another size or of zeros, an attribute without sense."""
    rng = np.random.default_rng(seed)
    made = qonnx_network(4, 4) if seed % 3 == 0 else None
    if made is None:
        form = QuantFormat.QOperator if seed % 3 == 1 else QuantFormat.QDQ
        source = save(NETWORKS["many kinds"](), tmp_path)
        made = onnx.load(quantized_by_ort(source, tmp_path / "q.onnx", form))
    nodes = [n for n in made.graph.node if "Q" in n.op_type]
    node = nodes[rng.integers(len(nodes))]
    match seed % 4:
        case 0:
            node.input[int(rng.integers(len(node.input)))] = ""
        case 1:
            del node.input[int(rng.integers(len(node.input))) :]
        case 2:
            tensor = made.graph.initializer[int(rng.integers(len(made.graph.initializer)))]
            value = numpy_helper.to_array(tensor)
            broken = np.zeros_like(value) if seed % 8 == 2 else np.stack([value, value])
            tensor.CopyFrom(numpy_helper.from_array(broken, tensor.name))
        case _:
            attribute = rng.choice(["axis", "signed", "narrow", "pads", "alpha", "perm", "channels_last"])
            node.attribute.append(helper.make_attribute(str(attribute), rng.choice(["none", "x"])))
    path = save(made, tmp_path, "damaged.onnx")
    with suppress(NpuError):  # accepted where the harm does not matter; nothing else may come out
        in_8_bits(import_model(path))
