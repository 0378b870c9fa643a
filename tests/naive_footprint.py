"""What an operation touches, one operation at a time: the twin of npu_isa.machine.footprint, which takes columns."""

from npu_isa.isa.ops import Conv, Fold, Load, Memory, Op, Source, Store, Table, Vec
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import Access

WORD = 16


def inside(first: int, count: int, stride: int, dilation: int, kernel: int, pad: int, limit: int) -> tuple[int, int]:
    """Return first and end of the inputs between the lowest and the highest tap inside the image; (0, 0) for none."""
    taps = [(first + o) * stride - pad + k * dilation for o in (0, count - 1) for k in (0, kernel - 1)]
    low, end = max(min(taps), 0), min(max(taps) + 1, limit)
    return (low, end) if end > low else (0, 0)


def _window(op: Conv | Vec, base: int, low_group: int, high_group: int) -> list[Access]:
    g = op.geom
    y0, y1 = inside(op.out_y, op.tile_h, g.stride_y, g.dilation_y, g.kernel_h, g.pad_top, g.in_h)
    x0, x1 = inside(op.out_x, op.tile_w, g.stride_x, g.dilation_x, g.kernel_w, g.pad_left, g.in_w)
    if y0 == y1 or x0 == x1:
        return []
    first = base + (y0 - _row0(op)) * g.row_pitch + x0 * g.pixel_pitch + low_group
    last = base + (y1 - 1 - _row0(op)) * g.row_pitch + (x1 - 1) * g.pixel_pitch + high_group
    return [Access(Memory.ACT, first, last + 1, write=False)]


def _row0(op: Conv | Vec) -> int:
    return op.act_row0 if isinstance(op, Conv) else op.src_row0


def _strided(base: int, rows: int, cols: int, words: int, row_pitch: int, col_pitch: int) -> tuple[int, int]:
    return base, base + (rows - 1) * row_pitch + (cols - 1) * col_pitch + words


def footprint(op: Op, machine: MachineConfig) -> tuple[Access, ...]:
    """Return the ranges that an operation may touch, the same at every boundary (an indexed load: its whole table).

    Ranges are bounding ranges: a strided access covers what lies between its words too. Addresses are not checked.
    """
    match op:
        case Conv():
            acc = Memory.ACC1 if op.acc_half else Memory.ACC0
            words = op.group_count * (-(-machine.array_cols // 32) + op.taps * machine.array_cols)
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
            found.append(
                Access(
                    Memory.PARAM,
                    op.param_addr,
                    op.param_addr + 3 + (-(-g.kernel_h * g.kernel_w // 4) if g.source == Source.MAC else 0),
                    write=False,
                )
            )
            words = op.words * (1 + g.wide)
            span = _strided(op.out_base, op.tile_h, op.tile_w, words, g.out_row_pitch, g.out_pixel_pitch)
            found.append(Access(Memory.ACT, *span, write=True))
            return tuple(found)
        case Table():
            rows = -(-64 // machine.array_cols)
            return (Access(Memory.PARAM, op.param_addr, op.param_addr + rows, write=False),)
        case Load():
            table = (op.table_entries - 1) * op.table_pitch if op.indexed else 0
            source = _strided(op.dram_addr, op.rows, op.cols, op.run, op.dram_row_pitch, op.dram_col_pitch)
            words = -(-op.run // (4 * machine.array_cols if op.memory == Memory.PARAM else WORD))
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
            source = _strided(op.addr, op.rows, op.cols, -(-op.run // WORD), op.row_pitch, op.col_pitch)
            target = _strided(op.dram_addr, op.rows, op.cols, op.run, op.dram_row_pitch, op.dram_col_pitch)
            return (Access(Memory.ACT, *source, write=False), Access(Memory.DRAM, *target, write=True))
    return ()


def regions(op: Op, machine: MachineConfig) -> tuple[int, int]:
    """Return the activation regions whose read port and whose write port the operation takes, as two bit masks."""
    masks = [0, 0]
    for access in footprint(op, machine):
        if access.memory == Memory.ACT:
            for r in range(access.first // machine.region_words, (access.end - 1) // machine.region_words + 1):
                masks[access.write] |= 1 << r
    return masks[0], masks[1]
