"""From an ONNX file to the float graph: float models and quantized ones.

`model` makes the file ready, `forms` writes quantized operators as QDQ, `image` finds the image; each supported
operator has one small function (`ops`, `moves`, `qdq`). This module walks the nodes.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from npu_isa.errors import ModelError, UnsupportedError

from npu_compiler.frontend import moves, ops, qdq  # noqa: F401  they register their operators
from npu_compiler.frontend.arrange import gives, result
from npu_compiler.frontend.branches import every_node, taken
from npu_compiler.frontend.forms import to_qdq
from npu_compiler.frontend.host import NotCutError, cut, host_part
from npu_compiler.frontend.image import Image, find_image
from npu_compiler.frontend.importer import (
    FEW_PARTS,
    MAX_PARTS,
    OPERATORS,
    Constants,
    Importer,
    Refused,
    check_operator,
    import_node,
)
from npu_compiler.frontend.infer import Types, array_type, model_of, output_types, sizes, tensor_type
from npu_compiler.frontend.model import load_model, shortened
from npu_compiler.frontend.tensors import fold_constant, read_constants
from npu_compiler.graph.ir import Conv, Graph
from npu_compiler.graph.passes.prune import prune
from npu_compiler.outputs import HostChoice, Output


def read_onnx(
    path: str | Path,
    *,
    requantize: bool = False,
    input_shape: tuple[int, ...] | None = None,
    host: HostChoice = "auto",
) -> Graph:
    """Read an ONNX model.

    Args:
        path: the file; one image input, one output or more. An opset that is not supported is converted, floating
            point of 16 and 64 bits read as float32; the graph's notes say so.
        requantize: drop the activation quantization of a quantized model, so that it is calibrated anew.
        input_shape: shape of the image input, with or without the batch, where the model leaves sizes open.
        host: "auto": what is refused at the end of the model runs on the host; "none": it is refused.

    Returns:
        the float graph, one node an operator, not yet optimized.

    Raises:
        ModelError: no such file, not an ONNX model, shapes that contradict each other or are not known.
        UnsupportedError: operators or attributes outside the supported ones; all of them at once.
    """
    where = Path(path).name or str(path)
    model, notes = load_model(Path(path), where)
    reasons = to_qdq(model.graph)
    image = find_image(model.graph, where, input_shape)
    graph = _read(model, notes, image, where, reasons, requantize=requantize, host=host)
    return replace(graph, takes_bytes=image.is_bytes)


def _read(
    model: onnx.ModelProto,
    notes: tuple[str, ...],
    image: Image,
    where: str,
    reasons: Mapping[str, str],
    *,
    requantize: bool,
    host: HostChoice,
) -> Graph:
    """Return the graph of a model that is ready to be imported; see `read_onnx`."""
    outputs = _output_names(model.graph, where)
    nodes = list(every_node(model.graph.node))
    names = {n.name for n in nodes} | {v for n in nodes for v in (*n.input, *n.output)}
    plain = {v for n in nodes if n.op_type != "QuantizeLinear" for v in n.input} | set(outputs)

    opset = next((o.version for o in model.opset_import if not o.domain), 1)

    def attempt(parts: int, softmax: int = 0) -> Graph | str:
        """Return the graph, or why there is none.

        Args:
            parts: values move in so many at most.
            softmax: the opset by which the machine computes Softmax in the middle; 0: it is refused.
        """

        def new_importer() -> Importer:
            return Importer(image.name, image.shape, image.order, image.batch, names, plain, requantize, parts, softmax)

        importer = new_importer()
        refused, why = _walk(model, importer, where, reasons), ""
        if not refused and (host == "none" or all(gives(importer, name) for name in outputs)):
            return _finish(outputs, importer, where, notes)
        if host == "auto":
            try:
                return _cut(model, new_importer, outputs, where, notes, [name for name, _, _ in refused])
            except NotCutError as error:
                why = f"; the host cannot run this: {error}" if str(error) else ""
        if not refused and parts == MAX_PARTS:
            return _finish(outputs, importer, where, notes)  # which says what is wrong
        return _refusals(refused) + why

    few = attempt(FEW_PARTS) if host == "auto" else ""
    if isinstance(few, Graph) and not _host_macs(few):
        return few
    many = attempt(MAX_PARTS)
    if found := [graph for graph in (few, many) if isinstance(graph, Graph)]:
        return min(found, key=_host_macs)
    last = attempt(MAX_PARTS, opset) if host == "auto" else ""
    if isinstance(last, Graph):
        return last
    hint = f"supported operators: {', '.join(sorted(OPERATORS))}; change or cut the model"
    raise UnsupportedError(str(many), where, hint)


def _host_macs(graph: Graph) -> int:
    return 0 if graph.host is None else graph.host.macs


def _cut(
    model: onnx.ModelProto,
    new_importer: Callable[[], Importer],
    outputs: list[str],
    where: str,
    notes: tuple[str, ...],
    refused: list[str],
) -> Graph:
    """Return the graph of what the machine can do, the rest as the host's part.

    Raises:
        NotCutError: there is nothing to cut off, or nothing left, or the host cannot run what is cut off.
    """
    importer, part = cut(model, new_importer, outputs, where)
    given = [name for name in outputs if name not in part.made]
    given += [name for name in part.reads() if name not in given]
    if not given or all(importer.value(name).tensor == importer.input for name in given):
        raise NotCutError  # nothing is left for the machine: the refusal says enough
    idle = [name for name in refused if name not in {node.name for node, _ in part.nodes}]
    notes += (f"left out, as no output needs them: {shortened(idle)}",) if idle else ()
    if part.nodes and not part.reads():
        raise NotCutError("it reads nothing that the machine gives")
    graph = _finish(given, importer, where, notes)
    if not part.nodes:
        return graph
    macs = sum(
        node.weight.size * math.prod(graph.shapes[node.out][1:])
        for node in prune(graph).nodes
        if isinstance(node, Conv)
    )
    return replace(graph, host=host_part(part, importer, outputs, macs, model.opset_import))


def _output_names(graph: onnx.GraphProto, where: str) -> list[str]:
    """Return the names of the outputs, one or more, each once."""
    names = [value.name for value in graph.output]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        fault = f"several outputs are called {shortened(twice)}" if twice else "the model has no outputs"
        raise ModelError(fault, where, "export the model again, each output with a name of its own")
    return names


def _refusals(refused: list[tuple[str, str, str]]) -> str:
    """Return what is refused, (node, operator, reason) each, with equal reasons of one operator together."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for name, operator, reason in refused:
        nodes.setdefault((operator, reason), []).append(name)
    return "; ".join(
        f"node{'s' * (len(names) > 1)} {shortened(names)} ({operator}): {reason}"
        for (operator, reason), names in nodes.items()
    )


