"""Operands that pass through DRAM: how a node is cut into strips that fit the activation memory.

A strip is a rectangle of output pixels for a range of column tiles: a window node reads the channels of those only, a
convolution all. Strips of full width for all channels in half of the memory come first; where not even one row of those
fits, or another cut moves far fewer bytes, the cut that moves the fewest is taken.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from npu_isa.errors import CompileError
from npu_isa.machine.blocks import weight_block_words
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.window import Axis

from npu_compiler.backend.memory import Pitch, choose_pitch, words_per_pixel
from npu_compiler.backend.refusal import act_too_small
from npu_compiler.backend.tiles import Tiling, cuts, input_axes, input_span, pieces
from npu_compiler.qgraph.ir import GROUP, QConv, QTensor, QWindow

WORTH = 1.25  # strips of full width leave half the memory to others: they may move this much more


@dataclass(frozen=True)
class Strip:
    """What is made of a node at one go: output rows, output columns, and column tiles of channels."""

    y: range
    x: range
    columns: range


@dataclass(frozen=True)
class Passing:
    """An operand that passes through DRAM.

    Attributes:
        role: "src", "residual" or "out".
        tensor: what it is.
        words: from a pixel to the next, in DRAM.
        pitch: of a strip of its full width with all channels.
        sliced: a strip holds the channels of its own column tiles only, not all.
        line: of an operand that is gathered from the image: bytes of the image read for a row; 0 for others.
    """

    role: str
    tensor: QTensor
    words: int
    pitch: Pitch
    sliced: bool
    line: int = 0


@dataclass(frozen=True)
class Job:
    """A node, its tiling as a whole, and those of its operands that pass through DRAM."""

    node: QConv | QWindow
    tiling: Tiling
    src: QTensor
    out: QTensor
    passing: tuple[Passing, ...]
    machine: MachineConfig


@dataclass(frozen=True)
class Cut:
    """How a node is cut.

    Attributes:
        rows, cols: output pixels of a strip.
        columns: its column tiles.
        buffers: of each operand, one or two (the next strip loads while one is worked on).
        dense: pixels and rows of a buffer follow each other without a gap, at the price of bank conflicts.
    """

    rows: int
    cols: int
    columns: int
    buffers: int
    dense: bool = False


def strips_of(job: Job, cut: Cut) -> tuple[Strip, ...]:
    """Return the strips in program order: all pixels for some column tiles, whose constants stay, then for the next."""
    ys, xs = pieces(range(job.out.height), cut.rows), pieces(range(job.out.width), cut.cols)
    return tuple(Strip(y, x, c) for c in pieces(range(job.tiling.columns), cut.columns) for y in ys for x in xs)


def source_columns(axis: Axis, x: range) -> range:
    """Return the input columns that a strip holds: those that it reads, or all if it is of full width."""
    return range(axis.limit) if len(x) == axis.count else range(*input_span(axis, x))


def sliced_words(tensor: QTensor, columns: int, machine: MachineConfig) -> int:
    """Return the words of a pixel's first `columns` column tiles; they fill whole groups, or all of the tensor."""
    groups = -(-columns * machine.array_cols // GROUP)
    return min(tensor.groups, groups) * tensor.bits // 8


@lru_cache(maxsize=4096)
def _inputs(axis: Axis, step: int) -> tuple[int, ...]:
    """Return the inputs that each piece of `step` outputs of an axis reads."""
    starts = range(0, axis.count, step)
    spans = [input_span(axis, range(first, min(first + step, axis.count))) for first in starts]
    return tuple(end - first for first, end in spans)


def _pixels(job: Job, cut: Cut, p: Passing) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the rows, and the columns, of an operand that the strips hold, for each row and column of strips."""
    if p.role != "src":
        heights, widths = cuts(job.out.height, cut.rows), cuts(job.out.width, cut.cols)
        return tuple(min(h, p.tensor.height) for h in heights), tuple(min(w, p.tensor.width) for w in widths)
    rows, cols = input_axes(job.node, job.src, job.out)
    return _inputs(rows, cut.rows), (cols.limit,) if cut.cols == cols.count else _inputs(cols, cut.cols)


def held(job: Job, cut: Cut, p: Passing) -> tuple[QTensor, Pitch]:
    """Return the most of an operand that a strip holds, as a tensor, and its pitches in the buffer.

    A cut in width keeps the row pitch modulo the banks, and so the bank conflicts; a slice of the channels is a tensor
    of its own.
    """
    heights, widths = _pixels(job, cut, p)
    words = sliced_words(p.tensor, cut.columns, job.machine) if p.sliced else words_per_pixel(p.tensor)
    groups = words * 8 // p.tensor.bits
    part = replace(p.tensor, height=max(1, *heights), width=max(1, *widths), channels=groups * GROUP)
    if cut.dense:
        return part, Pitch(words, words * part.width)
    if groups < p.tensor.groups:
        return part, choose_pitch(part, [(job.node, part)] if p.role == "src" else [], job.machine)
    row = part.width * p.pitch.pixel
    return part, Pitch(p.pitch.pixel, row + (p.pitch.row - row) % job.machine.act_banks)


def buffer_words(part: QTensor, pitch: Pitch) -> int:
    """Return the activation words from a tensor's first to one past its last."""
    return (part.height - 1) * pitch.row + part.width * pitch.pixel


def needed_words(job: Job, cut: Cut) -> int:
    """Return the activation words of all buffers of a cut."""
    return cut.buffers * sum(buffer_words(*held(job, cut, p)) for p in job.passing)


def choose_cut(job: Job) -> Cut:
    """Return the cut of a node: strips of full width in half the memory, or those that move far fewer bytes.

    Raises:
        CompileError: one output pixel, in whole groups for one column tile of channels and all that it reads, does not
            fit the activation memory.
    """
    full = _full_width(job)
    if full is not None and full.buffers == 1:
        return full
    for buffers, dense in ((2, False), (1, False), (1, True)):
        moved = {cut: moved_bytes(job, cut) for cut in _fitting(job, buffers, dense)}
        if moved:
            best = min(moved, key=lambda c: (moved[c], -c.cols, -c.columns))
            return best if full is None or moved[best] * WORTH < moved_bytes(job, full) else full
    raise _refusal(job)


def _full_width(job: Job) -> Cut | None:
    """Return the tallest strips of full width and all channels that fit half the memory."""
    height, tile = job.out.height, job.tiling.tile_h
    heights = [*range(1, min(tile, height)), *(min(height, i) for i in range(tile, height + tile, tile))]
    for rows in reversed(heights):
        cut = Cut(rows, job.out.width, job.tiling.columns, 1 if rows == height else 2)
        if _in_reach(job, cut) and needed_words(job, cut) <= job.machine.act_words // 2:
            return cut
    return None


def _fitting(job: Job, buffers: int, dense: bool) -> Iterator[Cut]:
    """Yield the cut into one strip, and the tallest for each width and number of column tiles, as far as they fit."""
    height, width, columns = job.out.height, job.out.width, job.tiling.columns
    unit = _whole_groups(job)
    whole = Cut(height, width, columns, 1, dense)
    memory = job.machine.act_words
    if _in_reach(job, whole) and needed_words(job, whole) <= memory:
        yield whole
    for cols in even_cuts(width):
        for units in even_cuts(-(-columns // unit)):
            options = [Cut(rows, cols, min(units * unit, columns), buffers, dense) for rows in even_cuts(height)]
            fit = bisect_left(options, True, key=lambda c: needed_words(job, c) > memory)
            if fit and _in_reach(job, options[fit - 1]):
                yield options[fit - 1]


def _in_reach(job: Job, cut: Cut) -> bool:
    """Whether instructions can count the pitches of all buffers of a cut; more rows do not change them."""
    return all(held(job, cut, p)[1].in_reach for p in job.passing)


def even_cuts(total: int) -> list[int]:
    """Return the lengths of pieces that cut `total` evenly into 1, 2, ... pieces, ascending."""
    return sorted({-(-total // pieces) for pieces in range(1, total + 1)})


def _whole_groups(job: Job) -> int:
    """Return the column tiles that fill whole groups of channels."""
    return min(max(1, GROUP // job.machine.array_cols), job.tiling.columns)


def moved_bytes(job: Job, cut: Cut) -> int:
    """Estimate the DRAM bytes that a node moves in a cut, in whole bursts; a strip costs those of a latency besides."""
    machine = job.machine
    burst = machine.dram_burst_bytes
    slices = -(-job.tiling.columns // cut.columns)
    strips = -(-job.out.height // cut.rows) * -(-job.out.width // cut.cols)
    total = slices * strips * machine.dram_latency_cycles * machine.dram_bytes_per_cycle
    for p in job.passing:
        heights, widths = _pixels(job, cut, p)
        words = words_per_pixel(held(job, cut, p)[0])
        runs = [w * words * WORD_BYTES for w in widths] if words == p.words else [words * WORD_BYTES] * sum(widths)
        if p.line:
            runs = [p.line] * len(widths)
        total += slices * sum(heights) * sum(-(-run // burst) * burst for run in runs)
    if isinstance(job.node, QConv):
        kh, kw = job.node.window.kernel
        column = weight_block_words(machine, job.src.groups, kh * kw)
        again = 1 if cut.columns * column <= machine.weight_words // 2 else strips
        if job.tiling.places < job.src.groups:  # a chunk replaces the one before: again for each tile
            again *= -(-cut.rows * cut.cols // machine.acc_rows)
        total += job.tiling.columns * column * WORD_BYTES * again
    return total


def _refusal(job: Job) -> CompileError:
    smallest = Cut(1, 1, _whole_groups(job), 1, dense=True)
    parts = []
    for p in job.passing:
        part, pitch = held(job, smallest, p)
        size = f"{part.height} x {part.width} pixels of {part.channels} channels"
        parts.append(f"{p.role} {p.tensor.name!r}: {size}, {buffer_words(part, pitch) * WORD_BYTES} bytes")
    what = f"its smallest strip, one output pixel ({'; '.join(parts)}),"
    return act_too_small(job.node.name, what, needed_words(job, smallest), job.machine)
