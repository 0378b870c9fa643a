"""Tensors whose zero is not byte 0: which byte it is, what keeps the integers of the model, and what cannot.

The machine pads with byte 0 and keeps unused channels at byte 0; sums know nothing of zeros. A zero is exact where a
bias can hold it: a sum of a fixed number of bytes is off by a whole number then, which the bias of its node takes. So

- convolutions, averages, additions and activations read and make such tensors (`npu_compiler.quantize.build`);
- a padded window gets an image padded beforehand (`Crop`), whose border build makes the zero's byte;
- a maximum, a crop and a choice of channels keep bytes; where the model changes the scale too, a copy does that;
- the table of a curve reads and makes bytes of any zero;
- a LeakyReLU, which the machine applies to sums as they are, becomes a sum with a ReLU;
- the output holds its values without a zero, in 16 bits where 8 are too few.

What is left is refused.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from npu_isa.errors import UnsupportedError

from npu_compiler.graph.ir import (
    ANEW,
    Act,
    Activation,
    Add,
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
    TensorQuant,
    activation_of,
    inputs,
    keeps_values,
    stored,
    unique,
)

Fixed = dict[str, TensorQuant]


def place_zeros(graph: Graph, classes: Callable[[Graph], dict[str, str]]) -> Graph:
    """Return the graph in which every zero that is not byte 0 is one that the builder can keep.

    Args:
        graph: what it fixes (`Graph.quant`) has any zero.
        classes: the class of equal quantization of each tensor of a graph; its name is a fixed member, if it has one.

    Raises:
        UnsupportedError: a tensor's zero point cannot be kept; all of them at once.
    """
    of_class = classes(graph)
    quant = {t: graph.quant[c] for t, c in of_class.items() if c in graph.quant}
    if not any(q.zero for q in quant.values()):
        return graph
    graph = replace(graph, quant=_without_zero_at_the_end(graph, _stored(graph, quant)))
    refused = [text for node in graph.nodes if (text := _refusal(graph, node))]
    if refused:
        raise UnsupportedError("; ".join(refused), graph.name, ANEW)
    rest = {t: q for t, q in graph.quant.items() if q.zero}
    for step in (_pad_before, _copy_after, _leaky_as_sum):
        graph = step(graph, rest)
    return graph


def _stored(graph: Graph, quant: Fixed) -> Fixed:
    """Return the quantization with the bytes that the clamps of each tensor's producer allow: they must contain 0."""
    clips: dict[TensorQuant, list[Clip]] = {}
    for node in graph.nodes:
        act = activation_of(node)
        if node.out in quant and isinstance(act, Clip):
            clips.setdefault(quant[node.out], []).append(act)
    chosen = {}
    for given in set(quant.values()):
        ways = stored(given.scale, *given.multiples)
        fits = (way for way in ways if all(_contains_0(way, clip) for clip in clips.get(given, ())))
        chosen[given] = next(fits, ways[0])
    return {t: chosen[q] for t, q in quant.items()}


def _is_split(node: Node, quant: Fixed) -> bool:
    """Whether a node is a LeakyReLU that makes a tensor with a zero, and can be a sum."""
    act = activation_of(node)
    if not (isinstance(node, Act) and isinstance(act, LeakyRelu)) or isinstance(act.alpha, tuple):
        return False
    return 0 < act.alpha < 1 and node.out in quant and quant[node.out].zero != 0


def _contains_0(quant: TensorQuant, clip: Clip) -> bool:
    """Whether byte 0 is among those that a clamp leaves."""
    least, most = quant.clamped(clip)
    return least <= 0 <= most


def _without_zero_at_the_end(graph: Graph, quant: Fixed) -> Fixed:
    """Let the outputs hold their values without a zero: their 16 bits have room."""
    last = {t: quant[t] for t in graph.output_tensors if t in quant and quant[t].zero}
    return quant | {t: TensorQuant(q.scale, True, 0, q.multiples) for t, q in last.items()}


def point(quant: TensorQuant) -> str:
    """Return the zero point of a tensor as models give it."""
    low = quant.multiples[0]
    return f"zero point {-low} of uint8 ({-128 - low} of int8)"


