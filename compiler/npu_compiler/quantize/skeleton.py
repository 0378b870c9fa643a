"""The quantized graph that a float graph will become, without its numbers: what fits a machine depends on shapes."""

from dataclasses import replace

import numpy as np

from npu_compiler.graph.ir import Activation, Affine, Conv, Graph, Node, TensorQuant
from npu_compiler.options import QuantizeOptions
from npu_compiler.qgraph.ir import (
    I8,
    Clamp,
    Epilogue,
    Lowering,
    Preprocess,
    QConv,
    QTensor,
    QuantizedGraph,
    Residual,
    Window,
)
from npu_compiler.quantize.absorb import absorb_normalization
from npu_compiler.quantize.build import Builder, build
from npu_compiler.quantize.calibrate import F64
from npu_compiler.quantize.numbers import NO_ACT
from npu_compiler.quantize.offsets import Offset
from npu_compiler.quantize.prepare import Map, prepare
from npu_compiler.quantize.quantize import dial_nodes

ANY = TensorQuant(1.0, signed=False)


def skeleton(graph: Graph, options: QuantizeOptions) -> QuantizedGraph:
    """Return the quantized graph with weights, factors and biases of zero, its 4-bit groups in their own order.

    Nodes, shapes, kernels and the layers with a dial are those that quantizing the graph leads to; where zeros decide
    whether a sum has weights it has them here, which takes more room.

    Args:
        graph: optimized.
        options: those that the network will be quantized with.

    Raises:
        UnsupportedError: a layer reads more channels than a machine can.
    """
    channels = graph.shapes[graph.input][0]
    graph, plain = absorb_normalization(graph, Preprocess(1.0, (0.0,) * channels, (1.0,) * channels, (), ()))
    prepared = prepare(replace(graph, quant={graph.input: ANY} | graph.quant))
    dial = dial_nodes(prepared.graph, options)
    quant = {t: prepared.graph.quant.get(name, ANY) for t, name in prepared.classes.items()}
    made = build(prepared, quant, {}, dial, plain, np.zeros((channels, 256), np.uint8), options, _Shapes)
    nodes = (
        _with_dial(n, made.tensors[n.src], options) if isinstance(n, QConv) and n.name in dial else n
        for n in made.nodes
    )
    return replace(made, nodes=tuple(nodes))


class _Shapes(Builder):
    """Makes every node with numbers of zero; weights take no memory."""

    def _conv_weights(self, node: Conv, src: str, window: Window) -> tuple[I8, Epilogue]:
        out = self.tensors[node.out]
        return _zeros(out.channels, *window.kernel, self.tensors[src].channels), _nothing(out, node.residual)

    def _weights(
        self, node: Conv | Affine, src: str, weight: F64, bias: F64, scale: F64, maps: tuple[Map, ...]
    ) -> tuple[I8, Epilogue]:
        out = self.tensors[node.out]
        return _zeros(out.channels, *weight.shape[1:]), _nothing(out)

    def _unweighted(
        self,
        node: Node,
        src: str,
        factor: float,
        act: Activation = NO_ACT,
        residual: str | None = None,
        residual_factor: float = 1.0,
    ) -> Epilogue:
        return _nothing(self.tensors[node.out], residual)

    def _offset(
        self, node: Node, kind: str, factors: tuple[float, float], taps: int, zeros: tuple[int, int, int]
    ) -> Offset:
        return Offset(1 if kind == "max" else 2, 0, 0, 0, 1, 0.0)


def _zeros(*shape: int) -> I8:
    return np.broadcast_to(np.int8(0), shape)


def _nothing(out: QTensor, residual: str | None = None) -> Epilogue:
    zeros = np.zeros(out.channels, np.int32)
    added = None if residual is None else Residual(residual, zeros)
    return Epilogue(zeros, zeros, zeros + 1, Clamp(*out.limits), added)


def _with_dial(node: QConv, src: QTensor, options: QuantizeOptions) -> QConv:
    groups, channels = src.groups, len(node.weight)
    lowering = Lowering(
        order=tuple(range(groups)),
        act_shift=(0,) * groups,
        wgt_shift=_zeros(groups, channels),
        bias_rows=np.broadcast_to(np.int32(0), (groups + 1, channels)),
        score=np.zeros(groups),
        extract=options.extract,
    )
    return replace(node, lowering=lowering)
