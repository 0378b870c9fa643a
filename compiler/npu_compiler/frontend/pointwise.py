"""ONNX functions of one value: activations, powers, roots; each a clamp, a slope or a curve."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from npu_compiler.frontend import build
from npu_compiler.frontend.constants import per_channel
from npu_compiler.frontend.importer import (
    REFUSALS,
    Constants,
    Importer,
    Refused,
    Value,
    attributes,
    needed_weights,
    operator,
    scalar,
    text,
)
from npu_compiler.frontend.qdq import narrow
from npu_compiler.graph.curves import Program
from npu_compiler.graph.ir import Activation, Clip, Curve, LeakyRelu

STEEP = 1e300  # times the least float32 above zero it is above 1: a step, once it is clamped
POSITIVE: Program = ("x", 0.0, "max")
NEGATIVE: Program = ("x", 0.0, "min")
ROOT_HALF = math.sqrt(0.5)
GELU_TANH = math.sqrt(2 / math.pi)

REFUSALS |= dict.fromkeys(("Floor", "Ceil", "Round", "Mod"), "a curve with any number of steps is not supported")


def activation(imp: Importer, node: onnx.NodeProto, act: Activation | Curve) -> None:
    """Append an activation of the node's first input; the axes stay as they are."""
    value = imp.value(node.input[0])
    imp.finish(build.activate(imp, value.tensor, act), value.order)


