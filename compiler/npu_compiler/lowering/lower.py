"""How each layer runs in 4 bits: positions and corrections (`positions`), order of the groups (`select`), bias rows."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from npu_compiler.lowering.evolve import Progress, State
from npu_compiler.lowering.fit import fit_bias_rows
from npu_compiler.lowering.positions import dynamic_moments, positions, value_counts
from npu_compiler.lowering.rounding import learn_rounding
from npu_compiler.lowering.select import LayerStudy, Order, Study, select
from npu_compiler.options import QuantizeOptions
from npu_compiler.qgraph.ir import GROUP, Evidence, Extraction, Lowering, QConv, QTensor, QuantizedGraph
from npu_compiler.qgraph.multipliers import prove_no_overflow
from npu_compiler.quantize.quantize import Quantized8


def study(base: Quantized8, options: QuantizeOptions) -> Study:
    """Find positions, corrections and errors of the convolutions that may run in 4 bits."""
    graph, image_bytes = base.graph, base.image_bytes
    nodes = [n for n in graph.nodes if isinstance(n, QConv) and n.name in base.dial]
    sources = {n.src for n in nodes}
    counts = value_counts(graph, image_bytes, sources)
    dynamic = options.extract == "dynamic"
    moments = dynamic_moments(graph, image_bytes, sources) if dynamic else {}
    layers = []
    for node in nodes:
        src = graph.tensors[node.src]
        found = positions(node, src, counts[node.src], options, moments.get(node.src, ()))
        layers.append(LayerStudy(node, src, found, _macs(node, src)))
    return Study(graph, tuple(layers), image_bytes, options, base.fixed_weights)


def lower_graph(
    study: Study, state: State | None = None, observe: Callable[[Progress], None] = lambda progress: None
) -> QuantizedGraph:
    """Give the layers of a study their 4-bit form, in the order that the options' selection rule chooses.

    Args:
        study: what lowering each group would cost.
        state: of an interrupted evolutionary search to go on with; it is kept up to date.
        observe: sees the progress of a search; a KeyboardInterrupt ends the search with the best so far.

    Returns:
        the network at every boundary; boundary 0 everywhere is the 8-bit model.

    Raises:
        CompileError: a lowered layer's sums could overflow.
    """
    return lower_in_order(study, select(study, state, observe)) if study.layers else study.graph


def lower_in_order(study: Study, orders: Mapping[str, Order]) -> QuantizedGraph:
    """Give the layers of a study their 4-bit form in these orders, by name; errors as for `lower_graph`."""
    extract = study.options.extract
    layers = learn_rounding(study, orders) if study.options.rounding == "learned" else study.layers
    lowered = {layer.node.name: _with_lowering(layer, orders[layer.node.name], extract) for layer in layers}
    graph = replace(study.graph, nodes=tuple(lowered.get(n.name, n) for n in study.graph.nodes))
    return fit_bias_rows(graph, study.image_bytes) if study.options.bias_correction == "network" else graph


def _macs(node: QConv, src: QTensor) -> np.ndarray:
    real = (np.reshape(src.channel_map, (-1, GROUP)) >= 0).sum(axis=1)
    return np.asarray(node.macs * real // max(int(real.sum()), 1))


def _with_lowering(layer: LayerStudy, order: Order, extract: Extraction) -> QConv:
    node, found, places = layer.node, layer.positions, list(order.groups)
    steps = np.cumsum(found.correction[places], axis=0)
    rows = node.epilogue.bias + np.concatenate([np.zeros((1, steps.shape[1])), np.rint(steps)])
    bias_rows = np.clip(rows, -(1 << 31), (1 << 31) - 1).astype(np.int32)
    prove_no_overflow(node.weight, bias_rows, 128 if layer.src.signed else 255, f"node {node.name}")
    return replace(
        node,
        lowering=Lowering(
            order=order.groups,
            act_shift=tuple(int(s) for s in found.act_shift[places]),
            wgt_shift=found.wgt_shift[places].astype(np.int8),
            bias_rows=bias_rows,
            score=order.score,
            extract=extract,
            evidence=Evidence(
                tuple(int(v) for v in found.act_bits[places]),
                tuple(float(v) for v in found.error[places]),
                tuple(float(v) for v in found.truncation[places]),
            ),
        ),
    )
