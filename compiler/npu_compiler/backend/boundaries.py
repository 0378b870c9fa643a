"""Legal boundaries of each layer: each cheaper in cycles than the one before."""

from npu_isa.machine.config import MachineConfig

from npu_compiler.backend.memory import Pitch
from npu_compiler.backend.plan import Plan
from npu_compiler.backend.tiles import Tiling, conv_cycles
from npu_compiler.qgraph.ir import QConv, QTensor

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
            src, out, pitch = graph.tensors[node.src], graph.tensors[node.out], node_plan.pitches["src"]
            found[node.name] = _cheaper_each(node, src, out, pitch, node_plan.tiling, machine)
    return found


def _cheaper_each(
    node: QConv, src: QTensor, out: QTensor, pitch: Pitch, tiling: Tiling, machine: MachineConfig
) -> tuple[int, ...]:
    costs = [conv_cycles(node, src, pitch, tiling, out, b, machine) for b in range(src.groups + 1)]
    average = (costs[0] - costs[-1]) / src.groups
    legal = [0]
    for boundary, cost in enumerate(costs):
        saved, groups = costs[legal[-1]] - cost, boundary - legal[-1]
        if saved > 0 and (saved >= WORTH * average * groups or boundary == src.groups):
            legal.append(boundary)
    return tuple(legal)
