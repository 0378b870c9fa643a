"""ONNX Softmax where the host cannot take it, in the middle of a model: exp(x - max) / sum, each step rounded."""

import numpy as np
import onnx

from npu_compiler.frontend import build
from npu_compiler.frontend.elementwise import INVERSE
from npu_compiler.frontend.importer import Constants, Importer, Refused, attributes, operator
from npu_compiler.frontend.pooling import EXP, Over, greatest, reduction, sum_over

SINGLE_AXIS = 13  # the opset from which on it is over one axis; before over all from there on


@operator(
    "Softmax",
    limits="in the middle of a model: over height, width, and up to 64 channels; at the end the host computes it",
)
def _softmax(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if not imp.softmax_opset:
        raise Refused("the machine divides by no computed sum")
    single = imp.softmax_opset >= SINGLE_AXIS
    axis = imp.axis(node.input[0], int(attributes(node).get("axis", -1 if single else 1)))
    if axis == 0:
        raise Refused("over the batch axis")
    places = {axis - 1} if single else set(range(axis - 1, imp.rank(node.input[0])))
    value, over, _ = reduction(imp, imp.value(node.input[0]), places)
    shape = imp.shapes[value.tensor]
    most = _spread(imp, greatest(imp, value.tensor, over), over, shape[0])
    powers = build.activate(imp, build.add(imp, value.tensor, most, (1.0, -1.0)), EXP)
    share = build.activate(imp, sum_over(imp, powers, over, mean=False), INVERSE)
    imp.finish(build.multiply(imp, powers, _spread(imp, share, over, shape[0])), value.order)


def _spread(imp: Importer, tensor: str, over: Over, channels: int) -> str:
    """Return what a reduction made for all channels that it was made of."""
    if over.sets is None:
        return tensor
    source = np.zeros(channels, np.int64)
    source[over.sets] = np.arange(len(over.sets))[:, None]
    return build.choose(imp, tensor, source.tolist())
