"""Fuse a residual addition into the convolution that ends its branch."""

from dataclasses import replace

from npu_compiler.graph.ir import Add, Conv, Graph, Identity, Node, follows_residual


def fuse_residual(graph: Graph) -> Graph:
    """Make a two-operand `Add` the residual of the convolution that makes one operand and has no other reader.

    Expects batch normalization and activations folded. Of two such convolutions the later one is taken, since the
    other operand must exist by then. A LeakyReLU after the addition needs the second multiplier for itself and stays.
    A quantized model that fixes the convolution's own output keeps the addition, so that its rounding is kept. So does
    one that fixes the weights alone: the factor of fixed weights has few bits left beside that of another tensor.
    A network that gives the convolution's own output keeps it too.
    """
    nodes: dict[str, Node] = {}  # by output, in order
    gone: set[str] = set()
    for node in graph.nodes:
        taken = _branch_end(graph, nodes, node) if isinstance(node, Add) else None
        if taken is None:
            nodes[node.out] = node
            continue
        assert isinstance(node, Add)
        conv = nodes.pop(taken.out)  # it moves to the addition's place, where the other operand exists
        other = node.b if taken.out == node.a else node.a
        names = (*conv.onnx_nodes, *node.onnx_nodes)
        nodes[node.out] = replace(taken, out=node.out, residual=other, act=node.act, onnx_nodes=names)
        gone.add(taken.out)
    shapes = {t: s for t, s in graph.shapes.items() if t not in gone}
    return replace(graph, nodes=tuple(nodes.values()), shapes=shapes)


def _branch_end(graph: Graph, nodes: dict[str, Node], add: Add) -> Conv | None:
    """Return the convolution that can take an addition, the later one of two."""
    if add.a == add.b or not follows_residual(add.act) or add.factors != (1.0, 1.0):
        return None
    if graph.shapes[add.a] != graph.shapes[add.b]:
        return None
    order = list(nodes)
    found = [
        node
        for node in (nodes.get(add.a), nodes.get(add.b))
        if isinstance(node, Conv)
        and node.residual is None
        and node.weight_scale is None
        and node.act == Identity()
        and node.out not in graph.quant
        and node.out not in graph.output_tensors
        and len(graph.users(node.out)) == 1
    ]
    return max(found, key=lambda n: order.index(n.out), default=None)
