"""ONNX operators of arithmetic: convolutions, matrices, normalization, activations, sums and pools.

A function takes the importer, the ONNX node and the constants by name; it raises `Refused` with the reason when it
cannot do exactly what the node says. Registered in `OPERATORS` by `@operator`.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from npu_compiler.frontend.importer import (
    Constants,
    Importer,
    Refused,
    Value,
    attributes,
    explicit_pads,
    integers,
    needed,
    operator,
    pair,
    scalar,
    text,
    weights_of,
    window,
)
from npu_compiler.frontend.qdq import narrow
from npu_compiler.graph.ir import Act, Activation, Add, Affine, Clip, Concat, Conv, LeakyRelu, Pool


@operator("Conv")
def _conv(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    found = weights_of(imp, node, 1, constants, "the weight")
    assert found is not None
    weight, scale = found
    if weight.ndim != 4:
        raise Refused(f"weight of shape {list(weight.shape)}: only two-dimensional convolutions are supported")
    outs, kernel = len(weight), (weight.shape[2], weight.shape[3])
    bias = weights_of(imp, node, 2, constants, "the bias")
    if bias is not None and bias[0].size != outs:
        raise Refused(f"a bias of {bias[0].size} values for {outs} channels")
    groups, shape = int(attrs.get("group", 1)), imp.shapes[src]
    if weight.shape[1] * groups != shape[0]:
        raise Refused(f"weight wants {weight.shape[1] * groups} channels, its input has {shape[0]}")
    if outs % groups:
        raise Refused(f"{outs} output channels cannot be divided into {groups} groups")
    if pair(attrs.get("kernel_shape", kernel), "kernel_shape") != kernel:
        raise Refused(f"kernel_shape {list(attrs['kernel_shape'])} is not that of the weight, {list(kernel)}")
    stride, dilation, pads, size = window(attrs, kernel, shape)
    made = Conv(
        *imp.identity(node),
        src,
        weight,
        np.zeros(outs, np.float32) if bias is None else bias[0].reshape(-1),
        stride,
        pads,
        dilation,
        groups,
        weight_scale=None if scale is None else np.broadcast_to(scale, (outs,)).astype(np.float32),
    )
    imp.emit(made, (outs, *size))


@operator("Gemm")
def _gemm(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs = attributes(node)
    if attrs.get("transA", 0):
        raise Refused("transA is not supported")
    found = weights_of(imp, node, 1, constants, "the right side")
    assert found is not None
    weight, scale = found
    if weight.ndim != 2:
        raise Refused(f"right side of shape {list(weight.shape)}: must be a matrix")
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    if alpha != 1.0:
        weight = weight * np.float32(alpha)
        scale = None if scale is None or alpha <= 0 else scale * np.float32(alpha)  # -(-128) is no int8
    bias = weights_of(imp, node, 2, constants, "the bias")
    shift = None if bias is None else bias[0] * np.float32(beta)
    _matrix(imp, node, weight if attrs.get("transB", 0) else weight.T, shift, scale)


@operator("MatMul")
def _matmul(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    found = weights_of(imp, node, 1, constants, "the right side")
    assert found is not None
    if found[0].ndim != 2:
        raise Refused(f"right side of shape {list(found[0].shape)}: must be a matrix")
    _matrix(imp, node, found[0].T, None, found[1])


def _matrix(
    imp: Importer,
    node: onnx.NodeProto,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    scale: NDArray[np.float32] | None,
) -> None:
    """A product of a vector with a matrix (out, in): a convolution with the whole image as kernel."""
    value = imp.value(node.input[0])
    channels, height, width = shape = imp.shapes[value.tensor]
    if not value.flat and (height, width) != (1, 1):
        raise Refused("its input is an image: a matrix product needs a vector; put Flatten before it")
    if not value.flat:
        imp.image(node.input[0])
    if weight.shape[1] != channels * height * width:
        raise Refused(f"matrix wants {weight.shape[1]} values, its input has {channels * height * width}")
    outs, back = len(weight), np.argsort(value.order) + 1
    kernel = np.ascontiguousarray(weight.reshape(outs, *(shape[a] for a in value.order)).transpose(0, *back))
    shift = np.zeros(outs, np.float32)
    if bias is not None:
        if bias.size not in (1, outs):
            raise Refused(f"a bias of {bias.size} values for {outs} results")
        shift = np.broadcast_to(bias.reshape(-1), (outs,)).astype(np.float32)
    wide = None if scale is None else np.broadcast_to(scale.reshape(-1), (outs,)).astype(np.float32)
    made = Conv(*imp.identity(node), value.tensor, kernel, shift, weight_scale=wide)
    imp.emit(made, (outs, 1, 1), flat=value.flat)


@operator("BatchNormalization")
def _batchnorm(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    if attrs.get("training_mode", 0) or any(node.output[1:]):
        raise Refused("training_mode is not supported; export the model for inference")
    statistics = [_statistic(imp, node, i, constants) for i in range(1, 5)]
    if {a.size for a in statistics} != {imp.shapes[src][0]}:
        raise Refused(f"statistics of {[a.size for a in statistics]} channels, its input has {imp.shapes[src][0]}")
    gamma, beta, mean, var = statistics
    scale = gamma / np.sqrt(var + float(attrs.get("epsilon", 1e-5)))
    _affine(imp, node, imp.value(node.input[0]), scale, beta - mean * scale)


def _statistic(imp: Importer, node: onnx.NodeProto, index: int, constants: Constants) -> NDArray[Any]:
    """Return a statistic; onnxruntime quantizes the factor of a normalization that is left to itself."""
    quantized = imp.weights.get(node.input[index]) if index < len(node.input) else None
    found = needed(node, index, constants, "statistics") if quantized is None else quantized[0]
    return found.astype(np.float64).reshape(-1)


def _affine(imp: Importer, node: onnx.NodeProto, value: Value, scale: NDArray[Any], shift: NDArray[Any]) -> None:
    shape = imp.shapes[value.tensor]
    factor, term = (np.broadcast_to(a, (shape[0],)).astype(np.float32) for a in (scale, shift))
    if not (np.isfinite(factor).all() and np.isfinite(term).all()):
        raise Refused("its factors or terms are not finite")
    made = Affine(*imp.identity(node), value.tensor, factor, term)
    imp.emit(made, shape, flat=value.flat, order=value.order)


def _activation(imp: Importer, node: onnx.NodeProto, act: Activation) -> None:
    value = imp.value(node.input[0])
    made = Act(*imp.identity(node), value.tensor, act)
    imp.emit(made, imp.shapes[value.tensor], flat=value.flat, order=value.order)


@operator("Relu", element_wise=True)
def _relu(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    _activation(imp, node, Clip(low=0.0))


@operator("Clip", element_wise=True)
def _clip(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if node.input[0] in imp.integers:
        narrow(imp, node, constants)
        return
    low, high = (scalar(node, i, constants, "a limit") for i in (1, 2))
    limits = (-np.inf if low is None else low, np.inf if high is None else high)
    if not limits[0] <= 0 <= limits[1]:
        raise Refused(f"limits {limits[0]}..{limits[1]} exclude 0, the value of padding")
    _activation(imp, node, Clip(*limits))


@operator("LeakyRelu", element_wise=True)
def _leaky(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    _leak(imp, node, float(attributes(node).get("alpha", 0.01)))


@operator("PRelu", element_wise=True)
def _prelu(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    slope = needed(node, 1, constants, "the slope")
    if np.unique(slope).size != 1:
        raise Refused("only one slope for all channels is supported")
    _leak(imp, node, float(slope.reshape(-1)[0]))


def _leak(imp: Importer, node: onnx.NodeProto, alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise Refused(f"slope {alpha} is outside 0..1")
    _activation(imp, node, LeakyRelu(alpha))


@operator("Add", "Sub", "Mul", "Div", element_wise=True)
def _arithmetic(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    a, b = node.input
    if imp.known(a) and imp.known(b):
        if node.op_type != "Add":
            raise Refused("only Add takes two computed tensors")
        left, right = imp.value(a), imp.value(b)
        shape = imp.shapes[left.tensor]
        if shape != imp.shapes[right.tensor] or (left.flat, left.order) != (right.flat, right.order):
            shapes = f"{imp.full_shape(a)} and {imp.full_shape(b)}"
            raise Refused(f"shapes {shapes} differ: broadcasting is not supported")
        imp.emit(Add(*imp.identity(node), left.tensor, right.tensor), shape, flat=left.flat, order=left.order)
        return
    flipped = not imp.known(a)
    value = imp.value(b if flipped else a)
    found = weights_of(imp, node, 0 if flipped else 1, constants, "one input")
    assert found is not None
    factor, one = _per_channel(imp, value, found[0].astype(np.float64)), np.ones(1)
    match node.op_type:
        case "Add":
            scale, shift = one, factor
        case "Sub":
            scale, shift = (-one, factor) if flipped else (one, -factor)
        case "Mul":
            scale, shift = factor, 0 * one
        case _ if flipped or not factor.all():
            raise Refused("Div needs a constant divisor without zeros")
        case _:
            scale, shift = 1 / factor, 0 * one
    _affine(imp, node, value, scale, shift)


def _per_channel(imp: Importer, value: Value, array: NDArray[Any]) -> NDArray[Any]:
    """Return a constant as one value or one per channel."""
    if array.size == 1 and array.ndim <= (2 if value.flat else 4):
        return array.reshape(1)
    channels, *space = imp.shapes[value.tensor]
    if value.flat and space != [1, 1]:
        raise Refused("a flattened image takes a constant of one value only")
    axis = array.ndim - (1 if value.flat else 3 - value.order.index(0))
    if array.size == channels and axis >= 0 and array.shape[axis] == channels:
        return array.reshape(-1)
    raise Refused(f"a constant of shape {list(array.shape)} is neither one value nor one per channel")


@operator("Concat")
def _concat(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    axis = int(attributes(node).get("axis", 1))
    srcs = [imp.image(i) for i in node.input]
    flat = imp.value(node.input[0]).flat
    if imp.axis(node.input[0], axis) != 1:
        raise Refused(f"axis {axis}: only channels can be concatenated")
    shapes = [imp.shapes[s] for s in srcs]
    if any(s[1:] != shapes[0][1:] for s in shapes) or any(imp.value(i).flat != flat for i in node.input):
        raise Refused("the images differ in size")
    if len(srcs) == 1:
        imp.same(node, node.input[0])
        return
    imp.emit(Concat(*imp.identity(node), tuple(srcs)), (sum(s[0] for s in shapes), *shapes[0][1:]), flat=flat)


@operator("MaxPool", "AveragePool")
def _pool(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    if len(node.output) > 1:
        raise Refused("the second output (indices) is not supported")
    if attrs.get("storage_order", 0):
        raise Refused("storage_order is not supported")
    kernel, shape = pair(attrs["kernel_shape"], "kernel_shape"), imp.shapes[src]
    stride, dilation, pads, size = window(attrs, kernel, shape)
    if text(attrs, "auto_pad", "NOTSET") == "NOTSET" and any(
        p >= k for p, k in zip(explicit_pads(attrs), kernel * 2, strict=True)
    ):
        raise Refused(f"pads {explicit_pads(attrs)} are not smaller than the window {list(kernel)}")
    kind = "max" if node.op_type == "MaxPool" else "avg"
    counted = attrs.get("count_include_pad", 0) and list(pads) == explicit_pads(attrs)
    if kind == "avg" and any(pads) and not counted:
        raise Refused(
            "an average over a window that reaches into the padding divides by a varying count; export it with "
            "count_include_pad=1, or without padding and ceil_mode"
        )
    imp.emit(
        Pool(*imp.identity(node), src, "max" if kind == "max" else "avg", kernel, stride, pads, dilation),
        (shape[0], *size),
    )


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    src = imp.image(node.input[0])
    channels, height, width = imp.shapes[src]
    kind = "avg" if node.op_type == "GlobalAveragePool" else "max"
    imp.emit(Pool(*imp.identity(node), src, "avg" if kind == "avg" else "max", (height, width)), (channels, 1, 1))


@operator("ReduceMean", "ReduceMax")
def _reduce(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    axes = attrs.get("axes", integers(node, 1, constants, "axes"))
    if axes is None or sorted(imp.axis(node.input[0], a) for a in axes) != [2, 3]:
        raise Refused(f"axes {axes}: only the mean or maximum over height and width is supported")
    channels, height, width = imp.shapes[src]
    kind = "avg" if node.op_type == "ReduceMean" else "max"
    made = Pool(*imp.identity(node), src, "avg" if kind == "avg" else "max", (height, width))
    imp.emit(made, (channels, 1, 1), flat=not attrs.get("keepdims", 1))