@operator("Relu", element_wise=True, limits="all of it")
def _relu(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    activation(imp, node, Clip(low=0.0))


def limits(low: float, high: float) -> Activation | Curve:
    """Return a clamp; where it excludes 0, the value of padding, it is a curve."""
    if low <= 0 <= high:
        return Clip(low, high)
    program: Program = ("x",) if low == -np.inf else ("x", low, "max")
    return Curve(program if high == np.inf else (*program, high, "min"))


@operator("Clip", element_wise=True, limits="constant limits")
def _clip(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if node.input[0] in imp.integers:
        narrow(imp, node, constants)
        return
    low, high = (scalar(node, i, constants, "a limit") for i in (1, 2))
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    if math.isnan(low) or math.isnan(high) or low == np.inf or high == -np.inf:
        raise Refused(f"limits {low}..{high}")
    activation(imp, node, limits(low, high))


@operator("LeakyRelu", element_wise=True, limits="any slope")
def _leaky(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    _leak(imp, imp.value(node.input[0]), float(attributes(node).get("alpha", 0.01)))


def _leak(imp: Importer, value: Value, alpha: float | tuple[float, ...]) -> None:
    if not np.isfinite(alpha).all():
        raise Refused("a slope is not finite")
    imp.finish(build.activate(imp, value.tensor, LeakyRelu(alpha)), value.order)


@operator("PRelu", element_wise=True, limits="a constant slope, one or one per channel, of any sign and size")
def _prelu(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    slope = needed_weights(imp, node, 1, constants, "the slope")[0].astype(np.float64)
    if np.unique(slope).size == 1:
        _leak(imp, imp.value(node.input[0]), float(slope.reshape(-1)[0]))
    else:
        value, slopes = per_channel(imp, imp.value(node.input[0]), slope)
        _leak(imp, value, tuple(slopes.tolist()))


# -- curves

Attributes = Mapping[str, Any]


def _gelu(attrs: Attributes) -> Program:
    kind = text(attrs, "approximate", "none")
    if kind not in ("none", "tanh"):
        raise Refused(f"approximate {kind!r} is unknown")
    half: Program = ("x", 0.5, "mul")
    if kind == "none":
        return (*half, "x", ROOT_HALF, "mul", "erf", 1.0, "add", "mul")
    cubic: Program = ("x", "x", "x", "x", "mul", "mul", 0.044715, "mul", "add", GELU_TANH, "mul", "tanh")
    return (*half, *cubic, 1.0, "add", "mul")


def _hard_sigmoid(alpha: float, beta: float) -> Program:
    return ("x", alpha, "mul", beta, "add", 0.0, "max", 1.0, "min")


def _elu(alpha: float, gamma: float = 1.0) -> Program:
    """gamma * (x above zero, alpha * (exp(x) - 1) below)."""
    return (*POSITIVE, *NEGATIVE, "exp", 1.0, "sub", alpha, "mul", "add", gamma, "mul")


def _celu(alpha: float) -> Program:
    if not alpha:
        raise Refused("alpha 0 divides by zero")
    return (*POSITIVE, "x", alpha, "div", "exp", 1.0, "sub", alpha, "mul", 0.0, "min", "add")


def _number(attrs: Attributes, name: str, default: float) -> float:
    value = float(attrs.get(name, default))
    if not math.isfinite(value):
        raise Refused(f"{name} {value} is not finite")
    return value


CURVES: dict[str, tuple[str, Callable[[Attributes], Program]]] = {
    "Sigmoid": ("all of it", lambda attrs: ("x", "sigmoid")),
    "Tanh": ("all of it", lambda attrs: ("x", "tanh")),
    "Erf": ("all of it", lambda attrs: ("x", "erf")),
    "Exp": ("all of it", lambda attrs: ("x", "exp")),
    "Log": ("all of it", lambda attrs: ("x", "log")),
    "Sqrt": ("all of it", lambda attrs: ("x", "sqrt")),
    "Reciprocal": ("all of it", lambda attrs: ("x", "reciprocal")),
    "Abs": ("all of it", lambda attrs: ("x", "abs")),
    "Softplus": ("all of it", lambda attrs: ("x", "softplus")),
    "Softsign": ("all of it", lambda attrs: ("x", "x", "abs", 1.0, "add", "div")),
    "Mish": ("all of it", lambda attrs: ("x", "x", "softplus", "tanh", "mul")),
    "HardSwish": ("all of it", lambda attrs: ("x", *_hard_sigmoid(1 / 6, 0.5), "mul")),
    "Sign": ("all of it", lambda attrs: ("x", STEEP, "mul", -1.0, "max", 1.0, "min")),
    "HardSigmoid": (
        "any alpha and beta",
        lambda attrs: _hard_sigmoid(_number(attrs, "alpha", 0.2), _number(attrs, "beta", 0.5)),
    ),
    "Gelu": ("both approximations", _gelu),
    "Elu": ("any alpha", lambda attrs: _elu(_number(attrs, "alpha", 1.0))),
    "Selu": (
        "any alpha and gamma",
        lambda attrs: _elu(_number(attrs, "alpha", 1.67326319), _number(attrs, "gamma", 1.05070102)),
    ),
    "Celu": ("any alpha but 0", lambda attrs: _celu(_number(attrs, "alpha", 1.0))),
    "ThresholdedRelu": (
        "any alpha",
        lambda attrs: ("x", "x", _number(attrs, "alpha", 1.0), "sub", STEEP, "mul", 0.0, "max", 1.0, "min", "mul"),
    ),
}


def _curve(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    activation(imp, node, Curve(CURVES[node.op_type][1](attributes(node))))


for _name, (_limits, _) in CURVES.items():
    operator(_name, element_wise=True, limits=_limits)(_curve)


@operator("Neg", element_wise=True, limits="all of it")
def _neg(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    value = imp.value(node.input[0])
    imp.finish(build.affine(imp, value.tensor, -1, 0), value.order)


@operator("Pow", element_wise=True, limits="a constant exponent or a constant base of one value")
def _pow(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    base, exponent = node.input
    if imp.known(base) and imp.known(exponent):
        raise Refused("a power of two computed tensors is not supported; one of them must be constant")
    index = 1 if imp.known(base) else 0
    number = scalar(node, index, constants, "the exponent" if index else "the base")
    if number is None or not math.isfinite(number):
        raise Refused(f"{number} is not a finite number")
    value = imp.value(node.input[1 - index])
    program: Program = ("x", number, "pow") if index else (number, "x", "pow")
    imp.finish(build.activate(imp, value.tensor, Curve(program)), value.order)
