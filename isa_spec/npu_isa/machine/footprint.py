"""What each operation touches: bounding ranges for ports, tokens and race checks, for a whole program at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_isa.isa.ops import Memory, Op, Source
from npu_isa.isa.resolve import Ops
from npu_isa.machine.blocks import param_block_rows, table_rows, weight_block_words
from npu_isa.machine.config import WORD_BYTES, MachineConfig

Array = NDArray[Any]
Put = Callable[..., None]  # table, memory, first, end, write, which rows (all)
HALVES = (Memory.ACC0, Memory.ACC1)


@dataclass(frozen=True, slots=True)
class Access:
    """A range [first, end) of one memory, in the memory's unit, read or written by an operation."""

    memory: Memory
    first: int
    end: int
    write: bool


@dataclass(frozen=True, eq=False)
class Accesses:
    """The ranges that the operations of a program touch, in columns: int64, an entry per access, by operation.

    Attributes:
        op: place of the operation in the program, ascending.
        memory, first, end, write: see `Access`.
        count: operations of the program.
    """

    op: Array
    memory: Array
    first: Array
    end: Array
    write: Array
    count: int

    @cached_property
    def start(self) -> Array:
        """Entry at which each operation's accesses begin, and one past the last entry: int64 (operations + 1,)."""
        return np.searchsorted(self.op, np.arange(self.count + 1))

    def of(self, index: int) -> tuple[Access, ...]:
        """Return the accesses of one operation."""
        span = slice(self.start[index], self.start[index + 1])
        columns = (c[span].tolist() for c in (self.memory, self.first, self.end, self.write))
        return tuple(Access(Memory(m), first, end, bool(w)) for m, first, end, w in zip(*columns, strict=True))


def load_unit(memory: Array, machine: MachineConfig) -> Array:
    """Return the bytes of an address of the memories that loads fill."""
    return np.where(memory == Memory.PARAM, 4 * machine.array_cols, WORD_BYTES)


def span(
    first: Array, count: Array, stride: Array, dilation: Array, kernel: Array, pad: Array, limit: Array
) -> tuple[Array, Array]:
    """Return first and end of the inputs of many axes; see `window.Axis.span`."""
    low = np.maximum(first * stride - pad, 0)
    end = np.minimum((first + count - 1) * stride - pad + (kernel - 1) * dilation + 1, limit)
    some = end > low
    return np.where(some, low, 0), np.where(some, end, 0)


def footprints(ops: Sequence[Op], machine: MachineConfig) -> Accesses:
    """Return the ranges that operations may touch, the same at every boundary (an indexed load: its whole table).

    Ranges are bounding ranges: a strided access covers what lies between its words too. Addresses are not checked.
    Reads of an operation come before its write, which is the last.
    """
    p = Ops.of(ops)
    parts: list[tuple[Array, Any, Array, Array, int]] = []

    def put(table: Array, memory: Any, first: Array, end: Array, write: int, where: Array | None = None) -> None:
        chosen = np.ones(len(table), np.bool_) if where is None else where
        memories = np.broadcast_to(np.asarray(memory, np.int64), len(table))[chosen]
        parts.append((table["index"][chosen], memories, first[chosen], end[chosen], write))

    _convs(p, machine, put)
    _vecs(p.vec, put)
    put(p.table, Memory.PARAM, p.table["param_addr"], p.table["param_addr"] + table_rows(machine), 0)
    _transfers(p, machine, put)
    op, memory, first, end = (np.concatenate([part[i] for part in parts]).astype(np.int64) for i in range(4))
    write = np.concatenate([np.full(len(part[0]), part[4], np.int64) for part in parts])
    order = np.argsort(op, kind="stable")  # an operation's accesses stay in the order in which they were put
    return Accesses(op[order], memory[order], first[order], end[order], write[order], len(p))


def _convs(p: Ops, machine: MachineConfig, put: Put) -> None:
    conv = p.conv
    low, high, places = (
        np.array([f(layout.groups) for layout in p.layouts], np.int64)[conv["layout"]] for f in (min, max, len)
    )
    _window(conv, conv["act_base"], conv["act_row0"], low, high, put)
    words = weight_block_words(machine, places, conv["kernel_h"] * conv["kernel_w"])
    put(conv, Memory.WEIGHT, conv["weight_addr"], conv["weight_addr"] + words, 0)
    half, end = _half(conv), conv["acc_row"] + conv["tile_h"] * conv["tile_w"]
    put(conv, half, conv["acc_row"], end, 0, conv["accumulate"] != 0)
    put(conv, half, conv["acc_row"], end, 1)


def _vecs(vec: Array, put: Put) -> None:
    acc, words = vec["source"] == Source.ACC, vec_words(vec)
    put(vec, _half(vec), vec["src_base"], vec["src_base"] + vec["tile_h"] * vec["tile_w"], 0, acc)
    _window(vec, vec["src_base"], vec["src_row0"], np.zeros_like(words), words - 1, put, ~acc)
    end = _strided_end(vec, "res_base", "tile_h", "tile_w", words, "res_row_pitch", "res_pixel_pitch")
    put(vec, Memory.ACT, vec["res_base"], end, 0, vec["residual"] != 0)
    rows = param_block_rows(np.where(vec["source"] == Source.MAC, vec["kernel_h"] * vec["kernel_w"], 0))
    put(vec, Memory.PARAM, vec["param_addr"], vec["param_addr"] + rows, 0)
    wide = words * (1 + vec["wide"])
    end = _strided_end(vec, "out_base", "tile_h", "tile_w", wide, "out_row_pitch", "out_pixel_pitch")
    put(vec, Memory.ACT, vec["out_base"], end, 1)


