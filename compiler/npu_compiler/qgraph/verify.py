"""The rules of the quantized graph. A graph that breaks one came from a damaged or hand-made file, or from a bug."""

from collections.abc import Callable
from math import prod
from typing import Any, assert_never

import numpy as np
from npu_isa.errors import ContainerError, NpuError
from npu_isa.file.binary import HostPart
from npu_isa.machine.numerics import MAX_MULTIPLIER, MAX_SHIFT, MAX_SHIFT_LOWER
from numpy.typing import NDArray

from npu_compiler.graph.ir import fill_once
from npu_compiler.outputs import Output
from npu_compiler.qgraph.ir import (
    GROUP,
    Clamp,
    Computed,
    Function,
    Leaky,
    Lookup,
    Lowering,
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
from npu_compiler.qgraph.multipliers import prove_no_overflow

MAX_SIDE = 1 << 16
MAX_GROUPS = 256

Rule = Callable[[bool, str], None]


def verify_quantized(graph: QuantizedGraph, where: str) -> None:
    """Check every rule that the golden model and the back end rely on.

    Args:
        graph: any values of the right types.
        where: names the source in the error.

    Raises:
        ContainerError: the first broken rule, with the node or tensor.
    """

    def rule(ok: bool, text: str, at: str = "") -> None:
        if not ok:
            raise ContainerError(f"{at}: {text}" if at else text, where, "quantize the model again")

    for name, tensor in graph.tensors.items():
        _check_tensor(tensor, name, name == graph.input, _at(rule, name))
    rule(graph.input in graph.tensors, "the input is not a tensor")
    image = graph.tensors[graph.input]
    rule(graph.table.shape == (image.channels, 256) and graph.table.dtype == np.uint8, "shape of the pixel table")
    _check_preprocess(graph, image, rule)
    made = _check_nodes(graph, where, rule)
    rule(made == set(graph.tensors), "tensors that nothing makes")
    rule(0 < len(graph.outputs) == len({o.name for o in graph.outputs}), "no outputs, or two of one name")
    for output in graph.outputs:
        _check_output(graph, output, made, _at(rule, f"output {output.name}"))
    if graph.host is not None:
        _check_host(graph.host, {o.name for o in graph.outputs}, _at(rule, "the host's part"))
    wide = [t.name for t in graph.tensors.values() if t.bits == 16 and t.name not in graph.output_tensors]
    rule(not wide, f"16 bits inside the network: {wide}")


def _check_output(graph: QuantizedGraph, output: Output, made: set[str], rule: Rule) -> None:
    rule(output.tensor in made and output.tensor != graph.input, "it is not made")
    rule(not graph.users(output.tensor), "it is read inside the network")
    t = graph.tensors[output.tensor]
    real = sum(c >= 0 for c in t.channel_map) * t.height * t.width
    rule(prod(output.shape) == real and min(output.shape, default=0) > 0, f"shape {output.shape} of {real} values")


def _check_host(host: HostPart, given: set[str], rule: Rule) -> None:
    names = [output.name for output in host.outputs]
    rule(host.onnx.dtype == np.uint8 and host.onnx.ndim == 1 and host.onnx.size > 0, "the model is no bytes")
    rule(len(names) == len(set(names)) and bool(set(names) - given), "it makes no output, or one twice")
    rule(host.macs >= 0, f"{host.macs} multiply-accumulates")


def _at(rule: Callable[..., None], place: str) -> Rule:
    return lambda ok, text: rule(ok, text, place)


def _check_nodes(graph: QuantizedGraph, where: str, rule: Callable[..., None]) -> set[str]:
    """Check the nodes and their order; returns the tensors that exist after them."""
    made, names, owned = {graph.input}, set[str](), set[str]()
    for node in graph.nodes:
        rule(node.name not in names, "the name is taken", node.name)
        rule(node.out in graph.tensors and node.out not in made, f"output {node.out!r}", node.name)
        for read in node.inputs:
            rule(read in made, f"reads {read!r} before it is made", node.name)
            is_image = read == graph.input
            rule(is_image == isinstance(node, QFold), "the image is read by folds, and by folds alone", node.name)
        if isinstance(node, QConcat | QMosaic):
            rule(not owned & set(node.srcs) and len(set(node.srcs)) == len(node.srcs), "an operand twice", node.name)
            owned |= set(node.srcs)
        try:
            _check_node(graph, node, _at(rule, node.name))
        except NpuError as error:
            raise ContainerError(error.message, f"{where}: {error.where}", error.hint) from None
        names.add(node.name)
        made.add(node.out)
    return made


def _check_tensor(t: QTensor, name: str, is_image: bool, rule: Rule) -> None:
    rule(t.name == name, "filed under another name")
    rule(0 < t.height <= MAX_SIDE and 0 < t.width <= MAX_SIDE, f"size {t.height}x{t.width}")
    rule(0 < t.channels <= GROUP * MAX_GROUPS * GROUP, f"{t.channels} channels")
    rule(is_image or t.channels % GROUP == 0, f"{t.channels} channels are no whole groups")
    rule(np.isfinite(t.scale) and t.scale > 0, f"scale {t.scale}")
    rule(t.limits[0] <= t.zero <= t.limits[1], f"zero {t.zero}")
    rule(t.bits in (8, 16) and (t.bits == 8 or t.signed), f"{t.bits} bits")
    real = sorted(c for c in t.channel_map if c >= 0)
    rule(len(t.channel_map) == t.channels, "length of the channel map")
    rule(real == list(range(len(real))) and bool(real) and min(t.channel_map) >= -1, "the channel map is no choice")


def _check_preprocess(graph: QuantizedGraph, image: QTensor, rule: Callable[..., None]) -> None:
    pre = graph.preprocess
    rule(len(pre.mean) == len(pre.std) == image.channels, "mean and std need a value per channel")
    rule(bool(np.isfinite([pre.pixel_scale, *pre.mean, *pre.std]).all()) and min(pre.std) > 0, "preprocessing numbers")
    for name, sizes in (("resize", pre.resize), ("crop", pre.crop)):
        rule(len(sizes) <= 2 and all(0 < s <= MAX_SIDE for s in sizes), f"{name} {sizes}")
    rule(len(pre.crop) != 1, f"crop {pre.crop}")


def _check_node(graph: QuantizedGraph, node: QNode, rule: Rule) -> None:
    out, src = graph.tensors[node.out], graph.tensors[node.inputs[0]]
    match node:
        case QFold():
            _check_window(node.window, src, out, rule)
            taps = node.window.kernel[0] * node.window.kernel[1] * src.channels
            rule(out.channels == -(-taps // GROUP) * GROUP, f"{taps} taps in {out.channels} channels")
            rule(node.window.dilation == (1, 1), "a fold has no dilation")
            rule(out.signed == src.signed, "a fold keeps the sign")
        case QConcat():
            parts = [graph.tensors[s] for s in node.srcs]
            same = all((p.height, p.width, p.signed) == (out.height, out.width, out.signed) for p in parts)
            rule(same and sum(p.channels for p in parts) == out.channels, "operands that do not fit the result")
        case QMosaic():
            parts = [graph.tensors[s] for s in node.srcs]
            same = all((p.channels, p.signed, p.bits) == (out.channels, out.signed, out.bits) for p in parts)
            rule(same and len(node.places) == len(parts), "operands that do not fit the result")
            places = zip(node.places, ((p.height, p.width) for p in parts), strict=True)
            rule(fill_once((out.height, out.width), places), "a pixel in no part, in several, or beyond the result")
        case QConv():
            _check_window(node.window, src, out, rule)
            shape = (out.channels, *node.window.kernel, src.channels)
            rule(_is(node.weight, np.int8, shape), f"weights {node.weight.dtype} {node.weight.shape}, not int8 {shape}")
            rule(src.groups <= MAX_GROUPS, f"{src.groups} input groups, at most {MAX_GROUPS}")
            rule(node.macs >= 0, f"{node.macs} multiply-accumulates")
            _check_epilogue(graph, node, out, rule)
            if node.lowering is not None:
                _check_lowering(node.lowering, src.groups, out.channels, rule)
            rows = node.epilogue.bias[None] if node.lowering is None else node.lowering.bias_rows
            prove_no_overflow(node.weight, rows, 128 if src.signed else 255, f"node {node.name}")
        case QWindow():
            _check_window(node.window, src, out, rule)
            rule(node.kind in ("mac", "max", "sum"), f"kind {node.kind!r}")
            rule(src.channels == out.channels, f"{src.channels} channels become {out.channels}")
            weighted = node.weight is not None and _is(node.weight, np.int8, (out.channels, *node.window.kernel))
            rule(weighted if node.kind == "mac" else node.weight is None, "weights")
            _check_epilogue(graph, node, out, rule)
        case _:
            assert_never(node)


def _is(array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> bool:
    return array.dtype == dtype and array.shape == shape


def _check_window(w: Window, src: QTensor, out: QTensor, rule: Rule) -> None:
    values = (*w.kernel, *w.stride, *w.dilation)
    rule(all(0 < v < 256 for v in values), f"window {values}: each 1..255")
    rule(all(-(1 << 15) <= p < 1 << 15 for p in (w.pad_top, w.pad_left)), "pads beyond 16 bits")
    rule(max(out.height, out.width) * max(w.stride) < 1 << 24, "strides reach too far")


def _check_epilogue(graph: QuantizedGraph, node: Computed, out: QTensor, rule: Rule) -> None:
    e = node.epilogue
    for name, array in (("bias", e.bias), ("shift", e.shift)):
        rule(_is(array, np.int32, (out.channels,)), f"{name} {array.dtype} {array.shape}")
    rule(e.shift.min() >= 1 and e.shift.max() <= MAX_SHIFT, f"shift outside 1..{MAX_SHIFT}")
    _check_multiplier("mult", e.mult, out, rule)
    _check_function(e.function, out, rule)
    if e.operand is None:
        return
    if isinstance(e.operand, Residual):
        _check_multiplier("the residual's mult", e.operand.mult, out, rule)
    else:
        plain = isinstance(node, QWindow) and node.kind == "sum" and node.window.kernel == (1, 1)
        rule(plain, "a factor of something else than single values")
    rule(not isinstance(e.function, Leaky), "a second operand with a leaky function")
    other = graph.tensors[e.operand.tensor]
    shape = other.height in (1, out.height) and other.width in (1, out.width) and other.channels == out.channels
    rule(shape, "the second operand's shape")
    rule(other.bits == 8, "a second operand of 16 bits")


def _check_function(f: Function, out: QTensor, rule: Rule) -> None:
    low, high = out.limits
    match f:
        case Clamp():
            pass
        case Leaky():
            _check_multiplier("the leaky mult", f.mult, out, rule)
        case Lookup():
            rule(out.bits == 8, "a table for values of 16 bits")
            rule(_is(f.table, np.uint8, (256,)), f"table {f.table.dtype} {f.table.shape}")
            rule(bool(np.isfinite(f.scale)) and f.scale > 0, f"the table's scale {f.scale}")
            low, high = (-128, 127) if f.low < 0 else (0, 255)
        case _:
            assert_never(f)
    rule(low <= f.low <= 0 <= f.high <= high, f"clamp {f.low}..{f.high} outside {low}..{high} or without 0")


def _check_multiplier(name: str, mult: NDArray[Any], out: QTensor, rule: Rule) -> None:
    rule(_is(mult, np.int32, (out.channels,)), f"{name} {mult.dtype} {mult.shape}")
    rule(abs(mult).max() <= MAX_MULTIPLIER, f"{name} beyond {MAX_MULTIPLIER}")


def _check_lowering(lowering: Lowering, groups: int, outputs: int, rule: Rule) -> None:
    rule(sorted(lowering.order) == list(range(groups)), f"the order is no permutation of {groups} groups")
    shifts = np.array(lowering.act_shift)
    rule(shifts.shape == (groups,) and shifts.min() >= 0 and shifts.max() <= MAX_SHIFT_LOWER, "activation positions")
    rule(_is(lowering.wgt_shift, np.int8, (groups, outputs)), "shape of the weights' positions")
    rule(lowering.wgt_shift.min() >= 0 and lowering.wgt_shift.max() <= MAX_SHIFT_LOWER, "the weights' positions")
    rule(_is(lowering.bias_rows, np.int32, (groups + 1, outputs)), "shape of the bias rows")
    e = lowering.evidence
    if e is not None:
        rule(len(e.act_bits) == len(e.error) == len(e.truncation) == groups, "length of the evidence")
        rule(all(0 <= b <= 8 for b in e.act_bits), "bits of the evidence")
        rule(bool(np.isfinite([*e.error, *e.truncation]).all()), "errors of the evidence")
    rule(_is(lowering.score, np.float64, (groups,)) and bool(np.isfinite(lowering.score).all()), "scores")
