"""Operators that are made of several nodes of the graph, against onnxruntime: import, and again after every pass."""

from collections import Counter

import numpy as np
import pytest
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.ir import Channels, Conv, Curve, Mosaic

from tests.onnx_models import Net, same_meaning, same_values, save


def variants(**cases):
    return pytest.mark.parametrize("case", list(cases.values()), ids=list(cases))


def ints(net, *values):
    return net.constant(values, np.int64)


def kinds(graph):
    return Counter(type(n).__name__ for n in graph.nodes)


# -- functions of one value

CURVES = {
    "Sigmoid": {},
    "Tanh": {},
    "Erf": {},
    "Exp": {},
    "Abs": {},
    "Neg": {},
    "Sign": {},
    "Softplus": {},
    "Softsign": {},
    "Mish": {},
    "HardSwish": {},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "Gelu": {"approximate": "tanh"},
    "Elu": {"alpha": 1.5},
    "Selu": {"alpha": 1.2, "gamma": 0.9},
    "Celu": {"alpha": 0.7},
    "ThresholdedRelu": {"alpha": 0.2},
}


@pytest.mark.parametrize("name", list(CURVES))
def test_curve(name, tmp_path):
    net = Net((3, 6, 5), 20)
    last = net.node(name, net.conv("x", 3, 4, (3, 3)), **CURVES[name])
    same_meaning(net, net.conv(last, 4, 3, (1, 1)), tmp_path)


@pytest.mark.parametrize("name", ["Log", "Sqrt", "Reciprocal"])
def test_curve_of_positive_values(name, tmp_path):
    net = Net((3, 6, 5), 17)
    positive = net.node("Add", net.node("Abs", "x"), net.constant(0.5))
    graph = same_meaning(net, net.node(name, positive), tmp_path)
    assert kinds(graph) == {"Act": 1}


def test_exact_gelu_and_one_in_parts(tmp_path):
    net = Net((3, 6, 5), 20)
    conv = net.conv("x", 3, 4, (3, 3))
    error = net.node("Erf", net.node("Div", conv, net.constant(np.sqrt(2))))
    parts = net.node("Mul", net.node("Mul", conv, net.node("Add", error, net.constant(1.0))), net.constant(0.5))
    graph = same_meaning(net, net.node("Sub", parts, net.node("Gelu", conv)), tmp_path)
    assert kinds(graph) == {"Conv": 1, "Act": 1}


@variants(
    square=lambda net, x: net.node("Pow", x, net.constant(2.0)),
    base=lambda net, x: net.node("Pow", net.constant(1.5), x),
    above=lambda net, x: net.node("Clip", x, net.constant(0.25)),
    within=lambda net, x: net.node("Clip", x, net.constant(0.25), net.constant(0.75)),
    below=lambda net, x: net.node("Clip", x, "", net.constant(-0.5)),
    steep=lambda net, x: net.node("LeakyRelu", x, alpha=1.75),
    rising=lambda net, x: net.node("LeakyRelu", x, alpha=-0.5),
    channels=lambda net, x: net.node("PRelu", x, net.constant([[[-0.5]], [[0.0]], [[1.5]], [[7.0]]])),
    swish=lambda net, x: net.node("Mul", x, net.node("Sigmoid", x)),
)
def test_slopes_clamps_and_powers(case, tmp_path):
    net = Net((3, 6, 5), 17)
    same_meaning(net, net.conv(case(net, net.conv("x", 3, 4, (1, 1))), 4, 3, (1, 1)), tmp_path)


def test_slope_by_channel_where_channels_are_last(tmp_path):
    net = Net((3, 6, 5))
    turned = net.node("Transpose", "x", perm=[0, 2, 3, 1])
    slopes = net.node("PRelu", turned, net.constant([0.5, -2.0, 0.1]))
    same_meaning(net, net.node("Transpose", slopes, perm=[0, 3, 1, 2]), tmp_path)


# -- several tensors


def column(net, x):
    return net.node("ReduceMean", x, axes=[2, 3])


def one_map(net, x):
    return net.conv(x, 4, 1, (1, 1))


def part_of_rows(net, x):
    return net.node("ReduceMax", x, axes=[3])


