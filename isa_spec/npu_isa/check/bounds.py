"""Bounds: every access lies within its memory, and no operation disturbs itself."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_isa.check.faults import UNITS, Array, First, fault
from npu_isa.file.binary import data_address
from npu_isa.isa.ops import Memory, Op, Source, Vec
from npu_isa.isa.resolve import Ops
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import Accesses, fold_words, load_unit, vec_words
from npu_isa.machine.window import axes


def check_bounds(
    ops: Ops,
    touched: Accesses,
    machine: MachineConfig,
    dram_bytes: int,
    constants_bytes: int,
    input_range: tuple[int, int],
) -> None:
    """Check that every access lies within its memory, and that writes go where they may and nowhere twice.

    Raises:
        ProgramError: the first operation that leaves a memory or disturbs itself.
    """
    first = First(ops)
    limits = np.zeros(len(Memory), np.int64)
    limits[Memory.ACT], limits[Memory.WEIGHT], limits[Memory.PARAM] = (
        machine.act_words,
        machine.weight_words,
        machine.param_rows,
    )
    limits[[Memory.ACC0, Memory.ACC1]] = machine.acc_rows
    limits[Memory.DRAM] = dram_bytes
    t = touched

    def outside(i: int, op: Op) -> str:
        verb, unit = "writes" if t.write[i] else "reads", UNITS[Memory(t.memory[i])]
        return f"{verb} {unit} {t.first[i]}..{t.end[i] - 1}: the memory has {limits[t.memory[i]]}"

    first.need(t.op, (t.first >= 0) & (t.end <= limits[t.memory]), outside)
    stores = (t.memory == Memory.DRAM) & (t.write != 0)
    first.need(
        t.op,
        ~stores | (t.first >= constants_bytes),
        lambda i, op: f"writes the constants, DRAM bytes 0..{constants_bytes - 1}",
    )
    first.need(
        t.op,
        ~stores | (t.first >= input_range[1]) | (t.end <= input_range[0]),
        lambda i, op: f"writes the input, DRAM bytes {input_range[0]}..{input_range[1] - 1}",
    )
    end = data_address(constants_bytes, len(ops))
    first.need(
        t.op,
        ~stores | (t.first >= end),
        lambda i, op: f"writes DRAM bytes {t.first[i]}..{t.end[i] - 1}: the program and what is before it end at {end}",
    )
    _targets(ops, machine, first)
    first.check()
    _check_in_place(ops, touched, machine)


def _targets(ops: Ops, machine: MachineConfig, first: First) -> None:
    """No operation writes a place twice: the order inside an operation is nobody's business."""
    load, fold, store, vec = ops.load, ops.fold, ops.store, ops.vec
    words = -(-load["run"] // load_unit(load["memory"], machine))
    wide = vec_words(vec) * (1 + vec["wide"])
    for table, size, shape in (
        (load, words, ("rows", "cols", "row_pitch", "col_pitch")),
        (fold, fold_words(fold), ("rows", "cols", "row_pitch", "pixel_pitch")),
        (store, store["run"], ("rows", "cols", "dram_row_pitch", "dram_col_pitch")),
        (vec, wide, ("tile_h", "tile_w", "out_row_pitch", "out_pixel_pitch")),
    ):
        near = table["index"] < first.index  # behind a fault nothing matters, and sizes may be absurd at it
        rows, cols, row_pitch, col_pitch = (table[field][near] for field in shape)
        ok = _apart(rows, cols, size[near], row_pitch, col_pitch)
        text = "the pitches are too small for what is written"
        first.need(table["index"][near], ok, lambda i, op: "writes a place twice", text)


def _apart(rows: Array, cols: Array, size: Array, row_pitch: Array, col_pitch: Array) -> NDArray[np.bool_]:
    """Whether rows x cols pieces of `size` units, `row_pitch` and `col_pitch` apart, do not overlap; for many."""
    nested = ((cols == 1) | (col_pitch >= size)) & ((rows == 1) | (row_pitch >= (cols - 1) * col_pitch + size))
    extent = (rows - 1) * row_pitch + (cols - 1) * col_pitch + size
    ok = nested | (rows * cols * size <= extent)
    for i in np.flatnonzero(ok & ~nested).tolist():
        starts = np.add.outer(np.arange(rows[i]) * row_pitch[i], np.arange(cols[i]) * col_pitch[i]).reshape(-1)
        starts.sort()
        ok[i] = bool((np.diff(starts) >= size[i]).all())
    return np.asarray(ok)


def _check_in_place(ops: Ops, t: Accesses, machine: MachineConfig) -> None:
    """No vec reads what one of its own earlier pixels wrote: that word may still be in the pipeline.

    A pixel may overwrite what it or an earlier pixel read, as a residual add in place does: reads come first.
    """
    last = t.start[1:] - 1  # an operation's write is its last access
    target = last[t.op]
    own = (t.memory == Memory.ACT) & (t.write == 0) & (t.memory[target] == Memory.ACT)
    meets = own & (t.first < t.end[target]) & (t.first[target] < t.end)
    vecs = np.zeros(len(ops), np.bool_)
    vecs[ops.vec["index"]] = True
    for index in np.unique(t.op[meets & vecs[t.op]]).tolist():
        op = ops[index]
        assert isinstance(op, Vec)
        if not _reads_before_writes(op, machine):
            raise fault(op, "reads words that its own earlier pixels write", "give the output words of its own")


def _reads_before_writes(op: Vec, machine: MachineConfig) -> bool:
    g = op.geom
    words = op.words * (1 + g.wide)
    writer = np.full(machine.act_words, op.pixels, np.int64)  # the pixel that writes each word
    pixel = np.arange(op.pixels).reshape(op.tile_h, op.tile_w, 1)
    writer[_words(op.out_base, op.tile_h, op.tile_w, words, g.out_row_pitch, g.out_pixel_pitch)] = pixel
    if g.residual:
        read = _words(op.res_base, op.tile_h, op.tile_w, op.words, g.res_row_pitch, g.res_pixel_pitch)
        if not (writer[read] >= pixel).all():
            return False
    return g.source == Source.ACC or _window_before_writes(op, writer)


def _words(base: int, rows: int, cols: int, words: int, row_pitch: int, pitch: int) -> NDArray[np.int64]:
    pixels: NDArray[Any] = np.add.outer(base + np.arange(rows) * row_pitch, np.arange(cols) * pitch)
    return np.asarray(np.add.outer(pixels, np.arange(words)))


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
