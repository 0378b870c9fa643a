"""How a node is cut into tiles, and what that costs: the compiler's explicit cost model.

The costs are the durations of npu_isa.machine.timing, put together for the steady state of one layer: an estimate
that only chooses between tilings. Nothing reported to a user comes from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from npu_isa.machine.blocks import param_block_rows, table_rows, weight_block_words
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.timing import array_latency, conv_factors, pass_interval
from npu_isa.machine.window import Axis

from npu_compiler.backend.memory import Pitch, conv_geom, group_order
from npu_compiler.backend.refusal import too_small
from npu_compiler.qgraph.ir import Lookup, QConv, QTensor, QWindow

MIN_WINDOW_TILE_CYCLES = 256  # a vec shorter than this pays more for its start than finer overlap gains
VEC_START_CYCLES = 16  # parameter rows, pipeline, tokens of one vec


@dataclass(frozen=True)
class Tiling:
    """How a node is cut.

    Attributes:
        tile_h, tile_w: output pixels of a conv or vec tile.
        places: places of the group table that one conv instruction covers.
        tap_fastest: entry order of the passes.
        columns: column tiles of the output channels.
    """

    tile_h: int
    tile_w: int
    places: int
    tap_fastest: int
    columns: int


def tiling_of(node: QConv | QWindow, src: QTensor, out: QTensor, pitch: Pitch, machine: MachineConfig) -> Tiling:
    """Choose how to cut a node, or a strip of it that makes an output of this size.

    Args:
        node: the node.
        src: the tensor that it reads.
        out: its output, or as much of it as a strip makes.
        pitch: of the source in the activation memory.
        machine: the machine.

    Raises:
        CompileError: a block of its weights or of its parameters exceeds the memory for them.
    """
    rows, row_bytes = param_block_rows(taps_of(node)), 4 * machine.array_cols
    if rows > machine.param_rows:
        what, needs = f"its parameter block of {rows} rows", rows * row_bytes
        holds, key = machine.param_memory_bytes, "param_memory_bytes"
        raise too_small(f"node {node.name}", what, needs, "parameter memory", holds, key, needs, machine)
    if isinstance(node.epilogue.function, Lookup) and table_rows(machine) > machine.param_rows:
        what, needs = "its table", table_rows(machine) * row_bytes
        holds, key = machine.param_memory_bytes, "param_memory_bytes"
        raise too_small(f"node {node.name}", what, needs, "parameter memory", holds, key, needs, machine)
    if isinstance(node, QConv):
        return conv_tiling(node, src, out, pitch, machine)
    return window_tiling(node, out, machine)


def taps_of(node: QConv | QWindow) -> int:
    """Return the weights that a node keeps in the parameters of each lane."""
    return node.window.kernel[0] * node.window.kernel[1] if isinstance(node, QWindow) and node.kind == "mac" else 0


def column_tiles(channels: int, machine: MachineConfig) -> int:
    """Return the column tiles that make `channels` output channels."""
    return -(-channels // machine.array_cols)


def conv_cycles(
    node: QConv, src: QTensor, pitch: Pitch, tiling: Tiling, out: QTensor, boundary: int, machine: MachineConfig
) -> int:
    """Return the matrix engine's cycles for a layer at a boundary (groups), its passes back to back."""
    geom = conv_geom(node, src, pitch, 0, tiling.tap_fastest)
    order = group_order(node, src)
    pixels = [h * w for h in cuts(out.height, tiling.tile_h) for w in cuts(out.width, tiling.tile_w)]
    total = 0
    for first in range(0, len(order), tiling.places):
        part = order[first : first + tiling.places]
        factors = conv_factors(geom, part, min(max(boundary - first, 0), len(part)), machine)
        total += sum(pass_interval(m, k, machine) for m in pixels for k in factors)
    return total * tiling.columns


def cuts(total: int, step: int) -> list[int]:
    """Return the lengths of consecutive pieces of `total`, each `step` but the last."""
    return [min(step, total - i) for i in range(0, total, step)]


def pieces(whole: range, step: int) -> list[range]:
    """Return consecutive pieces of a range, each of `step` but the last."""
    return [whole[i : i + step] for i in range(0, len(whole), step)]