OTHERS = {"the same shape": lambda net, x: net.conv(x, 4, 4, (1, 1))}
OTHERS |= {"a vector": column, "one map": one_map, "a column": part_of_rows}
OTHERS |= {"one value": lambda net, x: column(net, one_map(net, x))}
OTHERS |= {"a map of a column": lambda net, x: part_of_rows(net, one_map(net, x))}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("other", list(OTHERS))
@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_broadcast(name, other, swapped, tmp_path):
    net = Net((3, 6, 5), 13)
    x = net.conv("x", 3, 4, (3, 3))
    y = OTHERS[other](net, x)
    if name == "Div":  # no quotient of almost nothing
        x, y = (net.node("Add", net.node("Abs", v), net.constant(1.0)) for v in (x, y))
    same_meaning(net, net.node(name, *((y, x) if swapped else (x, y))), tmp_path)


def test_a_row_and_a_column_make_an_image(tmp_path):
    net = Net((3, 6, 5), 13)
    row, down = net.node("ReduceMean", "x", axes=[2]), net.node("ReduceMean", "x", axes=[1, 3])
    same_meaning(net, net.node("Mul", row, down), tmp_path)


@pytest.mark.parametrize("name", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_operators_of_any_number(name, count, tmp_path):
    net = Net((3, 6, 5), 13)
    parts = [net.conv("x", 3, 4, (1, 1)) for _ in range(count)]
    made = net.node(name, *parts, net.weight(1, 4, 1, 1))
    same_meaning(net, net.node("Relu", net.node(name, made, column(net, made), net.constant(0.1))), tmp_path)


@pytest.mark.parametrize("name", ["Max", "Min"])
def test_limit_by_channel(name, tmp_path):
    net = Net((3, 6, 5), 13)
    same_meaning(net, net.node(name, net.weight(3, 1, 1), net.node(name, "x", net.constant(0.3))), tmp_path)


@variants(
    reciprocal=lambda net, x: net.node("Div", net.constant(2.0), net.node("Exp", x)),
    shares=lambda net, x: net.node("Div", net.weight(4, 1, 1), net.node("Exp", x)),
    itself=lambda net, x: net.node("Mul", x, x),
    wider=lambda net, x: net.node("Mul", one_map(net, x), net.weight(6, 1, 1)),
)
def test_constants_and_tensors(case, tmp_path):
    net = Net((3, 6, 5), 13)
    same_meaning(net, case(net, net.conv("x", 3, 4, (1, 1))), tmp_path)


def test_squeeze_and_excite(tmp_path):
    net = Net((3, 8, 7), 17)
    x = net.conv("x", 3, 8, (3, 3))
    gate = net.node("Relu", net.conv(net.node("GlobalAveragePool", x), 8, 2, (1, 1)))
    gate = net.node("HardSigmoid", net.conv(gate, 2, 8, (1, 1)))
    graph = same_meaning(net, net.node("Mul", gate, x), tmp_path)
    assert kinds(graph) == {"Conv": 3, "Pool": 1, "Act": 1, "Mul": 1}


# -- transposed convolution

TRANSPOSED = {
    "plain": ((3, 3), {}),
    "doubling": ((2, 2), {"strides": [2, 2]}),
    "padded": ((4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "output padding": ((3, 3), {"strides": [2, 3], "pads": [1, 0, 1, 2], "output_padding": [1, 2]}),
    "gaps": ((1, 2), {"strides": [3, 3]}),
    "gaps at the end": ((2, 2), {"strides": [3, 3], "output_padding": [2, 2]}),
    "dilation": ((3, 2), {"strides": [2, 2], "dilations": [2, 3], "pads": [1, 0, 2, 1]}),
    "dilation that skips phases": ((3, 3), {"strides": [4, 2], "dilations": [2, 2]}),
    "groups": ((3, 3), {"strides": [2, 2], "group": 2}),
    "padding beyond the kernel": ((2, 2), {"strides": [1, 2], "pads": [3, 2, 2, 3]}),
    "output shape": ((3, 3), {"strides": [2, 2], "output_shape": [11, 10]}),
    "larger output": ((3, 3), {"strides": [3, 3], "output_shape": [17, 16]}),
    "same upper": ((3, 4), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same lower": ((3, 4), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "valid": ((3, 4), {"strides": [2, 1], "auto_pad": "VALID"}),
}


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", list(TRANSPOSED))
def test_transposed_convolution(name, biased, tmp_path):
    kernel, attrs = TRANSPOSED[name]
    net = Net((4, 6, 5), 17)
    weight = net.weight(4, 6 // attrs.get("group", 1), *kernel)
    more = [net.weight(6)] if biased else []
    graph = same_meaning(net, net.node("ConvTranspose", "x", weight, *more, **attrs), tmp_path)
    strides = attrs.get("strides", [1, 1])
    assert kinds(graph)["Conv"] == strides[0] * strides[1]


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolution_keeps_the_integers_of_a_quantized_model(group, tmp_path):
    """Scales are those of the output channels; with groups each group has the same ones."""
    net = Net((4, 6, 5), 17)
    scales, zeros = net.constant([0.01, 0.02, 0.5]), net.constant([0] * 3, np.int8)
    integers = net.constant(net.rng.integers(-127, 128, (4, 3, 2, 2)), np.int8)
    weight = net.node("DequantizeLinear", integers, scales, zeros, axis=1)
    made = net.node("ConvTranspose", "x", weight, strides=[2, 2], group=group)
    graph = same_meaning(net, net.node("PRelu", made, weight_by_channel(net, 3 * group)), tmp_path)
    convs = [n for n in graph.nodes if isinstance(n, Conv)]
    assert len(convs) == 4
    for conv in convs:
        assert conv.weight_scale.tolist() == np.float32([0.01, 0.02, 0.5] * group).tolist()
        steps = conv.weight / conv.weight_scale[:, None, None, None]
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def weight_by_channel(net, channels):
    """Slopes of a quantized model."""
    integers = net.constant(np.arange(channels).reshape(-1, 1, 1), np.int8)
    return net.node("DequantizeLinear", integers, net.constant(0.1), net.constant(0, np.int8))


# -- resize

COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
SCALES = {
    "double": [2, 2],
    "width alone": [1, 3],
    "half": [0.5, 0.5],
    "one and a half": [1.5, 1.5],
    "two thirds": [2 / 3, 4 / 3],
    "a tenth more": [1.1, 1.3],
    "third of the width": [1, 1 / 3],
}


def close_to_a_whole(shape, scales):
    return all(abs(n * s - round(n * s)) < 1e-6 for n, s in zip(shape, np.float32(scales), strict=True))


PLACES = [  # with corners aligned, the standard and onnxruntime mean different sizes unless these are whole
    (name, mode)
    for name, scales in SCALES.items()
    for mode in COORDINATES
    if mode != "align_corners" or close_to_a_whole((6, 9), scales)
]


@pytest.mark.parametrize("opset", [11, 13, 18, 19])
@pytest.mark.parametrize(("name", "mode"), PLACES)
def test_linear_resize(name, mode, opset, tmp_path):
    net = Net((2, 6, 9), opset)
    scales = net.constant([1, 1, *SCALES[name]])
    made = net.node("Resize", "x", net.constant([]), scales, mode="linear", coordinate_transformation_mode=mode)
    same_meaning(net, made, tmp_path)


@pytest.mark.parametrize("attrs", [{}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}], ids=["", "bend", "inside"])
@pytest.mark.parametrize(("name", "mode"), PLACES)
def test_cubic_resize(name, mode, attrs, tmp_path):
    net = Net((2, 6, 9), 18)
    attrs = {"mode": "cubic", "coordinate_transformation_mode": mode} | attrs
    same_meaning(net, net.node("Resize", "x", "", net.constant([1, 1, *SCALES[name]]), **attrs), tmp_path)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize(("name", "mode"), PLACES)
def test_nearest_resize(name, mode, rounding, tmp_path):
    net = Net((2, 6, 9), 13)
    attrs = {"coordinate_transformation_mode": mode, "nearest_mode": rounding}
    same_meaning(net, net.node("Resize", "x", "", net.constant([1, 1, *SCALES[name]]), **attrs), tmp_path)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", [*COORDINATES, "half_pixel_symmetric"])
@pytest.mark.parametrize("size", [(13, 1), (20, 17), (3, 40), (6, 9), (1, 5)])
def test_resize_to_a_size(size, coordinates, mode, tmp_path):
    net = Net((2, 6, 9), 19)
    sizes = net.constant([1, 2, *size], np.int64)
    made = net.node("Resize", "x", "", "", sizes, mode=mode, coordinate_transformation_mode=coordinates)
    same_meaning(net, net.node("Neg", made), tmp_path, count=1)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_resize_of_some_axes(policy, tmp_path):
    net = Net((2, 6, 9), 18)
    attrs = {"axes": [3, 2], "keep_aspect_ratio_policy": policy}
    same_meaning(net, net.node("Resize", "x", "", "", ints(net, 12, 21), **attrs), tmp_path)


def test_resize_by_whole_factors_has_one_part_for_each_phase(tmp_path):
    net = Net((2, 6, 9), 13)
    up = net.node("Resize", "x", "", net.constant([1, 1, 2, 2]), mode="nearest")
    smooth = net.node("Resize", up, "", net.constant([1, 1, 2, 2]), mode="linear")
    down = net.node("Resize", smooth, "", net.constant([1, 1, 0.25, 0.25]), mode="linear")
    graph = same_meaning(net, down, tmp_path)
    mosaics = [n for n in graph.nodes if isinstance(n, Mosaic)]
    assert [len(m.srcs) for m in mosaics] == [4, 16]  # two phases and two borders along each axis
    assert mosaics[0].srcs == ("x",) * 4
    assert isinstance(graph.nodes[-1], Conv)


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode, opset, tmp_path):
    net = Net((2, 6, 9), opset)
    if opset < 9:
        made = net.node("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0], mode=mode)
    else:
        scales = net.constant([1, 1, 2, 3])
        made = net.node("Resize" if opset == 10 else "Upsample", "x", scales, mode=mode)
    same_meaning(net, made, tmp_path)


# -- pools and reductions

AVERAGES = {
    "pads": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "uneven pads": {"kernel_shape": [3, 4], "pads": [0, 2, 1, 1], "strides": [2, 1]},
    "ceil": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "ceil and pads": {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 0, 1]},
    "ceil, padding counts": {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1, "count_include_pad": 1},
    "all counts": {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1},
    "same upper": {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower": {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER"},
    "large": {"kernel_shape": [7, 5], "pads": [3, 2, 3, 2]},
}


@pytest.mark.parametrize("name", list(AVERAGES))
def test_average_whose_divisor_varies(name, tmp_path):
    net = Net((3, 9, 10), 21 if "ceil" in name or "all" in name else 13)
    same_meaning(net, net.node("AveragePool", "x", **AVERAGES[name]), tmp_path)


def test_average_with_dilation(tmp_path):
    net = Net((3, 9, 10), 19)
    attrs = {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [2, 1, 2, 1]}
    same_meaning(net, net.node("AveragePool", "x", **attrs), tmp_path)


REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"]


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [2], [3], [1, 2], [2, 3], [1, 2, 3]])
@pytest.mark.parametrize("name", [*REDUCTIONS, "ReduceLogSumExp"])
def test_reductions(name, axes, keepdims, tmp_path):
    if len(axes) == 3 and not keepdims:
        axes = [1, 2]
    net = Net((3, 6, 5), 18)
    same_meaning(net, net.node(name, "x", ints(net, *axes), keepdims=keepdims), tmp_path)


def test_logarithm_of_a_sum_and_a_reduction_of_nothing(tmp_path):
    net = Net((3, 6, 5), 18)
    total = net.node("ReduceLogSum", net.node("Exp", "x"), ints(net, 2, 3))
    same_meaning(net, net.node("Relu", net.node("ReduceSum", total, noop_with_empty_axes=1)), tmp_path)


@pytest.mark.parametrize("size", [1, 3, 5, 9])  # even ones: the node tests of the onnx package
def test_lrn(size, tmp_path):
    net = Net((6, 4, 5), 13)
    same_meaning(net, net.node("LRN", "x", size=size, alpha=0.5, beta=0.75, bias=1.5), tmp_path)


# -- axes


def shuffled(net, x, *steps):
    """Reshape, Transpose and Reshape."""
    first, perm, last = steps
    x = net.node("Reshape", x, ints(net, *first))
    return net.node("Reshape", net.node("Transpose", x, perm=perm), ints(net, *last))


def test_channel_shuffle_is_a_choice_of_channels(tmp_path):
    net = Net((12, 6, 5))
    x = shuffled(net, "x", (0, 3, 4, 6, 5), [0, 2, 1, 3, 4], (0, -1, 6, 5))
    graph = same_meaning(net, net.conv(x, 12, 4, (3, 3)), tmp_path)
    assert [type(n) for n in graph.nodes] == [Channels, Conv]
    assert graph.nodes[0].onnx_nodes == (graph.nodes[1].name,)


@variants(
    shuffle=((0, 3, 2, 2, 4, 6), [0, 1, 4, 2, 5, 3], (0, 3, 8, 12)),
    unshuffle=((0, 12, 2, 2, 3, 2), [0, 1, 3, 5, 2, 4], (0, 48, 2, 3)),
    tiles=((0, 12, 2, 2, 2, 3), [0, 2, 4, 1, 3, 5], (0, 48, 2, 3)),
    rows=((0, 12, 2, 2, 6), [0, 1, 3, 2, 4], (0, 12, 4, 6)),
    transposed=((0, 12, 4, 6), [0, 1, 3, 2], (0, 12, 6, 4)),
    turned=((0, 12, 4, 6), [0, 3, 1, 2], (0, 6, 12, 4)),
)  # fmt: skip
def test_pixels_and_channels_change_places(case, tmp_path):
    net = Net((12, 4, 6))
    x = net.node("Relu", shuffled(net, "x", *case))
    channels = case[2][1]
    same_meaning(net, net.conv(x, channels, 4, (1, 1)), tmp_path)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode, tmp_path):
    net = Net((12, 4, 6), 13)
    up = net.node("DepthToSpace", net.conv("x", 12, 8, (1, 1)), blocksize=2, mode=mode)
    down = net.node("SpaceToDepth", net.conv(up, 2, 3, (1, 1)), blocksize=4)
    same_meaning(net, down, tmp_path)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_super_resolution_ends_in_an_image(mode, tmp_path):
    net = Net((3, 4, 6), 13)
    same_meaning(net, net.node("DepthToSpace", net.conv("x", 3, 12, (3, 3)), blocksize=2, mode=mode), tmp_path)


