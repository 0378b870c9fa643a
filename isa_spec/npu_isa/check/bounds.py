"""Bounds: every access lies within its memory, and no operation disturbs itself."""

import numpy as np
from numpy.typing import NDArray

from npu_isa.check.order import UNITS, fault
from npu_isa.isa.ops import Fold, Load, Memory, Op, Source, Store, Vec
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import Access, footprint, load_words
from npu_isa.machine.window import axes


def check_bounds(
    ops: tuple[Op, ...],
    machine: MachineConfig,
    dram_bytes: int,
    constants_bytes: int,
    input_range: tuple[int, int],
) -> list[tuple[Access, ...]]:
    """Check that every access lies within its memory and that writes go where they may; return the footprints."""
    limits = {
        Memory.ACT: machine.act_words,
        Memory.WEIGHT: machine.weight_words,
        Memory.PARAM: machine.param_rows,
        Memory.ACC0: machine.acc_rows,
        Memory.ACC1: machine.acc_rows,
        Memory.DRAM: dram_bytes,
    }
    touched = []
    for op in ops:
        accesses = footprint(op, machine)
        touched.append(accesses)
        for a in accesses:
            if a.first < 0 or a.end > limits[a.memory]:
                raise fault(
                    op,
                    f"{'writes' if a.write else 'reads'} {UNITS[a.memory]} {a.first}..{a.end - 1}: "
                    f"the memory has {limits[a.memory]}",
                )
            if a.write and a.memory == Memory.DRAM:
                if a.first < constants_bytes:
                    raise fault(op, f"writes the constants, DRAM bytes 0..{constants_bytes - 1}")
                if a.first < input_range[1] and input_range[0] < a.end:
                    raise fault(op, f"writes the input, DRAM bytes {input_range[0]}..{input_range[1] - 1}")
        _check_target(op, machine)
        if isinstance(op, Vec):
            _check_in_place(op, accesses, machine)
    return touched


def _check_target(op: Op, machine: MachineConfig) -> None:
    """No operation writes a place twice: the order inside an operation is nobody's business."""
    match op:
        case Load():
            words = load_words(op, machine)
            ok = _apart(op.rows, op.cols, words, op.row_pitch, op.col_pitch)
        case Fold():
            ok = _apart(op.rows, op.cols, op.words, op.row_pitch, op.pixel_pitch)
        case Store():
            ok = _apart(op.rows, op.cols, op.run, op.dram_row_pitch, op.dram_col_pitch)
        case Vec():
            g = op.geom
            ok = _apart(op.tile_h, op.tile_w, op.words * (1 + g.wide), g.out_row_pitch, g.out_pixel_pitch)
        case _:
            return
    if not ok:
        raise fault(op, "writes a place twice", "the pitches are too small for what is written")


def _apart(rows: int, cols: int, size: int, row_pitch: int, col_pitch: int) -> bool:
    """Whether rows x cols pieces of `size` units, `row_pitch` and `col_pitch` apart, do not overlap."""
    if (cols == 1 or col_pitch >= size) and (rows == 1 or row_pitch >= (cols - 1) * col_pitch + size):
        return True
    extent = (rows - 1) * row_pitch + (cols - 1) * col_pitch + size
    if rows * cols * size > extent:
        return False
    starts = np.add.outer(np.arange(rows) * row_pitch, np.arange(cols) * col_pitch).reshape(-1)
    starts.sort()
    return bool((np.diff(starts) >= size).all())


def _check_in_place(op: Vec, accesses: tuple[Access, ...], machine: MachineConfig) -> None:
    """No vec reads what one of its own earlier pixels wrote: that word may still be in the pipeline.

    A pixel may overwrite what it or an earlier pixel read, as a residual add in place does: reads come first.
    """
    written = accesses[-1]
    if not any(
        a.memory == Memory.ACT and not a.write and a.first < written.end and written.first < a.end for a in accesses
    ):
        return
    g = op.geom
    words = op.words * (1 + g.wide)
    writer = np.full(machine.act_words, op.pixels, np.int64)  # the pixel that writes each word
    pixel = np.arange(op.pixels).reshape(op.tile_h, op.tile_w, 1)
    writer[_words(op.out_base, op.tile_h, op.tile_w, words, g.out_row_pitch, g.out_pixel_pitch)] = pixel
    ok = True
    if g.residual:
        read = _words(op.res_base, op.tile_h, op.tile_w, op.words, g.res_row_pitch, g.res_pixel_pitch)
        ok = bool((writer[read] >= pixel).all())
    if g.source != Source.ACC:
        ok = ok and _window_before_writes(op, writer)
    if not ok:
        raise fault(op, "reads words that its own earlier pixels write", "give the output words of its own")


def _words(base: int, rows: int, cols: int, words: int, row_pitch: int, pitch: int) -> NDArray[np.int64]:
    pixels = np.add.outer(base + np.arange(rows) * row_pitch, np.arange(cols) * pitch)
    return np.add.outer(pixels, np.arange(words))


def _window_before_writes(op: Vec, writer: NDArray[np.int64]) -> bool:
    """Whether the last pixel that reads each word of the window comes no later than the one that writes it."""
    g = op.geom
    last_row, last_col = (axis.last_reader() for axis in axes(op))
    rows = np.array(sorted(last_row), np.int64)
    cols = np.array(sorted(last_col), np.int64)
    if not len(rows) or not len(cols):
        return True
    pixels = np.add.outer(op.src_base + (rows - op.src_row0) * g.row_pitch, cols * g.pixel_pitch)
    last = np.add.outer(
        np.array([last_row[int(r)] for r in rows]) * op.tile_w, np.array([last_col[int(c)] for c in cols])
    )
    return all(bool((writer[pixels + word] >= last).all()) for word in range(op.words))