def _tile_shapes(height: int, width: int, limit: int) -> Iterator[tuple[int, int]]:
    """Yield even row tilings of an image whose tiles have at most `limit` pixels, tallest first."""
    if width > limit:
        pieces = -(-width // limit)
        yield 1, -(-width // pieces)
        return
    seen = 0
    for count in range(1, height + 1):
        rows = -(-height // count)
        if rows * width <= limit and rows != seen:
            seen = rows
            yield rows, width


def conv_tiling(node: QConv, src: QTensor, out: QTensor, pitch: Pitch, machine: MachineConfig) -> Tiling:
    """Choose the tiling of a convolution with the least estimated cycles over the ends of its dial.

    Raises:
        CompileError: one input group with all its taps exceeds the weight memory.
    """
    kh, kw = node.window.kernel
    order = group_order(node, src)
    columns = column_tiles(out.channels, machine)
    one = weight_block_words(machine, 1, kh * kw)
    if one > machine.weight_words:
        what = f"one weight block (16 channels x {kh * kw} taps x {machine.array_cols} columns)"
        needs, holds, key = one * WORD_BYTES, machine.weight_memory_bytes, "weight_memory_bytes"
        raise too_small(f"node {node.name}", what, needs, "weight memory", holds, key, needs, machine)
    places = min(len(order), max(1, machine.weight_words // 2 // one))
    places = -(-len(order) // -(-len(order) // places))  # equal chunks
    orders = {f: _order_conflicts(node, src, pitch, f, machine) for f in (1, 0)}
    tap_fastest = min(orders, key=lambda f: (orders[f], -f))
    best: tuple[float, Tiling] | None = None
    for tile_h, tile_w in _tile_shapes(out.height, out.width, machine.acc_rows):
        tiling = Tiling(tile_h, tile_w, places, tap_fastest, columns)
        if best and places < len(order):
            break  # weights of a chunk are loaded again for each tile: the largest tile is best
        cost = _layer_estimate(node, src, out, pitch, tiling, machine)
        if best is None or cost < best[0]:
            best = (cost, tiling)
    assert best is not None
    return best[1]


def _order_conflicts(node: QConv, src: QTensor, pitch: Pitch, tap_fastest: int, machine: MachineConfig) -> int:
    geom = conv_geom(node, src, pitch, 0, tap_fastest)
    order = group_order(node, src)
    return sum(sum(conv_factors(geom, order, low, machine)) for low in ({0, len(order)} if node.lowering else {0}))


def _layer_estimate(
    node: QConv, src: QTensor, out: QTensor, pitch: Pitch, tiling: Tiling, machine: MachineConfig
) -> float:
    """Estimate a layer's cycles: two accumulator halves alternate between matrix and vector engine."""
    pixels = tiling.tile_h * tiling.tile_w
    tiles = -(-out.height // tiling.tile_h) * -(-out.width // tiling.tile_w) * tiling.columns
    vec = VEC_START_CYCLES + pixels
    latency = array_latency(machine)
    total = 0.0
    for boundary in {0, src.groups} if node.lowering else {0}:
        matrix = conv_cycles(node, src, pitch, tiling, out, boundary, machine) / tiles
        period = max(matrix, vec, (matrix + latency + vec) / 2)
        # the next layer's first tile waits for the vec of a tile or two of this one, then the engines overlap again
        tail = (latency + vec) * (1.0 if tiles // tiling.columns <= 2 else 0.25)
        total += tiles * period + tail
    return total


def window_tiling(node: QWindow, out: QTensor, machine: MachineConfig) -> Tiling:
    """Cut a window node into row tiles just long enough to be worth their start."""
    kh, kw = node.window.kernel
    per_pixel = kh * -(-kw // machine.vector_taps) + (node.residual is not None)
    rows = max(1, -(-MIN_WINDOW_TILE_CYCLES // (out.width * per_pixel)))
    rows = min(rows, out.height)
    rows = -(-out.height // -(-out.height // rows))
    return Tiling(rows, out.width, 0, 0, column_tiles(out.channels, machine))


def shared(pixels: range, size: int) -> range:
    """Return the rows (or columns) of an output or of a second operand for those of the output: a single one for all.

    Args:
        pixels: rows of the output.
        size: rows of the operand.
    """
    return range(1) if size == 1 else pixels


def input_axes(node: QConv | QWindow, src: QTensor, out: QTensor) -> tuple[Axis, Axis]:
    """Return rows and columns of a node's output, with the window over its source that makes them."""
    w = node.window
    return (
        Axis(0, out.height, w.stride[0], w.dilation[0], w.kernel[0], w.pad_top, src.height),
        Axis(0, out.width, w.stride[1], w.dilation[1], w.kernel[1], w.pad_left, src.width),
    )


def input_span(axis: Axis, outputs: range) -> tuple[int, int]:
    """Return first and end of the inputs that some of an axis' outputs read, (0, 0) for none."""
    return replace(axis, first=outputs.start, count=len(outputs)).span()