def test_space_to_depth_and_back_moves_nothing(tmp_path):
    net = Net((3, 4, 6), 13)
    deep = net.node("SpaceToDepth", "x", blocksize=2)
    graph = same_meaning(net, net.node("Relu", net.node("DepthToSpace", deep, blocksize=2)), tmp_path)
    assert kinds(graph) == {"Act": 1}


def test_decoder_starts_from_a_vector(tmp_path):
    net = Net((10, 1, 1))
    vector = net.node("Gemm", net.node("Flatten", "x"), net.weight(10, 4 * 3 * 2), net.weight(24))
    image = net.node("Relu", net.node("Reshape", vector, ints(net, -1, 4, 3, 2)))
    same_meaning(net, net.node("ConvTranspose", image, net.weight(4, 3, 2, 2), strides=[2, 2]), tmp_path)


def test_matrix_over_the_channels_of_tokens(tmp_path):
    """Tokens (N, H * W, C) of patches: products and sums over channels are convolutions of one pixel."""
    net = Net((3, 8, 6))
    patches = net.conv("x", 3, 8, (2, 2), strides=[2, 2])
    tokens = net.node("Transpose", net.node("Reshape", patches, ints(net, 0, 8, 12)), perm=[0, 2, 1])
    hidden = net.node("Relu", net.node("Add", net.node("MatMul", tokens, net.weight(8, 16)), net.weight(16)))
    again = net.node("Add", tokens, net.node("MatMul", hidden, net.weight(1, 16, 8)))
    pooled = net.node("ReduceMean", again, axes=[1], keepdims=0)
    graph = same_meaning(net, net.node("Gemm", pooled, net.weight(8, 5), net.weight(5)), tmp_path)
    assert kinds(graph) == {"Conv": 4, "Pool": 1}  # the residual is the second matrix's


