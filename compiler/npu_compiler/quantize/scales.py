"""Which scale each tensor and each output channel gets.

A scale is chosen first for 8 bits (`method`), then, when `aligned`, moved so that the lowered values err least: the
positions are powers of two, so how the range of a group of channels meets one decides what 4 bits can hold.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
from npu_isa.machine.numerics import MAX_SHIFT_LOWER, lower
from numpy.typing import NDArray

from npu_compiler.graph.curves import Program, curve
from npu_compiler.graph.ir import (
    Act,
    Add,
    Affine,
    Channels,
    Concat,
    Conv,
    Crop,
    Curve,
    Graph,
    Mosaic,
    Mul,
    Node,
    Pool,
    TensorQuant,
    clips_negative,
    inputs,
)
from npu_compiler.options import QuantizeOptions
from npu_compiler.qgraph.ir import GROUP
from npu_compiler.quantize import uniform
from npu_compiler.quantize.calibrate import F64, Histogram
from npu_compiler.quantize.prepare import Prepared

MSE_FACTORS = np.linspace(0.3, 1.0, 71)
CURVE_FACTORS = 2.0 ** np.linspace(-5.0, 0.0, 81)
ALIGN_FACTORS = 2.0 ** np.linspace(-0.5, 0.5, 33)
WEIGHT_ALIGN_FACTORS = 2.0 ** np.linspace(0.0, 0.25, 9)  # never below 1, which would clip weights in 8 bits
LOSS_8BIT = 1.3  # the aligned scale may cost this many times the 8-bit error of the best one
REACH = 16000.0  # below half of MAX_MULTIPLIER: the largest factor from an operand's step to the output's
SHIFTS = range(MAX_SHIFT_LOWER + 1)
BLOCK_ELEMENTS = 1 << 16

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Demand:
    """What the 4-bit readers of a tensor want: values of the channels of each group, weighted.

    Attributes:
        weighted: histogram of each group, counts weighted by the energy of the weights that read them; shape
            (groups, bins).
        centers: shape (bins,).
    """

    weighted: F64
    centers: F64


def non_negative(graph: Graph) -> dict[str, bool]:
    """Return for every tensor whether it can only be zero or more (the input: no, unless its bytes are fixed so)."""
    unsigned = {t for t, q in graph.quant.items() if q.multiples[0] == 0}
    found = {graph.input: graph.input in unsigned}
    for node in graph.nodes:
        found[node.out] = node.out in unsigned or _node_non_negative(node, [found[t] for t in inputs(node)])
    return found


def _node_non_negative(node: Node, operands: Sequence[bool]) -> bool:
    match node:
        case Conv(act=act) | Affine(act=act):
            return clips_negative(act)
        case Act(act=Curve() as act):
            return clips_negative(act)
        case Add(act=act):
            return clips_negative(act) or (all(operands) and min(node.factors) >= 0)
        case Mul(act=act) | Act(act=act):
            return clips_negative(act) or all(operands)
        case Pool() | Concat() | Mosaic() | Crop() | Channels():
            return all(operands)
    assert_never(node)


def within_reach(prepared: Prepared, quant: Mapping[str, TensorQuant], dead: Set[str]) -> dict[str, TensorQuant]:
    """Raise scales until no output step is REACH times smaller than a step of what it is made of.

    Such a tensor hardly leaves zero on the calibration images; the multipliers cannot bring sums down to its steps.
    Scales that a QDQ model fixes stay.

    Args:
        prepared: the network.
        quant: of each tensor.
        dead: classes that are zero on all calibration images. Any step suits them: they must not raise that of others.
    """
    graph, classes = prepared.graph, prepared.classes
    scale = {classes[t]: q.scale for t, q in quant.items()}
    gains = {n.name: _gain(n) for n in graph.nodes}
    for node in graph.nodes:
        made = classes[node.out]
        for name in {classes[t] for t in inputs(node)} & dead - {made}:
            if made not in dead and gains[node.name]:
                scale[name] = min(scale[name], scale[made])
    for _ in graph.nodes:  # a raised scale raises those after it; more rounds than nodes are never needed
        before = dict(scale)
        for node in graph.nodes:
            steps = [scale[classes[t]] for t in inputs(node)]
            least = (math.prod(steps) if isinstance(node, Mul) else max(steps)) * gains[node.name] / REACH
            if classes[node.out] not in graph.quant:
                scale[classes[node.out]] = max(scale[classes[node.out]], least)
        if scale == before:
            break
    return {t: replace(q, scale=scale[classes[t]]) for t, q in quant.items()}


def _gain(node: Node) -> float:
    """Return the most that one step of a weight can stand for, 1 for nodes without weights, 0 for tables."""
    match node:
        case Act(act=Curve()):
            return 0.0
        case Add():
            return max(map(abs, node.factors))
        case Conv(weight=factors) | Affine(scale=factors):
            return max(1.0, float(np.abs(factors).max()) / 127 * float(WEIGHT_ALIGN_FACTORS.max()))
        case Act() | Mul() | Pool() | Concat() | Mosaic() | Crop() | Channels():
            return 1.0
    assert_never(node)


def method_scale(histogram: Histogram, span: tuple[float, float], signed: bool, options: QuantizeOptions) -> float:
    """Return the 8-bit scale of a tensor by the method of the options; values outside saturate."""
    low, high = span
    levels = (128, 127) if signed else (1, 255)
    whole = max(high / levels[1], -low / levels[0] if signed else 0.0)
    if whole == 0.0:
        return 1.0  # a tensor that is zero on all images
    counts = histogram.counts.sum(axis=0)
    match options.method:
        case "minmax":
            return float(whole)
        case "percentile":
            size = np.abs(histogram.centers)
            order = np.argsort(size)
            share = np.cumsum(counts[order]) / counts.sum()
            kept = size[order][np.searchsorted(share, options.percentile / 100.0)]
            return float(min(whole, max(kept, 1e-3 * size.max()) / levels[1]))
        case "mse":
            scales = whole * MSE_FACTORS
            errors = [error_8bit(counts, histogram.centers, s, signed) for s in scales]
            return float(scales[int(np.argmin(errors))])
    assert_never(options.method)


def offset_quant(scale: float, span: tuple[float, float]) -> TensorQuant:
    """Return unsigned bytes, with a zero that has a 4-bit code at each position, for what signed bytes would hold.

    A curve like HardSwish reaches a little below 0 and far above it: half of the signed bytes would stand for nothing,
    and of 4-bit codes too.

    Args:
        scale: of signed bytes.
        span: least and largest value; what signed bytes clip is clipped here too.
    """
    low, high = max(span[0], -128 * scale), min(span[1], 127 * scale)
    zeros = range(1 << MAX_SHIFT_LOWER, 128, 1 << MAX_SHIFT_LOWER)
    steps = {zero: max(high / (255 - zero), -low / zero) for zero in zeros}
    zero = min(steps, key=lambda z: steps[z])
    return TensorQuant(steps[zero], False, zero) if steps[zero] < scale else TensorQuant(scale, True)


def curve_scale(
    program: Program, histogram: Histogram, span: tuple[float, float], signed: bool, results: tuple[float, float]
) -> float:
    """Return the scale of the bytes that a curve is looked up by: that with the least squared error of its results.

    Values outside its range saturate, which costs nothing where the curve is flat.

    Args:
        program: the curve.
        histogram, span, signed: of the values that it is a function of.
        results: least and largest result: what a table gives beyond them saturates too.
    """
    low, high = span
    whole = max(high / 127, -low / 128) if signed else high / 255
    if whole == 0.0:
        return 1.0  # a tensor that is zero on all images
    counts, centers = histogram.counts.sum(axis=0), histogram.centers
    seen = np.flatnonzero(counts)
    counts, centers = counts[seen], centers[seen]

    def made(values: F64) -> F64:
        return np.clip(np.nan_to_num(curve(program, values)), *results)

    exact, scales = made(centers), whole * CURVE_FACTORS
    errors = [counts @ (made(quantized(centers, s, signed) * s) - exact) ** 2 for s in scales]
    return float(scales[int(np.argmin(errors))])


def quantized(values: F64, scale: float, signed: bool) -> NDArray[Any]:
    """Round to 8-bit integers."""
    return np.clip(np.rint(values / scale), *((-128, 127) if signed else (0, 255))).astype(np.int64)


def error_8bit(counts: NDArray[Any], centers: F64, scale: float, signed: bool) -> float:
    """Return the squared error of 8-bit values, summed over a histogram."""
    return float(counts @ (centers - quantized(centers, scale, signed) * scale) ** 2)


def aligned_scale(base: float, histogram: Histogram, demands: Sequence[Demand], signed: bool) -> float:
    """Return the scale near `base` whose lowered values err least for the 4-bit readers.

    Scales whose 8-bit error exceeds LOSS_8BIT times the least are not considered.
    """
    if not demands:
        return base
    counts = histogram.counts.sum(axis=0)
    scales = base * ALIGN_FACTORS
    errors = np.array([error_8bit(counts, histogram.centers, s, signed) for s in scales])
    allowed = errors <= LOSS_8BIT * max(errors.min(), errors[len(errors) // 2])
    lowered = [
        sum(_error_4bit(d, s, signed) for d in demands) if ok else np.inf for s, ok in zip(scales, allowed, strict=True)
    ]
    return float(scales[int(np.argmin(lowered))])


def _error_4bit(demand: Demand, scale: float, signed: bool) -> float:
    q = quantized(demand.centers, scale, signed)
    off = np.stack([(demand.centers - lower(q, s, unsigned=not signed) * scale) ** 2 for s in SHIFTS])
    return float((demand.weighted @ off.T).min(axis=1).sum())


def demands(prepared: Prepared, histograms: Mapping[str, Histogram], dial: set[str]) -> dict[str, Demand]:
    """Return per tensor what its 4-bit readers want.

    Args:
        prepared: the network.
        histograms: by channel for the tensors that the nodes of `dial` read; not of the image, whose scale is given.
        dial: names of the convolutions that may run in 4 bits.
    """
    energy: dict[str, F64] = {}
    for node in prepared.graph.nodes:
        if isinstance(node, Conv) and node.name in dial and node.src in histograms:
            of_channel = dense_weight(node).astype(np.float64)
            squares = (of_channel**2).sum(axis=(0, 2, 3)) / max((of_channel**2).sum(), 1e-30)
            energy[node.src] = energy.get(node.src, 0.0) + squares
    found = {}
    for tensor, of_channel in energy.items():
        h = histograms[tensor]
        groups = group_of_channel(prepared.maps[tensor])
        weighted = np.zeros((groups.max() + 1, h.counts.shape[1]))
        np.add.at(weighted, groups, h.counts * of_channel[:, None])
        found[tensor] = Demand(weighted, h.centers)
    return found


def group_of_channel(channel_map: Sequence[int]) -> NDArray[np.int64]:
    """Return the group in which each logical channel stands."""
    physical = np.array(channel_map)
    groups = np.empty(int((physical >= 0).sum()), np.int64)
    at = np.flatnonzero(physical >= 0)
    groups[physical[at]] = at // GROUP
    return groups


def dense_weight(node: Conv) -> NDArray[np.float32]:
    """Return the weights with `groups` 1: zero between the groups; shape (out, in, kernel_h, kernel_w)."""
    if node.groups == 1:
        return node.weight
    outs, ins = len(node.weight) // node.groups, node.weight.shape[1]
    dense = np.zeros((len(node.weight), ins * node.groups, *node.weight.shape[2:]), np.float32)
    for group in range(node.groups):
        of = slice(group * outs, (group + 1) * outs)
        dense[of, group * ins : (group + 1) * ins] = node.weight[of]
    return dense


def weight_scales(
    weight: F64, mean_square: F64 | None, groups: NDArray[np.int64] | None, options: QuantizeOptions
) -> F64:
    """Return the scale of each output channel.

    Args:
        weight: shape (out, in, taps).
        mean_square: mean square of each input channel's values, shape (in,); None when the layer never runs in 4 bits.
        groups: group of each input channel, shape (in,), with mean_square.
    """
    base: F64 = np.abs(weight).max(axis=(1, 2)) / 127
    base = np.where(base == 0, 1.0, base)
    if mean_square is None or groups is None:
        return base
    if options.uniform != "none":
        return uniform.weight_scale(weight, options.uniform)
    if not options.aligned:
        return base
    block, importance = _by_group(weight, mean_square + 1e-6 * mean_square.mean() + 1e-30, groups)
    best, least = base.copy(), np.full(len(base), np.inf)
    step = max(1, BLOCK_ELEMENTS // block[0].size)
    for first in range(0, len(block), step):  # a block of output channels stays in the processor's cache
        part = slice(first, first + step)
        for scale in base[part] * WEIGHT_ALIGN_FACTORS[:, None]:
            error = _weight_error(block[part], scale, importance)
            better = error < least[part]
            best[part] = np.where(better, scale, best[part])
            least[part] = np.where(better, error, least[part])
    return best


def _by_group(weight: F64, mean_square: F64, groups: NDArray[np.int64]) -> tuple[F32, F32]:
    """Return weights and importance by group, zeros where a group is not full.

    Returns:
        weights, shape (out, groups, GROUP * taps), and the importance of each, shape (groups, GROUP * taps).
    """
    taps = weight.shape[2]
    order = np.argsort(groups, kind="stable")
    rank = np.arange(len(groups)) - np.searchsorted(groups[order], groups[order])  # place inside the group
    at = groups[order] * GROUP + rank
    wide = np.zeros((len(weight), (int(groups.max()) + 1) * GROUP, taps), np.float32)
    wide[:, at] = weight[:, order]
    importance = np.zeros(wide.shape[1:], np.float32)
    importance[at] = mean_square[order, None]
    return wide.reshape(len(weight), -1, GROUP * taps), importance.reshape(-1, GROUP * taps)


def _weight_error(weight: F32, scale: F64, importance: F32) -> F64:
    """Return the error of each output channel's lowered weights at the best position of every group.

    Args:
        weight, importance: as `_by_group` returns them.
        scale: shape (out,).
    """
    real = weight / scale[:, None, None].astype(np.float32)
    q = np.clip(np.rint(real), -127, 127)
    off = np.empty_like(q)
    errors = []
    for s in SHIFTS:
        np.multiply(q, np.float32(0.5**s), out=off)
        off += np.float32(0.5 if s else 0.0)
        np.clip(np.floor(off, out=off), -8, 7, out=off)
        off *= np.float32(1 << s)
        off -= real
        off *= off
        errors.append(np.einsum("ogk,gk->og", off, importance))
    return np.asarray(np.min(errors, axis=0).sum(axis=1, dtype=np.float64) * scale**2)
