"""The rules of the float graph; a broken one is a bug of the pass before."""

from typing import assert_never

from npu_compiler.graph.curves import well_formed
from npu_compiler.graph.ir import (
    Act,
    Add,
    Affine,
    Channels,
    Concat,
    Conv,
    Crop,
    Curve,
    Graph,
    LeakyRelu,
    Mosaic,
    Mul,
    Node,
    Pool,
    Shape,
    activation_of,
    fill_once,
    inputs,
)


def verify(graph: Graph, pass_name: str) -> None:
    """Assert that names are unique, nodes are in order, shapes follow from the nodes, and arrays fit."""

    def rule(ok: bool, node: Node | None, text: str) -> None:
        assert ok, f"after {pass_name}: {node.name if node else graph.name}: {text}"

    made = {graph.input}
    names: set[str] = set()
    for node in graph.nodes:
        rule(node.name not in names, node, "node name is taken")
        rule(node.out not in made, node, f"{node.out} is made twice")
        for tensor in inputs(node):
            rule(tensor in made, node, f"reads {tensor} before it is made")
        rule(graph.shapes.get(node.out) == shape_of(graph, node), node, f"shape {graph.shapes.get(node.out)}")
        names.add(node.name)
        made.add(node.out)
    rule(set(graph.output_tensors) <= made, None, f"outputs not made: {set(graph.output_tensors) - made}")
    rule(0 < len(graph.outputs) == len({o.name for o in graph.outputs}), None, "no outputs, or two of one name")
    rule(graph.shapes.keys() == made, None, f"shapes of unknown tensors: {graph.shapes.keys() ^ made}")


def shape_of(graph: Graph, node: Node) -> Shape:
    """Return the shape of a node's output from its inputs' shapes."""
    first = graph.shapes[inputs(node)[0]]
    act = activation_of(node)
    if isinstance(act, LeakyRelu) and isinstance(act.alpha, tuple):
        channels = len(node.weight) if isinstance(node, Conv) else first[0]
        assert len(act.alpha) == channels, f"{node.name}: slopes"
    match node:
        case Conv():
            assert node.weight.shape[1] * node.groups == first[0], f"{node.name}: input channels"
            assert node.bias.shape == (len(node.weight),), f"{node.name}: bias"
            size = _size(first, node.weight.shape[2:], node.stride, node.pads, node.dilation)
            if node.residual is not None:
                assert graph.shapes[node.residual] == (len(node.weight), *size), f"{node.name}: residual"
            return (len(node.weight), *size)
        case Affine():
            assert node.scale.shape == node.shift.shape == (first[0],), f"{node.name}: scale and shift"
            return first
        case Act():
            assert not isinstance(node.act, Curve) or well_formed(node.act.program), f"{node.name}: curve"
            return first
        case Add() | Mul():
            other = graph.shapes[node.b]
            assert other[0] == first[0], f"{node.name}: channels of the operands"
            assert all(n in (1, m) for n, m in zip(other[1:], first[1:], strict=True)), f"{node.name}: operands"
            return first
        case Pool():
            return (first[0], *_size(first, node.kernel, node.stride, node.pads, node.dilation))
        case Concat():
            return (sum(graph.shapes[s][0] for s in node.srcs), *first[1:])
        case Mosaic():
            parts = [graph.shapes[t] for t in node.srcs]
            assert all(p[0] == first[0] for p in parts), f"{node.name}: channels of the parts"
            places = zip(node.places, ((p[1], p[2]) for p in parts), strict=True)
            assert fill_once(node.size, places), f"{node.name}: a pixel in no part, in several, or beyond it"
            return (first[0], *node.size)
        case Crop():
            return (first[0], *_size(first, (1, 1), node.stride, node.pads, (1, 1)))
        case Channels():
            return (len(node.source), *first[1:])
    assert_never(node)


def _size(
    shape: Shape,
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    sizes = [
        (n + pads[a] + pads[a + 2] - (kernel[a] - 1) * dilation[a] - 1) // stride[a] + 1
        for a, n in enumerate(shape[1:])
    ]
    return sizes[0], sizes[1]
