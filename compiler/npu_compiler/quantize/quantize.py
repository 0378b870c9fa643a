"""From the float graph to the quantized graph in 8 bits: scales and integer weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npu_compiler.graph.ir import Act, Conv, Curve, Graph, TensorQuant, inputs
from npu_compiler.graph.passes.prune import prune
from npu_compiler.options import SMALL, QuantizeOptions
from npu_compiler.qgraph.ir import U8, Preprocess, QuantizedGraph
from npu_compiler.quantize import uniform
from npu_compiler.quantize.absorb import absorb_normalization
from npu_compiler.quantize.build import build
from npu_compiler.quantize.calibrate import F64, Histogram, Tally, check_images, joined, pixel_values, tallies
from npu_compiler.quantize.grouping import group_channels
from npu_compiler.quantize.prepare import Prepared, fused_curves, is_depthwise, offset_tensors, prepare, wide_tensors
from npu_compiler.quantize.remarks import calibrated, remarks
from npu_compiler.quantize.scales import (
    Demand,
    aligned_scale,
    curve_scale,
    demands,
    method_scale,
    non_negative,
    offset_quant,
    within_reach,
)

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


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the tensors of a float network were on calibration images.

    Attributes:
        tallies: range and histogram of every tensor.
        signed: of every tensor: whether its class may take negative values.
        by_channel: histogram, a row per channel, of the tensors that layers with a dial read; not of the image.
    """

    tallies: Mapping[str, Tally]
    signed: Mapping[str, bool]
    by_channel: Mapping[str, Histogram]

    def is_live(self, tensor: str) -> bool:
        """Whether a tensor was not zero throughout."""
        return self.tallies[tensor].low < 0 or self.tallies[tensor].high > 0

    @property
    def mean_square(self) -> dict[str, F64]:
        """Mean square of each channel of the tensors in `by_channel`, shape (channels,)."""
        return {t: h.mean_square for t, h in self.by_channel.items()}


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
    seen = calibrate(prepared, images, normalized, dial)
    if options.grouping == "magnitude":
        prepared = group_channels(prepared, seen.mean_square)
    quant = choose_scales(prepared, seen, dial, options)
    image = prepared.graph.quant[graph.input]
    table = pixel_table(normalized, image, np.float32 if graph.input in graph.quant else np.float64)
    base = build(prepared, quant, seen.mean_square, dial, preprocess, table, options)
    base = replace(base, notes=(*base.notes, *remarks(graph, images), *calibrated(prepared.graph, prepared.classes)))
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


def pixel_table(preprocess: Preprocess, quant: TensorQuant, kind: type[np.floating] = np.float64) -> U8:
    """Return the input byte of each pixel value, uint8 (channels, 256); ties round to even.

    Args:
        preprocess: from pixels to real values.
        quant: of the input.
        kind: of the division: float32 where a model fixes the quantization, so that ties are its ties.
    """
    steps = np.rint(pixel_values(preprocess).astype(kind) / kind(quant.scale))
    integers = np.clip(steps + quant.zero, *quant.integers).astype(np.int16)
    return np.asarray(integers & 0xFF, np.uint8)


def dial_nodes(graph: Graph, options: QuantizeOptions) -> set[str]:
    """Return the names of the convolutions that may run in 4 bits."""
    convs = [n for n in graph.nodes if isinstance(n, Conv) and not is_depthwise(n)]
    near = _image_like(graph) if options.keep_first_8bit else set()
    kept = {n.name for n in convs if n.src in near}
    kept |= _last_convs(graph) if options.keep_last_8bit else set()
    kept |= {n.name for n in convs if n.weight[0].size <= SMALL} if options.keep_small_8bit else set()
    return {n.name for n in convs} - kept


def _last_convs(graph: Graph) -> set[str]:
    """Return, for each output, the name of the last convolution on the matrix engine that it depends on."""
    last = set()
    for output in graph.outputs:
        nodes = prune(replace(graph, outputs=(output,))).nodes
        last.update([n.name for n in nodes if isinstance(n, Conv) and not is_depthwise(n)][-1:])
    return last