def test_matrix_over_the_channels_of_an_image(tmp_path):
    net = Net((3, 4, 5))
    last = net.node("Transpose", net.conv("x", 3, 6, (1, 1)), perm=[0, 2, 3, 1])
    made = net.node("MatMul", net.node("Gelu" if net.opset >= 20 else "Relu", last), net.weight(6, 4))
    graph = same_meaning(net, net.node("Transpose", made, perm=[0, 3, 1, 2]), tmp_path)
    assert kinds(graph) == {"Conv": 2}


@pytest.mark.parametrize("left", [False, True])
def test_matrix_over_pixels(left, tmp_path):
    """Mixing of tokens, and of rows: the image is rearranged so that what is summed over are channels."""
    net = Net((4, 3, 5))
    if left:
        tokens = net.node("Transpose", net.node("Reshape", "x", ints(net, 0, 4, 15)), perm=[0, 2, 1])
        made = net.node("Transpose", net.node("MatMul", net.weight(6, 15), tokens), perm=[0, 2, 1])
    else:
        made = net.node("Neg", net.node("MatMul", "x", net.weight(5, 7)))
    flat = net.node("Flatten", made)
    same_meaning(net, net.node("Gemm", flat, net.weight(24 if left else 84, 5)), tmp_path)


@pytest.mark.parametrize("opset", [11, 17])
def test_one_row(opset, tmp_path):
    """A signal (N, C, W): convolutions and pools of one axis."""
    net = Net((3, 20, 1), opset)
    net.shape = (3, 20)
    x = net.node("Relu", net.node("Conv", "x", net.weight(8, 3, 5), net.weight(8), strides=[2], pads=[1, 2]))
    x = net.node("BatchNormalization", x, *(net.constant(np.full(8, v)) for v in (1.5, 0.2, 0.1, 2.0)))
    x = net.node("MaxPool", x, kernel_shape=[2], pads=[1, 0])
    x = net.node("AveragePool", x, kernel_shape=[3], pads=[1, 1])
    x = net.node("ConvTranspose", x, net.weight(8, 4, 4), strides=[2])
    x = net.node("Add", x, net.node("GlobalAveragePool", x))
    same_meaning(net, net.node("Concat", x, x, axis=2), tmp_path)


