"""Bias rows fitted to the network as it runs: at each boundary the mean of a layer's sums is that of the 8-bit model.

The rows of `lowering` repair the error of lowering one layer whose inputs are exact. Here the layers before it are in
4 bits too, as the dial would have them, and their remaining errors are repaired along with the layer's own.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from npu_compiler.qgraph.dial import dial_steps
from npu_compiler.qgraph.fast_eval import Evaluator, Mode, mode_at
from npu_compiler.qgraph.ir import U8, QConv, QuantizedGraph
from npu_compiler.qgraph.multipliers import prove_no_overflow

RATIOS = (20, 40, 60, 80, 100)  # at which the rows are fitted
IMAGES = 256  # calibration images that they are fitted on: a mean needs no more
F64 = NDArray[np.float64]
Mean = Callable[[Mode | None], F64]


def fit_bias_rows(graph: QuantizedGraph, image_bytes: U8) -> QuantizedGraph:
    """Return the graph with fitted bias rows; row 0, the 8-bit model, is kept.

    A boundary met at several ratios gets the mean of their rows, one met at none the repair of its neighbours.

    Args:
        graph: with lowering.
        image_bytes: calibration images after the table, uint8 (N, height, width, channels); the first IMAGES are used.
    """
    if not graph.lowerable:
        return graph
    evaluator = Evaluator(graph)
    image_bytes = image_bytes[:IMAGES]
    means: dict[str, F64] = {}

    def reference(node: QConv, mean: Mean) -> Mode | None:
        means[node.name] = mean(None)
        return None

    evaluator.walk(image_bytes, reference)
    extra: dict[str, dict[int, list[F64]]] = {n.name: {} for n in graph.lowerable}
    for ratio in RATIOS:
        boundary = dict(zip((n.name for n in graph.lowerable), walk_of_all_groups(graph, ratio), strict=True))

        def fitted(node: QConv, mean: Mean, at: dict[str, int] = boundary) -> Mode | None:
            mode = mode_at(node, at.get(node.name, 0))
            if mode is None:
                return None
            off = node.epilogue.bias + means[node.name] - mean(mode)
            extra[node.name].setdefault(at[node.name], []).append(off - mode.bias)
            return replace(mode, bias=_int32(off))

        evaluator.walk(image_bytes, fitted)
    rows = {n.name: _with_rows(graph, n, extra[n.name]) for n in graph.lowerable}
    return replace(graph, nodes=tuple(rows.get(n.name, n) for n in graph.nodes))


def walk_of_all_groups(graph: QuantizedGraph, ratio: float) -> tuple[int, ...]:
    """Return the boundaries at a ratio of a dial that may stop at every group, on no machine in particular."""
    groups = {n.name: graph.tensors[n.src].groups for n in graph.lowerable}
    steps, macs = dial_steps(graph, {name: range(count + 1) for name, count in groups.items()})
    vector = [0] * len(groups)
    for step in steps:
        if step.low_macs > ratio / 100 * macs:
            break
        vector[step.register] = step.boundary
    return tuple(vector)


def _with_rows(graph: QuantizedGraph, node: QConv, extra: dict[int, list[F64]]) -> QConv:
    lowering = node.lowering
    assert lowering is not None
    if not extra:
        return node
    known = sorted(extra)
    repairs = np.stack([np.mean(extra[b], axis=0) for b in known])
    rows = lowering.bias_rows.astype(np.float64)
    for boundary in range(1, len(rows)):
        rows[boundary] += [np.interp(boundary, known, repairs[:, c]) for c in range(rows.shape[1])]
    bias_rows = _int32(rows)
    bias_rows[0] = lowering.bias_rows[0]
    src = graph.tensors[node.src]
    prove_no_overflow(node.weight, bias_rows, 128 if src.signed else 255, f"node {node.name}")
    return replace(node, lowering=replace(lowering, bias_rows=bias_rows))


def _int32(values: F64) -> NDArray[np.int32]:
    return np.clip(np.rint(values), -(1 << 31), (1 << 31) - 1).astype(np.int32)