def _refusal(graph: Graph, node: Node) -> str:
    """Return why a node cannot read or make what it does, or nothing."""
    off = {t: q for t in (*inputs(node), node.out) if (q := graph.quant.get(t)) is not None and q.zero}
    act = activation_of(node)
    if not off:
        return ""
    tensor, quant = next(iter(off.items()))
    if isinstance(node, Mul):
        return f"tensor {tensor} has {point(quant)}, which the product of node {node.name} cannot keep"
    if node.out not in off:
        return ""
    quant = off[node.out]
    if isinstance(act, Clip) and not _contains_0(quant, act):
        return f"tensor {node.out} has {point(quant)}, of which the clamp of node {node.name} leaves too little"
    if isinstance(act, LeakyRelu) and not _is_split(node, graph.quant):
        return f"tensor {node.out} has {point(quant)}, which the LeakyReLU of node {node.name} cannot make"
    return ""


def _changed(graph: Graph, nodes: Iterable[Node], shapes: dict[str, tuple[int, int, int]], quant: Fixed) -> Graph:
    return replace(graph, nodes=tuple(nodes), shapes=graph.shapes | shapes, quant=graph.quant | quant)


def _pad_before(graph: Graph, off: Fixed) -> Graph:
    """Let a crop pad what a padded convolution or average reads, one for all that pad alike."""
    taken = {*graph.shapes, *(n.name for n in graph.nodes)}
    padded: dict[tuple[str, tuple[int, int, int, int]], str] = {}
    nodes: list[Node] = []
    shapes = {}
    for node in graph.nodes:
        pads = node.pads if isinstance(node, Conv) or (isinstance(node, Pool) and node.kind == "avg") else (0, 0, 0, 0)
        if isinstance(node, Conv | Pool) and node.src in off and max(pads) > 0:
            key = node.src, pads
            if key not in padded:
                padded[key] = name = unique(f"{node.src}.padded", taken)
                channels, height, width = graph.shapes[node.src]
                shapes[name] = (channels, height + pads[0] + pads[2], width + pads[1] + pads[3])
                nodes.append(Crop(name, name, (), node.src, (1, 1), pads))
            node = replace(node, src=padded[key], pads=(0, 0, 0, 0))
        nodes.append(node)
    return _changed(graph, nodes, shapes, {name: off[src] for (src, _), name in padded.items()})


def _copy_after(graph: Graph, off: Fixed) -> Graph:
    """Let a copy change the scale after a node that keeps bytes."""
    taken = {*graph.shapes, *(n.name for n in graph.nodes)}
    nodes: list[Node] = []
    shapes, quant = {}, {}
    for node in graph.nodes:
        nodes.append(node)
        source = inputs(node)[0]
        keeps = keeps_values(node) and not isinstance(node, Concat | Mosaic)
        if not keeps or not {source, node.out} & off.keys() or graph.quant[source] == graph.quant[node.out]:
            continue
        name = unique(f"{node.out}.kept", taken)
        shapes[name], quant[name] = graph.shapes[node.out], graph.quant[source]
        nodes[-1:] = [replace(node, out=name), Act(name, node.out, (), name, Identity())]
    return _changed(graph, nodes, shapes, quant)


def _leaky_as_sum(graph: Graph, off: Fixed) -> Graph:
    """Make a LeakyReLU the sum alpha * x + (1 - alpha) * relu(x) where what it makes has a zero."""
    taken = {*graph.shapes, *(n.name for n in graph.nodes)}
    nodes: list[Node] = []
    shapes, quant = {}, {}
    for node in graph.nodes:
        act: Activation | Curve | None = node.act if isinstance(node, Act) else None
        if not (isinstance(node, Act) and node.out in off and isinstance(act, LeakyRelu)):
            nodes.append(node)
            continue
        assert not isinstance(act.alpha, tuple)
        name = unique(f"{node.src}.relu", taken)
        shapes[name] = graph.shapes[node.src]
        if node.src in graph.quant:
            source = graph.quant[node.src]
            quant[name] = stored(source.scale, 0, source.multiples[1])[0]
        nodes.append(Act(name, name, (), node.src, Clip(low=0.0)))
        nodes.append(Add(node.name, node.out, node.onnx_nodes, node.src, name, factors=(act.alpha, 1.0 - act.alpha)))
    return _changed(graph, nodes, shapes, quant)
