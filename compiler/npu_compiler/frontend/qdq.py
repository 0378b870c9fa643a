"""ONNX QuantizeLinear and DequantizeLinear: integers of 8 bits are kept, whatever their zero point; wider ones refused.

What bytes cannot hold as they are is seen to by `npu_compiler.quantize.zeros`, which knows who reads a tensor.
"""

from typing import Any, assert_never

import numpy as np
import onnx
from numpy.typing import NDArray

from npu_compiler.frontend.importer import (
    Constants,
    Importer,
    Refused,
    Steps,
    attributes,
    constant,
    needed,
    operator,
    scalar,
)
from npu_compiler.graph.ir import (
    ANEW,
    Act,
    Add,
    Affine,
    Channels,
    Clip,
    Concat,
    Conv,
    Crop,
    Identity,
    Mosaic,
    Mul,
    Pool,
    clips_negative,
    inputs,
    stored,
)

BYTES = {"int8": (-128, 127), "uint8": (0, 255)}
INT8 = BYTES["int8"]


@operator("QuantizeLinear", element_wise=True)
def _quantize(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    steps = _steps(node, constants)
    imp.integers.add(node.output[0])
    source = node.input[0]
    if imp.requantize:
        _keep_clamp(imp, node, source, steps)
    elif source in imp.rounded and imp.quant[imp.value(source).tensor] != stored(*steps.range)[0]:
        value = imp.value(source)  # quantized anew: what is rounded already is rounded again
        made = Act(*imp.identity(node), value.tensor, Identity())
        imp.emit(made, imp.shapes[value.tensor], flat=value.flat, order=value.order)
        source = node.output[0]
    elif steps.low < 0 or source not in imp.plain:
        imp.same(node, source)
    else:  # whoever reads the value as it is must not get it clamped
        _keep_clamp(imp, node, source, steps)
        source = node.output[0]
    imp.quantized[node.output[0]] = (source, steps)


def narrow(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    """Import a Clip of integers: quantization to fewer bits, as Brevitas writes it (QCDQ)."""
    if node.input[0] not in imp.quantized:
        raise Refused("its input is integers that no QuantizeLinear makes")
    source, steps = imp.quantized[node.input[0]]
    low, high = (scalar(node, i, constants, "a limit") for i in (1, 2))
    least = steps.low if low is None else max(steps.low, round(low) - steps.zero)
    most = steps.high if high is None else min(steps.high, round(high) - steps.zero)
    if not least <= 0 <= most:
        raise Refused(f"limits {low}..{high} exclude the zero point {steps.zero}")
    imp.same(node, node.input[0])
    imp.integers.add(node.output[0])
    imp.quantized[node.output[0]] = (source, Steps(steps.scale, steps.zero, least, most))


def _keep_clamp(imp: Importer, node: onnx.NodeProto, source: str, steps: Steps) -> None:
    """Put an activation in the place of a quantization whose least integer stands for 0.

    Quantizers leave a ReLU, or a ReLU6, to this clamp.
    """
    value = imp.value(source)
    if steps.low != 0 or _never_negative(imp, value.tensor):
        imp.same(node, source)
        return
    act = Clip(low=0.0, high=steps.scale * steps.high)
    imp.emit(Act(*imp.identity(node), value.tensor, act), imp.shapes[value.tensor], flat=value.flat, order=value.order)


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
        imp.rounded.add(node.output[0])
    imp.same(node, node.input[0])


def _fix(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    """Fix the quantization of the tensor that a QuantizeLinear and this node pass on."""
    if node.input[0] not in imp.quantized:
        raise Refused("its input is neither constant nor made by QuantizeLinear")
    source, given = imp.quantized[node.input[0]]
    own = _steps(node, constants)
    if (own.scale, own.zero) != (given.scale, given.zero):
        raise Refused("QuantizeLinear and DequantizeLinear have different scales or zero points")
    (fixed, *_), tensor = stored(*given.range), imp.value(source).tensor
    if imp.quant.setdefault(tensor, fixed) != fixed:
        raise Refused("the tensor is quantized twice, with different scales")


def _steps(node: onnx.NodeProto, constants: Constants) -> Steps:
    """Return what the integers of a Q or DQ node of activations stand for."""
    scale, zero = _constants(node, constants)
    if scale.size != 1 or (zero is not None and zero.size != 1):
        raise Refused("activations need one scale for the tensor")
    if zero is None:  # unsigned, unless opset 21 says otherwise
        kind = attributes(node).get("output_dtype", 0) or onnx.TensorProto.UINT8
        name = onnx.TensorProto.DataType.Name(kind).lower() if kind in onnx.TensorProto.DataType.values() else "these"
    else:
        name = zero.dtype.name
    if name not in BYTES:
        raise Refused(f"{name} integers are not supported")
    low, high = BYTES[name]
    offset = 0 if zero is None else int(zero.reshape(-1)[0])
    return Steps(float(scale.reshape(-1)[0]), offset, low - offset, high - offset)


def _dequantize_constant(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    """Keep a constant as its value, and where it is 8-bit multiples of a scale, that scale."""
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
    integers = array.astype(np.int64) - offset
    values = integers * scale.astype(np.float64).reshape(wide if scale.size > 1 else ())
    kept: NDArray[np.float32] | None = scale.astype(np.float32).reshape(-1)
    name = node.output[0]
    if imp.requantize:
        kept = None
    elif integers.size and not INT8[0] <= integers.min() <= integers.max() <= INT8[1]:
        kept = None
        less = " less their zero points" if np.any(offset) else ""
        imp.unkept[name] = (
            f"integers {integers.min()}..{integers.max()}{less}: weights must be {INT8[0]}..{INT8[1]}; {ANEW}"
        )
    imp.weights[name] = (values.astype(np.float32), kept)
    if scale.size > 1:
        imp.axes[name] = axis
