"""Builds the 8-bit quantized graph, node by node, once every tensor has its scale."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, assert_never

import numpy as np
from npu_isa.errors import UnsupportedError
from npu_isa.isa.tables import RAW

from npu_compiler.graph.ir import (
    Act,
    Activation,
    Add,
    Affine,
    Channels,
    Concat,
    Conv,
    Crop,
    Curve,
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
    U8,
    Clamp,
    Epilogue,
    Factor,
    Preprocess,
    QConcat,
    QConv,
    QFold,
    QMosaic,
    QNode,
    QuantizedGraph,
    QWindow,
    Window,
)
from npu_compiler.quantize.calibrate import F64
from npu_compiler.quantize.numbers import NO_ACT, Numbers, scatter
from npu_compiler.quantize.offsets import on_channels, padded
from npu_compiler.quantize.prepare import Prepared, dense_map, fused_curves, is_depthwise
from npu_compiler.quantize.scales import dense_weight, group_of_channel, weight_scales

FOLD_BYTES = 32  # a window of the image of at most two groups is gathered whole
MAX_GROUPS: int = RAW["max_groups"]
SAME = 14  # shift that takes a multiplier of 2^SAME back: values stay what they are


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


def _window_of(node: Conv | Pool) -> Window:
    kernel = node.kernel if isinstance(node, Pool) else (node.weight.shape[2], node.weight.shape[3])
    return Window(kernel, node.stride, node.dilation, node.pads[0], node.pads[1])


class Builder(Numbers):
    """The nodes so far."""

    def __init__(
        self,
        prepared: Prepared,
        quant: Mapping[str, TensorQuant],
        mean_square: Mapping[str, F64],
        dial: set[str],
        options: QuantizeOptions,
    ) -> None:
        super().__init__(prepared, quant)
        self.mean_square = mean_square
        self.dial = dial
        self.options = options
        self.nodes: list[QNode] = []
        self.curves = fused_curves(self.graph)
        self.taken = {*self.graph.shapes, *(n.name for n in self.graph.nodes)}
        self.made = {n.out: n for n in self.graph.nodes}

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

    def _conv(self, node: Conv) -> None:
        src, window = self._read(node, node.src, _window_of(node), macs_channels=node.weight.shape[1])
        self._check_groups(node, src)
        integers, epilogue = self._conv_weights(node, src, window)
        out = self.tensors[node.out]
        macs = out.height * out.width * node.weight.size
        self.nodes.append(QConv(node.name, node.out, node.onnx_nodes, src, window, epilogue, integers, None, macs))

    def _check_groups(self, node: Node, src: str) -> None:
        if self.tensors[src].groups > MAX_GROUPS:
            raise UnsupportedError(
                f"{self.tensors[src].channels} input channels, a layer may read {MAX_GROUPS * 16}", f"node {node.name}"
            )

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
        if any(self.tensors[t].zero for t in (src, residual, node.out) if t is not None):
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
        zeros = (
            self.tensors[src].zero,
            0 if residual is None else self.tensors[residual].zero,
            self.tensors[node.out].zero,
        )
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
        self.nodes += padded(node.name, node.onnx_nodes, (src, ones, border), out, self.tensors[node.out].zero, pads)

    # -- moving values

    def _move(self, node: Crop | Channels) -> None:
        """Append a crop or a choice of channels; the two after each other become one 0/1 convolution."""
        if isinstance(node, Crop) and self.tensors[node.out].zero and max(node.pads) > 0:
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
        self._check_groups(node, src)
        weight = self._choice(choice, src, node.out)
        absent = scatter(np.array([source < 0 for source in choice.source]), self.maps[node.out])
        epilogue = replace(epilogue, bias=absent * np.int32(self.tensors[node.out].zero))
        self.nodes.append(QConv(node.name, node.out, onnx_nodes, src, window, epilogue, weight, None, 0))

    def _taken_by(self, node: Crop | Channels) -> Crop | Channels | None:
        """Return the move before a move that becomes one with it: one crop, one choice, with one rounding at most.

        Of three in a row the first two join.
        """
        before = self.made.get(node.src)
        if not isinstance(before, Crop | Channels) or type(before) is type(node) or self.tensors[node.out].zero:
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
