"""A network with several outputs: made by different kinds of node, read inside, given twice, of different sizes."""

import onnx

from tests.onnx_models import Net

# a convolution that is read too, a maximum that is read too, a sum, the classes, the classes once more
OUTPUTS = ("features", "small", "sum", "classes", "again")


def network(*outputs: str, batch: str | int = "N", seed: int = 0) -> onnx.ModelProto:
    """Return the network with these outputs, some of OUTPUTS."""
    net = Net((3, 12, 12), seed=seed)
    stem = net.node("Relu", net.conv("x", 3, 24, (3, 3), pads=[1] * 4), name="stem")
    net.conv(stem, 24, 24, (3, 3), pads=[1] * 4)
    net.nodes[-1].output[0] = "features"
    net.node("Add", "features", stem, name="sum")
    net.node("MaxPool", "sum", kernel_shape=[2, 2], strides=[2, 2], name="small")
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.conv("small", 24, 40, (1, 1))))
    net.node("Gemm", flat, net.weight(7, 40), net.weight(7), transB=1, name="classes")
    net.node("Identity", "classes", name="again")
    return net.model(*outputs, batch=batch)
