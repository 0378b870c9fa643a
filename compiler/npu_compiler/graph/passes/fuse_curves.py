"""Make one curve of element-wise arithmetic on one tensor: x * sigmoid(x), a GELU in parts, hard-swish in parts."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from npu_compiler.graph.curves import Program, X, after
from npu_compiler.graph.ir import (
    Act,
    Activation,
    Add,
    Affine,
    Clip,
    Curve,
    Graph,
    Identity,
    LeakyRelu,
    Mul,
    Node,
    inputs,
)
from npu_compiler.graph.passes.prune import prune

MOST_WORDS = 256  # of a program that others are put together of: x + x doubles it
ROOT, AFFINE, CLAMPED, CURVED = range(4)  # what an epilogue does without a table: nothing, a factor, then an activation


@dataclass(frozen=True)
class _Made:
    """How a tensor follows from another one, value by value.

    Attributes:
        root: the other tensor.
        program: of the function.
        form: ROOT to CURVED.
    """

    root: str
    program: Program
    form: int


def fuse_curves(graph: Graph) -> Graph:
    """Compute as one curve of its root what follows from one tensor value by value, by one number for all channels.

    Guarantees that no curve reads what element-wise nodes with one number for all channels make. What a producer's
    epilogue does without a table, a factor and then an activation, stays as it is. A tensor whose quantization is fixed
    is a root: its rounding is kept; so is one with several readers, unless it is made by a factor alone.
    """
    made: dict[str, _Made] = {}
    nodes: list[Node] = []
    readers = Counter(t for n in graph.nodes for t in {*inputs(n)})
    for node in graph.nodes:
        found = _follow(graph, node, made)
        if found is not None and found.form == CURVED and (node.out not in graph.output_tensors or _needs_table(node)):
            names = tuple(dict.fromkeys((*_names(graph, found.root, node), *node.onnx_nodes)))
            node = Act(node.name, node.out, names, found.root, Curve(found.program))
        nodes.append(node)
        shared = readers[node.out] > 1 or node.out in graph.output_tensors
        if found is not None and (node.out in graph.quant or (found.form > AFFINE and shared)):
            found = None
        if found is not None and len(found.program) > MOST_WORDS:
            found = None
        made[node.out] = found or _Made(node.out, X, ROOT)
    return prune(replace(graph, nodes=tuple(nodes)))


def _needs_table(node: Node) -> bool:
    """Whether a node is no mere factor or clip, which leaves an output its 16 bits."""
    return isinstance(node, Add | Mul) or (isinstance(node, Act) and isinstance(node.act, Curve))


def _names(graph: Graph, root: str, node: Node) -> tuple[str, ...]:
    """Return the ONNX nodes between a root and a node that follows from it."""
    makers = {n.out: n for n in graph.nodes}
    todo, found = [t for t in inputs(node) if t != root], list[Node]()
    while todo:
        tensor = todo.pop()
        maker = makers.get(tensor)
        if maker is not None and maker not in found:
            found.append(maker)
            todo += [t for t in inputs(maker) if t != root]
    return tuple(name for n in graph.nodes if n in found for name in n.onnx_nodes)


def _follow(graph: Graph, node: Node, made: dict[str, _Made]) -> _Made | None:
    """Return how a node's output follows from one tensor, or None."""
    sources = [made.get(t, _Made(t, X, ROOT)) for t in inputs(node)]
    root = sources[0].root
    if isinstance(node, Act):
        if isinstance(node.act, Curve):
            return _Made(root, after(node.act.program, sources[0].program), CURVED)
        return _activated(_Made(root, sources[0].program, sources[0].form), node.act)
    if isinstance(node, Affine):
        scale, shift = np.unique(node.scale), np.unique(node.shift)
        if scale.size > 1 or shift.size > 1:
            return None
        program = _scaled(sources[0].program, float(scale[0]), float(shift[0]))
        form = AFFINE if sources[0].form <= AFFINE else CURVED
        return _activated(_Made(root, program, form), node.act)
    if isinstance(node, Add | Mul):
        if sources[1].root != root or graph.shapes[node.a] != graph.shapes[node.b]:
            return None
        programs = [s.program for s in sources]
        if isinstance(node, Add):
            programs = [_scaled(p, f, 0.0) for p, f in zip(programs, node.factors, strict=True)]
        word = "add" if isinstance(node, Add) else "mul"
        return _activated(_Made(root, (*programs[0], *programs[1], word), CURVED), node.act)
    return None


def _scaled(program: Program, scale: float, shift: float) -> Program:
    if scale != 1.0:
        program = (*program, scale, "mul")
    return program if shift == 0.0 else (*program, shift, "add")


def _activated(made: _Made, act: Activation) -> _Made | None:
    """Return what an activation makes of a value, or None where it differs between channels."""
    match act:
        case Identity():
            return made
        case Clip():
            program: Program = X
            program = program if act.low == -np.inf else (*program, act.low, "max")
            program = program if act.high == np.inf else (*program, act.high, "min")
        case LeakyRelu():
            if isinstance(act.alpha, tuple):
                return None
            program = ("x", 0.0, "max", "x", 0.0, "min", act.alpha, "mul", "add")
    form = CLAMPED if made.form <= AFFINE else CURVED
    return _Made(made.root, after(program, made.program), form)
