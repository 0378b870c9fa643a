"""The integers of nodes: their tensors, factors, biases, clamps and tables, once every tensor has its scale."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, assert_never

import numpy as np
from npu_isa.errors import UnsupportedError
from numpy.typing import NDArray

from npu_compiler.graph.curves import curve
from npu_compiler.graph.ir import (
    Activation,
    Affine,
    Clip,
    Conv,
    Curve,
    Identity,
    LeakyRelu,
    Node,
    TensorQuant,
)
from npu_compiler.qgraph.ir import (
    I8,
    I32,
    Clamp,
    Epilogue,
    Function,
    Leaky,
    Lookup,
    QTensor,
    Residual,
)
from npu_compiler.qgraph.multipliers import integer_weights, prove_no_overflow, rounded, second_factor, shifts
from npu_compiler.quantize.calibrate import F64
from npu_compiler.quantize.offsets import Offset, offset_factors
from npu_compiler.quantize.prepare import Map, Prepared, wide_tensors

NO_ACT = Identity()


def scatter(values: NDArray[Any], channel_map: Map, axis: int = 0) -> NDArray[Any]:
    """Return an array with its logical channels at their physical places along an axis, zero elsewhere."""
    physical = np.array(channel_map)
    at = np.flatnonzero(physical >= 0)
    moved = np.moveaxis(values, axis, 0)
    found = np.zeros((len(physical), *moved.shape[1:]), values.dtype)
    found[at] = moved[physical[at]]
    return np.moveaxis(found, 0, axis)


class Numbers:
    """Tensors by name, and the integers of the nodes that make them.

    Args:
        prepared: the float graph.
        quant: scale and sign of every tensor.
    """

    def __init__(self, prepared: Prepared, quant: Mapping[str, TensorQuant]) -> None:
        self.graph = prepared.graph
        self.maps = prepared.maps
        self.quant = quant
        self.tensors: dict[str, QTensor] = {}
        wide = wide_tensors(self.graph)
        for name, (channels, height, width) in self.graph.shapes.items():
            channel_map = tuple(range(channels)) if name == self.graph.input else self.maps[name]
            self._tensor(name, height, width, channel_map, quant[name], 16 if name in wide else 8)

    def _tensor(
        self, name: str, height: int, width: int, channel_map: Map, quant: TensorQuant, bits: int = 8
    ) -> QTensor:
        shape, kind = (height, width, len(channel_map)), (quant.scale, quant.signed)
        self.tensors[name] = QTensor(name, *shape, *kind, channel_map, bits, quant.zero)
        return self.tensors[name]

    def _alpha(self, act: Activation) -> float | F64 | None:
        """Return the slope below zero of an activation that has one, or shape (channels,) of one for each channel."""
        match act:
            case Identity() | Clip():
                return None
            case LeakyRelu():
                return np.array(act.alpha) if isinstance(act.alpha, tuple) else act.alpha
        assert_never(act)

    def _function(self, node: Node, act: Activation, mult2: I32 | None) -> Function:
        """Return an activation in integers; mult2: second multiplier, of sums below zero or of a residual."""
        out = self.tensors[node.out]
        quant = self.quant[node.out]
        low, high = quant.span or out.limits
        match act:
            case Identity():
                return Clamp(low, high)
            case Clip():
                low, high = replace(quant, span=(low, high)).clamped(act)
                if not low <= 0 <= high:
                    raise UnsupportedError(
                        f"an activation clamps to {act.low:.4g}..{act.high:.4g}; the range must contain 0",
                        f"node {node.name}",
                        "unused channels of a group must stay zero: shift the bias into the next layer",
                    )
                return Clamp(low, high)
            case LeakyRelu():
                assert mult2 is not None
                return Leaky(low, high, mult2)
        assert_never(act)

    def _epilogue(
        self, node: Node, act: Activation, residual: str | None, bias: I32, mult: I32, shift: I32, mult2: I32 | None
    ) -> Epilogue:
        """Return the epilogue of integers at their physical places."""
        function = self._function(node, act, mult2)
        if residual is None:
            return Epilogue(bias, mult, shift, function)
        assert mult2 is not None
        return Epilogue(bias, mult, shift, function, Residual(residual, mult2))

    def _weights(
        self, node: Conv | Affine, src: str, weight: F64, bias: F64, scale: F64, maps: tuple[Map, ...]
    ) -> tuple[I8, Epilogue]:
        """Return integer weights, output (and input) channels at their physical places, and the epilogue."""
        residual = node.residual if isinstance(node, Conv) else None
        zeros = {t: self.tensors[t].zero * self.tensors[t].scale for t in (node.out, residual) if t is not None}
        found = integer_weights(
            weight,
            bias + zeros[node.out] - zeros.get(residual or "", 0.0),
            scale,
            self.tensors[src].scale,
            self.tensors[node.out].scale,
            fixed=isinstance(node, Conv) and node.weight_scale is not None,
            residual=None if residual is None else self.tensors[residual].scale,
            alpha=self._alpha(node.act),
            where=f"node {node.name}",
        )
        integers = found.weight
        for axis, channel_map in zip((0, integers.ndim - 1), maps, strict=False):
            integers = scatter(integers, channel_map, axis)
        sums = found.weight.reshape(len(found.weight), -1).sum(axis=1, dtype=np.int64)
        bias_row, mult = scatter(found.bias - self.tensors[src].zero * sums, maps[0]), scatter(found.mult, maps[0])
        shift = np.maximum(scatter(found.shift, maps[0]), 1)
        mult2 = None if found.mult2 is None else scatter(found.mult2, maps[0])
        largest = 128 if self.tensors[src].signed else 255
        prove_no_overflow(integers, bias_row[None], largest, f"node {node.name}")
        return integers, self._epilogue(node, node.act, residual, bias_row.astype(np.int32), mult, shift, mult2)

    def _unweighted(
        self,
        node: Node,
        src: str,
        factor: float,
        act: Activation = NO_ACT,
        residual: str | None = None,
        residual_factor: float = 1.0,
    ) -> Epilogue:
        """Return the epilogue of a node without weights: output = factor * sum [+ residual_factor * residual]."""
        out = self.tensors[node.out]
        first = np.full(out.channels, factor * self.tensors[src].scale / out.scale)
        added = None if residual is None else residual_factor * self.tensors[residual].scale
        alpha = self._alpha(act)
        alpha = scatter(alpha, self.maps[node.out]) if isinstance(alpha, np.ndarray) else alpha
        second = second_factor(first, out.scale, added, alpha)
        shift = shifts(first, second, f"node {node.name}")
        mult2 = None if second is None else rounded(second, shift)
        bias = np.zeros(out.channels, np.int32)
        return self._epilogue(node, act, residual, bias, rounded(first, shift), shift.astype(np.int32), mult2)

    def _lookup(self, act: Curve, read: QTensor, out: QTensor, clamp: Clamp) -> Lookup:
        """Return the table from the bytes of one tensor to those of another."""
        byte = np.arange(read.limits[0], read.limits[1] + 1)
        quant = self.quant[out.name]
        real = np.nan_to_num(curve(act.program, (byte - self.tensors[read.name].zero) * read.scale) / out.scale)
        table = np.empty(256, np.uint8)
        table[byte & 0xFF] = np.clip(np.rint(real) + quant.zero, *quant.integers).astype(np.int64) & 0xFF
        return Lookup(clamp.low, clamp.high, table, read.scale)

    def _offset(
        self, node: Node, kind: str, factors: tuple[float, float], taps: int, zeros: tuple[int, int, int]
    ) -> Offset:
        return offset_factors(*factors, taps, zeros, f"node {node.name}")
