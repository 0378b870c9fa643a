"""The float graph made ready for integers: after this every node has one counterpart in the quantized graph.

`prepare` inserts element-wise copies where a tensor would need two quantizations or two places in memory; `tie_classes`
says which tensors must share scale and sign; `channel_maps` says where each channel stands in the groups of 16.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from npu_compiler.graph.ir import (
    Act,
    Activation,
    Add,
    Affine,
    Channels,
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
    activation_of,
    follows_residual,
    inputs,
    keeps_values,
    unique,
)
from npu_compiler.qgraph.ir import GROUP
from npu_compiler.quantize.zeros import place_zeros

COPY = Identity()
Map = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A float graph ready to be quantized.

    Attributes:
        graph: with copies inserted; the producer of an output may be requantized freely and nothing reads it.
        maps: channel map (npu_compiler.qgraph.ir.QTensor) of every tensor but the input.
        classes: representative of each tensor's class of equal scale and sign.
    """

    graph: Graph
    maps: Mapping[str, Map]
    classes: Mapping[str, str]


def prepare(graph: Graph) -> Prepared:
    """Return the graph with the same meaning that obeys the rules of the quantized graph.

    Args:
        graph: optimized; `quant` has an entry for the input (its quantization follows from the preprocessing).
    """
    for step in (_leaky_apart, _copy_image, _free_outputs, _copy_shared_operands, _copy_conflicts):
        graph = step(graph)
    graph = place_zeros(graph, lambda g: tie_classes(g)[0])
    graph, maps = _align_channels(graph)
    classes, _ = tie_classes(graph)
    return Prepared(graph, maps, classes)


def dense_map(channels: int) -> Map:
    """Return the map of channels that follow each other, padded to whole groups."""
    return tuple(range(channels)) + (-1,) * (-channels % GROUP)


def is_depthwise(node: Conv) -> bool:
    """Whether a convolution runs on the vector engine: one output channel for each input channel."""
    return node.groups > 1 and node.groups == len(node.weight) and node.weight.shape[1] == 1


def _fresh(graph: Graph, base: str) -> str:
    return unique(f"{base}.copy", {*graph.shapes, *(n.name for n in graph.nodes)})


def _reading(node: Node, old: str, new: str, *, only: int | None = None) -> Node:
    """Return the node with reads of `old` replaced, or only the operand of that number of a concat or mosaic."""
    match node:
        case Conv():
            residual = new if node.residual == old else node.residual
            return replace(node, src=new if node.src == old else node.src, residual=residual)
        case Add() | Mul():
            return replace(node, a=new if node.a == old else node.a, b=new if node.b == old else node.b)
        case Concat() | Mosaic():
            srcs = tuple(new if s == old and only in (None, i) else s for i, s in enumerate(node.srcs))
            return replace(node, srcs=srcs)
        case Affine() | Act() | Pool() | Crop() | Channels():
            return replace(node, src=new)
    assert_never(node)


def _with_copy(graph: Graph, tensor: str, readers: Mapping[str, int | None], act: Activation = COPY) -> Graph:
    """Insert an element-wise node after a tensor for some readers: node name -> concat operand, or None for all."""
    name = _fresh(graph, tensor)
    copy = Act(name, name, (), tensor, act)
    nodes: list[Node] = []
    placed = False
    for node in graph.nodes:
        if node.name in readers:
            if not placed:
                nodes.append(copy)
                placed = True
            node = _reading(node, tensor, name, only=readers[node.name])
        nodes.append(node)
    if not placed:
        nodes.append(copy)
    return replace(graph, nodes=tuple(nodes), shapes=graph.shapes | {name: graph.shapes[tensor]})


def _leaky_apart(graph: Graph) -> Graph:
    """Give a LeakyReLU after a sum or product of two a node of its own: the second multiplier serves only one."""
    nodes: list[Node] = []
    shapes = dict(graph.shapes)
    for node in graph.nodes:
        two = isinstance(node, Add | Mul) or (isinstance(node, Conv) and node.residual is not None)
        if isinstance(node, Add | Mul | Conv) and two and not follows_residual(node.act):
            name = _fresh(graph, node.out)
            nodes += [replace(node, out=name, act=COPY), Act(name, node.out, node.onnx_nodes, name, node.act)]
            shapes[name] = shapes[node.out]
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), shapes=shapes)


def _copy_image(graph: Graph) -> Graph:
    """Give the image a padded copy where an operation cannot read it; in a quantized model the copy has its bytes."""
    readers = {n.name: None for n in graph.users(graph.input) if not _reads_images(n, graph.input)}
    if not readers:
        return graph
    copied = _with_copy(graph, graph.input, readers)
    made = copied.shapes.keys() - graph.shapes.keys()
    kept = dict.fromkeys(made, graph.quant[graph.input]) if graph.quant.keys() - {graph.input} else {}
    return replace(copied, quant=copied.quant | kept)


def _reads_images(node: Node, image: str) -> bool:
    """Whether a node can read the image by a fold: as its first operand, and a single one."""
    match node:
        case Conv():
            return node.residual != image
        case Affine() | Act() | Pool() | Crop() | Channels():
            return True
        case Add() | Mul() | Concat() | Mosaic():
            return False
    assert_never(node)


def _free_outputs(graph: Graph) -> Graph:
    """See to it that outputs are made by nodes of arithmetic, so that they can have 16 bits, and are read by none."""
    made = {n.out: n for n in graph.nodes}
    for tensor in graph.output_tensors:
        node = made.get(tensor)
        if node is not None and not keeps_values(node) and not graph.users(tensor):
            continue
        graph = _with_copy(graph, tensor, {})
        own = graph.nodes[-1].out
        outputs = tuple(replace(o, tensor=own) if o.tensor == tensor else o for o in graph.outputs)
        quant = graph.quant | ({own: graph.quant[tensor]} if tensor in graph.quant else {})
        graph = replace(graph, outputs=outputs, quant=quant)
    return graph


