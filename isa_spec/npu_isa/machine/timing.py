"""How long each operation occupies its engine: the timing rules of the microarchitecture page, each stated once.

No duration depends on data. The order in which operations start is the simulators' business; the compiler's cost
model uses the same durations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from npu_isa.isa.ops import Conv, Fold, Geom, Load, Source, Store, Vec, VGeom
from npu_isa.isa.tables import TIMING
from npu_isa.machine import banks
from npu_isa.machine.blocks import param_block_rows, table_rows
from npu_isa.machine.config import BLOCK_BYTES, FETCH_WORDS, SEGMENT_ROWS, WORD_BYTES, MachineConfig


def segments(machine: MachineConfig) -> int:
    """Return the number of 8-row segments (1 for arrays of 2 or 4 rows)."""
    return max(1, machine.array_rows // SEGMENT_ROWS)


def bank_factor(offsets: frozenset[int], banks: int) -> int:
    """Return the cycles that reading the words at `offsets` takes: the most that fall on one bank."""
    counts: dict[int, int] = {}
    for offset in offsets:
        counts[offset % banks] = counts.get(offset % banks, 0) + 1
    return max(counts.values(), default=1)


def _pass_list(geom: Geom, groups: tuple[int, ...], low: Any, machine: MachineConfig) -> tuple[Any, ...]:
    """Return the arguments of `banks` for the passes over these places; the last has room for a factor of each."""
    taps = [
        ky * geom.dilation_y * geom.row_pitch + kx * geom.dilation_x * geom.pixel_pitch
        for ky in range(geom.kernel_h)
        for kx in range(geom.kernel_w)
    ]
    rows = machine.array_rows
    if rows >= SEGMENT_ROWS:
        per_pass, copies = rows // SEGMENT_ROWS, (1, 2)
    else:  # one short segment: a part of one group at a time
        per_pass, copies = 1, (WORD_BYTES // (2 * rows), WORD_BYTES // rows)
    room = np.empty((2, len(groups) * len(taps) * copies[1] + 2), np.int64)
    entries = np.array(groups, np.int64), np.array(taps, np.int64), geom.tap_fastest
    return (*entries, low, per_pass, np.array(copies, np.int64), machine.act_banks, room)


@lru_cache(maxsize=4096)
def _passes(geom: Geom, groups: tuple[int, ...], low: int, machine: MachineConfig) -> tuple[tuple[int, ...], ...]:
    """Return bank factor and different words of each pass; see `conv_factors`."""
    passes = _pass_list(geom, groups, low, machine)
    count = banks.pass_factors(*passes)
    return tuple(tuple(row) for row in passes[-1][:, :count].tolist())


def conv_factors(geom: Geom, groups: tuple[int, ...], low: int, machine: MachineConfig) -> tuple[int, ...]:
    """Return the bank factor of each pass over the places `groups`, the first `low` of them in 4-bit form."""
    return _passes(geom, groups, low, machine)[0]


def conv_conflicts(geom: Geom, groups: tuple[int, ...], lows: Sequence[int], machine: MachineConfig) -> int:
    """Return the extra cycles per pixel that bank conflicts cost, summed over the numbers of places in 4-bit form."""
    return int(banks.conflicts(*_pass_list(geom, groups, np.array(lows, np.int64), machine)))


def conv_passes(op: Conv, boundary: int, machine: MachineConfig) -> tuple[int, ...]:
    """Return the bank factor of each pass of a conv at `boundary` (groups in 4 bits): cycles per pixel, 1 if free.

    4-bit passes come first. A pass holds array_rows / 8 entries of the (tap, group) list: whole groups in 4-bit
    form, half-groups in 8-bit form (the two halves of a group share one word).
    """
    return conv_factors(op.geom, op.groups, op.low_places(boundary), machine)


def conv_pass_words(op: Conv, boundary: int, machine: MachineConfig) -> tuple[int, ...]:
    """Return the words that each pass of a conv at `boundary` reads per pixel; entries outside the image count."""
    return _passes(op.geom, op.groups, op.low_places(boundary), machine)[1]


def low_passes(op: Conv, boundary: int, machine: MachineConfig) -> int:
    """Return the passes of a conv at `boundary` that are in 4-bit form; they come first."""
    low = op.low_places(boundary)
    return len(_passes(op.geom, op.groups[:low], low, machine)[0])


def weight_load_cycles(machine: MachineConfig) -> int:
    """Return the cycles from the first to one past the last row of a weight tile written to the shadow registers."""
    return machine.array_rows // machine.weight_rows_per_cycle


def pass_interval(pixels: int, factor: int, machine: MachineConfig) -> int:
    """Return the cycles from the first pixel of a pass to the first pixel of the next one in the same conv."""
    return max(pixels * factor, TIMING["shadow_free_cycles"] + weight_load_cycles(machine))


def array_latency(machine: MachineConfig) -> int:
    """Return the cycles from the issue of a pixel to one past its write in the last column's accumulator."""
    return (
        TIMING["act_read_cycles"]
        + TIMING["find_position_cycles"] * machine.dynamic_extraction
        + min(TIMING["segment_cycles"], machine.array_rows)
        + segments(machine)
        + (machine.array_cols - 1)
        + TIMING["acc_write_cycles"]
    )


def param_rows(geom: VGeom) -> int:
    """Return the rows of the parameter block that a vec with this geometry reads."""
    taps = geom.kernel_h * geom.kernel_w if geom.source == Source.MAC else 0
    return param_block_rows(taps)


