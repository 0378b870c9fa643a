"""Fold batch normalization into the convolution, or the other factor and term, before it."""

from dataclasses import replace

import numpy as np

from npu_compiler.graph.ir import Affine, Conv, Graph, Identity, Node
from npu_compiler.graph.passes.merge import merge_with_producer

INT8_MAX = 127  # integers of a fixed scale keep it under a change of sign, but for -128


def fold_batchnorm(graph: Graph) -> Graph:
    """Multiply the weights of a convolution by the scale of the `Affine` that is its only reader; join two of those.

    Expects convolutions without residual; guarantees that an Affine remains only where no convolution can take it
    (after an addition, a pooling, an activation, or a tensor with several readers; where the product leaves the range
    of float32). The product is formed in float64 so that folding loses no more than one float32 rounding.
    """
    return merge_with_producer(graph, _fold)


def _fold(producer: Node, node: Node) -> Node | None:
    if not isinstance(node, Affine):
        return None
    match producer:
        case Conv(residual=None, act=Identity()):
            return _into_conv(producer, node)
        case Affine(act=Identity()):
            return _joined(producer, node)
        case _:
            return None


def _joined(producer: Affine, node: Affine) -> Affine | None:
    with np.errstate(over="ignore"):
        scale = (producer.scale.astype(np.float64) * node.scale).astype(np.float32)
        shift = (producer.shift.astype(np.float64) * node.scale + node.shift).astype(np.float32)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return None
    return replace(producer, out=node.out, scale=scale, shift=shift, act=node.act)


def _into_conv(producer: Conv, node: Affine) -> Conv | None:
    scale = node.scale.astype(np.float64)
    with np.errstate(over="ignore"):
        weight = (producer.weight * scale[:, None, None, None]).astype(np.float32)
        bias = (producer.bias * scale + node.shift).astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return None
    weight_scale = None
    if producer.weight_scale is not None and scale.all():
        least = np.rint(producer.weight.min(axis=(1, 2, 3)) / producer.weight_scale)
        if not (least[scale < 0] < -INT8_MAX).any():
            weight_scale = np.abs(producer.weight_scale * scale).astype(np.float32)
    return replace(producer, out=node.out, weight=weight, bias=bias, weight_scale=weight_scale, act=node.act)
