"""From the float graph to the quantized graph in 8 bits: scales and integer weights."""

from dataclasses import dataclass, replace

import numpy as np

from npu_compiler.graph.ir import Conv, Graph, TensorQuant, inputs
from npu_compiler.options import SMALL, QuantizeOptions
from npu_compiler.qgraph.ir import U8, Preprocess, QuantizedGraph
from npu_compiler.quantize import uniform
from npu_compiler.quantize.absorb import absorb_normalization
from npu_compiler.quantize.build import build
from npu_compiler.quantize.calibrate import Histogram, check_images, joined, pixel_values, tallies
from npu_compiler.quantize.grouping import group_channels
from npu_compiler.quantize.prepare import Prepared, is_depthwise, prepare
from npu_compiler.quantize.remarks import remarks
from npu_compiler.quantize.scales import aligned_scale, demands, method_scale, non_negative, within_reach

WIDE_LEVELS = 24000  # of 32767: room for outputs beyond those of the calibration images


@dataclass(frozen=True, eq=False)
class Quantized8:
    """A network in 8 bits, and what choosing its 4-bit groups needs.

    Attributes:
        graph: every layer in 8 bits.
        image_bytes: calibration images after the table, uint8 (N, height, width, channels).
        dial: names of the convolutions that may run in 4 bits.
        fixed_weights: names of convolutions whose 8-bit weights the model gives (QDQ): they are kept.
    """

    graph: QuantizedGraph
    image_bytes: U8
    dial: frozenset[str]
    fixed_weights: frozenset[str]


def quantize8(graph: Graph, images: U8, preprocess: Preprocess, options: QuantizeOptions) -> Quantized8:
    """Quantize a network to 8 bits.

    Args:
        graph: optimized float graph; its fixed quantizations (QDQ) are kept exactly.
        images: calibration images, uint8 (N, height, width, channels), resized and cropped.
        preprocess: from pixels to the model's input.
        options: choices.

    Raises:
        DataError: the images or the preprocessing do not fit the model, or an option is unknown.
        CompileError: a factor, bias or sum does not fit the machine's integers.
    """
    options.check()
    channels = graph.shapes[graph.input][0]
    preprocess = replace(preprocess, mean=_each(preprocess.mean, channels), std=_each(preprocess.std, channels))
    check_images(graph, images, preprocess)
    images = images[: options.max_images]
    graph, normalized = absorb_normalization(graph, preprocess)
    fixed = {graph.input: graph.quant.get(graph.input, image_quant(normalized))}
    prepared = prepare(replace(graph, quant=graph.quant | fixed))
    dial = dial_nodes(prepared.graph, options)
    prepared, quant, found = choose_scales(prepared, images, normalized, dial, options)
    table = pixel_table(normalized, fixed[graph.input])
    mean_square = {t: h.mean_square for t, h in found.items()}
    base = build(prepared, quant, mean_square, dial, preprocess, table, options)
    base = replace(base, notes=(*base.notes, *remarks(graph, images)))
    given = frozenset(n.name for n in prepared.graph.nodes if isinstance(n, Conv) and n.weight_scale is not None)
    return Quantized8(base, table[np.arange(channels), images], frozenset(dial), given)


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
    kept = {n.name for n in convs if n.src in _image_like(graph)} if options.keep_first_8bit else set()
    kept |= {convs[-1].name} if convs and options.keep_last_8bit else set()
    kept |= {n.name for n in convs if n.weight[0].size <= SMALL} if options.keep_small_8bit else set()
    return {n.name for n in convs} - kept


def _image_like(graph: Graph) -> set[str]:
    """Return the image and what is made of it without a convolution."""
    found = {graph.input}
    for node in graph.nodes:
        if not isinstance(node, Conv) and set(inputs(node)) <= found:
            found.add(node.out)
    return found


def choose_scales(
    prepared: Prepared, images: U8, preprocess: Preprocess, dial: set[str], options: QuantizeOptions
) -> tuple[Prepared, dict[str, TensorQuant], dict[str, Histogram]]:
    """Return the network with its channels in groups, the quantization of every tensor, and some histograms.

    The histograms are those of the tensors that the dial's layers read.
    """
    graph, classes = prepared.graph, prepared.classes
    positive = non_negative(graph)
    members: dict[str, list[str]] = {}
    for tensor, name in classes.items():
        members.setdefault(name, []).append(tensor)
    signs = {name: not all(positive[t] for t in tensors) for name, tensors in members.items()}
    by_channel = {n.src for n in graph.nodes if n.name in dial and isinstance(n, Conv) and n.src != graph.input}
    seen = tallies(graph, images, preprocess, {t: signs[c] for t, c in classes.items()}, by_channel)
    if options.grouping == "magnitude":
        prepared = group_channels(prepared, {t: seen[t].histogram.mean_square for t in by_channel})
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
            if options.uniform != "none" and by_channel & set(tensors):
                base = uniform.activation_scale(total, span, signs[name], options.uniform)
            elif options.aligned and options.uniform == "none":
                base = aligned_scale(base, total, [readers[t] for t in tensors if t in readers], signs[name])
            chosen = TensorQuant(base, signs[name])
        quant |= dict.fromkeys(tensors, chosen)
    return prepared, within_reach(prepared, quant), {t: seen[t].histogram for t in by_channel}
