"""What onnx infers about one node: the model of nothing but that node, and the types of its outputs.

A whole model is never given to onnx's inference: it ends the process where sizes fall below zero on the way, as they do
in damaged models.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Types = dict[str, onnx.TypeProto]
SHAPE_LIKE = 1 << 10  # values of a constant that may say how large a result is
GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def tensor_type(shape: Iterable[int], kind: int = TensorProto.FLOAT) -> onnx.TypeProto:
    """Return the ONNX type of a tensor."""
    return helper.make_tensor_type_proto(kind, list(shape))


def array_type(array: NDArray[Any]) -> onnx.TypeProto:
    """Return the ONNX type of a constant."""
    return tensor_type(array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))


def sizes(found: onnx.TypeProto) -> tuple[int, ...] | None:
    """Return the shape of a type, or None unless all of its sizes are known."""
    dims = found.tensor_type.shape.dim
    if not found.tensor_type.HasField("shape") or not all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims):
        return None
    return tuple(d.dim_value for d in dims)


def holds_graph(node: onnx.NodeProto) -> bool:
    """Whether a node has inner graphs: branches, bodies of loops."""
    return any(a.type in GRAPHS for a in node.attribute)


def model_of(
    node: onnx.NodeProto,
    types: Types,
    constants: Mapping[str, NDArray[Any]],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> onnx.ModelProto:
    """Return a model of one node whose inputs have these types; small constants are initializers as well.

    So the size of a result shows where the values of a constant say it.
    """
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_value_info(name, found) for name, found in types.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
        [numpy_helper.from_array(a, name) for name, a in constants.items() if name in types and a.size <= SHAPE_LIKE],
    )
    return helper.make_model(graph, opset_imports=list(opsets))


def strict_types(model: onnx.ModelProto) -> Types:
    """Return the types of the outputs of a model of one node, whether or not their sizes are known.

    Raises:
        Exception: of the library, which has many: types, shapes or attributes contradict each other; nothing is known.
    """
    if holds_graph(model.graph.node[0]) or _slices_nothing(model):
        raise ValueError("its sizes cannot be inferred")
    made = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph.output
    for value in made:
        if any(d.dim_value < 0 for d in value.type.tensor_type.shape.dim):
            raise ValueError(f"{value.name!r} would have sizes below zero")
    return {value.name: value.type for value in made}


def _slices_nothing(model: onnx.ModelProto) -> bool:
    """Whether a Slice reads an empty tensor: sizes fall below zero where steps go backwards through nothing."""
    empty = any(0 in (sizes(value.type) or ()) for value in model.graph.input)
    return empty and model.graph.node[0].op_type == "Slice"


def output_types(model: onnx.ModelProto) -> Types:
    """Return the types of the outputs of a model of one node, those alone whose sizes are known."""
    if holds_graph(model.graph.node[0]) or _slices_nothing(model):
        return {}  # sizes may fall below zero
    made = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    return {value.name: value.type for value in made if sizes(value.type) is not None}
