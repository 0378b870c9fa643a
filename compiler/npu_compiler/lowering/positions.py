"""Where the 4 bits of a group are taken from, what that errs, and what repairs its mean.

All from exact counts of the 8-bit values (0..255 or -128..127) that each channel takes on calibration images.
With x a value, w a weight, lx and lw what they stand for once lowered, E over calibration values, and M the factor from
accumulator steps to output steps:

- position of a group's activations (of CLIPS, what it is lowered by, where dynamic): least sum over its channels of
  E[(x - lx)^2] * sum over outputs of (M w)^2, or by range: the bit length of the largest magnitude minus 4 (unsigned)
  or 3;
- position of a group's weights per output channel: least sum of E[lx^2] (w - lw)^2, or by range likewise;
- correction per output channel: sum over channels and taps of E[x] w - E[lx] lw;
- error of a group: mean over output channels of M^2 * sum over channels and taps of the variance of x w - lx lw
  (of its square without bias correction);
- range error of a group (the paper's score, from value ranges alone): mean over output channels of M^2 * sum over
  channels and taps of (2^sa)^2 / 12 * w^2 + (2^sw)^2 / 12 * r^2 / 3, where sa and sw are the positions by range and r
  is the largest magnitude of the channel: rounding to a step errs by its square over 12, a value spread evenly up to r
  has the mean square r^2 / 3.

Taps that fall on the padded border are counted like the others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from npu_isa.machine.numerics import MAX_SHIFT_LOWER, lower
from numpy.typing import NDArray

from npu_compiler.options import QuantizeOptions
from npu_compiler.qgraph import eval_kernels as kernels
from npu_compiler.qgraph.fast_eval import Evaluator, Mode, lowered_bytes
from npu_compiler.qgraph.ir import GROUP, U8, QConv, QTensor, QuantizedGraph
from npu_compiler.quantize.calibrate import F64

SHIFTS = range(MAX_SHIFT_LOWER + 1)
NO_BIAS = np.zeros(1, np.int32)
CLIPS = range(3)  # positions that a dynamic one may be lower than its values ask for


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions and what follows from them, by group of the source tensor.

    Attributes:
        act_shift: shape (groups,).
        wgt_shift: shape (groups, out channels).
        correction: to be added to the accumulator when the group is lowered; shape (groups, out channels).
        mean, lowered_mean: of each channel's values, and of what they stand for once lowered, shape (channels,).
        error, range_error: shape (groups,), in squared steps of the output, of weights rounded to the nearest.
        truncation: as `error`, of taking the top 4 bits without rounding and without a correction.
        act_bits: bits of the largest magnitude of the group's activations, shape (groups,).
    """

    act_shift: NDArray[np.int64]
    wgt_shift: NDArray[np.int64]
    correction: F64
    mean: F64
    lowered_mean: F64
    error: F64
    range_error: F64
    truncation: F64
    act_bits: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over calibration values, by channel: of the lowered value, of its square, and of it times the value."""

    lowered: F64
    square: F64
    product: F64


def value_counts(graph: QuantizedGraph, image_bytes: U8, tensors: set[str]) -> dict[str, NDArray[np.int64]]:
    """Count the 8-bit values of each channel of some tensors at boundary 0; int64, shape (channels, 256) each."""
    counts = {t: np.zeros((graph.tensors[t].channels, 256), np.int64) for t in sorted(tensors)}
    for values in Evaluator(graph).batches(image_bytes, {}, sorted(tensors)):
        for tensor, total in counts.items():
            kernels.count_bytes(values[tensor].reshape(-1, len(total)), total)
    return {t: np.roll(c, 128, axis=1) if graph.tensors[t].signed else c for t, c in counts.items()}


def dynamic_moments(graph: QuantizedGraph, image_bytes: U8, tensors: set[str]) -> dict[str, tuple[Moments, ...]]:
    """Return the moments of values lowered at dynamic positions, for each of CLIPS.

    They depend on a pixel's 16 values together, so counts of each channel's values do not give them.
    """
    sums = {t: np.zeros((len(CLIPS), 3, graph.tensors[t].channels)) for t in sorted(tensors)}
    pixels = dict.fromkeys(sums, 0)
    for values in Evaluator(graph).batches(image_bytes, {}, sorted(tensors)):
        for tensor, total in sums.items():
            t = graph.tensors[tensor]
            raw = values[tensor]
            x = _real(raw, t.signed).reshape(-1, t.channels)
            for clip in CLIPS:
                lx = _real(lowered_bytes(raw, _all_dynamic(t, clip), t.signed), t.signed).reshape(x.shape)
                total[clip] += np.stack([lx.sum(axis=0), (lx**2).sum(axis=0), (x * lx).sum(axis=0)])
            pixels[tensor] += len(x)
    return {t: tuple(Moments(*m) for m in s / max(pixels[t], 1)) for t, s in sums.items()}


def _all_dynamic(tensor: QTensor, clip: int) -> Mode:
    clips = np.full(tensor.groups, clip)
    return Mode(np.ones(tensor.groups, np.bool_), clips, np.zeros((tensor.groups, 1), np.int8), NO_BIAS, "dynamic")


def _real(raw: U8, signed: bool) -> F64:
    return (raw.view(np.int8) if signed else raw).astype(np.float64)


def positions(
    node: QConv,
    src: QTensor,
    counts: NDArray[np.int64],
    options: QuantizeOptions,
    dynamic: tuple[Moments, ...] = (),
) -> Positions:
    """Choose the positions of one layer.

    Args:
        node: the convolution.
        src: the tensor it reads.
        counts: of each 8-bit value of each channel, shape (channels, 256).
        options: choices.
        dynamic: moments of the lowered values for each of CLIPS, where positions are dynamic.
    """
    x = np.arange(256) + src.limits[0]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lowered = np.stack([lower(x, s, unsigned=not src.signed) for s in SHIFTS])
    w = node.weight.reshape(len(node.weight), -1, src.channels).astype(np.float64)
    factor = node.epilogue.mult * 2.0 ** -node.epilogue.shift.astype(np.float64)
    by_range = _range_positions(node, src, counts)
    square = share @ x**2
    tried = dynamic or tuple(Moments(share @ lx, share @ lx**2, share @ (lx * x)) for lx in lowered)
    if options.uniform != "none":
        act_shift = np.full(src.groups, MAX_SHIFT_LOWER)
    elif options.positions == "range":
        act_shift = np.zeros(src.groups, np.int64) if dynamic else by_range.act_shift
    else:
        act_shift = _act_positions(w, factor, square, tried)
    moments = _chosen(tried, np.repeat(act_shift, GROUP))
    if options.uniform != "none":
        wgt_shift = np.full((src.groups, len(w)), MAX_SHIFT_LOWER)
    elif options.positions == "range":
        wgt_shift = by_range.wgt_shift
    else:
        wgt_shift = _weight_positions(node, w, moments.square)
    lw = _lowered_weight(node, wgt_shift)
    squared = _squared(share, x, moments, w, lw)
    cut_x, cut_w = x >> 4 << 4, node.weight.reshape(w.shape) >> 4 << 4
    cut = _squared(share, x, Moments(share @ cut_x, share @ cut_x**2, share @ (cut_x * x)), w, cut_w)
    repaired = options.bias_correction != "none"
    if repaired:
        squared -= (share @ x * w - moments.lowered * lw) ** 2
    return Positions(
        act_shift,
        wgt_shift,
        correction(node, wgt_shift, share @ x, moments.lowered) * (1.0 if repaired else 0.0),
        share @ x,
        moments.lowered,
        _output_error(node, factor, squared),
        _output_error(node, factor, by_range.error(w)),
        _output_error(node, factor, cut),
        _length(by_range.largest.reshape(-1, GROUP).max(axis=1)),
    )


def _act_positions(w: F64, factor: F64, square: F64, tried: tuple[Moments, ...]) -> NDArray[np.int64]:
    """Return the number of each group among the positions tried that errs least, shape (groups,)."""
    energy = ((factor[:, None, None] * w) ** 2).sum(axis=(0, 1))
    off = np.stack([(square - 2 * m.product + m.square) * energy for m in tried])
    return np.asarray(off.reshape(len(tried), -1, GROUP).sum(axis=2).argmin(axis=0))


def _output_error(node: QConv, factor: F64, squared: F64) -> F64:
    """Return the error of each group in squared output steps, from that of each weight in the accumulator's."""
    outputs = max(int(node.weight.any(axis=(1, 2, 3)).sum()), 1)
    return np.asarray((_by_group(squared) * factor[:, None] ** 2).sum(axis=0) / outputs)


