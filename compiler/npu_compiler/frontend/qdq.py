"""ONNX QuantizeLinear and DequantizeLinear: symmetric quantization is kept, the rest refused."""

from typing import Any, assert_never

import numpy as np
import onnx
from numpy.typing import NDArray

from npu_compiler.frontend.importer import Constants, Importer, Refused, attributes, constant, needed, operator
from npu_compiler.graph.ir import (
    Act,
    Add,
    Affine,
    Channels,
    Clip,
    Concat,
    Conv,
    Crop,
    Mosaic,
    Mul,
    Pool,
    TensorQuant,
    clips_negative,
    inputs,
)


@operator("QuantizeLinear", element_wise=True)
def _quantize(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    imp.integers.add(node.output[0])
    if imp.requantize:
        _keep_clamp(imp, node, constants)
        return
    scale, signed = _scale(node, constants)
    if scale.size != 1:
        raise Refused("activations need one scale for the tensor")
    source = node.input[0]
    if signed or source not in imp.plain:
        imp.same(node, source)
    else:  # whoever reads the value as it is must not get it clamped
        _keep_clamp(imp, node, constants)
        source = node.output[0]
    imp.quantized[node.output[0]] = (source, float(scale.reshape(-1)[0]), signed)


def _keep_clamp(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    """Put an activation in the place of a quantization whose least integer stands for 0.

    Quantizers leave a ReLU, or a ReLU6, to this clamp.
    """
    scale, zero = _constants(node, constants)
    if zero is not None and zero.dtype.kind not in "iu":
        raise Refused(f"{zero.dtype} integers are not supported")
    kind = np.iinfo(np.uint8) if zero is None else np.iinfo(zero.dtype)
    offset = 0 if zero is None else int(zero.reshape(-1)[0])
    value = imp.value(node.input[0])
    if offset != kind.min or scale.size != 1 or _never_negative(imp, value.tensor):
        imp.same(node, node.input[0])
        return
    act = Clip(low=0.0, high=float(scale.reshape(-1)[0]) * (kind.max - offset))
    made = Act(*imp.identity(node), value.tensor, act)
    imp.emit(made, imp.shapes[value.tensor], flat=value.flat, order=value.order)


def _constants(node: onnx.NodeProto, constants: Constants) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the scale of a Q or DQ node, above zero, and its zero point: one value, or as many as scales."""
    scale, zero = needed(node, 1, constants, "the scale"), constant(node, 2, constants, "the zero point")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise Refused("a scale is not a number above 0")
    if scale.ndim > 1 and scale.size > 1:
        raise Refused(f"scales of shape {list(scale.shape)}: only one for the tensor or one per channel is supported")
    if zero is not None and zero.size not in (1, scale.size):
        raise Refused(f"{scale.size} scales and {zero.size} zero points")
    return scale, zero


def _never_negative(imp: Importer, tensor: str) -> bool:
    found: set[str] = set()
    for made in imp.nodes:
        match made:
            case Act(act=act):
                least_is_zero = clips_negative(act)
            case Pool() | Concat() | Mosaic() | Crop() | Channels() | Mul():
                least_is_zero = found.issuperset(inputs(made))
            case Conv() | Affine() | Add():
                least_is_zero = False
            case _:
                assert_never(made)
        found |= {made.out} if least_is_zero else set()
    return tensor in found


@operator("DequantizeLinear", element_wise=True)
def _dequantize(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if node.input[0] in constants:
        _dequantize_constant(imp, node, constants)
        return
    if not imp.requantize and node.input[0] not in imp.assumed:  # assumed: the QuantizeLinear was refused
        _fix(imp, node, constants)
    imp.same(node, node.input[0])


def _fix(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    """Fix the quantization of the tensor that a QuantizeLinear and this node pass on."""
    if node.input[0] not in imp.quantized:
        raise Refused("its input is neither constant nor made by QuantizeLinear")
    scale, _ = _scale(node, constants)
    source, given, signed = imp.quantized[node.input[0]]
    if scale.size != 1 or float(scale.reshape(-1)[0]) != given:
        raise Refused("QuantizeLinear and DequantizeLinear have different scales")
    fixed = TensorQuant(given, signed)
    if imp.quant.setdefault(imp.value(source).tensor, fixed) != fixed:
        raise Refused("the tensor is quantized twice, with different scales")


def _scale(node: onnx.NodeProto, constants: Constants) -> tuple[NDArray[Any], bool]:
    """Return the scale of a Q or DQ node and whether its integers are signed; the zero point must be 0."""
    scale, zero = _constants(node, constants)
    if zero is None:  # unsigned, unless opset 21 says otherwise
        return scale, attributes(node).get("output_dtype", 0) == onnx.TensorProto.INT8
    if zero.dtype not in (np.int8, np.uint8, np.int32):
        raise Refused(f"{zero.dtype} integers are not supported")
    if zero.any():
        raise Refused(
            f"zero point {int(zero.reshape(-1)[0])}: only symmetric quantization is kept; compile with --requantize "
            "and calibration data to quantize anew"
        )
    return scale, zero.dtype != np.uint8


def _dequantize_constant(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    array = constants[node.input[0]]
    scale, zero = _constants(node, constants)
    if not array.dtype.name.startswith(("int", "uint")):
        raise Refused(f"{array.dtype} weights are not supported")
    axis = int(attributes(node).get("axis", 1))
    if scale.size > 1 and not (-array.ndim <= axis < array.ndim and array.shape[axis] == scale.size):
        raise Refused(f"{scale.size} scales on axis {axis} of a tensor of shape {list(array.shape)}")
    axis %= max(array.ndim, 1)
    wide = [1] * array.ndim
    if scale.size > 1:
        wide[axis] = scale.size
    offset = 0 if zero is None else zero.astype(np.int64).reshape(wide if zero.size > 1 else ())
    values = (array.astype(np.int64) - offset) * scale.astype(np.float64).reshape(wide if scale.size > 1 else ())
    kept: NDArray[np.float32] | None = scale.astype(np.float32).reshape(-1)
    if zero is not None and zero.any():
        if not imp.requantize:
            raise Refused("weights with a zero point other than 0; compile with --requantize and calibration data")
        kept = None
    if array.dtype != np.int8 or (scale.size > 1 and axis not in (0, 1)) or imp.requantize:
        kept = None
    if kept is not None and scale.size > 1 and axis == 1 and array.ndim != 2:
        kept = None
    imp.weights[node.output[0]] = (values.astype(np.float32), kept)
