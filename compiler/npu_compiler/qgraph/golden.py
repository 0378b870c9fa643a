"""The golden model: what a quantized graph computes, in plain integer NumPy, without instructions or machine sizes.

A convolution is one product of 8-bit operands, of which the places below the boundary are lowered. Products of
matrices run in floating point whose mantissa holds every sum exactly, which is checked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

import numpy as np
from npu_isa.errors import DataError
from npu_isa.machine.numerics import dynamic_shift, look_up, lower, requantize
from numpy.typing import NDArray

from npu_compiler.qgraph.ir import (
    GROUP,
    Clamp,
    Computed,
    Extraction,
    Factor,
    Leaky,
    Lookup,
    QConcat,
    QConv,
    QFold,
    QMosaic,
    QNode,
    QTensor,
    QuantizedGraph,
    QWindow,
    Window,
)

Ints = NDArray[Any]

INT32 = np.iinfo(np.int32)
BLOCK_ELEMENTS = 1 << 19  # of the gathered windows of a block of images: they stay in a processor's cache


def run(
    graph: QuantizedGraph,
    image_bytes: NDArray[np.uint8],
    boundaries: Sequence[int],
    keep: bool = False,
    visit: Callable[[str, Ints], None] = lambda name, x: None,
) -> dict[str, Ints]:
    """Compute the outputs of a batch of images.

    Args:
        graph: the network.
        image_bytes: input bytes (after the preprocessing table), uint8, shape (N, height, width, channels).
        boundaries: groups in 4 bits of each convolution of `graph.lowerable`.
        keep: return every tensor, not those of the outputs alone.
        visit: called with the name and the values of each tensor but the input once they are there.

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
        visit(node.out, values[node.out])
        if not keep:
            for name in {n for n in node.inputs if last[n] == index}:
                del values[name]
    return values if keep else {name: values[name] for name in graph.output_tensors}


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
    out, x = graph.tensors[node.out], values[node.inputs[0]]
    match node:
        case QFold():
            return _fold(x, node.window, out)
        case QConcat():
            return np.concatenate([values[s] for s in node.srcs], axis=3)
        case QMosaic():
            return assemble(node, out, values)
        case QConv():
            sums = partial(_conv_sums, node, out, _operands(node, graph.tensors[node.src], boundary))
            bias = node.epilogue.bias if node.lowering is None else node.lowering.bias_rows[boundary]
            depth = node.weight[0].size
        case QWindow():
            sums, bias, depth = partial(_window_sums, node, out), node.epilogue.bias, out.channels
        case _:
            assert_never(node)
    f = node.epilogue.function
    assert isinstance(f, Lookup) or out.limits[0] <= f.low <= f.high <= out.limits[1], node.name
    residual = None if node.residual is None else values[node.residual]
    y = np.empty((len(x), out.height, out.width, out.channels), np.int16)
    step = max(1, BLOCK_ELEMENTS // (out.height * out.width * depth))
    for first in range(0, len(x), step):
        block = slice(first, first + step)
        y[block] = _finish(node, out, sums(x[block]), bias, None if residual is None else residual[block])
    return y


def assemble(node: QMosaic, out: QTensor, values: Mapping[str, Ints]) -> Ints:
    """Return the values of a mosaic, (N, height, width, channels), of the type of its parts."""
    first = values[node.srcs[0]]
    whole = np.empty((len(first), out.height, out.width, out.channels), first.dtype)
    for src, at in zip(node.srcs, node.places, strict=True):
        part = values[src]
        whole[:, at.y :: at.step_y, at.x :: at.step_x][:, : part.shape[1], : part.shape[2]] = part
    return whole


def _finish(node: Computed, out: QTensor, acc: Ints, bias: Ints, residual: Ints | None) -> Ints:
    """Requantize sums of a block of images; none may leave the accumulator's 32 bits, with or without bias."""
    least, most = (edge(axis=(0, 1, 2)).astype(np.int64) for edge in (acc.min, acc.max))
    assert min(least.min(), (least + bias).min()) >= INT32.min, node.name
    assert max(most.max(), (most + bias).max()) <= INT32.max, node.name
    e, f = node.epilogue, node.epilogue.function
    product = isinstance(e.operand, Factor)
    match f:
        case Clamp():
            return requantize(acc, bias, e.mult, e.shift, f.low, f.high, residual, e.mult2, product=product)
        case Leaky():
            return requantize(acc, bias, e.mult, e.shift, f.low, f.high, mult2=f.mult, leaky=True)
        case Lookup():
            byte = requantize(acc, bias, e.mult, e.shift, f.low, f.high, residual, e.mult2, product=product)
            return look_up(byte, f.table, unsigned=not out.signed)
    assert_never(f)


@dataclass(frozen=True)
class _Operands:
    """A convolution's weights at one boundary, and what happens to its activations.

    Attributes:
        matrix: whole numbers in float32, shape (taps * in channels, out channels).
        parts: rows of the matrix whose sums float32 holds exactly.
        lowered: channels of the input that are lowered; shift: the static position of each.
        extract: as in npu_compiler.qgraph.ir.Lowering.
        unsigned: of the input.
    """

    matrix: Ints
    parts: tuple[slice, ...]
    lowered: Ints
    shift: Ints
    unsigned: bool
    extract: Extraction


def _operands(node: QConv, src: QTensor, boundary: int) -> _Operands:
    weight = node.weight.astype(np.int16)
    channels: list[int] = []
    shifts: list[int] = []
    if node.lowering is not None:
        for place in range(boundary):
            first = node.lowering.order[place] * GROUP
            span = slice(first, first + GROUP)
            of_outputs = node.lowering.wgt_shift[place][:, None, None, None]
            weight[..., span] = lower(weight[..., span], of_outputs, unsigned=False)
            channels += range(first, first + GROUP)
            shifts += [node.lowering.act_shift[place]] * GROUP
    matrix = weight.reshape(len(weight), -1).T.astype(np.float32)
    parts = exact_parts(matrix, 128 if src.signed else 255)
    extract = "static" if node.lowering is None else node.lowering.extract
    return _Operands(matrix, parts, np.array(channels, np.int64), np.array(shifts, np.int64), not src.signed, extract)


def exact_parts(matrix: Ints, largest: int) -> tuple[slice, ...]:
    """Cut the rows of a weight matrix into the longest parts whose sums float32 holds exactly: all below 2^24.

    Args:
        matrix: whole numbers up to 255, shape (depth, outputs).
        largest: largest magnitude that a weight is multiplied with, up to 255.
    """
    if np.abs(matrix).sum(axis=0).max() * largest < 1 << 24:
        return (slice(0, len(matrix)),)
    reach = np.cumsum(np.abs(matrix), axis=0, dtype=np.float64) * largest
    parts: list[slice] = []
    start, base = 0, np.zeros_like(reach[0])
    while start < len(matrix):
        end = int((reach - base < 1 << 24).all(axis=1).sum())
        parts.append(slice(start, end))
        start, base = end, reach[end - 1]
    return tuple(parts)


def _conv_sums(node: QConv, out: QTensor, use: _Operands, x: Ints) -> Ints:
    """Return the accumulators of a block of images, int64, shape (N, out height, out width, out channels)."""
    kh, kw = node.window.kernel
    if use.lowered.size:
        x = x.copy()
        values = x[..., use.lowered]
        x[..., use.lowered] = lower(values, _positions(values, use), unsigned=use.unsigned)
    padded = _padded(x.astype(np.float32), node.window, out, 0)
    taps = [_tap(padded, node.window, out, ky, kx) for ky in range(kh) for kx in range(kw)]
    rows = np.concatenate(taps, axis=3).reshape(-1, len(use.matrix))
    acc, *more = ((rows[:, part] @ use.matrix[part]).astype(np.int64) for part in use.parts)
    for sums in more:
        acc += sums
    return acc.reshape(len(x), out.height, out.width, out.channels)


def _positions(values: Ints, use: _Operands) -> Ints:
    """Return the position of each value: static, or of its group's 16 values at the pixel."""
    if use.extract == "static":
        return use.shift
    groups = values.reshape(*values.shape[:-1], -1, GROUP)
    found = dynamic_shift(groups, unsigned=use.unsigned, clip=use.shift[::GROUP])
    return np.repeat(found, GROUP, axis=-1)


def _window_sums(node: QWindow, out: QTensor, x: Ints) -> Ints:
    """Return the sums, or maxima, of a block of images, shape (N, out height, out width, channels).

    They are int32 if that holds them whatever the values are, else int64.
    """
    kh, kw = node.window.kernel
    largest = node.kind == "max"
    bound = kh * kw * 255 * (128 if node.kind == "mac" else 1)
    exact = np.int32 if bound < 1 << 31 else np.int64
    padded = _padded(x.astype(exact), node.window, out, INT32.min if largest else 0)
    acc = np.full((len(x), out.height, out.width, out.channels), INT32.min if largest else 0, exact)
    for ky in range(kh):
        for kx in range(kw):
            tap = _tap(padded, node.window, out, ky, kx)
            match node.kind:
                case "max":
                    np.maximum(acc, tap, out=acc)
                case "sum":
                    acc += tap
                case "mac":
                    assert node.weight is not None
                    acc += tap * node.weight[:, ky, kx].astype(exact)
                case _:
                    assert_never(node.kind)
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
