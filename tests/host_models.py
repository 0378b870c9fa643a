"""Models whose end the machine cannot run: a classifier with its softmax, a detector's head, a choice of classes."""

import numpy as np
import onnx

from tests.onnx_models import Net


def integers(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Return the model with outputs of whole numbers."""
    for value in model.graph.output:
        if value.name in names:
            value.type.CopyFrom(onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=onnx.TensorProto.INT64)))
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def backbone(seed: int = 0, opset: int = 17) -> Net:
    """Return a net with one convolution, `body`: 24 channels of 12 x 12 pixels."""
    net = Net((3, 12, 12), opset, seed)
    stem = net.node("Relu", net.conv("x", 3, 24, (3, 3), pads=[1] * 4))
    net.node("Relu", net.conv(stem, 24, 24, (3, 3), pads=[1] * 4), name="body")
    return net


def classes(net: Net) -> str:
    """Append a head of 7 classes and return it."""
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.conv("body", 24, 40, (1, 1))))
    return net.node("Gemm", flat, net.weight(7, 40), net.weight(7), transB=1, name="logits")


def softmax(batch: str | int = "N", **more: int) -> onnx.ModelProto:
    """Return a classifier that ends in a softmax."""
    net = backbone(**more)
    return net.model(net.node("Softmax", classes(net), axis=1, name="scores"), batch=batch)


def both(batch: str | int = "N") -> onnx.ModelProto:
    """Return a classifier that gives logits, made by the machine, the best class and the features before."""
    net = backbone()
    best = net.node("ArgMax", classes(net), axis=1, keepdims=0, name="best")
    return integers(net.model("logits", best, "body", batch=batch), best)


def detector(batch: int = 1) -> onnx.ModelProto:
    """Return a detector with a head of two sizes that is decoded as YOLO's: transposed, joined, moved by a grid."""
    net = backbone()
    small = net.node("MaxPool", "body", kernel_shape=[2, 2], strides=[2, 2])
    parts = []
    for src, size in (("body", 12), (small, 6)):
        raw = net.conv(src, 24, 14, (1, 1))
        cells = net.node("Reshape", raw, net.constant([batch, 2, 7, size, size], np.int64))
        cells = net.node("Sigmoid", net.node("Transpose", cells, perm=[0, 1, 3, 4, 2]))
        place = net.node("Slice", cells, *(net.constant([v], np.int64) for v in (0, 2, 4)))
        rest = net.node("Slice", cells, *(net.constant([v], np.int64) for v in (2, 99, 4)))
        grid = net.constant(np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1))
        moved = net.node("Mul", net.node("Add", place, grid), net.constant(np.float32(12 / size)))
        joined = net.node("Concat", moved, rest, axis=-1)
        shape = net.node("Shape", joined)  # of a value of the host's: known, as the batch is
        first = net.node("Gather", shape, net.constant(0, np.int64), axis=0)
        target = net.node(
            "Concat",
            net.node("Unsqueeze", first, net.constant([0], np.int64)),
            net.constant([-1], np.int64),
            net.constant([7], np.int64),
            axis=0,
        )
        parts.append(net.node("Reshape", joined, target))
    return net.model(net.node("Concat", *parts, axis=1, name="boxes"), batch=batch)


def suppressed() -> onnx.ModelProto:
    """Return a detector that ends in non-maximum suppression: how many boxes there are depends on the image."""
    net = backbone()
    raw = net.conv("body", 24, 6, (1, 1))
    cells = net.node("Reshape", raw, net.constant([1, 6, 144], np.int64))
    boxes = net.node(
        "Slice", net.node("Transpose", cells, perm=[0, 2, 1]), *(net.constant([v], np.int64) for v in (0, 4, 2))
    )
    scores = net.node("Slice", cells, *(net.constant([v], np.int64) for v in (4, 6, 1)))
    most, overlap = net.constant([3], np.int64), net.constant([0.5])
    chosen = net.node("NonMaxSuppression", boxes, scores, most, overlap, net.constant([0.4]), name="chosen")
    return integers(net.model(chosen, batch=1), chosen)


def middle() -> onnx.ModelProto:
    """Return a classifier with an operator in the middle that the machine cannot run."""
    net = backbone()
    net.node("Floor", net.node("Relu", "body"), name="odd")
    last = net.node("Relu", net.conv("odd", 24, 24, (3, 3), pads=[1] * 4))
    return net.model(net.node("Softmax", net.node("Flatten", net.node("GlobalAveragePool", last)), axis=1))


def transposed() -> onnx.ModelProto:
    """Return a network whose output has its channels last."""
    net = backbone()
    return net.model(net.node("Transpose", "body", perm=[0, 2, 3, 1], name="last"))
