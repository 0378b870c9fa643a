"""How each layer runs in 4 bits: extraction positions, corrections of the mean, order of the groups.

All from exact counts of the 8-bit values (0..255 or -128..127) that each channel takes on calibration images.
With x a value, w a weight, lx and lw what they stand for once lowered, and E over calibration values:

- position of a group's activations: least sum over its channels of E[(x - lx)^2] * sum over outputs of (M w)^2;
- position of a group's weights per output channel: least sum of E[lx^2] (w - lw)^2;
- correction per output channel: sum over channels and taps of E[x] w - E[lx] lw;
- error of a group: mean over output channels of M^2 * sum over channels and taps of the variance of x w - lx lw
  (of its square without bias correction), where M turns accumulator steps into output steps.

Taps that fall on the padded border are counted like the others.
"""

from dataclasses import dataclass, replace

import numpy as np
from npu_isa.numerics import MAX_SHIFT_LOWER, lower
from numpy.typing import NDArray

from npu_compiler import golden
from npu_compiler.calibrate import F64, batch_size
from npu_compiler.multipliers import prove_no_overflow
from npu_compiler.options import QuantizeOptions
from npu_compiler.qgraph import GROUP, U8, Lowering, QConv, QTensor, QuantizedGraph
from npu_compiler.select import SELECTORS, LayerErrors, Order

