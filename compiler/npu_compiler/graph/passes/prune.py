"""Remove what no output needs."""

from dataclasses import replace

from npu_compiler.graph.ir import Graph, inputs


def prune(graph: Graph) -> Graph:
    """Keep the nodes that an output depends on, in their order.

    Expects any valid graph; guarantees that every node's tensor is read or an output.
    """
    needed = set(graph.output_tensors)
    kept = []
    for node in reversed(graph.nodes):
        if node.out in needed:
            needed.update(inputs(node))
            kept.append(node)
    shapes = {t: s for t, s in graph.shapes.items() if t in needed or t == graph.input}
    quant = {t: q for t, q in graph.quant.items() if t in shapes}
    return replace(graph, nodes=tuple(reversed(kept)), shapes=shapes, quant=quant)
