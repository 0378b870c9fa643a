"""Networks that give something for every pixel or cell: U-Nets, and detectors as YOLO's fifth and eighth version."""

import numpy as np
import onnx

from tests.onnx_models import Net

SIDE = 64


def _conv(net: Net, src: str, ins: int, outs: int, kernel: int = 3, stride: int = 1, act: str = "silu") -> str:
    """Append a convolution that keeps the size, or halves it, and its activation."""
    x = net.conv(src, ins, outs, (kernel, kernel), pads=[kernel // 2] * 4, strides=[stride] * 2)
    if act == "silu":
        return net.node("Mul", x, net.node("Sigmoid", x))
    return net.node("Relu", x) if act == "relu" else x


def _twice(net: Net, src: str) -> str:
    """Append a Resize to twice the size, of nearest values."""
    return net.node("Resize", src, "", net.constant([1.0, 1.0, 2.0, 2.0]), mode="nearest",
                    coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip


# -- U-Net


def unet(*, resize: bool, seed: int = 0) -> onnx.ModelProto:
    """Return a U-Net of three levels; its way up is a ConvTranspose, or a Resize and a convolution."""
    net = Net((3, SIDE, SIDE), seed=seed)
    sizes, kept, x, ins = (8, 16, 24), [], "x", 3
    for outs in sizes:
        x = _conv(net, _conv(net, x, ins, outs, act="relu"), outs, outs, act="relu")
        kept.append(x)
        x, ins = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), outs
    x = _conv(net, x, ins, 32, act="relu")
    ins = 32
    for skip, outs in zip(kept[::-1], sizes[::-1], strict=True):
        if resize:
            x = _conv(net, _twice(net, x), ins, outs, act="none")
        else:
            weight = net.weight(ins, outs, 2, 2, spread=ins**-0.5)
            x = net.node("ConvTranspose", x, weight, net.weight(outs), strides=[2, 2])
        x = _conv(net, net.node("Concat", skip, x, axis=1), 2 * outs, outs, act="relu")
        ins = outs
    return net.model(net.node("Sigmoid", net.conv(x, ins, 2, (1, 1)), name="mask"))


# -- YOLO


def _bottleneck(net: Net, src: str, channels: int, *, add: bool) -> str:
    x = _conv(net, _conv(net, src, channels, channels), channels, channels)
    return net.node("Add", src, x) if add else x


def _c3(net: Net, src: str, ins: int, outs: int, *, add: bool = True) -> str:
    """Append YOLOv5's block: two ways of half the channels, one through a bottleneck."""
    half = outs // 2
    deep = _bottleneck(net, _conv(net, src, ins, half, 1), half, add=add)
    return _conv(net, net.node("Concat", deep, _conv(net, src, ins, half, 1), axis=1), outs, outs, 1)


def _c2f(net: Net, src: str, ins: int, outs: int, *, add: bool = True) -> str:
    """Append YOLOv8's block: split, and every stage is joined."""
    half = outs // 2
    first = net.node("Split", _conv(net, src, ins, outs, 1), net.constant([half] * 2, np.int64), outputs=2, axis=1)
    parts = [first, f"{first}.1", _bottleneck(net, f"{first}.1", half, add=add)]
    return _conv(net, net.node("Concat", *parts, axis=1), 3 * half, outs, 1)


def _sppf(net: Net, src: str, channels: int) -> str:
    """Append pools of pools, joined."""
    parts = [_conv(net, src, channels, channels // 2, 1)]
    for _ in range(3):
        parts.append(net.node("MaxPool", parts[-1], kernel_shape=[5, 5], pads=[2] * 4, strides=[1, 1]))
    return _conv(net, net.node("Concat", *parts, axis=1), 2 * channels, channels, 1)


def _features(net: Net, *, split: bool) -> list[str]:
    """Append backbone and neck; return the features of 16, 24 and 32 channels at 1/4, 1/8 and 1/16 of the size."""
    block = _c2f if split else _c3
    x = _conv(net, "x", 3, 8, stride=2)
    small = block(net, _conv(net, x, 8, 16, stride=2), 16, 16)
    middle = block(net, _conv(net, small, 16, 24, stride=2), 24, 24)
    large = _sppf(net, block(net, _conv(net, middle, 24, 32, stride=2), 32, 32), 32)
    middle = block(net, net.node("Concat", _twice(net, large), middle, axis=1), 56, 24, add=False)
    small = block(net, net.node("Concat", _twice(net, middle), small, axis=1), 40, 16, add=False)
    middle = block(net, net.node("Concat", _conv(net, small, 16, 16, stride=2), middle, axis=1), 40, 24, add=False)
    large = block(net, net.node("Concat", _conv(net, middle, 24, 24, stride=2), large, axis=1), 56, 32, add=False)
    return [small, middle, large]


def yolov5(seed: int = 0) -> onnx.ModelProto:
    """Return a detector with three outputs as the convolutions give them: 3 anchors of 9 numbers a cell."""
    net = Net((3, SIDE, SIDE), seed=seed)
    found = _features(net, split=False)
    outputs = [net.conv(x, ins, 27, (1, 1)) for x, ins in zip(found, (16, 24, 32), strict=True)]
    return net.model(*outputs, batch=1)


def yolov8(*, decoded: bool, seed: int = 0) -> onnx.ModelProto:
    """Return a detector whose head has a way for boxes, 4 sides of 8 bins, and one for 5 classes.

    Decoded: cells of all sizes joined, sides as the mean of a softmax over their bins, corners in pixels, and the
    sigmoid of the classes, (1, 9, cells). Else three outputs of boxes and classes together.
    """
    net, bins, classes = Net((3, SIDE, SIDE), seed=seed), 8, 5
    raw, cells = [], 0
    for x, ins in zip(_features(net, split=True), (16, 24, 32), strict=True):
        boxes = net.conv(_conv(net, x, ins, 16), 16, 4 * bins, (1, 1))
        raw.append(net.node("Concat", boxes, net.conv(_conv(net, x, ins, 16), 16, classes, (1, 1)), axis=1))
    if not decoded:
        return net.model(*raw, batch=1)
    flat, centers, strides = [], [], []
    for x, stride in zip(raw, (4, 8, 16), strict=True):
        side = SIDE // stride
        cells += side * side
        flat.append(net.node("Reshape", x, net.constant([1, 4 * bins + classes, -1], np.int64)))
        at = (np.stack(np.meshgrid(np.arange(side), np.arange(side))) + 0.5).reshape(2, -1)
        centers.append(at)
        strides.append(np.full((1, side * side), stride))
    joined = net.node("Concat", *flat, axis=2)
    split = net.node("Split", joined, net.constant([4 * bins, classes], np.int64), outputs=2, axis=1)
    sides = net.node("Reshape", split, net.constant([1, 4, bins, cells], np.int64))
    shares = net.node("Softmax", net.node("Transpose", sides, perm=[0, 2, 1, 3]), axis=1)
    weights = net.constant(np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1))
    far = net.node("Reshape", net.node("Conv", shares, weights), net.constant([1, 4, cells], np.int64))
    near = net.node("Split", far, net.constant([2, 2], np.int64), outputs=2, axis=1)
    center = net.constant(np.concatenate(centers, axis=1)[None])
    corners = net.node("Concat", net.node("Sub", center, near), net.node("Add", center, f"{near}.1"), axis=1)
    pixels = net.node("Mul", corners, net.constant(np.concatenate(strides, axis=1)[None]))
    return net.model(net.node("Concat", pixels, net.node("Sigmoid", f"{split}.1"), axis=1, name="found"), batch=1)
