"""The golden model: plain NumPy integers on the quantized graph. It knows nothing of instructions, tiles or memories.

A mixed layer is one convolution of lowered operands, since a lowered value is again an 8-bit value; the products are
summed by a float64 matrix product, which is exact here (all sums stay far below 2^53).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from npu_isa import numerics
from numpy.typing import NDArray

from npu_compiler.qgraph import GROUP, Epilogue, QConcat, QConv, QFold, QNode, QTensor, QuantizedGraph, QWindow, Window

Array = NDArray[Any]
OUTSIDE = -(1 << 40)  # below every value: ignored by a maximum


def run(
    graph: QuantizedGraph, image_bytes: NDArray[np.uint8], boundaries: Sequence[int], keep: bool = False
) -> dict[str, Array]:
    """Evaluate a network.

    Args:
        graph: the quantized network.
        image_bytes: uint8 (N, height, width, channels), pixel values after `graph.table`.
        boundaries: groups in 4 bits of each lowerable convolution, in the order of `graph.lowerable`.
        keep: return every tensor, not the output alone.

    Returns:
        int32 arrays (N, height, width, channels) by tensor name.
    """
    at = dict(zip((n.name for n in graph.lowerable), boundaries, strict=True))
    image = graph.tensors[graph.input]
    values: dict[str, Array] = {graph.input: image_bytes.view(np.int8 if image.signed else np.uint8).astype(np.int32)}
    last_use = {t: i for i, n in enumerate(graph.nodes) for t in n.inputs}
    for index, node in enumerate(graph.nodes):
        values[node.out] = _node(graph, node, values, at.get(node.name, 0))
        for tensor in node.inputs:
            if not keep and last_use[tensor] == index and tensor != graph.output:
                del values[tensor]
    return values


def _node(graph: QuantizedGraph, node: QNode, values: dict[str, Array], boundary: int) -> Array:
    out = graph.tensors[node.out]
    match node:
        case QFold():
            return _fold(values[node.src], node.window, out)
        case QConcat():
            return np.concatenate([values[s] for s in node.srcs], axis=-1)
        case QConv():
            src = graph.tensors[node.src]
            acc = conv_sums(node, values[node.src], src, out, boundary)
            bias = node.lowering.bias_rows[boundary] if node.lowering else node.epilogue.bias
            residual = None if node.residual is None else values[node.residual]
            return _finish(acc, node.epilogue, bias, residual)
        case QWindow():
            acc = _window(node, values[node.src], out)
            residual = None if node.residual is None else values[node.residual]
            return _finish(acc, node.epilogue, node.epilogue.bias, residual)
    raise TypeError(type(node).__name__)


def _finish(acc: Array, e: Epilogue, bias: Array, residual: Array | None) -> Array:
    total = acc + bias
    assert np.abs(total).max(initial=0) < 1 << 31, "accumulator overflow: the compiler's proof is wrong"
    y = numerics.requantize(acc, bias, e.mult, e.shift, e.low, e.high, residual, e.mult2, leaky=e.leaky)
    return y.astype(np.int32)


def taps(x: Array, window: Window, out: QTensor, outside: int) -> Iterator[tuple[int, int, Array]]:
    """Yield ky, kx and the values that this tap meets, (N, out height, out width, channels), row by row."""
    (kh, kw), (sy, sx), (dy, dx) = window.kernel, window.stride, window.dilation
    n, height, width, channels = x.shape
    need_h, need_w = (out.height - 1) * sy + (kh - 1) * dy + 1, (out.width - 1) * sx + (kw - 1) * dx + 1
    padded = np.full((n, need_h, need_w, channels), outside, x.dtype)
    y0, x0 = max(window.pad_top, 0), max(window.pad_left, 0)  # where the image starts in `padded`
    from_y, from_x = max(-window.pad_top, 0), max(-window.pad_left, 0)  # first pixel taken when cropping
    rows, cols = min(height - from_y, need_h - y0), min(width - from_x, need_w - x0)
    if rows > 0 and cols > 0:
        padded[:, y0 : y0 + rows, x0 : x0 + cols] = x[:, from_y : from_y + rows, from_x : from_x + cols]
    for ky in range(kh):
        for kx in range(kw):
            ys = slice(ky * dy, ky * dy + (out.height - 1) * sy + 1, sy)
            xs = slice(kx * dx, kx * dx + (out.width - 1) * sx + 1, sx)
            yield ky, kx, padded[:, ys, xs]


def _fold(x: Array, window: Window, out: QTensor) -> Array:
    flat = np.concatenate([values for _, _, values in taps(x, window, out, 0)], axis=-1)
    return np.pad(flat, ((0, 0), (0, 0), (0, 0), (0, out.channels - flat.shape[-1])))


def lowered_operands(node: QConv, x: Array, src: QTensor, boundary: int) -> tuple[Array, Array]:
    """Return activations and weights with the first `boundary` places lowered: both again 8-bit values."""
    weight = node.weight.astype(np.int64)
    if node.lowering is None or boundary == 0:
        return x, weight
    x = x.copy()
    for place in range(boundary):
        group = node.lowering.order[place]
        span = slice(group * GROUP, (group + 1) * GROUP)
        x[..., span] = numerics.lower(x[..., span], node.lowering.act_shift[place], unsigned=not src.signed)
        shifts = node.lowering.wgt_shift[place][:, None, None, None]
        weight[..., span] = numerics.lower(weight[..., span], shifts, unsigned=False)
    return x, weight


def conv_sums(node: QConv, x: Array, src: QTensor, out: QTensor, boundary: int) -> Array:
    """Return the accumulators of a convolution, int64 (N, out height, out width, out channels), without bias."""
    x, weight = lowered_operands(node, x, src, boundary)
    columns = weight.astype(np.float64)
    acc = np.zeros((x.shape[0], out.height, out.width, len(weight)))
    for ky, kx, values in taps(x.astype(np.float64), node.window, out, 0):
        acc += values @ columns[:, ky, kx].T
    return acc.astype(np.int64)


def _window(node: QWindow, x: Array, out: QTensor) -> Array:
    outside = OUTSIDE if node.kind == "max" else 0
    acc = np.full((x.shape[0], out.height, out.width, out.channels), outside, np.int64)
    for ky, kx, values in taps(x.astype(np.int64), node.window, out, outside):
        if node.kind == "max":
            acc = np.maximum(acc, values)
        elif node.kind == "sum":
            acc += values
        else:
            assert node.weight is not None
            acc += values * node.weight[:, ky, kx].astype(np.int64)
    assert acc.min(initial=0) > OUTSIDE, f"{node.name}: a window lies wholly in the padding"
    return acc
