"""Import and passes against onnxruntime: every operator in several variants.

Each model is read and evaluated, and evaluated again after every pass: the meaning never changes.
"""

from pathlib import Path

import numpy as np
import pytest
from npu_compiler.frontend.importer import OPERATORS
from npu_compiler.graph.ir import Conv, Curve
from onnx import TensorProto

from tests.onnx_models import Net, same_meaning

FILES = ("test_onnx_import.py", "test_softmax.py", "test_onnx_operators.py", "test_qdq.py")


def variants(**cases):
    return pytest.mark.parametrize("case", list(cases.values()), ids=list(cases))


CONVS = {
    "plain": {},
    "kernel_shape": {"kernel_shape": [3, 3]},
    "stride": {"strides": [2, 1]},
    "pads": {"pads": [1, 1, 1, 1]},
    "uneven pads": {"pads": [0, 2, 1, 3], "strides": [2, 2]},
    "same upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower": {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    "valid": {"auto_pad": "VALID", "strides": [1, 2]},
    "dilation": {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
    "groups": {"group": 2},
    "depthwise": {"group": 6, "pads": [1, 1, 1, 1]},
    "dilated depthwise": {"group": 6, "dilations": [1, 3], "strides": [2, 2], "pads": [0, 3, 0, 2]},
}


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
@variants(**CONVS)
def test_conv(case, opset, tmp_path):
    net = Net((6, 9, 10), opset)
    same_meaning(net, net.conv("x", 6, 6, (3, 3), **case), tmp_path)


def test_conv_without_bias_and_a_wide_kernel(tmp_path):
    net = Net((3, 8, 8))
    same_meaning(net, net.node("Conv", "x", net.weight(4, 3, 1, 5), pads=[0, 2, 0, 2]), tmp_path)


def test_depthwise_with_two_outputs_per_channel(tmp_path):
    net = Net((4, 6, 6))
    same_meaning(net, net.conv("x", 4, 8, (3, 3), group=4), tmp_path)


@pytest.mark.parametrize("opset", [11, 14, 17, 21])
@pytest.mark.parametrize("after", ["conv", "image", "relu", "branch"])
def test_batchnorm(after, opset, tmp_path):
    """Folded into a convolution; kept after an image, an activation, or a tensor that others read too."""
    net = Net((5, 6, 6), opset)
    src = "x" if after == "image" else net.conv("x", 5, 5, (3, 3), pads=[1, 1, 1, 1])
    read = net.node("Relu", src) if after == "relu" else src
    stats = [net.weight(5), net.weight(5), net.weight(5), net.constant(net.rng.uniform(0.1, 2, 5))]
    made = net.node("BatchNormalization", read, *stats, epsilon=1e-3)
    out = net.node("Add", made, src) if after == "branch" else made
    graph = same_meaning(net, out, tmp_path)
    assert ("Affine" in graph.dump()) == (after != "conv")


def clipped(net, src, low, high):
    given = ["" if v is None else net.constant(v) for v in (low, high)]
    return net.node("Clip", src, *given)


ACTIVATIONS = {
    "relu": lambda net, x: net.node("Relu", x),
    "relu6": lambda net, x: clipped(net, x, 0.0, 6.0),
    "low only": lambda net, x: clipped(net, x, -0.5, None),
    "high only": lambda net, x: clipped(net, x, None, 0.7),
    "no limit": lambda net, x: net.node("Clip", x),
    "one-element limits": lambda net, x: (
        net.node("Clip", x, net.constant([-1.0]), net.constant([1.0])) if net.opset < 0 else clipped(net, x, -1.0, 1.0)
    ),
    "leaky": lambda net, x: net.node("LeakyRelu", x, alpha=0.2),
    "leaky default": lambda net, x: net.node("LeakyRelu", x),
    "prelu": lambda net, x: net.node("PRelu", x, net.constant(np.full((4, 1, 1), 0.3))),
    "relu then relu6": lambda net, x: clipped(net, net.node("Relu", x), -1.0, 0.9),
    "leaky then relu": lambda net, x: net.node("Relu", net.node("LeakyRelu", x, alpha=0.1)),
}


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("after", ["conv", "image", "pool"])
@variants(**ACTIVATIONS)
def test_activation(case, after, opset, tmp_path):
    net = Net((4, 6, 6), opset)
    src = "x"
    if after == "conv":
        src = net.conv("x", 4, 4, (3, 3))
    elif after == "pool":
        src = net.node("MaxPool", "x", kernel_shape=[2, 2])
    same_meaning(net, case(net, src), tmp_path)


ARITHMETIC = {
    "add channel": ("Add", (4, 1, 1), False),
    "add batch axis": ("Add", (1, 4, 1, 1), True),
    "add value": ("Add", (), False),
    "sub": ("Sub", (4, 1, 1), False),
    "sub from": ("Sub", (4, 1, 1), True),
    "mul": ("Mul", (1, 4, 1, 1), False),
    "mul value": ("Mul", (1,), True),
    "div": ("Div", (4, 1, 1), False),
}


@pytest.mark.parametrize("after", ["conv", "image"])
@variants(**ARITHMETIC)
def test_arithmetic_with_a_constant(case, after, tmp_path):
    operator, shape, flipped = case
    net = Net((4, 5, 5))
    src = net.conv("x", 4, 4, (3, 3)) if after == "conv" else "x"
    other = net.constant(net.rng.uniform(0.5, 2.0, shape))
    same_meaning(net, net.node(operator, *((other, src) if flipped else (src, other))), tmp_path)


def test_add_of_branches(tmp_path):
    net = Net((4, 5, 5))
    a, b = (net.conv("x", 4, 4, (3, 3), pads=[1, 1, 1, 1]) for _ in range(2))
    both = net.node("Relu", net.node("Add", a, b))
    graph = same_meaning(net, net.node("Add", both, both), tmp_path)
    assert [type(n).__name__ for n in graph.nodes] == ["Conv", "Conv", "Act"]  # one Add is the second conv's residual,
    assert graph.nodes[2].act == Curve(("x", 0.0, "max", "x", 0.0, "max", "add"))  # the other a curve
    assert isinstance(graph.nodes[1], Conv)
    assert graph.nodes[1].residual == graph.nodes[0].out


@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("opset", [11, 13, 21])
def test_concat(axis, opset, tmp_path):
    net = Net((3, 5, 5), opset)
    a, b = net.conv("x", 3, 4, (1, 1)), net.conv("x", 3, 2, (3, 3), pads=[1, 1, 1, 1])
    same_meaning(net, net.node("Concat", a, "x", b, a, axis=axis), tmp_path)


def test_concat_of_one_and_of_vectors(tmp_path):
    net = Net((3, 5, 5))
    a = net.node("Flatten", net.node("GlobalAveragePool", "x"))
    b = net.node("Flatten", net.node("GlobalMaxPool", net.node("Concat", "x", axis=1)))
    same_meaning(net, net.node("Concat", a, b, axis=-1), tmp_path)


POOLS = {
    "plain": {"kernel_shape": [2, 2]},
    "stride": {"kernel_shape": [3, 2], "strides": [2, 3]},
    "pads": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "uneven pads": {"kernel_shape": [3, 4], "strides": [2, 2], "pads": [0, 1, 2, 3]},
    "same upper": {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same lower": {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    "valid": {"kernel_shape": [3, 3], "auto_pad": "VALID"},
    "ceil": {"kernel_shape": [2, 3], "strides": [3, 2], "ceil_mode": 1},
    "ceil with pads": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0], "ceil_mode": 1},
    "ceil beyond the image": {"kernel_shape": [1, 1], "strides": [4, 5], "ceil_mode": 1},
    "dilation": {"kernel_shape": [2, 3], "dilations": [3, 2], "pads": [1, 1, 1, 1]},
}


@pytest.mark.parametrize("opset", [11, 12, 17, 21])
@variants(**POOLS)
def test_max_pool(case, opset, tmp_path):
    net = Net((3, 9, 10), opset)
    same_meaning(net, net.node("MaxPool", "x", **case), tmp_path)


@pytest.mark.parametrize("opset", [11, 17, 19, 21])
@variants(
    **{
        "plain": POOLS["plain"],
        "stride": POOLS["stride"],
        "valid": POOLS["valid"],
        "padding counts": POOLS["pads"] | {"count_include_pad": 1},
        "uneven padding counts": POOLS["uneven pads"] | {"count_include_pad": 1},
        "ceil without effect": {"kernel_shape": [3, 2], "strides": [3, 2], "ceil_mode": 1},
    }
)
def test_average_pool(case, opset, tmp_path):
    net = Net((3, 9, 10), opset)
    same_meaning(net, net.node("AveragePool", "x", **case), tmp_path)


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool(operator, tmp_path):
    net = Net((3, 7, 5))
    same_meaning(net, net.node(operator, "x"), tmp_path)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
@pytest.mark.parametrize(
    ("operator", "opset"), [("ReduceMean", 11), ("ReduceMean", 17), ("ReduceMean", 18), ("ReduceMax", 20)]
)
def test_reduce(operator, opset, axes, keepdims, tmp_path):
    net = Net((3, 7, 5), opset)
    src = net.conv("x", 3, 4, (3, 3))
    if opset < 18:
        made = net.node(operator, src, axes=axes, keepdims=keepdims)
    else:
        made = net.node(operator, src, net.constant(axes, np.int64), keepdims=keepdims)
    same_meaning(net, made, tmp_path)


def shaped(*target):
    return lambda net, x: net.node("Reshape", x, net.constant(target, np.int64))


def computed_shape(net, x):
    """Flatten as exporters write it: the batch size is read off the tensor."""
    batch = net.node("Gather", net.node("Shape", x), net.constant(0, np.int64), axis=0)
    axes = net.constant([0], np.int64)
    first = net.node("Unsqueeze", batch, axes) if net.opset >= 13 else net.node("Unsqueeze", batch, axes=[0])
    return net.node("Reshape", x, net.node("Concat", first, net.constant([-1], np.int64), axis=0))


FLATTENINGS = {
    "flatten": lambda net, x: net.node("Flatten", x),
    "negative axis": lambda net, x: net.node("Flatten", x, axis=-3),
    "copy batch": shaped(0, -1),
    "batch inferred": shaped(-1, 4 * 3 * 2),
    "computed": computed_shape,
}


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("transposed", [0, 1])
@variants(**FLATTENINGS)
def test_flatten_then_gemm(case, transposed, opset, tmp_path):
    """The matrix of a Gemm after an image stands in the order channel, row, column."""
    net = Net((3, 5, 4), opset)
    flat = case(net, net.conv("x", 3, 4, (3, 3)))
    weight = net.weight(*((7, 24) if transposed else (24, 7)), spread=0.2)
    hidden = net.node("Relu", net.node("Gemm", flat, weight, net.weight(7), transB=transposed))
    same_meaning(net, net.node("Gemm", hidden, net.weight(7, 3), alpha=0.5, beta=2.0), tmp_path)


@variants(
    **{
        "row": (1, 5),
        "vector": (5,),
        "one value": (1,),
        "scalar": (),
    }
)
def test_gemm_bias(case, tmp_path):
    net = Net((6, 1, 1))
    flat = net.node("Flatten", "x")
    same_meaning(net, net.node("Gemm", flat, net.weight(6, 5), net.weight(*case), beta=0.5), tmp_path)


def test_matmul_then_add(tmp_path):
    net = Net((6, 3, 3))
    flat = net.node("Flatten", net.node("GlobalAveragePool", "x"))
    made = net.node("Add", net.node("MatMul", flat, net.weight(6, 5)), net.weight(5))
    graph = same_meaning(net, made, tmp_path)
    assert [type(n).__name__ for n in graph.nodes] == ["Pool", "Conv"]  # the addition is the bias


def axes_of(net, operator, x, axes):
    """Axes as an input from opset 13 on, as an attribute before."""
    if net.opset >= 13:
        return net.node(operator, x, net.constant(axes, np.int64))
    return net.node(operator, x, axes=axes)


@pytest.mark.parametrize("axes", [[2, 3], [-2, -1]])
@pytest.mark.parametrize("opset", [11, 13, 21])
def test_squeeze_and_unsqueeze(opset, axes, tmp_path):
    net = Net((3, 5, 4), opset)
    flat = axes_of(net, "Squeeze", net.node("GlobalAveragePool", "x"), axes)
    image = axes_of(net, "Unsqueeze", net.node("Gemm", flat, net.weight(3, 6)), axes)
    same_meaning(net, net.conv(image, 6, 4, (1, 1)), tmp_path)


def test_reshape_that_changes_nothing_or_unflattens(tmp_path):
    net = Net((3, 5, 4))
    same = shaped(0, 3, -1, 4)(net, net.conv("x", 3, 3, (1, 1)))
    flat = net.node("Flatten", net.node("GlobalAveragePool", same))
    back = shaped(-1, 3, 1, 1)(net, flat)
    same_meaning(net, net.conv(back, 3, 4, (1, 1)), tmp_path)


@pytest.mark.parametrize("opset", [11, 12, 13, 21])
def test_dropout_identity_cast_transpose(opset, tmp_path):
    net = Net((3, 5, 4), opset)
    x = net.conv("x", 3, 3, (1, 1))
    x = net.node("Dropout", x, ratio=0.5) if opset < 12 else net.node("Dropout", x, net.constant(0.5))
    x = net.node("Cast", net.node("Identity", x), to=TensorProto.FLOAT)
    same_meaning(net, net.node("Relu", net.node("Transpose", x, perm=[0, 1, 2, 3])), tmp_path)


PADS = {
    "space": ([0, 0, 1, 2, 0, 0, 3, 0], None),
    "channels": ([0, 2, 0, 0, 0, 1, 0, 0], None),
    "both": ([0, 0, 1, 1, 0, 3, 1, 1], None),
    "crop": ([0, 0, -1, 0, 0, 0, -1, -2], None),
    "crop channels": ([0, -1, 0, 0, 0, -1, 0, 0], None),
    "nothing": ([0] * 8, None),
    "axes": ([2, 1, 0, 3], [2, 3]),
    "negative axes": ([1, 1, 2, 0], [-1, 1]),
}


PADS_AT = {f"{name}, opset {opset}": (*PADS[name], opset) for name in PADS for opset in (11, 13, 18, 21)}


# Pad has axes from opset 18 on
@variants(**{name: case for name, case in PADS_AT.items() if case[1] is None or case[2] >= 18})
def test_pad(case, tmp_path):
    pads, axes, opset = case
    net = Net((4, 6, 5), opset)
    more = [] if axes is None else [net.constant(0.0), net.constant(axes, np.int64)]
    padded = net.node("Pad", net.conv("x", 4, 4, (3, 3), pads=[1] * 4), net.constant(pads, np.int64), *more)
    channels = 4 + (pads[1] + pads[5] if axes is None else (1 + 0 if 1 in axes else 0))
    same_meaning(net, net.conv(padded, channels, 5, (3, 3)), tmp_path)


def test_padding_folds_into_a_convolution_but_not_into_a_maximum(tmp_path):
    net = Net((3, 6, 6))
    pads = net.constant([0, 0, 1, 0, 0, 0, 2, 1], np.int64)
    conv = net.conv(net.node("Pad", "x", pads), 3, 3, (3, 3), pads=[0, 1, 0, 1])
    graph = same_meaning(net, net.node("MaxPool", net.node("Pad", conv, pads), kernel_shape=[2, 2]), tmp_path)
    assert [type(n).__name__ for n in graph.nodes] == ["Conv", "Crop", "Pool"]


def sliced(starts, ends, axes=None, steps=None):
    def build(net, x):
        given = [starts, ends, axes, steps]
        names = ["" if v is None else net.constant(v, np.int64) for v in given]
        while names[-1] == "":
            names.pop()
        return net.node("Slice", x, *names)

    return build


BIG = np.iinfo(np.int64).max
SLICES = {
    "stride": sliced([0, 0], [BIG, BIG], [2, 3], [2, 3]),
    "inside": sliced([1, 2], [5, -1], [2, 3]),
    "negative": sliced([-4], [-1], [-1]),
    "channels": sliced([1], [4], [1]),
    "every second channel": sliced([1], [BIG], [-3], [2]),
    "all axes": sliced([0, 1, 0, 1], [BIG, 3, 6, 5]),
    "channels and space": sliced([1, 1], [4, 6], [1, 2], [1, 2]),
    "nothing": sliced([0], [BIG], [3]),
}


@pytest.mark.parametrize("opset", [11, 13, 21])
@variants(**SLICES)
def test_slice(case, opset, tmp_path):
    net = Net((4, 6, 7), opset)
    same_meaning(net, case(net, net.conv("x", 4, 4, (1, 1))), tmp_path)


@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("sizes", [[2, 4], [1, 5], None])
@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_split(opset, sizes, axis, tmp_path):
    net = Net((6, 4, 4), opset)
    if sizes is not None:
        more = [net.constant(sizes, np.int64)] if opset >= 13 else []
        attrs = {} if opset >= 13 else {"split": sizes}
    else:
        more, attrs = [], {"num_outputs": 2} if opset >= 18 else {}
    first = net.node("Split", "x", *more, outputs=2, axis=axis, **attrs)
    channels = sizes or [3, 3]
    branch = net.conv(f"{first}.1", channels[1], channels[0], (1, 1))
    made = same_meaning(net, net.node("Add", first, branch), tmp_path)
    assert {name for node in made.nodes for name in node.onnx_nodes} == {node.name for node in net.nodes}


def test_split_that_does_not_divide(tmp_path):
    net = Net((7, 4, 4), 18)
    first = net.node("Split", "x", outputs=3, num_outputs=3, axis=1)
    same_meaning(net, net.node("Concat", f"{first}.2", first, axis=1), tmp_path)


def test_constants_are_folded(tmp_path):
    """Weights that are themselves computed, from Constant nodes too."""
    net = Net((3, 5, 5))
    half = net.node("Constant", value_float=0.5)
    weight = net.node("Mul", net.weight(4, 3, 3, 3), half)
    same_meaning(net, net.node("Conv", "x", weight), tmp_path)


def test_every_supported_operator_is_tested():
    tests = "".join(Path(__file__).with_name(name).read_text() for name in FILES)
    assert [o for o in OPERATORS if f'"{o}"' not in tests] == []