def test_vector(tmp_path):
    net = Net((3, 1, 1))
    net.shape = (12,)
    hidden = net.node("Tanh", net.node("Gemm", "x", net.weight(12, 7), net.weight(7)))
    same_meaning(net, net.node("Concat", hidden, net.node("MatMul", "x", net.weight(12, 3)), axis=1), tmp_path)


# -- parts of images

PARTS = {
    "gather channels": lambda net, x: net.node("Gather", x, ints(net, 3, 0, -1, 3), axis=1),
    "gather rows": lambda net, x: net.node("Gather", x, ints(net, 0, 2, 4, 5, 1, 1), axis=2),
    "gather one column": lambda net, x: net.node("Gather", x, net.constant(-2, np.int64), axis=3),
    "gather one channel": lambda net, x: net.node("Gather", x, net.constant(2, np.int64), axis=1),
    "split rows": lambda net, x: net.node("Split", x, ints(net, 2, 4), axis=2, outputs=2) + ".1",
    "split columns": lambda net, x: net.node("Split", x, ints(net, 1, 3, 1), axis=-1, outputs=3) + ".1",
    "backwards": lambda net, x: net.node("Slice", x, *(ints(net, v) for v in (-1, -99, 1, -2))),
    "mirrored": lambda net, x: net.node("Slice", x, *(ints(net, v) for v in (-1, -99, 3, -1))),
    "all mirrored": lambda net, x: net.node(
        "Slice", x, *(ints(net, *v) for v in ((-1, 4, 1), (-99, 0, 4), (2, 3, 1), (-1, -2, 2)))
    ),
    "rows beside rows": lambda net, x: net.node("Concat", x, x, net.node("Relu", x), axis=2),
    "columns": lambda net, x: net.node("Concat", net.node("ReduceMax", x, axes=[3]), x, axis=3),
    "tile": lambda net, x: net.node("Tile", x, ints(net, 1, 2, 3, 2)),
    "expand": lambda net, x: net.node("Expand", net.node("ReduceMax", x, axes=[2, 3]), ints(net, 1, 4, 7, 3)),
    "expand channels": lambda net, x: net.node("Expand", net.node("ReduceMean", x, axes=[1]), ints(net, 5, 1, 1)),
}