def _copy_shared_operands(graph: Graph) -> Graph:
    """Copy what would be an operand of two concats or mosaics, or twice of one: a tensor has one place in memory."""
    taken: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, Concat | Mosaic):
            for i, src in enumerate(node.srcs):
                if src in taken:
                    graph = _with_copy(graph, src, {node.name: i})
                taken.add(src)
    return graph


def _copy_conflicts(graph: Graph) -> Graph:
    """Copy concat operands whose quantization is fixed to another one than the result's."""
    _, conflicts = tie_classes(graph)
    for node, operand, src in conflicts:
        graph = _with_copy(graph, src, {node: operand})
    return graph


def fused_curves(graph: Graph) -> dict[str, Act]:
    """Return the curves that are the only readers of what arithmetic makes, by that tensor: its producer computes both.

    The producer's sums are requantized to the tensor's scale; then its byte is looked up.
    """
    makers = {n.out: n for n in graph.nodes}
    found = {}
    for node in graph.nodes:
        if not isinstance(node, Act) or not isinstance(node.act, Curve) or node.src in graph.output_tensors:
            continue
        maker = makers.get(node.src)
        if maker is None or keeps_values(maker) or len(graph.users(node.src)) > 1:
            continue
        if not isinstance(activation_of(maker), LeakyRelu | Curve):
            found[node.src] = node
    return found


def offset_tensors(graph: Graph) -> set[str]:
    """Return the tensors whose zero may be any byte at no cost: made by a curve, read by unpadded convolutions alone.

    The table makes the byte, and the bias of each reader takes it off again.
    """
    found = set()
    for node in graph.nodes:
        if not isinstance(node, Act) or not isinstance(node.act, Curve) or node.out in graph.output_tensors:
            continue
        users = graph.users(node.out)
        if users and all(isinstance(u, Conv) and u.residual != node.out and max(u.pads) <= 0 for u in users):
            found.add(node.out)
    return found


def wide_tensors(graph: Graph) -> set[str]:
    """Return the tensors of 16 bits: outputs that no table makes and that are not fixed to fewer."""
    by_table = {n.out for n in graph.nodes if isinstance(n, Act) and isinstance(n.act, Curve)}
    fixed = {t for t, q in graph.quant.items() if not q.wide}
    return {*graph.output_tensors} - by_table - fixed


def tie_classes(graph: Graph) -> tuple[dict[str, str], list[tuple[str, int, str]]]:
    """Group the tensors that must share scale and sign.

    A maximum, a crop and a choice of channels keep values, unless fixed quantizations differ; the operands of a
    concat or mosaic have its result's.

    Returns:
        the class of each tensor, and the conflicts (concat or mosaic, operand number, tensor).
    """
    parent = {t: t for t in graph.shapes}
    fixed = graph.quant

    def find(t: str) -> str:
        while parent[t] != t:
            t = parent[t]
        return t

    def tie(a: str, b: str) -> bool:
        a, b = find(a), find(b)
        if a in fixed and b in fixed and fixed[a] != fixed[b]:
            return False
        if b in fixed:
            a, b = b, a
        parent[b] = a
        return True

    conflicts = []
    for node in graph.nodes:
        if keeps_values(node) and not isinstance(node, Concat | Mosaic):
            tie(node.out, inputs(node)[0])
    for node in graph.nodes:  # after the others: what cannot be tied to it is copied
        if isinstance(node, Concat | Mosaic):
            conflicts += [(node.name, i, src) for i, src in enumerate(node.srcs) if not tie(node.out, src)]
    return {t: find(t) for t in parent}, conflicts


def _align_channels(graph: Graph) -> tuple[Graph, dict[str, Map]]:
    """Give every tensor its channel map; copy an operand whose map is not that of the first."""
    maps: dict[str, Map] = {}
    nodes: list[Node] = []
    shapes = dict(graph.shapes)

    def aligned(node: Node, operand: str, wanted: Map) -> Node:
        if maps[operand] == wanted:
            return node
        name = _fresh(replace(graph, shapes=shapes), operand)
        nodes.append(Channels(name, name, (), operand, tuple(range(shapes[operand][0]))))
        maps[name], shapes[name] = wanted, shapes[operand]
        return _reading(node, operand, name)

    for node in graph.nodes:
        dense = dense_map(shapes[node.out][0])
        own = maps.get(inputs(node)[0], dense)  # the image: its fold is dense
        match node:
            case Conv():
                free = dense if node.residual is None else maps[node.residual]
                maps[node.out] = own if is_depthwise(node) else free
                if node.residual is not None:
                    node = aligned(node, node.residual, maps[node.out])
            case Add() | Mul():
                maps[node.out] = own
                node = aligned(node, node.b, own)
            case Mosaic():
                maps[node.out] = own
                for src in node.srcs:
                    node = aligned(node, src, own)
            case Concat():
                maps[node.out] = joined_map([(maps[s], shapes[s][0]) for s in node.srcs])
            case Channels():
                maps[node.out] = dense
            case Affine() | Act() | Pool() | Crop():
                maps[node.out] = own
            case _:
                assert_never(node)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), shapes=shapes), maps


def joined_map(parts: list[tuple[Map, int]]) -> Map:
    """Return the map of a concatenation, from the map and the logical channels of each part."""
    joined: list[int] = []
    base = 0
    for channel_map, channels in parts:
        joined += [c + base if c >= 0 else -1 for c in channel_map]
        base += channels
    return tuple(joined)
