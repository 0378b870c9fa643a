"""Fold batch normalization into the convolution before it."""

from dataclasses import replace

import numpy as np

from npu_compiler.graph.ir import Affine, Conv, Graph, Identity, Node
from npu_compiler.graph.passes.merge import merge_with_producer


def fold_batchnorm(graph: Graph) -> Graph:
    """Multiply the weights of a convolution by the scale of the `Affine` that is its only reader.

    Expects convolutions without residual; guarantees that an Affine remains only where no convolution can take it
    (after an addition, a pooling, an activation, or a tensor with several readers). The product is formed in float64
    so that folding loses no more than one float32 rounding.
    """
    return merge_with_producer(graph, _fold)


def _fold(producer: Node, node: Node) -> Node | None:
    if not (isinstance(producer, Conv) and isinstance(node, Affine)):
        return None
    if producer.act != Identity() or producer.residual is not None:
        return None
    scale = node.scale.astype(np.float64)
    weight_scale = None
    if producer.weight_scale is not None and scale.all():
        weight_scale = np.abs(producer.weight_scale * scale).astype(np.float32)
    return replace(
        producer,
        out=node.out,
        weight=(producer.weight * scale[:, None, None, None]).astype(np.float32),
        bias=(producer.bias * scale + node.shift).astype(np.float32),
        weight_scale=weight_scale,
        act=node.act,
    )