def _transfers(p: Ops, machine: MachineConfig, put: Put) -> None:
    dram = ("dram_addr", "rows", "cols")
    load, unit = p.load, load_unit(p.load["memory"], machine)
    more = np.where(load["indexed"] != 0, (load["table_entries"] - 1) * load["table_pitch"], 0)
    end = _strided_end(load, *dram, load["run"], "dram_row_pitch", "dram_col_pitch")
    put(load, Memory.DRAM, load["dram_addr"], end + more, 0)
    end = _strided_end(load, "addr", "rows", "cols", -(-load["run"] // unit), "row_pitch", "col_pitch")
    put(load, load["memory"], load["addr"], end, 1)
    fold, (first, last) = p.fold, fold_image_rows(p.fold)
    line = fold["in_w"] * fold["channels"]
    put(fold, Memory.DRAM, fold["dram_addr"] + first * line, fold["dram_addr"] + last * line, 0, last > first)
    end = _strided_end(fold, "addr", "rows", "cols", fold_words(fold), "row_pitch", "pixel_pitch")
    put(fold, Memory.ACT, fold["addr"], end, 1)
    store = p.store
    end = _strided_end(store, "addr", "rows", "cols", -(-store["run"] // WORD_BYTES), "row_pitch", "col_pitch")
    put(store, Memory.ACT, store["addr"], end, 0)
    end = _strided_end(store, *dram, store["run"], "dram_row_pitch", "dram_col_pitch")
    put(store, Memory.DRAM, store["dram_addr"], end, 1)


def vec_words(vec: Array) -> Array:
    """Return the words that one pixel of each vec's tile spans in a tensor of bytes."""
    return np.asarray(-(-(vec["out_byte"] + vec["lanes"]) // WORD_BYTES))


def fold_words(fold: Array) -> Array:
    """Return the words of one output pixel of each fold."""
    return np.asarray(-(-fold["kernel_h"] * fold["kernel_w"] * fold["channels"] // WORD_BYTES))


def fold_image_rows(fold: Array) -> tuple[Array, Array]:
    """Return first and one past the last image row that each fold reads; equal when all lie in the padding."""
    one = np.ones(len(fold), np.int64)
    window = (fold["stride_y"], one, fold["kernel_h"], fold["pad_top"], fold["in_h"])
    return span(fold["out_y"], fold["rows"], *window)


def _half(table: Array) -> Array:
    return np.where(table["acc_half"] != 0, int(Memory.ACC1), int(Memory.ACC0))


def _window(
    table: Array, base: Array, row0: Array, low: Array, high: Array, put: Put, where: Array | None = None
) -> None:
    """Put what windows span inside their images, groups low..high of a pixel, from pixel (row0, 0) at `base`."""
    g = table
    y0, y1 = span(g["out_y"], g["tile_h"], g["stride_y"], g["dilation_y"], g["kernel_h"], g["pad_top"], g["in_h"])
    x0, x1 = span(g["out_x"], g["tile_w"], g["stride_x"], g["dilation_x"], g["kernel_w"], g["pad_left"], g["in_w"])
    first = base + (y0 - row0) * g["row_pitch"] + x0 * g["pixel_pitch"] + low
    last = base + (y1 - 1 - row0) * g["row_pitch"] + (x1 - 1) * g["pixel_pitch"] + high
    inside = (y1 > y0) & (x1 > x0)
    put(table, Memory.ACT, first, last + 1, 0, inside if where is None else inside & where)


def _strided_end(table: Array, base: str, rows: str, cols: str, words: Array, row_pitch: str, pitch: str) -> Array:
    """Return one past the last unit of rows x cols pieces of `words` units."""
    last = table[base] + (table[rows] - 1) * table[row_pitch] + (table[cols] - 1) * table[pitch]
    return np.asarray(last + words)


def footprint(op: Op, machine: MachineConfig) -> tuple[Access, ...]:
    """Return the ranges that one operation may touch; see `footprints`, which is faster for many."""
    return footprints([op], machine).of(0)


def claims(touched: Accesses, machine: MachineConfig) -> Accesses:
    """Return what engines must not share: the footprints, and whole accumulator halves, which have one read port."""
    half = np.isin(touched.memory, HALVES)
    first, end = np.where(half, 0, touched.first), np.where(half, machine.acc_rows, touched.end)
    return Accesses(touched.op, touched.memory, first, end, touched.write, touched.count)


def regions(touched: Accesses, machine: MachineConfig) -> tuple[Array, Array]:
    """Return the activation regions whose read port and whose write port each operation takes, as bit masks."""
    act = touched.memory == Memory.ACT
    first, last = (at // machine.region_words for at in (touched.first, touched.end - 1))
    bits = (np.int64(2) << np.clip(last, 0, 31)) - (np.int64(1) << np.clip(first, 0, 31))
    masks = np.zeros((2, touched.count), np.int64)
    np.bitwise_or.at(masks, (touched.write[act], touched.op[act]), bits[act])
    return masks[0], masks[1]
