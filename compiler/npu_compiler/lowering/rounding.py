"""Learned rounding: weights of which each lowered form errs least beside those before it, under one stored copy.

Rounding each weight to the nearest 4-bit code is not best: the errors of weights that are read together can cancel
(AdaRound; GPTQ). The codes are chosen by coordinate descent on the variance of a layer's error over calibration
windows, as sums of a matrix of second moments, so no window is visited twice. Two things keep one copy of the weights
good at every boundary:

- groups are settled in the order in which they turn 4-bit, each given the error of those before it, never of those
  after it: every prefix is as good as it can be with its own groups;
- the stored weight is the nearest 8-bit value that lowers to its code, and the variance of what it errs in 8 bits
  counts WEIGHT_8BIT times.

The mean error of both forms is left to the bias rows, unless those are not corrected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from npu_isa.machine.numerics import lower
from numba import njit
from numpy.typing import NDArray

from npu_compiler.lowering.positions import correction
from npu_compiler.lowering.select import LayerStudy, Order, Study
from npu_compiler.qgraph.fast_eval import Evaluator, Mode, lowered_bytes
from npu_compiler.qgraph.ir import GROUP, U8, QConv, QuantizedGraph
from npu_compiler.quantize.calibrate import F64
from npu_compiler.threads import threads

SWEEPS = 4  # over a group's weights, at most; most settle in two
WINDOWS = (4096, 16384)  # least and most windows that the moments are taken from
PARTS = 2  # of the images, for each of which places are drawn: not the computer's threads, whose number must not matter
INT32 = np.iinfo(np.int32)
WEIGHT_8BIT = 4.0
DAMPING = 0.01  # of the mean variance, added to each: few windows say little about their rarest differences
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class _Moments:
    """Second moments of the windows of a layer, lowered (l) and not (x; times WEIGHT_8BIT), float64 (depth, depth)."""

    ll: F64
    lx: F64
    xx: F64


def learn_rounding(study: Study, orders: Mapping[str, Order]) -> tuple[LayerStudy, ...]:
    """Return the layers of a study with the weights chosen for their order of groups."""
    windows = _windows(study, [x.node for x in study.layers if x.node.name not in study.fixed_weights])

    def learned(layer: LayerStudy) -> LayerStudy:
        name = layer.node.name
        return _learned(study, layer, orders[name], windows[name]) if name in windows else layer

    with threads() as pool:  # a layer's sums run on one thread: their rounding must not depend on how many there are
        return tuple(pool.map(learned, study.layers))


def _learned(study: Study, layer: LayerStudy, order: Order, windows: U8) -> LayerStudy:
    node, found = layer.node, layer.positions
    taps, groups = node.weight[0].size // layer.src.channels, layer.src.groups
    columns = np.arange(taps * groups * GROUP).reshape(taps, groups, GROUP)
    at = np.concatenate([columns[:, g].ravel() for g in order.groups])  # depth in order of the places
    weight = node.weight.reshape(len(node.weight), -1)[:, at].astype(np.int64)
    mode = layer.mode(np.ones(groups, np.bool_), study.options.extract)
    moments = _moments(windows, mode, layer.src.signed, at, centered=study.options.bias_correction != "none")
    chosen = np.empty_like(weight)
    chosen[:, at] = _settled(weight, found.wgt_shift[list(order.groups)], taps * GROUP, moments)
    made = replace(node, weight=chosen.reshape(node.weight.shape).astype(np.int8))
    if study.options.bias_correction == "none":
        return replace(layer, node=made)
    repair = correction(made, found.wgt_shift, found.mean, found.lowered_mean)
    return replace(layer, node=_same_mean(node, made, found.mean), positions=replace(found, correction=repair))


def _same_mean(node: QConv, made: QConv, mean: F64) -> QConv:
    """Return the convolution with the bias that gives the sums of its 8-bit form the mean they had."""
    off = (node.weight.astype(np.float64) - made.weight) @ mean
    bias = node.epilogue.bias + np.rint(off.sum(axis=(1, 2)))
    return replace(made, epilogue=replace(made.epilogue, bias=np.clip(bias, INT32.min, INT32.max).astype(np.int32)))


def _settled(weight: Array, shift: Array, size: int, moments: _Moments) -> Array:
    """Return the weights, int64 (out, depth), that err least, place after place.

    Args:
        weight: int64 (out, depth), columns in order of the places.
        shift: position of each place and output channel.
        size: columns of a place.
        moments: of the columns.
    """
    slope4 = np.zeros(weight.shape)  # covariance of each lowered column with the 4-bit error so far
    slope8 = np.zeros(weight.shape)  # of each plain one with the 8-bit error
    made = weight.copy()
    for place, first in enumerate(range(0, weight.shape[1], size)):
        part = slice(first, first + size)
        s = np.ascontiguousarray(shift[place])
        before = np.asarray(lower(weight[:, part], s[:, None], unsigned=False))
        slope4 += weight[:, part] @ moments.lx[:, part].T - before @ moments.ll[part]
        codes, stored = before >> s[:, None], weight[:, part].copy()
        own = slope4[:, part].copy(), slope8[:, part].copy()
        _settle(
            weight[:, part].copy(), s, codes, stored, *own, moments.ll[part, part].copy(), moments.xx[part, part].copy()
        )
        slope4 -= ((codes << s[:, None]) - before) @ moments.ll[part]
        slope8 += (stored - weight[:, part]) @ moments.xx[part]
        made[:, part] = stored
    return made


@njit(cache=True, nogil=True)
def _settle(
    weight: Array, shift: Array, codes: Array, stored: Array, slope4: Array, slope8: Array, ll: Array, xx: Array
) -> None:
    """Move the codes of one place by one at a time, as long as the error falls; changes codes, stored and the slopes.

    Args:
        weight, codes, stored: int64 (out, columns): as given, 4-bit codes, 8-bit values that lower to them.
        shift: int64 (out,).
        slope4, slope8: float64 (out, columns).
        ll, xx: float64 (columns, columns).
    """
    for o in range(weight.shape[0]):
        s = shift[o]
        for _ in range(SWEEPS):
            moved = False
            for k in range(weight.shape[1]):
                best, best_code, best_value = -1e-9, codes[o, k], stored[o, k]
                for code in (codes[o, k] - 1, codes[o, k] + 1):
                    if code < -8 or code > 7:
                        continue
                    low = (code << s) - ((1 << s) >> 1)
                    high = low + (1 << s) - 1
                    value = min(max(weight[o, k], -127 if code == -8 else low), 127 if code == 7 else high)
                    if value < -127:
                        continue
                    by4 = float((code - codes[o, k]) << s)
                    by8 = float(value - stored[o, k])
                    change = by4 * (by4 * ll[k, k] - 2.0 * slope4[o, k]) + by8 * (by8 * xx[k, k] + 2.0 * slope8[o, k])
                    if change < best:
                        best, best_code, best_value = change, code, value
                if best_code == codes[o, k]:
                    continue
                moved = True
                by4 = float((best_code - codes[o, k]) << s)
                by8 = float(best_value - stored[o, k])
                codes[o, k], stored[o, k] = best_code, best_value
                for j in range(weight.shape[1]):
                    slope4[o, j] -= by4 * ll[k, j]
                    slope8[o, j] += by8 * xx[k, j]
            if not moved:
                break


def _moments(windows: U8, mode: Mode, signed: bool, at: Array, *, centered: bool) -> _Moments:
    flat = windows.reshape(-1, 1, 1, len(mode.lowered) * GROUP)
    x, lx = (_real(v, signed).reshape(len(windows), -1)[:, at] for v in (flat, lowered_bytes(flat, mode, signed)))
    if centered:
        x, lx = x - x.mean(axis=0), lx - lx.mean(axis=0)
    ll, cross, xx = (np.asarray(a.T @ b, np.float64) / len(windows) for a, b in ((lx, lx), (lx, x), (x, x)))
    for square in (ll, xx):
        square.flat[:: len(at) + 1] += DAMPING * np.trace(square) / len(at)
    return _Moments(ll, cross, WEIGHT_8BIT * xx)


def _real(raw: U8, signed: bool) -> NDArray[np.float32]:
    return (raw.view(np.int8) if signed else raw).astype(np.float32)


def _windows(study: Study, nodes: Sequence[QConv]) -> dict[str, U8]:
    """Return windows of each layer's input in 8 bits, raw bytes (windows, taps * channels), evenly over the images."""
    images = len(study.image_bytes)
    found: dict[str, list[U8]] = {n.name: [] for n in nodes}
    rng = np.random.default_rng(0)
    for values in Evaluator(study.graph).batches(study.image_bytes, {}, sorted({n.src for n in nodes}), PARTS):
        for node in nodes:
            wanted = min(max(4 * node.weight[0].size, WINDOWS[0]), WINDOWS[1])
            found[node.name].append(_some_windows(study.graph, node, values[node.src], -(-wanted // images), rng))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _some_windows(graph: QuantizedGraph, node: QConv, x: U8, each: int, rng: np.random.Generator) -> U8:
    """Return `each` windows of every image at random places, raw bytes; zero where they lie on padding."""
    out, window = graph.tensors[node.out], node.window
    (kernel_h, kernel_w), count = window.kernel, len(x) * each
    image = np.repeat(np.arange(len(x)), each)
    top = rng.integers(0, out.height, count) * window.stride[0] - window.pad_top
    left = rng.integers(0, out.width, count) * window.stride[1] - window.pad_left
    made = np.zeros((count, kernel_h, kernel_w, x.shape[3]), np.uint8)
    for ky in range(kernel_h):
        for kx in range(kernel_w):
            iy, ix = top + ky * window.dilation[0], left + kx * window.dilation[1]
            inside = (iy >= 0) & (iy < x.shape[1]) & (ix >= 0) & (ix < x.shape[2])
            made[inside, ky, kx] = x[image[inside], iy[inside], ix[inside]]
    return made.reshape(count, -1)
