"""QONNX, as Brevitas, FINN and others export it: Quant(x, scale, zero point, bit width) as QDQ.

Of a constant it becomes the integers and their scale, of an activation a QuantizeLinear, a Clip of the integers to the
bit width, and a DequantizeLinear (QCDQ). Source: the operators Quant and IntQuant of QONNX.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from npu_compiler.frontend.importer import Refused, attributes, text
from npu_compiler.frontend.writer import Array, Grid, Writer, inputs_of
from npu_compiler.graph.ir import unique

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
ROUNDINGS = ("ROUND", "HALF_EVEN")  # half to even


@dataclass(frozen=True)
class _Range:
    """Integers of a Quant: least, most, bits."""

    low: int
    high: int
    bits: int


def _range(w: Writer, node: onnx.NodeProto, bits_name: str) -> _Range:
    attrs, given = attributes(node), w.array(bits_name, "the bit width").reshape(-1)
    if given.size != 1 or not float(given[0]).is_integer():
        raise Refused(f"bit width {given.tolist()}: must be one whole number")
    bits, signed, narrow = int(given[0]), attrs.get("signed", 1), attrs.get("narrow", 0)
    if not 2 <= bits <= 32:
        raise Refused(f"{bits} bits: 2 to 8 are supported, 32 for constants such as a bias")
    if signed:
        return _Range(-(1 << bits - 1) + bool(narrow), (1 << bits - 1) - 1, bits)
    return _Range(0, (1 << bits) - 1 - bool(narrow), bits)


def quant(w: Writer, node: onnx.NodeProto) -> None:
    """Write a Quant as QDQ.

    Raises:
        Refused: rounding, zero point, bit width or scale that QDQ of 8 bits does not hold, or inputs that are missing.
    """
    x, scale_name, zero_name, bits_name = inputs_of(node, 4, 4)
    rounding = text(attributes(node), "rounding_mode", "ROUND").upper()
    if rounding not in ROUNDINGS:
        raise Refused(f"rounding_mode {rounding}: only {ROUNDINGS[0]} (half to even) is supported")
    scale, zero = w.array(scale_name, "the scale"), w.array(zero_name, "the zero point")
    if zero.any():
        raise Refused(f"zero point {zero.reshape(-1)[0]:g}: only 0 is supported in QONNX")
    if not (scale.size and np.isfinite(scale).all() and (scale > 0).all()):
        raise Refused("a scale is not a number above 0")
    limits = _range(w, node, bits_name)
    if x in w.constants:
        _quant_constant(w, node, w.array(x, "the weight"), scale.astype(np.float32), limits)
        return
    if limits.bits > 8:
        raise Refused(f"{limits.bits} bits: activations of 2 to 8 are supported")
    kind: Any = np.int8 if limits.low < 0 else np.uint8
    flat = scale.astype(np.float32).reshape(() if scale.size == 1 else scale.shape)
    grid = Grid(w.constant(flat, f"{node.name}.scale"), w.constant(np.array(0, kind), f"{node.name}.zero"))
    integers = unique(f"{node.name}.integers", w.taken)
    w.quantized(x, grid, integers, node.name)
    info = np.iinfo(kind)
    if (limits.low, limits.high) != (info.min, info.max):
        edges = [w.constant(np.array(v, kind), f"{node.name}.limit") for v in (limits.low, limits.high)]
        clipped = unique(f"{node.name}.clipped", w.taken)
        w.node("Clip", [integers, *edges], clipped, unique(f"{node.name}.clip", w.taken))
        integers = clipped
    w.node("DequantizeLinear", [integers, grid.scale, grid.zero], node.output[0], node.name)


def _quant_constant(w: Writer, node: onnx.NodeProto, x: Array, scale: Array, limits: _Range) -> None:
    """Write a quantized constant as its integers and their scale, by axis where there are several."""
    if x.dtype.kind != "f" or not np.isfinite(x).all():
        raise Refused("it quantizes a constant that is not finite floating point")
    wide = [1] * (x.ndim - scale.ndim) + list(scale.shape)
    several = [axis for axis, size in enumerate(wide) if size > 1]
    fits = len(wide) == x.ndim and len(several) <= 1 and all(wide[a] == x.shape[a] for a in several)
    if several and not fits:
        raise Refused(f"scales of shape {list(scale.shape)} for a constant of shape {list(x.shape)}")
    steps = x.astype(np.float32) / (scale.reshape(wide) if several else scale.reshape(()))
    integers = np.clip(np.rint(steps), limits.low, limits.high)
    kind: Any = np.int32 if limits.bits > 8 else np.int8 if limits.low < 0 else np.uint8
    name = w.constant(integers.astype(kind), f"{node.name}.integers")
    flat = scale.reshape(-1) if several else scale.reshape(())
    grid = Grid(w.constant(flat, f"{node.name}.scale"), "", several[0] if several else 0)
    w.weights[node.output[0]] = (name, grid)
    operands = [name, grid.scale]
    w.node("DequantizeLinear", operands, node.output[0], node.name, axis=grid.axis)