def _image_like(graph: Graph) -> set[str]:
    """Return the image and what is made of it without a convolution."""
    found = {graph.input}
    for node in graph.nodes:
        if not isinstance(node, Conv) and set(inputs(node)) <= found:
            found.add(node.out)
    return found


def calibrate(prepared: Prepared, images: U8, preprocess: Preprocess, dial: set[str]) -> Calibration:
    """Run the float network on calibration images.

    Args:
        prepared: the network.
        images, preprocess: as for `quantize8`, for this network.
        dial: names of the convolutions that may run in 4 bits.

    Raises:
        DataError: a tensor is not finite.
    """
    graph, classes = prepared.graph, prepared.classes
    positive = non_negative(graph)
    negative = {name for tensor, name in classes.items() if not positive[tensor]}
    signed = {tensor: name in negative for tensor, name in classes.items()}
    read = [n.src for n in graph.nodes if n.name in dial and isinstance(n, Conv) and n.src != graph.input]
    seen = tallies(graph, images, preprocess, signed, set(read))
    return Calibration(seen, signed, {t: seen[t].histogram for t in read})


def choose_scales(
    prepared: Prepared, seen: Calibration, dial: set[str], options: QuantizeOptions
) -> dict[str, TensorQuant]:
    """Return the quantization of every tensor.

    Args:
        prepared: the network, each channel in its group.
        seen: what calibration said of its tensors.
        dial: names of the convolutions that may run in 4 bits.
        options: choices.
    """
    members: dict[str, list[str]] = {}
    for tensor, name in prepared.classes.items():
        members.setdefault(name, []).append(tensor)
    wanted = demands(prepared, seen.by_channel, dial)
    curves, offset = fused_curves(prepared.graph), offset_tensors(prepared.graph)
    quant: dict[str, TensorQuant] = {}
    for name, tensors in members.items():
        chosen = _class_quant(prepared.graph, name, tensors, seen, wanted, curves, options)
        if tensors[0] in offset and chosen.signed and name not in prepared.graph.quant and options.uniform == "none":
            tally = seen.tallies[tensors[0]]
            chosen = offset_quant(chosen.scale, (tally.low, tally.high))
        quant |= dict.fromkeys(tensors, chosen)
    dead = {n for n, ts in members.items() if n not in prepared.graph.quant and not any(map(seen.is_live, ts))}
    return within_reach(prepared, quant, dead)


def _class_quant(
    graph: Graph,
    name: str,
    tensors: Sequence[str],
    seen: Calibration,
    wanted: Mapping[str, Demand],
    curves: Mapping[str, Act],
    options: QuantizeOptions,
) -> TensorQuant:
    """Return the quantization of the tensors of a class; `name` is its representative; see `fused_curves`."""
    if name in graph.quant:
        return graph.quant[name]
    signed = seen.signed[name]
    span = (min(seen.tallies[t].low for t in tensors), max(seen.tallies[t].high for t in tensors))
    if name in wide_tensors(graph):
        return TensorQuant(max(map(abs, span)) / WIDE_LEVELS or 1.0, True)
    total = joined([seen.tallies[t].histogram.total() for t in tensors])
    if name in curves:
        act = curves[name].act
        assert isinstance(act, Curve)
        assert len(tensors) == 1
        results = seen.tallies[curves[name].out]
        return TensorQuant(curve_scale(act.program, total, span, signed, (results.low, results.high)), signed)
    scale = method_scale(total, span, signed, options)
    if options.uniform != "none":
        if seen.by_channel.keys() & set(tensors):
            scale = uniform.activation_scale(total, span, signed, options.uniform)
    elif options.aligned:
        scale = aligned_scale(scale, total, [wanted[t] for t in tensors if t in wanted], signed)
    return TensorQuant(scale, signed)
