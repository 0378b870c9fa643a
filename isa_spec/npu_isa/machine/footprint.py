"""What each operation touches: bounding ranges for ports, tokens and race checks."""

from dataclasses import dataclass, replace

from npu_isa.isa.ops import Conv, Fold, Load, Memory, Op, Source, Store, Vec
from npu_isa.machine.blocks import weight_block_words
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.timing import param_rows
from npu_isa.machine.window import axes


@dataclass(frozen=True, slots=True)
class Access:
    """A range [first, end) of one memory, in the memory's unit, read or written by an operation."""

    memory: Memory
    first: int
    end: int
    write: bool


def _window(op: Conv | Vec, base: int, low_group: int, high_group: int) -> list[Access]:
    g = op.geom
    (y0, y1), (x0, x1) = (axis.span() for axis in axes(op))
    if y0 == y1 or x0 == x1:
        return []
    first = base + (y0 - _row0(op)) * g.row_pitch + x0 * g.pixel_pitch + low_group
    last = base + (y1 - 1 - _row0(op)) * g.row_pitch + (x1 - 1) * g.pixel_pitch + high_group
    return [Access(Memory.ACT, first, last + 1, write=False)]


def _row0(op: Conv | Vec) -> int:
    return op.act_row0 if isinstance(op, Conv) else op.src_row0


def _strided(base: int, rows: int, cols: int, words: int, row_pitch: int, col_pitch: int) -> tuple[int, int]:
    return base, base + (rows - 1) * row_pitch + (cols - 1) * col_pitch + words


def load_words(op: Load, machine: MachineConfig) -> int:
    """Return the addressable units of the destination that one run of a load fills."""
    unit = 4 * machine.array_cols if op.memory == Memory.PARAM else WORD_BYTES
    return -(-op.run // unit)


def footprint(op: Op, machine: MachineConfig) -> tuple[Access, ...]:
    """Return the ranges that an operation may touch, the same at every boundary (an indexed load: its whole table).

    Ranges are bounding ranges: a strided access covers what lies between its words too. Addresses are not checked.
    """
    match op:
        case Conv():
            acc = Memory.ACC1 if op.acc_half else Memory.ACC0
            words = weight_block_words(machine, op.group_count, op.taps)
            return (
                *_window(op, op.act_base, min(op.groups), max(op.groups)),
                Access(Memory.WEIGHT, op.weight_addr, op.weight_addr + words, write=False),
                *([Access(acc, op.acc_row, op.acc_row + op.pixels, write=False)] if op.accumulate else []),
                Access(acc, op.acc_row, op.acc_row + op.pixels, write=True),
            )
        case Vec():
            g = op.geom
            found = []
            if g.source == Source.ACC:
                acc = Memory.ACC1 if op.acc_half else Memory.ACC0
                found.append(Access(acc, op.src_base, op.src_base + op.pixels, write=False))
            else:
                found.extend(_window(op, op.src_base, 0, op.words - 1))
            if g.residual:
                span = _strided(op.res_base, op.tile_h, op.tile_w, op.words, g.res_row_pitch, g.res_pixel_pitch)
                found.append(Access(Memory.ACT, *span, write=False))
            found.append(Access(Memory.PARAM, op.param_addr, op.param_addr + param_rows(g), write=False))
            words = op.words * (1 + g.wide)
            span = _strided(op.out_base, op.tile_h, op.tile_w, words, g.out_row_pitch, g.out_pixel_pitch)
            found.append(Access(Memory.ACT, *span, write=True))
            return tuple(found)
        case Load():
            table = (op.table_entries - 1) * op.table_pitch if op.indexed else 0
            source = _strided(op.dram_addr, op.rows, op.cols, op.run, op.dram_row_pitch, op.dram_col_pitch)
            words = load_words(op, machine)
            target = _strided(op.addr, op.rows, op.cols, words, op.row_pitch, op.col_pitch)
            return (
                Access(Memory.DRAM, source[0], source[1] + table, write=False),
                Access(Memory(op.memory), *target, write=True),
            )
        case Fold():
            first, last = op.image_rows
            line = op.in_w * op.channels
            target = _strided(op.addr, op.rows, op.cols, op.words, op.row_pitch, op.pixel_pitch)
            reads = (Access(Memory.DRAM, op.dram_addr + first * line, op.dram_addr + last * line, write=False),)
            return (*(reads if last > first else ()), Access(Memory.ACT, *target, write=True))
        case Store():
            source = _strided(op.addr, op.rows, op.cols, -(-op.run // WORD_BYTES), op.row_pitch, op.col_pitch)
            target = _strided(op.dram_addr, op.rows, op.cols, op.run, op.dram_row_pitch, op.dram_col_pitch)
            return (Access(Memory.ACT, *source, write=False), Access(Memory.DRAM, *target, write=True))
    return ()


def claims(op: Op, machine: MachineConfig) -> tuple[Access, ...]:
    """Return what engines must not share: the footprint, and a whole accumulator half, which has one read port."""
    return tuple(
        replace(a, first=0, end=machine.acc_rows) if a.memory in (Memory.ACC0, Memory.ACC1) else a
        for a in footprint(op, machine)
    )


def regions(op: Op, machine: MachineConfig) -> tuple[int, int]:
    """Return the activation regions whose read port and whose write port the operation takes, as two bit masks."""
    masks = [0, 0]
    for access in footprint(op, machine):
        if access.memory == Memory.ACT:
            for r in range(access.first // machine.region_words, (access.end - 1) // machine.region_words + 1):
                masks[access.write] |= 1 << r
    return masks[0], masks[1]
