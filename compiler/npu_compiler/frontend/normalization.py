"""ONNX normalization with constants: BatchNormalization, LRN."""

import numpy as np
import onnx
from numpy.typing import NDArray

from npu_compiler.frontend import build
from npu_compiler.frontend.arrange import as_image, image, tensor_axis
from npu_compiler.frontend.importer import REFUSALS, Constants, Importer, Refused, attributes, needed, operator
from npu_compiler.frontend.layout import image_axes
from npu_compiler.graph.ir import Curve

MAX_BAND = 1 << 12  # channels of LRN: its convolution has their square as weights

REFUSALS |= dict.fromkeys(
    ("InstanceNormalization", "GroupNormalization", "LayerNormalization", "MeanVarianceNormalization"),
    "mean and variance of the image at hand are not supported; train with BatchNormalization instead",
)


@operator("BatchNormalization", limits="for inference")
def _batchnorm(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs = attributes(node)
    if attrs.get("training_mode", 0) or any(node.output[1:]):
        raise Refused("training_mode is not supported; export the model for inference")
    value = imp.value(node.input[0])
    if tensor_axis(imp, value, 0) != 0:
        value = as_image(imp, value)
    tensor, order = value.tensor, value.order
    statistics = [_statistic(imp, node, i, constants) for i in range(1, 5)]
    if {a.size for a in statistics} != {imp.shapes[tensor][0]}:
        raise Refused(f"statistics of {[a.size for a in statistics]} channels, its input has {imp.shapes[tensor][0]}")
    gamma, beta, mean, var = statistics
    scale = gamma / np.sqrt(var + float(attrs.get("epsilon", 1e-5)))
    imp.finish(build.affine(imp, tensor, scale, beta - mean * scale), order)


def _statistic(imp: Importer, node: onnx.NodeProto, index: int, constants: Constants) -> NDArray[np.float64]:
    """Return a statistic; onnxruntime quantizes the factor of a normalization that is left to itself."""
    quantized = imp.weights.get(node.input[index]) if index < len(node.input) else None
    found = needed(node, index, constants, "statistics") if quantized is None else quantized[0]
    return found.astype(np.float64).reshape(-1)


@operator("LRN", limits="over channels: squares, a convolution, a power and a product, each rounded by itself")
def _lrn(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs = attributes(node)
    src = image(imp, node.input[0], (2, 3))
    channels, size = imp.shapes[src][0], int(attrs["size"])
    if not size > 0 or channels > MAX_BAND:
        raise Refused(f"size {size} over {channels} channels: needs 1 or more, and at most {MAX_BAND} channels")
    alpha, beta, bias = (float(attrs.get(n, d)) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    squares = build.activate(imp, src, Curve(("x", "x", "mul")))
    distance = np.subtract.outer(np.arange(channels), np.arange(channels))  # of the sum's channel from the square's
    band = (-(size // 2) <= distance) & (distance <= (size - 1) // 2)
    weight = (band * (alpha / size)).astype(np.float32)[:, :, None, None]
    sums = build.conv(imp, squares, weight, np.full(channels, bias, np.float32))
    made = build.multiply(imp, src, build.activate(imp, sums, Curve(("x", -beta, "pow"))))
    imp.finish(made, image_axes(imp.shapes[made], imp.rank(node.input[0])))
