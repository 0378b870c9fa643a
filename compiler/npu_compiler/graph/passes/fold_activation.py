"""Fold an activation into the operation before it."""

from dataclasses import replace

from npu_compiler.graph.ir import Act, Activation, Add, Affine, Conv, Graph, Node
from npu_compiler.graph.passes.merge import merge_with_producer


def fold_activation(graph: Graph) -> Graph:
    """Let a convolution, affine or addition apply the activation that is its only reader.

    Guarantees that an `Act` remains only after other nodes, or after a tensor with several readers. Two clips in a row
    become one.
    """
    return merge_with_producer(graph, _fold)


def _fold(producer: Node, node: Node) -> Node | None:
    if not (isinstance(node, Act) and isinstance(producer, Conv | Affine | Add | Act)):
        return None
    before, act = producer.act, node.act
    if before.kind == "clip" and act.kind == "clip":
        act = Activation("clip", low=max(before.low, act.low), high=min(before.high, act.high))
        if act.low > act.high:
            return None
    elif before.kind != "none":
        return None
    return replace(producer, out=node.out, act=act)
