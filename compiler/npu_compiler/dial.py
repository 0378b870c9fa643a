"""The dial: legal boundaries of each layer, and the one order in which the ratio walks through them."""

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
from npu_isa.binary import DialStep
from npu_isa.machine import MachineConfig

from npu_compiler.plan import Plan
from npu_compiler.qgraph import QConv, QTensor, QuantizedGraph
from npu_compiler.tiles import Tiling, conv_cycles

WORTH = 0.75


def legal_boundaries(plan: Plan, machine: MachineConfig) -> dict[str, tuple[int, ...]]:
    """Return per lowerable conv the boundaries (groups), from 0, each cheaper in cycles than the one before.

    A boundary that saves less than WORTH of what the layer's groups save on average is left out, unless it is the last:
    it would cost accuracy for cycles lost to a pass that is not full.
    """
    graph = plan.graph
    found = {}
    for node_plan in plan.nodes:
        node = node_plan.node
        if isinstance(node, QConv) and node.lowering is not None:
            found[node.name] = _cheaper_each(plan, node, node_plan.tiling, graph.tensors[node.src], machine)
    return found


def _cheaper_each(plan: Plan, node: QConv, tiling: Tiling, src: QTensor, machine: MachineConfig) -> tuple[int, ...]:
    pitch = plan.pitches[plan.views[node.src].root]
    out = plan.graph.tensors[node.out]
    costs = [conv_cycles(node, src, pitch, tiling, out, b, machine) for b in range(src.groups + 1)]
    average = (costs[0] - costs[-1]) / src.groups
    legal = [0]
    for boundary, cost in enumerate(costs):
        saved, groups = costs[legal[-1]] - cost, boundary - legal[-1]
        if saved > 0 and (saved >= WORTH * average * groups or boundary == src.groups):
            legal.append(boundary)
    return tuple(legal)


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
