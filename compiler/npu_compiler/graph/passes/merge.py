"""What the folding passes share: replacing a node and its only reader by one node."""

from collections.abc import Callable
from dataclasses import replace

from npu_compiler.graph.ir import Graph, Node, inputs


def merge_with_producer(graph: Graph, merge: Callable[[Node, Node], Node | None]) -> Graph:
    """Offer every (producer, only reader) pair to `merge`; where it returns a node, that one takes the place of both.

    The merged node must make the reader's output; it stands where the producer stood, so `merge` may only accept
    readers whose other inputs are ready there. An output, and a tensor whose quantization is fixed, stay as they are.
    """
    readers: dict[str, list[Node]] = {}
    kept = {*graph.output_tensors, *graph.quant}
    for node in graph.nodes:
        for tensor in inputs(node):
            readers.setdefault(tensor, []).append(node)
    nodes: list[Node] = []
    at: dict[str, int] = {}
    gone: set[str] = set()
    for node in graph.nodes:
        source = inputs(node)[0]
        merged = None
        if source in at and len(readers[source]) == 1 and source not in kept:
            merged = merge(nodes[at[source]], node)
        if merged is None:
            at[node.out] = len(nodes)
            nodes.append(node)
            continue
        gone.add(source)
        at[node.out] = at[source]
        nodes[at[source]] = replace(merged, onnx_nodes=(*nodes[at[source]].onnx_nodes, *node.onnx_nodes))
    shapes = {t: s for t, s in graph.shapes.items() if t not in gone}
    return replace(graph, nodes=tuple(nodes), shapes=shapes)
