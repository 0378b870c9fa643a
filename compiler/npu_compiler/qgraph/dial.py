"""The dial: the one order in which the ratio walks through the boundaries of the layers."""

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
from npu_isa.file.binary import DialStep

from npu_compiler.qgraph.ir import QConv, QTensor, QuantizedGraph


def low_macs(node: QConv, src: QTensor) -> list[int]:
    """Return the multiply-accumulates done in 4 bits at each boundary 0..groups; padding channels do not count."""
    assert node.lowering is not None
    real = np.count_nonzero(np.reshape(src.channel_map, (-1, 16)) >= 0, axis=1)[list(node.lowering.order)]
    done = np.concatenate([[0], np.cumsum(real)])
    return [node.macs * int(d) // int(done[-1]) for d in done]


def dial_steps(graph: QuantizedGraph, legal: Mapping[str, Sequence[int]]) -> tuple[tuple[DialStep, ...], int]:
    """Return the steps in order, and the multiply-accumulates of all layers with a dial that they can lower.

    The next step is always the one with the least expected error per multiply-accumulate moved to 4 bits; a layer's
    own steps stay in order. So the sets of two ratios are nested.
    """
    heap: list[tuple[float, int, int]] = []
    nodes = graph.lowerable
    macs = [low_macs(n, graph.tensors[n.src]) for n in nodes]

    def offer(register: int, place: int) -> None:
        bounds = legal[nodes[register].name]
        if place >= len(bounds):
            return
        first, end = bounds[place - 1], bounds[place]
        lowering = nodes[register].lowering
        assert lowering is not None
        error = float(lowering.score[first:end].sum())
        moved = macs[register][end] - macs[register][first]
        heapq.heappush(heap, (error / max(moved, 1), register, place))

    for register in range(len(nodes)):
        offer(register, 1)
    steps: list[DialStep] = []
    now = [0] * len(nodes)
    while heap:
        _, register, place = heapq.heappop(heap)
        boundary = legal[nodes[register].name][place]
        now[register] = macs[register][boundary]
        steps.append(DialStep(register=register, boundary=boundary, low_macs=sum(now)))
        offer(register, place + 1)
    return tuple(steps), sum(m[-1] for m in macs)
