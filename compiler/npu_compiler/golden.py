"""The golden model: what a quantized graph computes, in plain integer NumPy, without instructions or machine sizes.

A convolution is one product of 8-bit operands, of which the places below the boundary are lowered. Products of
matrices run in floating point whose mantissa holds every sum exactly, which is checked.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from npu_isa.errors import DataError
from npu_isa.numerics import lower, requantize
from numpy.typing import NDArray

from npu_compiler.qgraph import GROUP, QConcat, QConv, QFold, QNode, QTensor, QuantizedGraph, QWindow, Window

Ints = NDArray[Any]

INT32 = np.iinfo(np.int32)


def run(
    graph: QuantizedGraph, image_bytes: NDArray[np.uint8], boundaries: Sequence[int], keep: bool = False
) -> dict[str, Ints]:
    """Compute the output of a batch of images.

    Args:
        graph: the network.
        image_bytes: input bytes (after the preprocessing table), uint8, shape (N, height, width, channels).
        boundaries: groups in 4 bits of each convolution of `graph.lowerable`.
        keep: return every tensor, not the output alone.

    Returns:
        tensor name to its values, int16, shape (N, height, width, physical channels).

    Raises:
        DataError: images or boundaries do not fit the network.
    """
    check_arguments(graph, image_bytes, boundaries)
    low = {n.name: b for n, b in zip(graph.lowerable, boundaries, strict=True)}
    image = image_bytes.view(np.int8) if graph.tensors[graph.input].signed else image_bytes
    values: dict[str, Ints] = {graph.input: image.astype(np.int16)}
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    for index, node in enumerate(graph.nodes):
        values[node.out] = run_node(graph, node, values, low.get(node.name, 0))
        if not keep:
            for name in {n for n in node.inputs if last[n] == index and n != graph.output}:
                del values[name]
    return values if keep else {graph.output: values[graph.output]}


def check_arguments(graph: QuantizedGraph, image_bytes: NDArray[np.uint8], boundaries: Sequence[int]) -> None:
    """Raise DataError where images or boundaries do not fit the network."""
    image = graph.tensors[graph.input]
    expected = (image.height, image.width, image.channels)
    if image_bytes.dtype != np.uint8 or image_bytes.shape[1:] != expected:
        raise DataError(
            f"images are {image_bytes.dtype} of shape {image_bytes.shape}, the network reads uint8 of shape "
            f"(N, {', '.join(map(str, expected))})",
            graph.name,
        )
    if len(boundaries) != len(graph.lowerable):
        raise DataError(f"{len(boundaries)} boundaries for {len(graph.lowerable)} layers with a dial", graph.name)
    for node, boundary in zip(graph.lowerable, boundaries, strict=True):
        groups = graph.tensors[node.src].groups
        if not 0 <= boundary <= groups:
            raise DataError(f"boundary {boundary}, the layer has {groups} groups", f"node {node.name}")


def run_node(graph: QuantizedGraph, node: QNode, values: dict[str, Ints], boundary: int = 0) -> Ints:
    """Compute one node.

    Args:
        graph: the network.
        node: one of its nodes.
        values: at least the node's inputs, as `run` returns them.
        boundary: groups in 4 bits.

    Returns:
        the output's values, int16, shape (N, height, width, channels).
    """
    out = graph.tensors[node.out]
    match node:
        case QFold():
            return _fold(values[node.src], node.window, out)
        case QConcat():
            return np.concatenate([values[s] for s in node.srcs], axis=3)
        case QConv():
            acc = conv_sums(node, values[node.src], graph.tensors[node.src], out, boundary)
            bias = node.epilogue.bias if node.lowering is None else node.lowering.bias_rows[boundary]
        case QWindow():
            acc, bias = _window_sums(node, values[node.src], out), node.epilogue.bias
        case _:
            raise TypeError(type(node).__name__)
    e = node.epilogue
    for total in (acc, acc + bias.astype(np.int64)):
        assert total.min(initial=0) >= INT32.min, node.name
        assert total.max(initial=0) <= INT32.max, node.name
    residual = None if node.residual is None else values[node.residual]
    y = requantize(acc, bias, e.mult, e.shift, e.low, e.high, residual, e.mult2, leaky=e.leaky)
    low, high = out.limits
    assert low <= e.low <= e.high <= high, node.name
    return y.astype(np.int16)


def operands(node: QConv, x: Ints, src: QTensor, boundary: int) -> tuple[Ints, Ints]:
    """Return activations and weights with the places below the boundary lowered, in the shapes given."""
    if node.lowering is None or boundary == 0:
        return x, node.weight
    x, weight = x.copy(), node.weight.astype(np.int16)
    for place in range(boundary):
        first = node.lowering.order[place] * GROUP
        span = slice(first, first + GROUP)
        x[..., span] = lower(x[..., span], node.lowering.act_shift[place], unsigned=not src.signed)
        shift = node.lowering.wgt_shift[place][:, None, None, None]
        weight[..., span] = lower(weight[..., span], shift, unsigned=False)
    return x, weight


def conv_sums(node: QConv, x: Ints, src: QTensor, out: QTensor, boundary: int) -> Ints:
    """Return the accumulators of a convolution, int64, shape (N, out height, out width, out channels)."""
    x, weight = operands(node, x, src, boundary)
    kh, kw = node.window.kernel
    # a sum of one tap's channels: exact in float32 below 2^24, else in float64
    bound = int(np.abs(x).max(initial=0)) * int(np.abs(weight.astype(np.int64)).sum(axis=3).max())
    assert bound < 1 << 53, node.name
    exact = np.float32 if bound < 1 << 24 else np.float64
    padded = _padded(x.astype(exact), node.window, out, 0)
    taps = weight.astype(exact)
    acc = np.zeros((len(x), out.height, out.width, out.channels), np.int64)
    for ky in range(kh):
        for kx in range(kw):
            if taps[:, ky, kx].any():
                window = np.ascontiguousarray(_tap(padded, node.window, out, ky, kx))
                acc += (window @ taps[:, ky, kx].T).astype(np.int64)
    return acc


def _window_sums(node: QWindow, x: Ints, out: QTensor) -> Ints:
    kh, kw = node.window.kernel
    largest = node.kind == "max"
    padded = _padded(x.astype(np.int32), node.window, out, INT32.min if largest else 0)
    acc = np.full((len(x), out.height, out.width, out.channels), INT32.min if largest else 0, np.int64)
    for ky in range(kh):
        for kx in range(kw):
            tap = _tap(padded, node.window, out, ky, kx)
            match node.kind:
                case "max":
                    acc = np.maximum(acc, tap)
                case "sum":
                    acc += tap
                case "mac":
                    assert node.weight is not None
                    acc += tap * node.weight[:, ky, kx].astype(np.int64)
    return acc


def _fold(image: Ints, window: Window, out: QTensor) -> Ints:
    kh, kw = window.kernel
    padded = _padded(image, window, out, 0)
    taps = [_tap(padded, window, out, ky, kx) for ky in range(kh) for kx in range(kw)]
    folded = np.zeros((len(image), out.height, out.width, out.channels), np.int16)
    columns = np.concatenate(taps, axis=3)
    folded[..., : columns.shape[3]] = columns
    return folded


def _padded(x: Ints, window: Window, out: QTensor, fill: int) -> Ints:
    """Return the input as far as the windows of all outputs reach, `fill` outside; negative pads crop."""
    reach_y = (out.height - 1) * window.stride[0] + (window.kernel[0] - 1) * window.dilation[0] + 1
    reach_x = (out.width - 1) * window.stride[1] + (window.kernel[1] - 1) * window.dilation[1] + 1
    padded = np.full((len(x), reach_y, reach_x, x.shape[3]), fill, x.dtype)
    top, left = window.pad_top, window.pad_left
    y0, x0 = max(0, -top), max(0, -left)
    y1, x1 = min(x.shape[1], reach_y - top), min(x.shape[2], reach_x - left)
    if y1 > y0 and x1 > x0:
        padded[:, y0 + top : y1 + top, x0 + left : x1 + left] = x[:, y0:y1, x0:x1]
    return padded


def _tap(padded: Ints, window: Window, out: QTensor, ky: int, kx: int) -> Ints:
    y0, x0 = ky * window.dilation[0], kx * window.dilation[1]
    sy, sx = window.stride
    tap: Ints = padded[:, y0 : y0 + (out.height - 1) * sy + 1 : sy, x0 : x0 + (out.width - 1) * sx + 1 : sx]
    return tap
