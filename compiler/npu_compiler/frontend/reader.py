"""From an ONNX file to the float graph: float models and quantized ones.

`model` makes the file ready, `forms` writes quantized operators as QDQ, `image` finds the image; each supported
operator has one small function (`ops`, `moves`, `qdq`). This module walks the nodes.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from npu_isa.errors import ModelError, UnsupportedError

from npu_compiler.frontend import moves, ops, qdq  # noqa: F401  they register their operators
from npu_compiler.frontend.forms import to_qdq
from npu_compiler.frontend.image import find_image
from npu_compiler.frontend.importer import OPERATORS, Constants, Importer, Refused
from npu_compiler.frontend.infer import Types, array_type, model_of, output_types, sizes, tensor_type
from npu_compiler.frontend.model import load_model, shortened
from npu_compiler.frontend.tensors import fold_constant, read_constants
from npu_compiler.graph.ir import Graph


def read_onnx(path: str | Path, *, requantize: bool = False, input_shape: tuple[int, ...] | None = None) -> Graph:
    """Read an ONNX model.

    Args:
        path: the file; one image input, one output. An opset that is not supported is converted, floating point of 16
            and 64 bits read as float32; the graph's notes say so.
        requantize: drop the activation quantization of a quantized model, so that it is calibrated anew.
        input_shape: shape of the image input, with or without the batch, where the model leaves sizes open.

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
    nodes = model.graph.node
    names = {n.name for n in nodes} | {v for n in nodes for v in (*n.input, *n.output)}
    plain = {v for n in nodes if n.op_type != "QuantizeLinear" for v in n.input} | {model.graph.output[0].name}
    importer = Importer(image.name, image.shape, image.order, image.batch, names, plain, requantize=requantize)
    refused = _walk(model, importer, where, reasons)
    if refused:
        raise UnsupportedError(
            _refusals(refused), where, f"supported operators: {', '.join(sorted(OPERATORS))}; change or cut the model"
        )
    return _finish(model.graph.output[0].name, importer, where, notes)


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
    for node in model.graph.node:
        function = OPERATORS.get(node.op_type) if not node.domain else None
        try:
            if fold_constant(importer, node, constants, model.opset_import):
                continue
            if function is None or node.name in reasons:
                raise Refused(reasons.get(node.name, "operator not supported"))
            if not importer.lost & set(node.input):
                with np.errstate(all="ignore"):  # what is not finite is found where it is used
                    function(importer, node, constants)
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


def _finish(name: str, importer: Importer, where: str, notes: tuple[str, ...]) -> Graph:
    if not importer.known(name):
        raise ModelError(f"output {name!r} is not computed from the image", where, "check the model")
    value = importer.value(name)
    if value.tensor == importer.input:
        raise ModelError("the model computes nothing", where, "check the model")
    if name in importer.integers:
        hint = "let the model end in a DequantizeLinear: keep its float output"
        raise UnsupportedError(f"output {name!r} is integers", where, hint)
    if not importer.in_memory_order(value):
        raise UnsupportedError(
            f"output {name!r} has its channels not first: shape (N, {', '.join(map(str, importer.full_shape(name)))})",
            where,
            "remove the Transpose before the output",
        )
    return Graph(
        name=Path(where).stem,
        nodes=tuple(importer.nodes),
        shapes=importer.shapes,
        input=importer.input,
        output=value.tensor,
        output_shape=importer.full_shape(name),
        quant=importer.quant,
        notes=notes,
    )
