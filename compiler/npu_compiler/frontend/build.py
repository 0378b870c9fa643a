"""Nodes of the graph as steps of an ONNX node: each function appends one and returns its tensor, or does nothing."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from npu_isa.isa.tables import RAW
from numpy.typing import NDArray

from npu_compiler.frontend.importer import MAX_CHANNELS, MAX_PARTS, Importer, Refused
from npu_compiler.frontend.windows import Pads, Pair
from npu_compiler.graph.ir import (
    Act,
    Activation,
    Add,
    Affine,
    Channels,
    Concat,
    Conv,
    Crop,
    Curve,
    Mosaic,
    Mul,
    Place,
    Pool,
)

MAX_READ = 16 * int(RAW["max_groups"])  # channels that a layer reads; a choice of channels is one
MAX_PIXELS = 1 << 24  # of an image that is put together: whoever checks it looks at each
NO_PADS: Pads = (0, 0, 0, 0)


def crop(imp: Importer, src: str, rows: range, cols: range) -> str:
    """Choose rows and columns: ranges with positive steps, inside the image."""
    channels, height, width = imp.shapes[src]
    if (rows, cols) == (range(height), range(width)):
        return src
    pads = (-rows.start, -cols.start, rows[-1] + 1 - height, cols[-1] + 1 - width)
    stride = tuple(r.step if len(r) > 1 else 1 for r in (rows, cols))
    made = Crop(*imp.step("crop"), src, (stride[0], stride[1]), pads)
    return imp.put(made, (channels, len(rows), len(cols)))


def pad(imp: Importer, src: str, pads: Pads) -> str:
    """Pad with zeros, and crop where a pad is negative."""
    if not any(pads):
        return src
    channels, height, width = imp.shapes[src]
    made = Crop(*imp.step("pad"), src, (1, 1), pads)
    return imp.put(made, (channels, height + pads[0] + pads[2], width + pads[1] + pads[3]))


def choose(imp: Importer, src: str, source: Sequence[int]) -> str:
    """Choose channels; -1 is a channel of zeros."""
    channels, height, width = imp.shapes[src]
    if len(source) == channels and all(s == i for i, s in enumerate(source)):
        return src
    if not 0 < len(source) <= MAX_CHANNELS:
        raise Refused(f"the output would have {len(source)} channels")
    if channels > MAX_READ:
        raise Refused(f"a choice of {channels} channels: a layer may read {MAX_READ}")
    made = Channels(*imp.step("channels"), src, tuple(int(s) for s in source))
    return imp.put(made, (len(source), height, width))


def concat(imp: Importer, srcs: Sequence[str]) -> str:
    """Join channels."""
    if len(srcs) == 1:
        return srcs[0]
    shapes = [imp.shapes[s] for s in srcs]
    return imp.put(Concat(*imp.step("concat"), tuple(srcs)), (sum(s[0] for s in shapes), *shapes[0][1:]))


def check_parts(count: int) -> None:
    """Refuse a mosaic of too many parts, before they are made."""
    if count > MAX_PARTS:
        raise Refused(f"the image would be put together of {count} parts, at most {MAX_PARTS} are supported")


def mosaic(imp: Importer, srcs: Sequence[str], places: Sequence[Place], size: Pair) -> str:
    """Put an image together; one part that is all of it stays as it is."""
    check_parts(len(srcs))
    if size[0] * size[1] > MAX_PIXELS:
        raise Refused(f"an image of {size[0]} x {size[1]} pixels, put together of parts: too large")
    channels, *own = imp.shapes[srcs[0]]
    if len(srcs) == 1 and tuple(own) == size:
        return srcs[0]
    return imp.put(Mosaic(*imp.step("mosaic"), tuple(srcs), tuple(places), size), (channels, *size))


def affine(imp: Importer, src: str, scale: Any, shift: Any) -> str:
    """Multiply and add: one value, or one per channel."""
    shape = imp.shapes[src]
    factor, term = (np.broadcast_to(np.asarray(a, np.float64), (shape[0],)).astype(np.float32) for a in (scale, shift))
    if not (np.isfinite(factor).all() and np.isfinite(term).all()):
        raise Refused("its factors or terms are not finite")
    return imp.put(Affine(*imp.step("affine"), src, factor, term), shape)


def activate(imp: Importer, src: str, act: Activation | Curve) -> str:
    """Apply an activation or a curve."""
    return imp.put(Act(*imp.step("act"), src, act), imp.shapes[src])


def add(imp: Importer, a: str, b: str, factors: tuple[float, float] = (1.0, 1.0)) -> str:
    """Add; `b` may have one row or column."""
    return imp.put(Add(*imp.step("add"), a, b, factors=factors), imp.shapes[a])


def multiply(imp: Importer, a: str, b: str) -> str:
    """Multiply; `b` may have one row or column."""
    return imp.put(Mul(*imp.step("mul"), a, b), imp.shapes[a])


def conv(
    imp: Importer,
    src: str,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    stride: Pair = (1, 1),
    pads: Pads = NO_PADS,
    dilation: Pair = (1, 1),
    groups: int = 1,
    weight_scale: NDArray[np.float32] | None = None,
) -> str:
    """Convolve: weight (out, in / groups, kh, kw), bias (out,) or none, weight_scale (out,) or one value."""
    outs = len(weight)
    shift = np.zeros(outs, np.float32) if bias is None else np.asarray(bias, np.float32)
    scale = None if weight_scale is None else np.broadcast_to(weight_scale.reshape(-1), (outs,)).astype(np.float32)
    made = Conv(*imp.step("conv"), src, weight, shift, stride, pads, dilation, groups, weight_scale=scale)
    kernel = (weight.shape[2], weight.shape[3])
    return imp.put(made, (outs, *_size(imp, src, kernel, stride, pads, dilation)))


def pool(
    imp: Importer,
    src: str,
    kind: Literal["max", "avg"],
    kernel: Pair,
    stride: Pair = (1, 1),
    pads: Pads = NO_PADS,
    dilation: Pair = (1, 1),
    count: int | None = None,
) -> str:
    """Take the maximum of windows, or their sum divided by `count`, that is by the size of the window if left out."""
    count = None if count == kernel[0] * kernel[1] else count
    made = Pool(*imp.step("pool"), src, kind, kernel, stride, pads, dilation, count)
    return imp.put(made, (imp.shapes[src][0], *_size(imp, src, kernel, stride, pads, dilation)))


def _size(imp: Importer, src: str, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair) -> Pair:
    height, width = (
        (imp.shapes[src][1 + a] + pads[a] + pads[a + 2] - (kernel[a] - 1) * dilation[a] - 1) // stride[a] + 1
        for a in (0, 1)
    )
    return height, width
