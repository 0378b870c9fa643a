"""The float graph's meaning: a plain NumPy evaluator, for calibration and as a reference in tests."""

from collections.abc import Callable, Iterable
from typing import Any, assert_never

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from npu_compiler.graph.curves import curve
from npu_compiler.graph.ir import (
    Act,
    Activation,
    Add,
    Affine,
    Channels,
    Clip,
    Concat,
    Conv,
    Crop,
    Curve,
    Graph,
    Identity,
    LeakyRelu,
    Mosaic,
    Mul,
    Node,
    Pool,
    inputs,
)

F = NDArray[Any]

Map = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
BLOCK_ELEMENTS = 1 << 19  # of the unfolded windows of a block of images: they stay in a processor's cache


@np.errstate(over="ignore", invalid="ignore")  # values that are not finite are for the caller to find
def evaluate(
    graph: Graph,
    x: NDArray[np.float32],
    keep: bool = False,
    visit: Callable[[str, F], None] = lambda name, x: None,
    each: Map = map,
) -> dict[str, F]:
    """Evaluate a batch.

    Args:
        graph: the network; fixed quantizations clamp their tensors but do not round them.
        x: float32 (N, channels, height, width).
        keep: return every tensor, not those of the outputs alone.
        visit: called with the name and the values of each tensor once they are there, the input first.
        each: `map` of a pool of threads: blocks of images of a convolution then run side by side.

    Returns:
        float32 arrays (N, channels, height, width) by tensor name.
    """
    values: dict[str, F] = {graph.input: _fixed(graph, graph.input, x)}
    visit(graph.input, values[graph.input])
    last_use = {t: i for i, n in enumerate(graph.nodes) for t in inputs(n)}
    for index, node in enumerate(graph.nodes):
        values[node.out] = _fixed(graph, node.out, _node(graph, node, values, each))
        visit(node.out, values[node.out])
        if not keep:
            for tensor in set(inputs(node)):
                if last_use[tensor] == index and tensor not in graph.output_tensors:
                    del values[tensor]
    return values if keep else {name: values[name] for name in graph.output_tensors}


def _fixed(graph: Graph, tensor: str, x: F) -> F:
    """Clamp a tensor whose quantization a QDQ model fixes: quantizers leave a ReLU to the clamp of unsigned bytes."""
    if tensor not in graph.quant:
        return x
    low, high = graph.quant[tensor].limits
    return np.clip(x, np.float32(low), np.float32(high))


def _node(graph: Graph, node: Node, values: dict[str, F], each: Map) -> F:
    match node:
        case Conv():
            y = _conv(node, values[node.src], each)
            return activate(y if node.residual is None else y + values[node.residual], node.act)
        case Affine():
            return activate(values[node.src] * node.scale[:, None, None] + node.shift[:, None, None], node.act)
        case Act():
            return activate(values[node.src], node.act)
        case Add():
            a, b = (np.float32(f) * values[t] for f, t in zip(node.factors, (node.a, node.b), strict=True))
            return activate(a + b, node.act)
        case Mul():
            return activate(values[node.a] * values[node.b], node.act)
        case Pool():
            return _pool(node, values[node.src])
        case Concat():
            return np.concatenate([values[s] for s in node.srcs], axis=1)
        case Mosaic():
            first = values[node.srcs[0]]
            whole = np.empty((*first.shape[:2], *node.size), np.float32)
            for src, at in zip(node.srcs, node.places, strict=True):
                part = values[src]
                whole[:, :, at.y :: at.step_y, at.x :: at.step_x][:, :, : part.shape[2], : part.shape[3]] = part
            return whole
        case Crop():
            return np.ascontiguousarray(
                _pad(values[node.src], node.pads, 0.0)[..., :: node.stride[0], :: node.stride[1]]
            )
        case Channels():
            x = values[node.src]
            chosen = x[:, [max(s, 0) for s in node.source]].copy()
            chosen[:, [i for i, s in enumerate(node.source) if s < 0]] = 0
            return chosen
    assert_never(node)


def activate(x: F, act: Activation | Curve) -> F:
    """Apply an activation to (N, channels, height, width)."""
    match act:
        case Identity():
            return x
        case Clip():
            return np.clip(x, np.float32(act.low), np.float32(act.high))
        case LeakyRelu():
            return np.where(x < 0, x * np.array(act.alpha, np.float32).reshape(-1, 1, 1), x)
        case Curve():
            return curve(act.program, x).astype(np.float32)
    assert_never(act)


def _pad(x: F, pads: tuple[int, int, int, int], value: float) -> F:
    """Pad, and crop where a pad is negative."""
    top, left, bottom, right = pads
    height, width = x.shape[2:]
    x = x[:, :, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
    grown = [(0, 0), (0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))]
    return np.pad(x, grown, constant_values=value) if any(map(any, grown)) else x


def _windows(
    x: F,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilation: tuple[int, int],
    outside: float,
) -> F:
    """Return a view (N, C, out height, out width, kernel_h, kernel_w)."""
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = sliding_window_view(_pad(x, pads, outside), (span[0], span[1]), axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def _conv(node: Conv, x: F, each: Map) -> F:
    kernel = (node.weight.shape[2], node.weight.shape[3])
    windows = _windows(x, kernel, node.stride, node.pads, node.dilation, 0.0)
    n, channels, height, width = windows.shape[:4]
    y = np.empty((n, len(node.weight), height, width), np.float32)
    step = max(1, BLOCK_ELEMENTS // windows[0].size)

    @np.errstate(over="ignore", invalid="ignore")
    def block(first: int) -> None:
        part = slice(first, first + step)
        if node.groups == channels == len(node.weight):
            _depthwise(windows[part], node.weight[:, 0], y[part])
        else:
            _dense(windows[part], node.weight, node.groups, y[part])
        y[part] += node.bias[:, None, None]

    for _ in each(block, range(0, n, step)):
        pass
    return y


def _pool(node: Pool, x: F) -> F:
    outside = -np.inf if node.kind == "max" else 0.0
    windows = _windows(x, node.kernel, node.stride, node.pads, node.dilation, outside)
    y = np.array(windows[..., 0, 0])
    combine = np.maximum if node.kind == "max" else np.add
    for ky, kx in list(np.ndindex(node.kernel))[1:]:
        combine(y, windows[..., ky, kx], out=y)
    return y if node.kind == "max" else y * np.float32(1 / (node.count or node.kernel[0] * node.kernel[1]))


def _dense(windows: F, weight: F, groups: int, y: F) -> None:
    """Write the sums of a block of images to `y`: columns of the windows, then one product per image and group."""
    n, _, height, width = windows.shape[:4]
    columns = np.ascontiguousarray(windows.transpose(0, 1, 4, 5, 2, 3)).reshape(n, groups, -1, height * width)
    matrix = weight.reshape(groups, len(weight) // groups, -1)
    np.matmul(matrix, columns, out=y.reshape(n, groups, -1, height * width))


def _depthwise(windows: F, weight: F, y: F) -> None:
    """Write the sums of a block of images to `y`, tap by tap."""
    y[...] = 0
    product = np.empty_like(y)
    for ky, kx in np.ndindex(weight.shape[1:]):
        np.multiply(windows[..., ky, kx], weight[:, ky, kx, None, None], out=product)
        y += product