def correction(node: QConv, wgt_shift: NDArray[np.int64], mean: F64, lowered_mean: F64) -> F64:
    """Return what lowering takes from the mean of a layer's sums, (groups, out channels); see `Positions`."""
    lw = _lowered_weight(node, wgt_shift)
    return _by_group(mean * node.weight.reshape(lw.shape) - lowered_mean * lw).T


def _lowered_weight(node: QConv, wgt_shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what the weights stand for with every group lowered, (out channels, taps, channels)."""
    w = node.weight.reshape(len(node.weight), -1, node.weight.shape[3])
    return lower(w, np.repeat(wgt_shift.T, GROUP, axis=1)[:, None, :], unsigned=False)


def _chosen(tried: tuple[Moments, ...], number: NDArray[np.int64]) -> Moments:
    """Return the moments of each channel at its number among those tried."""
    of = np.arange(len(number))
    lowered, square, product = (np.stack(m)[number, of] for m in zip(*(vars(t).values() for t in tried), strict=True))
    return Moments(lowered, square, product)


def _squared(share: F64, x: NDArray[np.int64], moments: Moments, w: F64, lw: NDArray[Any]) -> F64:
    """Return E[(x w - lx lw)^2] of each weight, shape of w."""
    return np.asarray(share @ x**2 * w**2 - 2 * moments.product * w * lw + moments.square * lw**2.0)


@dataclass(frozen=True, eq=False)
class _Ranges:
    """Positions by the largest magnitudes, and those of the activations by channel."""

    act_shift: NDArray[np.int64]
    wgt_shift: NDArray[np.int64]
    largest: NDArray[np.int64]

    def error(self, w: F64) -> F64:
        """Return the expected squared error of each product, shape of w: (out, taps, channels)."""
        act = 4.0 ** np.repeat(self.act_shift, GROUP) / 12
        weight = np.repeat(4.0**self.wgt_shift.T, GROUP, axis=1)[:, None, :] / 12
        return np.asarray(act * w**2 + weight * self.largest**2 / 3.0)


def _range_positions(node: QConv, src: QTensor, counts: NDArray[np.int64]) -> _Ranges:
    x = np.arange(256) + src.limits[0]
    magnitude = np.where(x < 0, ~x, x)
    largest = np.where(counts > 0, magnitude, 0).max(axis=1)
    act = _position(largest.reshape(-1, GROUP).max(axis=1), 3 if src.signed else 4)
    integers = node.weight.astype(np.int64)
    weights = np.where(integers < 0, ~integers, integers).reshape(len(integers), -1, src.groups, GROUP)
    return _Ranges(act, _position(weights.max(axis=(1, 3)).T, 3), largest)


def _position(largest: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Return the bit length of magnitudes minus the bits kept of them, 0..4."""
    return np.asarray(np.clip(_length(largest) - bits, 0, MAX_SHIFT_LOWER))


def _length(magnitude: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ceil(np.log2(magnitude + 1)).astype(np.int64)


def _weight_positions(node: QConv, w: F64, square: F64) -> NDArray[np.int64]:
    """Return the positions of least error, (groups, out); square: mean square of each channel's lowered values."""
    integers = node.weight.reshape(w.shape)
    errors = [_by_group((w - lower(integers, s, unsigned=False)) ** 2 * square) for s in SHIFTS]
    return np.asarray(np.stack(errors).argmin(axis=0).T)


def _by_group(values: F64) -> F64:
    """Sum (out, taps, channels) over taps and the channels of each group: (out, groups)."""
    return np.asarray(values.sum(axis=1).reshape(len(values), -1, GROUP).sum(axis=2))
