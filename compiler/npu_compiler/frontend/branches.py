"""Nodes of a model in order, an If whose condition is known replaced by the branch that it takes.

Exporters write one where a size may be 1, as for a squeeze; once the sizes are known it is no choice.
"""

from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, helper

from npu_compiler.frontend.importer import Constants, Importer
from npu_compiler.frontend.tensors import read_constants


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those of the graphs that they hold."""
    for node in nodes:
        yield node
        for graph in _graphs(node):
            yield from every_node(graph.node)


def taken(imp: Importer, nodes: Iterable[onnx.NodeProto], constants: Constants, where: str) -> Iterator[onnx.NodeProto]:
    """Yield nodes, those of a branch in place of an If whose condition is among the constants when it is reached.

    Args:
        imp: gives what stands in a branch names of its own.
        nodes: of a graph, in order.
        constants: known so far; those of a branch are added.
        where: the file's name in errors.

    Raises:
        ModelError: a damaged constant in a branch.
    """
    for node in nodes:
        branch = _branch(node, constants)
        if branch is None:
            yield node
            continue
        names = {t.name: imp.tensor_name(f"{node.name}.{t.name}") for t in branch.initializer}
        for name in (name for inner in branch.node for name in inner.output if name):
            names[name] = imp.tensor_name(f"{node.name}.{name}")
        found = read_constants(branch.initializer, where)
        constants.update({names[name]: array for name, array in found.items()})
        inside = [_renamed(inner, names) for inner in branch.node]
        for inner in inside:
            inner.name = imp.node_name(f"{node.name}.{inner.name or inner.op_type}")
        yield from taken(imp, inside, constants, where)
        for given, out in zip(branch.output, node.output, strict=False):
            if out:
                name = names.get(given.name, given.name)
                yield helper.make_node("Identity", [name], [out], imp.node_name(f"{node.name}.{out}"))


def _branch(node: onnx.NodeProto, constants: Constants) -> onnx.GraphProto | None:
    """Return the branch that an If takes, or None: no If, or a condition that is not known."""
    if node.domain or node.op_type != "If" or len(node.input) != 1 or node.input[0] not in constants:
        return None
    condition = constants[node.input[0]]
    if condition.size != 1 or condition.dtype != bool:
        return None
    wanted = "then_branch" if condition.reshape(-1)[0] else "else_branch"
    found = [a.g for a in node.attribute if a.name == wanted and a.type == AttributeProto.GRAPH]
    return found[0] if found and len(found[0].output) == len(node.output) else None


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    """Return a node whose values have other names; in the graphs that it holds too, but for what these make."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[:] = [names.get(name, name) for name in node.input]
    made.output[:] = [names.get(name, name) for name in node.output]
    for graph in _graphs(made):
        own = {t.name for t in graph.initializer} | {name for inner in graph.node for name in inner.output}
        outer = {name: new for name, new in names.items() if name not in own}
        inside = [_renamed(inner, outer) for inner in graph.node]
        del graph.node[:]
        graph.node.extend(inside)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)
    return made
