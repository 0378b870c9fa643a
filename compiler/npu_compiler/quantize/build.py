"""Builds the 8-bit quantized graph, node by node, once every tensor has its scale."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, assert_never

import numpy as np
from npu_isa.errors import UnsupportedError
from npu_isa.isa.tables import RAW
from numpy.typing import NDArray

from npu_compiler.graph.curves import curve
from npu_compiler.graph.ir import (
    Act,
    Activation,
    Add,
    Affine,
    Channels,
    Clip,
    Concat,
    Conv,
    Crop,
    Curve,
    Identity,
    LeakyRelu,
    Mosaic,
    Mul,
    Node,
    Pool,
    TensorQuant,
    unique,
)
from npu_compiler.options import QuantizeOptions
from npu_compiler.qgraph.ir import (
    I8,
    I32,
    U8,
    Clamp,
    Epilogue,
    Factor,
    Function,
    Leaky,
    Lookup,
    Preprocess,
    QConcat,
    QConv,
    QFold,
    QMosaic,
    QNode,
    QTensor,
    QuantizedGraph,
    QWindow,
    Residual,
    Window,
)
from npu_compiler.qgraph.multipliers import integer_weights, prove_no_overflow, rounded, second_factor, shifts
from npu_compiler.quantize.calibrate import F64
from npu_compiler.quantize.offsets import Offset, offset_factors, on_channels, padded
from npu_compiler.quantize.prepare import Map, Prepared, dense_map, fused_curves, is_depthwise, is_wide
from npu_compiler.quantize.scales import dense_weight, group_of_channel, weight_scales

FOLD_BYTES = 32  # a window of the image of at most two groups is gathered whole
MAX_GROUPS: int = RAW["max_groups"]
SAME = 14  # shift that takes a multiplier of 2^SAME back: values stay what they are
NO_ACT = Identity()


def build(
    prepared: Prepared,
    quant: Mapping[str, TensorQuant],
    mean_square: Mapping[str, F64],
    dial: set[str],
    preprocess: Preprocess,
    table: U8,
    options: QuantizeOptions,
    builder: type["Builder"] | None = None,
) -> QuantizedGraph:
    """Return the quantized graph in which every layer runs in 8 bits.

    Args:
        prepared: the float graph.
        quant: scale and sign of every tensor.
        mean_square: of each channel of the tensors read by the nodes of `dial`.
        dial: names of the convolutions that may run in 4 bits later; their weights' scales may be aligned.
        preprocess, table: copied into the result.
        options: choices.
        builder: what makes the nodes, if not `Builder`.
    """
    maker = (builder or Builder)(prepared, quant, mean_square, dial, options)
    for node in prepared.graph.nodes:
        maker.add(node)
    graph = prepared.graph
    used = {graph.input, *(n.out for n in maker.nodes)}
    return QuantizedGraph(
        name=graph.name,
        nodes=tuple(maker.nodes),
        tensors={t: q for t, q in maker.tensors.items() if t in used},
        input=graph.input,
        outputs=graph.outputs,
        preprocess=preprocess,
        table=table,
        notes=graph.notes,
        host=graph.host,
    )


def scatter(values: NDArray[Any], channel_map: Map, axis: int = 0) -> NDArray[Any]:
    """Return an array with its logical channels at their physical places along an axis, zero elsewhere."""
    physical = np.array(channel_map)
    at = np.flatnonzero(physical >= 0)
    moved = np.moveaxis(values, axis, 0)
    found = np.zeros((len(physical), *moved.shape[1:]), values.dtype)
    found[at] = moved[physical[at]]
    return np.moveaxis(found, 0, axis)


def _window_of(node: Conv | Pool) -> Window:
    kernel = node.kernel if isinstance(node, Pool) else (node.weight.shape[2], node.weight.shape[3])
    return Window(kernel, node.stride, node.dilation, node.pads[0], node.pads[1])


class Builder:
    """The nodes and tensors so far."""

    def __init__(
        self,
        prepared: Prepared,
        quant: Mapping[str, TensorQuant],
        mean_square: Mapping[str, F64],
        dial: set[str],
        options: QuantizeOptions,
    ) -> None:
        self.graph = prepared.graph
        self.maps = prepared.maps
        self.quant = quant
        self.mean_square = mean_square
        self.dial = dial
        self.options = options
        self.nodes: list[QNode] = []
        self.tensors: dict[str, QTensor] = {}
        self.zeros: dict[str, int] = {}  # the byte of each tensor that stands for 0
        self.curves = fused_curves(self.graph)
        self.taken = {*self.graph.shapes, *(n.name for n in self.graph.nodes)}
        for name, (channels, height, width) in self.graph.shapes.items():
            channel_map = tuple(range(channels)) if name == self.graph.input else self.maps[name]
            bits = 16 if is_wide(self.graph, name) else 8
            self._tensor(name, height, width, channel_map, quant[name], bits)
        self.made = {n.out: n for n in self.graph.nodes}

    def _tensor(
        self, name: str, height: int, width: int, channel_map: Map, quant: TensorQuant, bits: int = 8
    ) -> QTensor:
        tensor = QTensor(name, height, width, len(channel_map), quant.scale, quant.signed, channel_map, bits)
        self.tensors[name], self.zeros[name] = tensor, quant.zero
        return tensor

    def add(self, node: Node) -> None:
        """Append what computes a node, with the curve behind it; one that its producer computed is there already."""
        if isinstance(node, Act) and isinstance(node.act, Curve):
            if node.src not in self.curves:
                self._curve(node, node.act)
            return
        self._add(node)
        if node.out in self.curves:
            self.nodes[-1] = self._looked_up(self.nodes[-1], self.curves[node.out])

    def _add(self, node: Node) -> None:
        match node:
            case Conv():
                if is_depthwise(node):
                    self._depthwise(node)
                else:
                    self._conv(node)
            case Affine():
                self._depthwise(node)
            case Act():
                assert not isinstance(node.act, Curve)
                self._window(node, node.src, "sum", Window(), 1.0, node.act)
            case Add():
                self._window(node, node.a, "sum", Window(), node.factors[0], node.act, node.b, node.factors[1])
            case Mul():
                self._product(node)
            case Pool():
                if node.kind == "max":
                    self._window(node, node.src, "max", _window_of(node), 1.0)
                else:
                    count = node.count or node.kernel[0] * node.kernel[1]
                    self._window(node, node.src, "sum", _window_of(node), 1.0 / count)
            case Concat():
                self.nodes.append(QConcat(node.name, node.out, node.onnx_nodes, node.srcs))
            case Mosaic():
                self.nodes.append(QMosaic(node.name, node.out, node.onnx_nodes, node.srcs, node.places))
            case Crop() | Channels():
                self._move(node)
            case _:
                assert_never(node)

    # -- tensors read

    def _read(self, node: Node, src: str, window: Window, macs_channels: int = 0) -> tuple[str, Window]:
        """Return the tensor to read and the window to use: the image is gathered by a fold first."""
        if src != self.graph.input:
            return src, window
        image, out = self.tensors[src], self.tensors[node.out]
        kh, kw = window.kernel
        rows, cols = image.height, image.width
        fold, after = Window(), window
        if macs_channels and window.dilation == (1, 1):
            cols = out.width
            if kh * kw * image.channels <= FOLD_BYTES:
                fold, after, rows = window, Window(), out.height
            else:
                fold = Window((1, kw), (1, window.stride[1]), pad_left=window.pad_left)
                after = Window((kh, 1), (window.stride[0], 1), pad_top=window.pad_top)
        name = unique(f"{node.name}.fold", self.taken)
        taps = fold.kernel[0] * fold.kernel[1] * image.channels
        self._tensor(name, rows, cols, dense_map(taps), self.quant[src])
        self.nodes.append(QFold(name, name, node.onnx_nodes, src, fold))
        return name, after

    # -- nodes

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
                least, most = low - quant.zero, high - quant.zero
                low = max(low, int(np.rint(max(act.low / out.scale, least))) + quant.zero)
                high = min(high, int(np.rint(min(act.high / out.scale, most))) + quant.zero)
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
        zeros = {t: self.zeros[t] * self.tensors[t].scale for t in (node.out, residual) if t is not None}
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
        bias_row, mult = scatter(found.bias - self.zeros[src] * sums, maps[0]), scatter(found.mult, maps[0])
        shift = np.maximum(scatter(found.shift, maps[0]), 1)
        mult2 = None if found.mult2 is None else scatter(found.mult2, maps[0])
        largest = 128 if self.tensors[src].signed else 255
        prove_no_overflow(integers, bias_row[None], largest, f"node {node.name}")
        return integers, self._epilogue(node, node.act, residual, bias_row.astype(np.int32), mult, shift, mult2)

    def _conv(self, node: Conv) -> None:
        src, window = self._read(node, node.src, _window_of(node), macs_channels=node.weight.shape[1])
        if self.tensors[src].groups > MAX_GROUPS:
            raise UnsupportedError(
                f"{self.tensors[src].channels} input channels, a layer may read {MAX_GROUPS * 16}", f"node {node.name}"
            )
        integers, epilogue = self._conv_weights(node, src, window)
        out = self.tensors[node.out]
        macs = out.height * out.width * node.weight.size
        self.nodes.append(QConv(node.name, node.out, node.onnx_nodes, src, window, epilogue, integers, None, macs))

    def _conv_weights(self, node: Conv, src: str, window: Window) -> tuple[I8, Epilogue]:
        """Return integer weights for what is read by a window, behind a fold maybe, and the epilogue."""
        weight = dense_weight(node).astype(np.float64)
        scale = self._conv_scale(node, weight)
        folded = weight.transpose(0, 2, 3, 1).reshape(len(weight), *window.kernel, -1)
        maps = (self.maps[node.out], self.tensors[src].channel_map)
        return self._weights(node, src, folded, node.bias.astype(np.float64), scale, maps)

    def _conv_scale(self, node: Conv, weight: F64) -> F64:
        if node.weight_scale is not None:
            return node.weight_scale.astype(np.float64)
        flat = weight.reshape(*weight.shape[:2], -1)
        if node.name not in self.dial or node.src == self.graph.input:
            return weight_scales(flat, None, None, self.options)
        groups = group_of_channel(self.maps[node.src])
        return weight_scales(flat, self.mean_square[node.src], groups, self.options)

    def _depthwise(self, node: Conv | Affine) -> None:
        match node:
            case Conv():
                weight, bias, window = node.weight[:, 0], node.bias, _window_of(node)
            case Affine():
                weight, bias, window = node.scale[:, None, None], node.shift, Window()
            case _:
                assert_never(node)
        src, window = self._read(node, node.src, window)
        real = weight.astype(np.float64)
        if isinstance(node, Conv) and node.weight_scale is not None:
            scale = node.weight_scale.astype(np.float64)
        else:
            scale = weight_scales(real.reshape(len(real), 1, -1), None, None, self.options)
        integers, epilogue = self._weights(node, src, real, bias.astype(np.float64), scale, (self.maps[node.out],))
        out = self.tensors[node.out]
        macs = out.height * out.width * weight.size
        self.nodes.append(QWindow(node.name, node.out, node.onnx_nodes, src, window, epilogue, "mac", integers, macs))

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

    def _window(
        self,
        node: Node,
        src: str,
        kind: Literal["max", "sum"],
        window: Window,
        factor: float,
        act: Activation = NO_ACT,
        residual: str | None = None,
        residual_factor: float = 1.0,
    ) -> None:
        src, window = self._read(node, src, window)
        if any(self.zeros[t] for t in (src, residual, node.out) if t is not None):
            self._offset_window(node, src, kind, window, factor, act, residual, residual_factor)
            return
        epilogue = self._unweighted(node, src, factor, act, residual, residual_factor)
        self.nodes.append(QWindow(node.name, node.out, node.onnx_nodes, src, window, epilogue, kind))

    def _product(self, node: Mul) -> None:
        epilogue = self._unweighted(node, node.a, self.tensors[node.b].scale, node.act)
        epilogue = replace(epilogue, operand=Factor(node.b))
        self.nodes.append(QWindow(node.name, node.out, node.onnx_nodes, node.a, Window(), epilogue, "sum"))

    # -- curves

    def _curve(self, node: Act, act: Curve) -> None:
        """Append a curve of a tensor's own bytes."""
        src, window = self._read(node, node.src, Window())
        read, channels = self.tensors[src], self.tensors[node.out].channels
        one, none = np.full(channels, 1 << SAME, np.int32), np.zeros(channels, np.int32)
        function = self._lookup(act, read, self.tensors[node.out], Clamp(*read.limits))
        epilogue = Epilogue(none, one, none + SAME, function)
        self.nodes.append(QWindow(node.name, node.out, node.onnx_nodes, src, window, epilogue, "sum"))

    def _looked_up(self, made: QNode, node: Act) -> QNode:
        """Return a node of arithmetic with the curve that alone reads its output."""
        assert isinstance(made, QConv | QWindow)
        assert isinstance(node.act, Curve)
        assert isinstance(made.epilogue.function, Clamp)
        function = self._lookup(node.act, self.tensors[made.out], self.tensors[node.out], made.epilogue.function)
        names = tuple(dict.fromkeys((*made.onnx_nodes, *node.onnx_nodes)))
        return replace(made, out=node.out, onnx_nodes=names, epilogue=replace(made.epilogue, function=function))

    def _lookup(self, act: Curve, read: QTensor, out: QTensor, clamp: Clamp) -> Lookup:
        """Return the table from the bytes of one tensor to those of another."""
        byte = np.arange(read.limits[0], read.limits[1] + 1)
        quant = self.quant[out.name]
        real = np.nan_to_num(curve(act.program, (byte - self.zeros[read.name]) * read.scale) / out.scale)
        table = np.empty(256, np.uint8)
        table[byte & 0xFF] = np.clip(np.rint(real) + quant.zero, *quant.integers).astype(np.int64) & 0xFF
        return Lookup(clamp.low, clamp.high, table, read.scale)

    # -- zeros that are not byte 0 (`npu_compiler.quantize.zeros` has seen to what reads and makes them)

    def _offset_window(
        self,
        node: Node,
        src: str,
        kind: Literal["max", "sum"],
        window: Window,
        factor: float,
        act: Activation,
        residual: str | None,
        residual_factor: float,
    ) -> None:
        """Append a window without padding whose operands or output have a zero: all taps are inside."""
        out = self.tensors[node.out]
        taps = 1 if kind == "max" else window.kernel[0] * window.kernel[1]
        zeros = (self.zeros[src], 0 if residual is None else self.zeros[residual], self.zeros[node.out])
        scales = [0.0 if t is None else self.tensors[t].scale / out.scale for t in (src, residual)]
        found = self._offset(node, kind, (factor * scales[0], residual_factor * scales[1]), taps, zeros)
        alpha = self._alpha(act)
        bias, mult = on_channels(out, found.bias), np.full(out.channels, found.mult, np.int32)
        mult2 = np.full(out.channels, found.mult2, np.int32)
        if alpha is not None:
            slopes = np.broadcast_to(alpha, (self.graph.shapes[node.out][0],))
            mult2 = np.rint(scatter(slopes, self.maps[node.out]) * found.mult).astype(np.int32)
        shift = np.full(out.channels, found.shift, np.int32)
        epilogue = self._epilogue(node, act, residual, bias, mult, shift, mult2)
        weight = None
        if found.weight > 1:
            assert kind == "sum", f"{node.name}: a maximum that changes its scale is followed by a copy"
            kernel = np.ones((1, *window.kernel), np.int8)
            weight = kernel * on_channels(out, found.weight).astype(np.int8)[:, None, None]
        made = QWindow(
            node.name, node.out, node.onnx_nodes, src, window, epilogue, kind if weight is None else "mac", weight
        )
        self.nodes.append(made)

    def _offset(
        self, node: Node, kind: str, factors: tuple[float, float], taps: int, zeros: tuple[int, int, int]
    ) -> Offset:
        return offset_factors(*factors, taps, zeros, f"node {node.name}")

    def _padded(self, node: Crop) -> None:
        """Append what pads an image with the byte of its zero."""
        src, _ = self._read(node, node.src, Window())
        out = self.tensors[node.out]
        _, height, width = self.graph.shapes[node.src]
        ones, border = (unique(f"{node.out}.{part}", self.taken) for part in ("ones", "border"))
        plain = TensorQuant(out.scale, signed=out.signed)
        self._tensor(ones, height, width, out.channel_map, plain)
        self._tensor(border, out.height, out.width, out.channel_map, plain)
        pads = Window(stride=node.stride, pad_top=node.pads[0], pad_left=node.pads[1])
        self.nodes += padded(node.name, node.onnx_nodes, (src, ones, border), out, self.zeros[node.out], pads)

    # -- moving values

    def _move(self, node: Crop | Channels) -> None:
        """Append a crop or a choice of channels; the two after each other become one 0/1 convolution."""
        if isinstance(node, Crop) and self.zeros[node.out] and max(node.pads) > 0:
            self._padded(node)
            return
        users = self.graph.users(node.out)
        if len(users) == 1 and isinstance(users[0], Crop | Channels) and self._taken_by(users[0]) is node:
            return  # the user does both
        before = self._taken_by(node)
        parts = [node] if before is None else [before, node]
        crop = next((p for p in parts if isinstance(p, Crop)), None)
        choice = next((p for p in parts if isinstance(p, Channels)), None)
        onnx_nodes = tuple(dict.fromkeys(n for p in parts for n in p.onnx_nodes))
        window = Window(stride=crop.stride, pad_top=crop.pads[0], pad_left=crop.pads[1]) if crop else Window()
        src, window = self._read(node, parts[0].src, window)
        epilogue = self._unweighted(node, src, 1.0)  # zeros: source and output are of one quantization then
        if choice is None:
            self.nodes.append(QWindow(node.name, node.out, onnx_nodes, src, window, epilogue, "sum"))
            return
        weight = self._choice(choice, src, node.out)
        absent = scatter(np.array([source < 0 for source in choice.source]), self.maps[node.out])
        epilogue = replace(epilogue, bias=absent * np.int32(self.zeros[node.out]))
        self.nodes.append(QConv(node.name, node.out, onnx_nodes, src, window, epilogue, weight, None, 0))

    def _taken_by(self, node: Crop | Channels) -> Crop | Channels | None:
        """Return the move before a move that becomes one with it: one crop, one choice, with one rounding at most.

        Of three in a row the first two join.
        """
        before = self.made.get(node.src)
        if not isinstance(before, Crop | Channels) or type(before) is type(node) or self.zeros[node.out]:
            return None
        if self.quant[before.out] != self.quant[node.out] or len(self.graph.users(before.out)) != 1:
            return None
        return None if self._taken_by(before) is not None else before

    def _choice(self, node: Channels, src: str, out: str) -> I8:
        weight = np.zeros((len(node.source), 1, 1, max(self.tensors[src].channel_map) + 1), np.int8)
        for channel, source in enumerate(node.source):
            if source >= 0:
                weight[channel, 0, 0, source] = 1
        placed = scatter(scatter(weight, self.maps[out], 0), self.tensors[src].channel_map, 3)
        return np.asarray(placed, np.int8)
