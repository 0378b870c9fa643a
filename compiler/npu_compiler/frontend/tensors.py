"""Constants of an ONNX model: reading them, and folding the nodes that only constants go into."""

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from npu_isa.errors import ModelError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from npu_compiler.frontend.importer import Constants, Importer, Refused, attributes
from npu_compiler.frontend.infer import array_type, holds_graph, model_of, output_types, sizes

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
MAX_FOLDED_VALUES = 1 << 27


def first_line(error: Exception) -> str:
    """Return the first line of an error of a library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_constants(tensors: Iterable[TensorProto], where: str) -> Constants:
    """Return initializers by name, all floating point as float32.

    Raises:
        ModelError: a tensor's type, shape and data do not fit each other, or a double is too large for float32.
    """
    found = {}
    for tensor in tensors:
        try:
            found[tensor.name] = single(numpy_helper.to_array(tensor))
        except Exception as error:  # the library raises many types; all mean a damaged tensor
            text = f"tensor {tensor.name!r} of shape {list(tensor.dims)} cannot be read: {first_line(error)}"
            raise ModelError(text, where, "export the model again") from None
    return found


def single(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array with floating point of 16 and 64 bits as float32, other types as they are.

    Raises:
        ValueError: a finite value becomes infinite.
    """
    if array.dtype.name not in ("float16", "bfloat16", "float64"):
        return array
    with np.errstate(over="ignore"):
        made = np.asarray(array, np.float32)
    if array.dtype == np.float64 and (np.isinf(made) & np.isfinite(array)).any():
        raise ValueError(f"its {array.dtype} values leave the range of float32")
    return made


def fold_constant(
    imp: Importer, node: onnx.NodeProto, constants: Constants, opsets: Iterable[onnx.OperatorSetIdProto]
) -> bool:
    """Evaluate a node whose inputs are all constants (Shape: whose input has a known shape).

    Left alone are the weights of QDQ models, which stay pairs of integers and scale, random values and inner graphs.

    Returns:
        whether the outputs are now among the constants.

    Raises:
        Refused: the node cannot be evaluated, or makes more than MAX_FOLDED_VALUES values.
    """
    names = [i for i in node.input if i]
    if node.domain or node.op_type == "DequantizeLinear":
        return False
    if node.op_type == "Shape" and names and (shape := imp.shape_of(names[0])) is not None:
        attrs = attributes(node)
        constants[node.output[0]] = np.array(shape[attrs.get("start", 0) : attrs.get("end", len(shape))], np.int64)
        return True
    if any(i not in constants for i in names) or _random(node, opsets) or holds_graph(node):
        return False
    given = {i: constants[i] for i in names}
    try:
        model = model_of(node, {name: array_type(array) for name, array in given.items()}, given, opsets)
        _check_size(model)
        with warnings.catch_warnings(action="ignore"):
            results: Any = ReferenceEvaluator(model).run(None, given)
        made = [single(np.asarray(r)) for r in results]
    except Refused:
        raise
    except Exception as error:  # the library raises many types; all mean a damaged or an unknown node
        raise Refused(f"its constants cannot be evaluated: {first_line(error)}") from None
    constants.update(zip(filter(None, node.output), made, strict=True))
    return True


def _random(node: onnx.NodeProto, opsets: Iterable[onnx.OperatorSetIdProto]) -> bool:
    """Whether a node may make other values each time: then its schema has a seed."""
    version = next((o.version for o in opsets if not o.domain), 1)
    return "seed" in onnx.defs.get_schema(node.op_type, version).attributes


def _check_size(model: onnx.ModelProto) -> None:
    """Refuse a node whose results are not known to be small, before they take memory."""
    found = output_types(model)
    for value in model.graph.output:
        shape = sizes(found[value.name]) if value.name in found else None
        if shape is None:
            raise Refused("the size of the constant that it makes is not known")
        if math.prod(shape) > MAX_FOLDED_VALUES:
            raise Refused(f"it makes a constant of shape {list(shape)}: too large")