@lru_cache(maxsize=4096)
def _pixel_cycles(geom: VGeom, words: int, taps_per_cycle: int, banks: int) -> int:
    if geom.source == Source.ACC:
        cycles = 1
    else:
        cycles = 0
        for first in range(0, geom.kernel_w, taps_per_cycle):
            step = range(first, min(first + taps_per_cycle, geom.kernel_w))
            offsets = frozenset(t * geom.dilation_x * geom.pixel_pitch + g for t in step for g in range(words))
            cycles += bank_factor(offsets, banks)
        cycles = cycles * geom.kernel_h + geom.residual
    return cycles + geom.wide


def vec_issue_cycles(op: Vec, machine: MachineConfig) -> int:
    """Return the cycles from the start of a vec to one past the issue of its last pixel.

    The parameter rows are read first, one per cycle. Then each pixel takes: 1 cycle from the accumulators; from a
    window, kernel_h x ceil(kernel_w / vector_taps) steps, each times its bank factor, and 1 more for a residual; and
    1 more when the output is 16 bits wide.
    """
    per_pixel = _pixel_cycles(op.geom, op.words, machine.vector_taps, machine.act_banks)
    return param_rows(op.geom) + op.pixels * per_pixel


def table_issue_cycles(machine: MachineConfig) -> int:
    """Return the cycles from the start of a `table` to one past the issue of its last row: a row per cycle."""
    return table_rows(machine)


@dataclass(frozen=True)
class Transfer:
    """What a DMA operation asks of the DRAM, and how long it works besides.

    Attributes:
        bursts: one after the other, in blocks of `block_bursts`.
        least_cycles: from its start to its issue end at least.
        tails: of a fold, for each block: least cycles from its first bus cycle to the issue end.
    """

    bursts: int
    least_cycles: int = 0
    tails: tuple[int, ...] = ()


def _runs_bursts(addr: int, rows: int, cols: int, run: int, row_pitch: int, col_pitch: int, burst: int) -> int:
    """Count bursts; runs that follow each other without a gap are one run."""
    if cols == 1 or col_pitch == run:
        run, cols = run * cols, 1
    if cols == 1 and (rows == 1 or row_pitch == run):
        run, rows = run * rows, 1
    total = 0
    for r in range(rows):
        for c in range(cols):
            start = addr + r * row_pitch + c * col_pitch
            total += (start + run - 1) // burst - start // burst + 1
    return total


@lru_cache(maxsize=65536)
def _cached_bursts(addr: int, rows: int, cols: int, run: int, row_pitch: int, col_pitch: int, burst: int) -> int:
    return _runs_bursts(addr, rows, cols, run, row_pitch, col_pitch, burst)


def transfer(op: Load | Fold | Store, boundary: int, machine: MachineConfig) -> Transfer:
    """Return the DRAM bursts of a DMA operation; `boundary` is that of an indexed load's register.

    A burst is dram_burst_bytes / dram_bytes_per_cycle bus cycles. A run is widened to whole bursts. A fold makes its
    output pixels in order, one per cycle, each in the bus cycle of the last byte of its window or later.
    """
    burst = machine.dram_burst_bytes
    if isinstance(op, Fold):
        first, last = op.image_rows
        if last == first:
            return Transfer(0, op.rows * op.cols)
        line = op.in_w * op.channels
        bursts = _runs_bursts(op.dram_addr + first * line, 1, 1, (last - first) * line, 0, 0, burst)
        return Transfer(bursts, op.rows * op.cols, _fold_tails(op, -(-bursts // block_bursts(machine)), machine))
    addr = op.dram_addr
    if isinstance(op, Load) and op.indexed:
        addr += boundary * op.table_pitch
    return Transfer(_cached_bursts(addr, op.rows, op.cols, op.run, op.dram_row_pitch, op.dram_col_pitch, burst))


def _fold_tails(op: Fold, blocks: int, machine: MachineConfig) -> tuple[int, ...]:
    """Return `Transfer.tails`: the pixel that waits for a byte of the block and all pixels after it, a cycle each."""
    first, _ = op.image_rows
    top = (op.out_y + np.arange(op.rows)) * op.stride_y - op.pad_top
    left = np.arange(op.cols) * op.stride_x - op.pad_left
    bottom, right = np.minimum(top + op.kernel_h, op.in_h), np.minimum(left + op.kernel_w, op.in_w)
    inside = (bottom > np.maximum(top, 0))[:, None] & (right > np.maximum(left, 0))
    byte = (((bottom - 1 - first) * op.in_w)[:, None] + right) * op.channels - 1  # the window's last one
    start = (op.dram_addr + first * op.in_w * op.channels) % machine.dram_burst_bytes
    beat = ((start + byte) // machine.dram_bytes_per_cycle)[inside]
    block, cycle = np.divmod(beat, block_bursts(machine) * burst_cycles(machine))
    to_come = np.arange(inside.size, 0, -1).reshape(inside.shape)[inside]
    tails = np.zeros(blocks, np.int64)
    np.maximum.at(tails, block, cycle + to_come)
    return tuple(tails.tolist())


def block_bursts(machine: MachineConfig) -> int:
    """Return the bursts of one full block of the DRAM arbitration."""
    return BLOCK_BYTES // machine.dram_burst_bytes


def burst_cycles(machine: MachineConfig) -> int:
    """Return the bus cycles of one burst."""
    return machine.dram_burst_bytes // machine.dram_bytes_per_cycle


def fetch_bursts(instructions: int, machine: MachineConfig) -> tuple[int, ...]:
    """Return the bursts of each block of a program that the front end fetches; the last may be shorter."""
    whole, rest = divmod(instructions, FETCH_WORDS)
    last = -(-rest * BLOCK_BYTES // (FETCH_WORDS * machine.dram_burst_bytes))
    return (block_bursts(machine),) * whole + ((last,) if rest else ())