def _walk(
    model: onnx.ModelProto, importer: Importer, where: str, reasons: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Import every node; return the refusals: node, operator, reason.

    What reads a refused node is judged too where it is known what shape of tensor that makes; else it is passed over.
    """
    constants = read_constants(model.graph.initializer, where)
    declared = {v.name: v.type for v in model.graph.value_info if sizes(v.type) is not None}
    refused: list[tuple[str, str, str]] = []
    for node in taken(importer, model.graph.node, constants, where):
        try:
            if fold_constant(importer, node, constants, model.opset_import):
                continue
            if node.name in reasons:
                raise Refused(reasons[node.name])
            check_operator(node)
            if not importer.lost & set(node.input):
                import_node(importer, node, constants)
                continue
        except Refused as error:
            refused.append((node.name, node.op_type, str(error)))
        found = declared | _output_types(importer, node, constants, model.opset_import)
        for name in filter(None, node.output):
            importer.assume(name, found.get(name))
    return refused


def _output_types(
    importer: Importer, node: onnx.NodeProto, constants: Constants, opsets: Iterable[onnx.OperatorSetIdProto]
) -> Types:
    """Return what is known of the outputs of a refused node, or of one that reads what is not known."""
    types = {}
    for name in filter(None, node.input):
        shape = importer.shape_of(name)
        if name in constants:
            types[name] = array_type(constants[name])
        elif name in importer.types:
            types[name] = importer.types[name]
        elif shape is not None:
            types[name] = tensor_type(shape)
        else:
            return {}
    try:
        return output_types(model_of(node, types, constants, opsets))
    except Exception:  # the library raises many types: nothing is known
        return {}


def _finish(names: list[str], importer: Importer, where: str, notes: tuple[str, ...]) -> Graph:
    outputs = tuple(_output(name, importer, where) for name in names)
    if all(output.tensor == importer.input for output in outputs):
        raise ModelError("the model computes nothing", where, "check the model")
    return Graph(
        name=Path(where).stem,
        nodes=tuple(importer.nodes),
        shapes=importer.shapes,
        input=importer.input,
        outputs=outputs,
        quant=importer.quant,
        notes=notes,
    )


def _output(name: str, importer: Importer, where: str) -> Output:
    if not importer.known(name):
        raise ModelError(f"output {name!r} is not computed from the image", where, "check the model")
    value = result(importer, importer.value(name))
    if name in importer.integers:
        hint = "let the model end in a DequantizeLinear: keep its float output"
        raise UnsupportedError(f"output {name!r} is integers", where, hint)
    if not importer.in_memory_order(value):
        raise UnsupportedError(
            f"output {name!r} has its channels not first: shape (N, {', '.join(map(str, importer.full_shape(name)))})",
            where,
            "remove the Transpose before the output",
        )
    return Output(name, value.tensor, importer.full_shape(name))