@pytest.mark.parametrize("name", list(PARTS))
def test_parts(name, tmp_path):
    net = Net((4, 6, 5), 13)
    same_meaning(net, net.node("Neg", PARTS[name](net, net.conv("x", 4, 4, (1, 1)))), tmp_path)


PADS = {
    "ones around": ([0, 0, 1, 2, 0, 0, 3, 1], "constant", 1.0),
    "a row": ([0, 0, 1, 0, 0, 0, 0, 0], "constant", -3.5),
    "channels": ([0, 1, 0, 1, 0, 2, 1, 0], "constant", 2.0),
    "cropped": ([0, 0, -1, 1, 0, 0, 2, -2], "constant", 2.0),
    "reflect": ([0, 0, 2, 1, 0, 0, 3, 2], "reflect", None),
    "reflect channels": ([0, 2, 0, 1, 0, 1, 1, 0], "reflect", None),
    "edge": ([0, 0, 3, 1, 0, 0, 0, 4], "edge", None),
    "edge and crop": ([0, 1, -1, 1, 0, 0, 2, 1], "edge", None),
}


@pytest.mark.parametrize("name", list(PADS))
def test_padding(name, tmp_path):
    pads, mode, value = PADS[name]
    net = Net((4, 6, 5), 13)
    more = [] if value is None else [net.constant(value)]
    same_meaning(net, net.node("Pad", net.conv("x", 4, 4, (1, 1)), ints(net, *pads), *more, mode=mode), tmp_path)


