"""Order of the channel groups in memory: the order in which they turn 4-bit, so that a pass reads neighbouring banks.

Every consumer has an order of its own (the group table), so this changes no value and no boundary: it only decides
where in a pixel each group stands. Tensors tied by additions and window operations share one order (machine-why 16);
with several consumers it follows the mean place, weighted by their multiply-accumulates.
"""

from dataclasses import replace
from typing import assert_never

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from npu_compiler.qgraph.ir import (
    GROUP,
    Clamp,
    Epilogue,
    Function,
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
    Residual,
)

Order = NDArray[np.int64]


def order_groups(graph: QuantizedGraph) -> QuantizedGraph:
    """Return the same network with the groups of its tensors reordered for its main consumers.

    Concat operands and results, the folded image and the outputs keep their order.
    """
    orders = _class_orders(graph)
    tensors = {name: _tensor(t, orders.get(name)) for name, t in graph.tensors.items()}
    nodes = tuple(_node(graph, node, orders) for node in graph.nodes)
    return replace(graph, nodes=nodes, tensors=tensors)


def _class_orders(graph: QuantizedGraph) -> dict[str, Order]:
    """Return per tensor of a free class the old group that stands at each place."""
    ties: nx.Graph = nx.Graph()
    pinned = {graph.input, *graph.output_tensors}
    for node in graph.nodes:
        ties.add_nodes_from([node.out, *node.inputs])
        match node:
            case QWindow() | QMosaic():
                nx.add_path(ties, [node.out, *node.inputs])
            case QConv():
                if node.residual is not None:
                    ties.add_edge(node.out, node.residual)
            case QConcat() | QFold():
                pinned |= {node.out, *node.inputs}
            case _:
                assert_never(node)
    orders: dict[str, Order] = {}
    for members in nx.connected_components(ties):
        groups = graph.tensors[min(members)].groups
        users = [n for n in graph.lowerable if n.src in members]
        if members & pinned or not users:
            continue
        place = np.zeros(groups)
        for node in users:
            assert node.lowering is not None
            place[list(node.lowering.order)] += node.macs * np.arange(groups)
        orders |= dict.fromkeys(members, np.argsort(place, kind="stable"))
    return orders


def _channels(order: Order) -> Order:
    """Return the old channel that stands at each new channel."""
    return (order[:, None] * GROUP + np.arange(GROUP)).reshape(-1)


def _tensor(tensor: QTensor, order: Order | None) -> QTensor:
    if order is None:
        return tensor
    return replace(tensor, channel_map=tuple(tensor.channel_map[c] for c in _channels(order)))


def _epilogue(e: Epilogue, at: Order) -> Epilogue:
    operand = replace(e.operand, mult=e.operand.mult[at]) if isinstance(e.operand, Residual) else e.operand
    return Epilogue(e.bias[at], e.mult[at], e.shift[at], _function(e.function, at), operand)


def _function(f: Function, at: Order) -> Function:
    match f:
        case Clamp() | Lookup():
            return f
        case Leaky():
            return replace(f, mult=f.mult[at])
    assert_never(f)


def _node(graph: QuantizedGraph, node: QNode, orders: dict[str, Order]) -> QNode:
    made = orders.get(node.out)
    match node:
        case QWindow():
            if made is None:
                return node
            at = _channels(made)
            weight = None if node.weight is None else node.weight[at]
            return replace(node, epilogue=_epilogue(node.epilogue, at), weight=weight)
        case QConv():
            return _inputs_moved(_outputs_moved(node, made), orders.get(node.src))
        case QConcat() | QMosaic() | QFold():
            return node
    assert_never(node)


def _outputs_moved(node: QConv, order: Order | None) -> QConv:
    if order is None:
        return node
    at = _channels(order)
    lowering = node.lowering
    if lowering is not None:
        lowering = replace(lowering, wgt_shift=lowering.wgt_shift[:, at], bias_rows=lowering.bias_rows[:, at])
    return replace(node, weight=node.weight[at], epilogue=_epilogue(node.epilogue, at), lowering=lowering)


def _inputs_moved(node: QConv, order: Order | None) -> QConv:
    if order is None:
        return node
    lowering = node.lowering
    if lowering is not None:
        new_place = np.argsort(order)  # where each old group went
        lowering = replace(lowering, order=tuple(int(new_place[g]) for g in lowering.order))
    return replace(node, weight=node.weight[..., _channels(order)], lowering=lowering)
