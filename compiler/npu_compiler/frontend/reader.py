"""From an ONNX file to the float graph: float models and symmetric QDQ models.

Each supported operator has one small function (`ops`, `moves`, `qdq`); this module finds the image and walks the nodes.
"""

from pathlib import Path

import numpy as np
import onnx
from npu_isa.errors import ModelError, UnsupportedError

from npu_compiler.frontend import moves, ops, qdq  # noqa: F401  they register their operators
from npu_compiler.frontend.image import find_image
from npu_compiler.frontend.importer import OPERATORS, Importer, Refused
from npu_compiler.frontend.model import load_model, shortened
from npu_compiler.frontend.tensors import first_line, fold_constant, read_constants
from npu_compiler.graph.ir import Graph


def read_onnx(path: str | Path, *, requantize: bool = False, input_shape: tuple[int, ...] | None = None) -> Graph:
    """Read an ONNX model.

    Args:
        path: the file; one image input, one output. An opset that is not supported is converted, floating point of 16
            and 64 bits read as float32; the graph's notes say so.
        requantize: drop the activation quantization of a QDQ model, so that it is calibrated anew.
        input_shape: shape of the image input, with or without the batch, where the model leaves sizes open.

    Returns:
        the float graph, one node an operator, not yet optimized.

    Raises:
        ModelError: no such file, not an ONNX model, shapes that contradict each other or are not known.
        UnsupportedError: operators or attributes outside the supported ones; all of them at once.
    """
    where = Path(path).name or str(path)
    model, notes = load_model(Path(path), where)
    image = find_image(model.graph, where, input_shape)
    nodes = model.graph.node
    names = {n.name for n in nodes} | {v for n in nodes for v in (*n.input, *n.output)}
    importer = Importer(image.name, image.shape, image.order, image.batch, names, requantize=requantize)
    refused = _walk(model, importer, where)
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


def _walk(model: onnx.ModelProto, importer: Importer, where: str) -> list[tuple[str, str, str]]:
    """Import every node; return the refusals: node, operator, reason.

    What reads a refused node is judged too where shape inference knows what the node makes; else it is passed over.
    """
    constants = read_constants(model.graph.initializer, where)
    inferred = _infer_shapes(model, where)
    refused: list[tuple[str, str, str]] = []
    lost: set[str] = set()
    for node in model.graph.node:
        function = OPERATORS.get(node.op_type) if not node.domain else None
        if lost & set(node.input):
            lost.update(node.output)
            if function is not None:
                continue
        try:
            if fold_constant(importer, node, constants, model.opset_import):
                continue
            if function is None:
                raise Refused("operator not supported")
            with np.errstate(all="ignore"):  # what is not finite is found where it is used
                function(importer, node, constants)
        except Refused as error:
            refused.append((node.name, node.op_type, str(error)))
            for name in node.output:
                if not importer.assume(name, inferred.get(name, ())):
                    lost.add(name)
    return refused


def _infer_shapes(model: onnx.ModelProto, where: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every value that has one, the batch left out, 0 for a size that is not known.

    What the model declares of inner values may be wrong: it counts only where nothing can be inferred.
    """
    declared = list(model.graph.value_info)
    del model.graph.value_info[:]
    try:
        made = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # the library raises many types; all mean a damaged model
        raise ModelError(f"shape inference fails: {first_line(error)}", where, "check the model") from None
    found = (*declared, *made.graph.value_info, *made.graph.output)
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim[1:]) for v in found}


def _finish(name: str, importer: Importer, where: str, notes: tuple[str, ...]) -> Graph:
    if not importer.known(name):
        raise ModelError(f"output {name!r} is not computed from the image", where, "check the model")
    value = importer.value(name)
    if value.tensor == importer.input:
        raise ModelError("the model computes nothing", where, "check the model")
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
