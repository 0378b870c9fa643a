"""From an ONNX file to the float graph: opset 11 to 21, float models and symmetric QDQ models.

Each supported operator has one small function (`onnx_ops`, `onnx_moves`, `onnx_qdq`); this module loads, folds
constants and walks the nodes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from npu_isa.errors import ModelError, UnsupportedError
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from npu_compiler.frontend import moves as onnx_moves  # noqa: F401  they register their operators
from npu_compiler.frontend import ops as onnx_ops  # noqa: F401  they register their operators
from npu_compiler.frontend import qdq as onnx_qdq  # noqa: F401  they register their operators
from npu_compiler.frontend.importer import OPERATORS, Importer, Refused
from npu_compiler.graph.ir import Graph

OPSETS = range(11, 22)
NAMED = 3  # nodes named of those that are refused alike
MAX_FOLDED_ELEMENTS = 1 << 26


def read_onnx(path: str | Path, *, requantize: bool = False) -> Graph:
    """Read an ONNX model.

    Args:
        path: the file; one image input (N, C, H, W) with known C, H and W, one output.
        requantize: drop the activation quantization of a QDQ model, so that it is calibrated anew.

    Returns:
        the float graph, one node an operator, not yet optimized.

    Raises:
        ModelError: no such file, not an ONNX model, shapes that contradict each other or are not known.
        UnsupportedError: operators or attributes outside the supported ones; all of them at once.
    """
    where = Path(path).name
    model = _load(Path(path), where)
    _check_opset(model, where)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except Exception as error:  # the library raises many types; all mean a damaged model
        raise ModelError(f"shape inference fails: {_first_line(error)}", where, "check the model") from None
    importer = Importer(model.graph.name or where, *_image_input(model, where), requantize=requantize)
    refused = _walk(model, importer)
    if refused:
        raise UnsupportedError(
            _refusals(refused), where, f"supported operators: {', '.join(sorted(OPERATORS))}; change or cut the model"
        )
    return _finish(model, importer, where)


def _refusals(refused: list[tuple[str, str, str]]) -> str:
    """Return what is refused, (node, operator, reason) each, with equal reasons of one operator together."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for name, operator, reason in refused:
        nodes.setdefault((operator, reason), []).append(name)
    parts = []
    for (operator, reason), names in nodes.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        parts.append(f"node{'s' * (len(names) > 1)} {', '.join(names[:NAMED])}{more} ({operator}): {reason}")
    return "; ".join(parts)


def _walk(model: onnx.ModelProto, importer: Importer) -> list[tuple[str, str, str]]:
    """Import every node; return the refusals: node, operator, reason.

    What reads a refused node is judged too where shape inference knows what the node makes; else it is passed over.
    """
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    inferred = {v.name: v.type.tensor_type for v in (*model.graph.value_info, *model.graph.output)}
    opset = {o.domain: o for o in model.opset_import}
    refused: list[tuple[str, str, str]] = []
    lost: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if _fold_constant(node, constants, opset, importer):
            continue
        function = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if function is not None and lost & set(node.input):
            lost.update(node.output)
            continue
        try:
            if function is None:
                raise Refused("operator not supported")
            function(importer, node, constants)
        except Refused as error:
            refused.append((node.name or f"#{index}", node.op_type, str(error)))
            for name in node.output:
                shape = tuple(d.dim_value for d in inferred[name].shape.dim[1:]) if name in inferred else ()
                if not importer.assume(name, shape):
                    lost.add(name)
    return refused


def _load(path: Path, where: str) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError("no such file", str(path), "give the path of an ONNX model")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, checker and external data raise many types
        raise ModelError(
            f"not a readable ONNX model: {_first_line(error)}",
            where,
            "export the model again; `onnx.checker` says more",
        ) from None
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_opset(model: onnx.ModelProto, where: str) -> None:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version not in OPSETS:
            raise UnsupportedError(
                f"opset {entry.version} is not supported",
                where,
                f"convert the model to opset {OPSETS.start}..{OPSETS.stop - 1} (onnx.version_converter)",
            )


def _image_input(model: onnx.ModelProto, where: str) -> tuple[str, tuple[int, int, int]]:
    given = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in given]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UnsupportedError(
            f"the model has {len(inputs)} inputs and {len(model.graph.output)} outputs, needs one of each",
            where,
            "cut the model to one image input and one output",
        )
    tensor = inputs[0].type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
    if len(shape) != 4 or not all(shape[1:]):
        text = ", ".join(d.dim_param or str(d.dim_value) for d in tensor.shape.dim)
        raise ModelError(
            f"input {inputs[0].name!r} has shape ({text}), needs (N, channels, height, width) with known sizes",
            where,
            "fix the sizes, e.g. onnx.tools.update_model_dims, and export again",
        )
    if tensor.elem_type != TensorProto.FLOAT:
        raise UnsupportedError(f"input {inputs[0].name!r} is not float32", where, "export the model with float inputs")
    return inputs[0].name, (shape[1], shape[2], shape[3])


def _fold_constant(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], opset: dict[str, onnx.OperatorSetIdProto], imp: Importer
) -> bool:
    """Evaluate a node whose inputs are all constants (Shape: whose input has a known shape); QDQ weights stay pairs."""
    names = [i for i in node.input if i]
    if node.op_type == "Shape" and names[0] in imp.shapes:
        constants[node.output[0]] = np.array((1, *imp.full_shape(names[0])), np.int64)
        return True
    if node.op_type in ("DequantizeLinear", "RandomNormal", "RandomUniform") or any(i not in constants for i in names):
        return False
    if sum(constants[i].size for i in names) > MAX_FOLDED_ELEMENTS:
        return False
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_tensor_value_info(i, helper.np_dtype_to_tensor_dtype(constants[i].dtype), None) for i in names],
        [helper.make_tensor_value_info(o, TensorProto.UNDEFINED, None) for o in node.output],
    )
    try:
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(opset.values())))
        results: Any = evaluator.run(None, {i: constants[i] for i in names})
    except Exception as error:  # any failure of the reference evaluator leaves the node to be refused by name
        raise ModelError(
            f"constant node {node.name or node.op_type} cannot be evaluated: {_first_line(error)}"
        ) from None
    constants.update(zip(node.output, results, strict=True))
    return True


def _finish(model: onnx.ModelProto, importer: Importer, where: str) -> Graph:
    name = model.graph.output[0].name
    output = importer.alias(name)
    if output not in importer.shapes:
        raise ModelError(f"output {name!r} is not computed from the image", where, "check the model")
    if output == importer.input:
        raise ModelError("the model computes nothing", where, "check the model")
    shape = importer.full_shape(name)
    return Graph(
        name=Path(where).stem,
        nodes=tuple(importer.nodes),
        shapes=importer.shapes,
        input=importer.input,
        output=output,
        output_shape=shape,
        quant=importer.quant,
    )
