"""Let the makers of the parts of a mosaic or concat do what is done to every element of it."""

from collections import Counter
from dataclasses import replace

from npu_compiler.graph.ir import Act, Affine, Concat, Graph, LeakyRelu, Mosaic, Node, inputs, unique


def sink_into_parts(graph: Graph) -> Graph:
    """Move a factor, an activation or a curve from what is put together to its parts, where each has no other reader.

    Guarantees the same values. So the convolutions that are the phases of a transposed one take the normalization and
    the activation behind it. Tensors whose quantization is fixed stay where they are.
    """
    readers = Counter(t for n in graph.nodes for t in inputs(n))
    names, taken = {n.name for n in graph.nodes}, set(graph.shapes)
    nodes: dict[str, Node] = {}
    shapes = dict(graph.shapes)

    def free(tensor: str) -> bool:
        return readers[tensor] == 1 and tensor not in graph.quant and tensor not in graph.output_tensors

    for node in graph.nodes:
        whole = nodes.get(inputs(node)[0])
        if not (
            isinstance(node, Act | Affine)
            and isinstance(whole, Concat | Mosaic)
            and free(whole.out)
            and all(free(s) and s in nodes for s in whole.srcs)
        ):
            nodes[node.out] = node
            continue
        del nodes[whole.out], shapes[whole.out]
        first, parts = 0, []
        for src in whole.srcs:
            end = first + shapes[src][0]
            name, out = unique(f"{node.name}.{src}", names), unique(f"{node.out}.{src}", taken)
            nodes[out] = replace(_of_channels(node, slice(first, end)), name=name, out=out, src=src)
            shapes[out], readers[out] = shapes[src], 1
            parts.append(out)
            first = end if isinstance(whole, Concat) else 0
        onnx_nodes = (*whole.onnx_nodes, *node.onnx_nodes)
        nodes[node.out] = replace(whole, out=node.out, srcs=tuple(parts), onnx_nodes=onnx_nodes)
    return replace(graph, nodes=tuple(nodes.values()), shapes=shapes)


def _of_channels(node: Act | Affine, channels: slice) -> Act | Affine:
    """Return a node for some of its channels."""
    act = node.act
    if isinstance(act, LeakyRelu) and isinstance(act.alpha, tuple):
        node = replace(node, act=LeakyRelu(act.alpha[channels]))
    if isinstance(node, Act):
        return node
    return replace(node, scale=node.scale[channels], shift=node.shift[channels])
