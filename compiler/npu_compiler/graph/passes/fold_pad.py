"""Fold zero padding of the image into the convolution after it."""

from dataclasses import replace

from npu_compiler.graph.ir import Conv, Crop, Graph, Node
from npu_compiler.graph.passes.merge import merge_with_producer


def fold_pad(graph: Graph) -> Graph:
    """Let a convolution pad by itself where a padding `Crop` has no other reader.

    Guarantees the same values: a convolution's own padding is zero as well. Pooling is left alone, since a maximum
    ignores its padding and does not ignore zeros.
    """
    return merge_with_producer(graph, _fold)


def _fold(producer: Node, node: Node) -> Node | None:
    if not (isinstance(producer, Crop) and isinstance(node, Conv)):
        return None
    if producer.stride != (1, 1) or min(producer.pads) < 0:
        return None
    pads = tuple(a + b for a, b in zip(producer.pads, node.pads, strict=True))
    return replace(node, src=producer.src, pads=(pads[0], pads[1], pads[2], pads[3]))
