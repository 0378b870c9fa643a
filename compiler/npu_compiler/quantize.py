"""From the float graph to the quantized graph: scales, integer weights, and how each layer runs in 4 bits."""

from dataclasses import replace

import numpy as np
from npu_isa.errors import DataError

from npu_compiler.build import build
from npu_compiler.calibrate import Histogram, check_images, joined, pixel_values, tallies
from npu_compiler.graph import Conv, Graph, TensorQuant
from npu_compiler.lowering import lower_graph
from npu_compiler.options import QuantizeOptions
from npu_compiler.prepare import Prepared, is_depthwise, prepare
from npu_compiler.qdump import dump
from npu_compiler.qgraph import U8, Preprocess, QuantizedGraph
from npu_compiler.scales import aligned_scale, demands, method_scale, non_negative
from npu_compiler.select import SELECTORS

__all__ = ["QuantizeOptions", "dump", "quantize"]

WIDE_LEVELS = 24000  # of 32767: room for outputs beyond those of the calibration images


def quantize(graph: Graph, images: U8, preprocess: Preprocess, options: QuantizeOptions) -> QuantizedGraph:
    """Quantize a network.

    Args:
        graph: optimized float graph; its fixed quantizations (QDQ) are kept exactly.
        images: calibration images, uint8 (N, height, width, channels), resized and cropped.
        preprocess: from pixels to the model's input.
        options: choices.

    Returns:
        the network at every boundary; boundary 0 everywhere is the 8-bit model.

    Raises:
        DataError: the images or the preprocessing do not fit the model, or an option is unknown.
        CompileError: a factor, bias or sum does not fit the machine's integers.
    """
    options.check()
    if options.selection not in SELECTORS:
        raise DataError(f"no selection rule {options.selection!r}", hint=f"one of {', '.join(SELECTORS)}")
    channels = graph.shapes[graph.input][0]
    preprocess = replace(preprocess, mean=_each(preprocess.mean, channels), std=_each(preprocess.std, channels))
    check_images(graph, images, preprocess)
    images = images[: options.max_images]
    fixed = {graph.input: graph.quant.get(graph.input, image_quant(preprocess))}
    prepared = prepare(replace(graph, quant=graph.quant | fixed))
    dial = dial_nodes(prepared.graph, options)
    quant, found = choose_scales(prepared, images, preprocess, dial, options)
    table = pixel_table(preprocess, fixed[graph.input])
    mean_square = {t: h.mean_square for t, h in found.items()}
    base = build(prepared, quant, mean_square, dial, preprocess, table, options)
    return lower_graph(base, table[np.arange(channels), images], dial, options)


def _each(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values


def image_quant(preprocess: Preprocess) -> TensorQuant:
    """Return the quantization that holds every pixel value: unsigned when none becomes negative."""
    values = pixel_values(preprocess)
    signed = bool(values.min() < 0)
    scale = max(values.max() / 127, -values.min() / 128) if signed else values.max() / 255
    return TensorQuant(float(scale) or 1.0, signed)


def pixel_table(preprocess: Preprocess, quant: TensorQuant) -> U8:
    """Return the input byte of each pixel value, uint8 (channels, 256); ties round to even."""
    low, high = (-128, 127) if quant.signed else (0, 255)
    q = np.clip(np.rint(pixel_values(preprocess) / quant.scale), low, high).astype(np.int16)
    return (q & 0xFF).astype(np.uint8)


def dial_nodes(graph: Graph, options: QuantizeOptions) -> set[str]:
    """Return the names of the convolutions that may run in 4 bits."""
    convs = [n for n in graph.nodes if isinstance(n, Conv) and not is_depthwise(n)]
    kept = {n.name for n in convs if n.src == graph.input} if options.keep_first_8bit else set()
    kept |= {convs[-1].name} if convs and options.keep_last_8bit else set()
    return {n.name for n in convs} - kept


def choose_scales(
    prepared: Prepared, images: U8, preprocess: Preprocess, dial: set[str], options: QuantizeOptions
) -> tuple[dict[str, TensorQuant], dict[str, Histogram]]:
    """Return the quantization of every tensor, and the histograms of the tensors that the dial's layers read."""
    graph, classes = prepared.graph, prepared.classes
    positive = non_negative(graph)
    members: dict[str, list[str]] = {}
    for tensor, name in classes.items():
        members.setdefault(name, []).append(tensor)
    signs = {name: not all(positive[t] for t in tensors) for name, tensors in members.items()}
    by_channel = {n.src for n in graph.nodes if n.name in dial and isinstance(n, Conv) and n.src != graph.input}
    seen = tallies(graph, images, preprocess, {t: signs[c] for t, c in classes.items()}, by_channel)
    readers = demands(prepared, {t: seen[t].histogram for t in by_channel}, dial)
    quant: dict[str, TensorQuant] = {}
    for name, tensors in members.items():
        span = (min(seen[t].low for t in tensors), max(seen[t].high for t in tensors))
        if name in graph.quant:
            chosen = graph.quant[name]
        elif name == graph.output:
            chosen = TensorQuant(max(map(abs, span)) / WIDE_LEVELS or 1.0, True)
        else:
            total = joined([seen[t].histogram.total() for t in tensors])
            base = method_scale(total, span, signs[name], options)
            if options.aligned:
                base = aligned_scale(base, total, [readers[t] for t in tensors if t in readers], signs[name])
            chosen = TensorQuant(base, signs[name])
        quant |= dict.fromkeys(tensors, chosen)
    return quant, {t: seen[t].histogram for t in by_channel}