def test_padding_that_wraps(tmp_path):
    net = Net((4, 6, 5), 19)
    same_meaning(net, net.node("Pad", "x", ints(net, 0, 0, 2, 1, 0, 0, 3, 4), mode="wrap"), tmp_path)


def test_focus(tmp_path):
    """Four strided slices side by side, as YOLO begins."""
    net = Net((3, 8, 6))
    parts = []
    for row, col in np.ndindex(2, 2):
        down = net.node("Slice", "x", *(ints(net, v) for v in (row, 99, 2, 2)))
        parts.append(net.node("Slice", down, *(ints(net, v) for v in (col, 99, 3, 2))))
    same_meaning(net, net.conv(net.node("Concat", *parts, axis=1), 12, 5, (3, 3)), tmp_path)


def test_rows_joined_to_one_axis_and_concatenated(tmp_path):
    """Heads of a detector: (N, C, H, W) to (N, C, H * W), side by side."""
    net = Net((4, 6, 5))
    small = net.node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2])
    flat = [net.node("Reshape", "x", ints(net, 0, 4, 30)), net.node("Reshape", small, ints(net, 0, 4, 6))]
    same_meaning(net, net.node("Concat", *flat, axis=2), tmp_path)


def test_axes_of_one(tmp_path):
    net = Net((4, 6, 5), 13)
    x = net.node("ReduceMean", "x", axes=[2])
    x = net.node("Unsqueeze", net.node("Squeeze", x, ints(net, 2)), ints(net, 3, -1))
    x = net.node("Reshape", net.node("Sigmoid", x), ints(net, 0, 4, 5, 1))
    same_meaning(net, net.node("Concat", x, x, axis=3), tmp_path)


def test_names_of_nodes_made_of_several(tmp_path):
    """The last node has the ONNX node's name and output; the others are named after it."""
    net = Net((2, 4, 4))
    made = net.node("ConvTranspose", "x", net.weight(2, 3, 2, 2), strides=[2, 1], name="up")
    graph = read_onnx(save(net.model(net.node("Relu", made)), tmp_path))
    assert [n.name for n in graph.nodes] == ["up.conv", "up.conv_2", "up", "relu_1"]
    assert {n.onnx_nodes for n in graph.nodes} == {("up",), ("relu_1",)}
    assert graph.nodes[2].out == "up"


@pytest.mark.parametrize("batch", ["N", 3])
def test_fixed_and_open_batch(batch, tmp_path):
    net = Net((4, 4, 6), 13)
    x = shuffled(net, "x", (0, 2, 2, 4, 6), [0, 2, 1, 3, 4], (-1, 4, 4, 6))
    model = net.model(net.node("Mul", x, net.node("GlobalMaxPool", x)), batch=batch)
    same_values(model, read_onnx(save(model, tmp_path)), net.images(3))


def test_curves_are_programs_of_primitives(tmp_path):
    net = Net((3, 6, 5), 17)
    graph = same_meaning(net, net.node("HardSwish", "x"), tmp_path)
    assert graph.nodes[0].act == Curve(("x", "x", 1 / 6, "mul", 0.5, "add", 0.0, "max", 1.0, "min", "mul"))