SHIFTS = range(MAX_SHIFT_LOWER + 1)


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions and what follows from them, by group of the source tensor.

    Attributes:
        act_shift: shape (groups,).
        wgt_shift: shape (groups, out channels).
        correction: to be added to the accumulator when the group is lowered; shape (groups, out channels).
        error: shape (groups,); see `npu_compiler.select.LayerErrors`.
    """

    act_shift: NDArray[np.int64]
    wgt_shift: NDArray[np.int64]
    correction: F64
    error: F64


def lower_graph(graph: QuantizedGraph, image_bytes: U8, dial: set[str], options: QuantizeOptions) -> QuantizedGraph:
    """Give the convolutions named in `dial` their 4-bit form.

    Args:
        graph: every layer in 8 bits.
        image_bytes: calibration images after the table, uint8 (N, height, width, channels).
        dial: names of convolutions.
        options: choices.

    Raises:
        CompileError: a lowered layer's sums could overflow.
    """
    layers = [n for n in graph.nodes if isinstance(n, QConv) and n.name in dial]
    if not layers:
        return graph
    counts = value_counts(graph, image_bytes, {n.src for n in layers})
    found = {n.name: positions(n, graph.tensors[n.src], counts[n.src], options) for n in layers}
    errors = [_layer_errors(n, graph.tensors[n.src], found[n.name].error) for n in layers]
    orders = SELECTORS[options.selection](errors)
    lowered = {n.name: _with_lowering(n, graph.tensors[n.src], found[n.name], orders[n.name]) for n in layers}
    return replace(graph, nodes=tuple(lowered.get(n.name, n) for n in graph.nodes))


def value_counts(graph: QuantizedGraph, image_bytes: U8, tensors: set[str]) -> dict[str, NDArray[np.int64]]:
    """Count the 8-bit values of each channel of some tensors at boundary 0; int64, shape (channels, 256) each."""
    counts = {t: np.zeros(graph.tensors[t].channels * 256, np.int64) for t in sorted(tensors)}

    def visit(tensor: str, x: NDArray[np.int16]) -> None:
        if tensor in counts:
            low = graph.tensors[tensor].limits[0]
            index = x.astype(np.int32) + (np.arange(x.shape[3], dtype=np.int32) * 256 - low)
            counts[tensor] += np.bincount(index.ravel(), minlength=len(counts[tensor]))

    size = batch_size(t.height * t.width * t.channels for t in graph.tensors.values())
    for first in range(0, len(image_bytes), size):
        golden.run(graph, image_bytes[first : first + size], [0] * len(graph.lowerable), visit=visit)
    return {t: c.reshape(-1, 256) for t, c in counts.items()}


def positions(node: QConv, src: QTensor, counts: NDArray[np.int64], options: QuantizeOptions) -> Positions:
    """Choose the positions of one layer.

    Args:
        node: the convolution.
        src: the tensor it reads.
        counts: of each 8-bit value of each channel, shape (channels, 256).
        options: choices.
    """
    x = np.arange(256) + src.limits[0]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lowered = np.stack([lower(x, s, unsigned=not src.signed) for s in SHIFTS])
    w = node.weight.reshape(len(node.weight), -1, src.channels).astype(np.float64)
    factor = (node.epilogue.mult * 2.0 ** -node.epilogue.shift.astype(np.float64))[:, None, None]
    energy = ((factor * w) ** 2).sum(axis=(0, 1))
    off = share @ ((x - lowered) ** 2).T * energy[:, None]
    act_shift = off.reshape(-1, GROUP, len(SHIFTS)).sum(axis=1).argmin(axis=1)
    lx = lowered[np.repeat(act_shift, GROUP)]  # what each value of each channel stands for, (channels, 256)
    mean_x, mean_lx = share @ x, (share * lx).sum(axis=1)
    xx, xl, ll = share @ x**2, (share * lx) @ x, (share * lx**2).sum(axis=1)
    wgt_shift, lw = _weight_positions(node, w, ll)
    mean_off = mean_x * w - mean_lx * lw
    squared = xx * w**2 - 2 * xl * w * lw + ll * lw**2
    if options.bias_correction:
        squared -= mean_off**2
    outputs = max(int(node.weight.any(axis=(1, 2, 3)).sum()), 1)
    return Positions(
        act_shift,
        wgt_shift,
        _by_group(mean_off).T * (1.0 if options.bias_correction else 0.0),
        (_by_group(squared) * factor[:, 0] ** 2).sum(axis=0) / outputs,
    )


def _weight_positions(node: QConv, w: F64, square: F64) -> tuple[NDArray[np.int64], F64]:
    """Return the positions (groups, out) and the lowered weights (out, taps, channels).

    square: mean square of each channel's lowered values, shape (channels,).
    """
    integers = node.weight.reshape(w.shape)
    options = [lower(integers, s, unsigned=False) for s in SHIFTS]
    errors = np.stack([_by_group((w - lw) ** 2 * square) for lw in options])
    best = errors.argmin(axis=0)  # (out, groups)
    of_channel = np.repeat(best, GROUP, axis=1)[:, None, :]
    return best.T, np.choose(of_channel, options).astype(np.float64)


def _by_group(values: F64) -> F64:
    """Sum (out, taps, channels) over taps and the channels of each group: (out, groups)."""
    return np.asarray(values.sum(axis=1).reshape(len(values), -1, GROUP).sum(axis=2))


def _layer_errors(node: QConv, src: QTensor, error: F64) -> LayerErrors:
    real = (np.reshape(src.channel_map, (-1, GROUP)) >= 0).sum(axis=1)
    return LayerErrors(node.name, error, node.macs * real // max(int(real.sum()), 1))


def _with_lowering(node: QConv, src: QTensor, found: Positions, order: Order) -> QConv:
    places = list(order.groups)
    steps = np.cumsum(found.correction[places], axis=0)
    rows = node.epilogue.bias + np.concatenate([np.zeros((1, steps.shape[1])), np.rint(steps)])
    bias_rows = np.clip(rows, -(1 << 31), (1 << 31) - 1).astype(np.int32)
    prove_no_overflow(node.weight, bias_rows, 128 if src.signed else 255, f"node {node.name}")
    return replace(
        node,
        lowering=Lowering(
            order=order.groups,
            act_shift=tuple(int(s) for s in found.act_shift[places]),
            wgt_shift=found.wgt_shift[places].astype(np.int8),
            bias_rows=bias_rows,
            score=order.score,
        ),
    )
