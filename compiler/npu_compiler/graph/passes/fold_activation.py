"""Fold an activation into the operation before it."""

from dataclasses import replace
from typing import assert_never

from npu_compiler.graph.ir import (
    Act,
    Activation,
    Add,
    Affine,
    Channels,
    Clip,
    Concat,
    Conv,
    Crop,
    Curve,
    Graph,
    Identity,
    LeakyRelu,
    Mosaic,
    Mul,
    Node,
    Pool,
)
from npu_compiler.graph.passes.merge import merge_with_producer


def fold_activation(graph: Graph) -> Graph:
    """Let a convolution, affine, addition or product apply the activation that is its only reader.

    Guarantees that an `Act` remains only after other nodes, or after a tensor with several readers, or is a curve. Two
    clips in a row become one.
    """
    return merge_with_producer(graph, _fold)


def _fold(producer: Node, node: Node) -> Node | None:
    if not isinstance(node, Act) or isinstance(node.act, Curve):
        return None
    match producer:
        case Conv() | Affine() | Add() | Mul() | Act():
            act = None if isinstance(producer.act, Curve) else _both(producer.act, node.act)
            return None if act is None else replace(producer, out=node.out, act=act)
        case Pool() | Concat() | Mosaic() | Crop() | Channels():
            return None
    assert_never(producer)


def _both(first: Activation, then: Activation) -> Activation | None:
    """Return the activation that does what two after each other do, or None."""
    match first:
        case Identity():
            return then
        case Clip():
            if not isinstance(then, Clip):
                return None
            low, high = max(first.low, then.low), min(first.high, then.high)
            return Clip(low, high) if low <= high else None
        case LeakyRelu():
            return None
    assert_never(first)
