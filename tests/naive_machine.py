"""The machine as the microarchitecture page tells it, in program order, one pixel, tap and group at a time.

Nothing here is fast or shared with the simulators: Python integers, byte arrays, and NumPy only for the columns of
one array row. A conv sums 4-bit codes segment by segment and shifts each sum by s_act + s_wgt, as the hardware does.
"""

import numpy as np
from npu_isa.isa.ops import Conv, Fold, Load, Op, Store, Table, Vec
from npu_isa.machine.config import MachineConfig

WORD = 16
NO_DIAL = 255


def byte_value(byte, unsigned):
    return byte if unsigned or byte < 128 else byte - 256


def code4(value, shift, unsigned):
    low, high = (0, 15) if unsigned else (-8, 7)
    return min(max((value + ((1 << shift) >> 1)) >> shift, low), high)


def position(values, clip, unsigned):
    """The least shift after which every value fits 4 bits if cut off, less `clip`."""
    low, high = (0, 15) if unsigned else (-8, 7)
    needed = next(s for s in range(5) if all(low <= value >> s <= high for value in values))
    return max(needed - clip, 0)


def wrap32(value):
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def wrap16(value):
    return (value + (1 << 15)) % (1 << 16) - (1 << 15)


class NaiveMachine:
    """Memories after running a program.

    Attributes:
        dram, act, weights: bytearrays; `act` and `weights` in words of 16 bytes.
        params: bytearray, rows of 4 bytes per column.
        acc: two lists of rows, each a list of integers, one per column.
        looked_up: the table of the vector engine, 256 bytes.
    """

    def __init__(self, machine: MachineConfig, constants: bytes, dram_bytes: int) -> None:
        self.machine = machine
        self.dram = bytearray(dram_bytes)
        self.dram[: len(constants)] = bytes(constants)
        self.act = bytearray(machine.act_words * WORD)
        self.weights = bytearray(machine.weight_memory_bytes)
        self.params = bytearray(machine.param_memory_bytes)
        self.looked_up = bytes(256)
        self.acc = [[[0] * machine.array_cols for _ in range(machine.acc_rows)] for _ in range(2)]

    def run(self, ops: tuple[Op, ...], boundaries: tuple[int, ...], observe=lambda op, machine: None) -> None:
        """Execute operations in order; `observe` sees each after it has been done."""
        for op in ops:
            match op:
                case Load():
                    self.load(op, boundaries)
                case Fold():
                    self.fold(op)
                case Store():
                    self.store(op)
                case Conv():
                    register = op.geom.register
                    self.conv(op, 0 if register == NO_DIAL else boundaries[register])
                case Vec():
                    self.vec(op)
                case Table():
                    self.table(op)
            observe(op, self)

    def load(self, op: Load, boundaries: tuple[int, ...]) -> None:
        memory = (self.act, self.weights, self.params)[op.memory]
        unit = (WORD, WORD, 4 * self.machine.array_cols)[op.memory]
        source = op.dram_addr + (boundaries[op.register] * op.table_pitch if op.indexed else 0)
        for r in range(op.rows):
            for c in range(op.cols):
                here = source + r * op.dram_row_pitch + c * op.dram_col_pitch
                there = (op.addr + r * op.row_pitch + c * op.col_pitch) * unit
                memory[there : there + op.run] = self.dram[here : here + op.run]

    def store(self, op: Store) -> None:
        for r in range(op.rows):
            for c in range(op.cols):
                here = (op.addr + r * op.row_pitch + c * op.col_pitch) * WORD
                there = op.dram_addr + r * op.dram_row_pitch + c * op.dram_col_pitch
                self.dram[there : there + op.run] = self.act[here : here + op.run]

    def fold(self, op: Fold) -> None:
        for r in range(op.rows):
            for c in range(op.cols):
                window = bytearray()
                for ky in range(op.kernel_h):
                    for kx in range(op.kernel_w):
                        y = (op.out_y + r) * op.stride_y - op.pad_top + ky
                        x = c * op.stride_x - op.pad_left + kx
                        if 0 <= y < op.in_h and 0 <= x < op.in_w:
                            at = op.dram_addr + (y * op.in_w + x) * op.channels
                            window += self.dram[at : at + op.channels]
                        else:
                            window += bytes(op.channels)
                window += bytes(-len(window) % WORD)
                there = (op.addr + r * op.row_pitch + c * op.pixel_pitch) * WORD
                self.act[there : there + len(window)] = window

    def taps(self, op: Conv | Vec, base: int, row0: int, oy: int, ox: int):
        """Yield (tap number, word address) of each tap of an output pixel that lies inside the image."""
        g = op.geom
        for ky in range(g.kernel_h):
            for kx in range(g.kernel_w):
                y = oy * g.stride_y - g.pad_top + ky * g.dilation_y
                x = ox * g.stride_x - g.pad_left + kx * g.dilation_x
                if 0 <= y < g.in_h and 0 <= x < g.in_w:
                    yield ky * g.kernel_w + kx, base + (y - row0) * g.row_pitch + x * g.pixel_pitch

    def conv(self, op: Conv, boundary: int) -> None:
        columns = self.machine.array_cols
        taps = op.geom.kernel_h * op.geom.kernel_w
        position_bytes = -(-columns // 32) * WORD
        positions = op.weight_addr * WORD
        blocks = positions + op.group_count * position_bytes
        for i in range(op.tile_h * op.tile_w):
            sums = [0] * columns
            for tap, word in self.taps(
                op, op.act_base, op.act_row0, op.out_y + i // op.tile_w, op.out_x + i % op.tile_w
            ):
                for place in range(op.group_count):
                    at = (word + op.groups[place]) * WORD
                    acts = [byte_value(b, op.geom.unsigned) for b in self.act[at : at + WORD]]
                    at = blocks + (place * taps + tap) * WORD * columns
                    tile = np.frombuffer(self.weights, np.int8, WORD * columns, at).reshape(WORD, columns)
                    if op.group_first + place < boundary:
                        s_act = op.shifts[place]
                        if op.geom.dynamic:
                            s_act = position(acts, s_act, op.geom.unsigned)
                        acts = [code4(a, s_act, op.geom.unsigned) for a in acts]
                        for c in range(columns):
                            s_wgt = self.weights[positions + place * position_bytes + c // 2] >> 4 * (c % 2) & 15
                            codes = [code4(int(w), s_wgt, False) for w in tile[:, c]]
                            sums[c] += sum(a * w for a, w in zip(acts, codes, strict=True)) << (s_act + s_wgt)
                    else:
                        found = np.array(acts, np.int64) @ tile.astype(np.int64)
                        sums = [s + int(f) for s, f in zip(sums, found, strict=True)]
            row = self.acc[op.acc_half][op.acc_row + i]
            for c in range(columns):
                row[c] = wrap32(sums[c] + (row[c] if op.accumulate else 0))

    def table(self, op: Table) -> None:
        at = op.param_addr * 4 * self.machine.array_cols
        self.looked_up = bytes(self.params[at : at + 256])

    def param(self, row: int, lane: int) -> int:
        at = (row * self.machine.array_cols + lane) * 4
        return int.from_bytes(self.params[at : at + 4], "little")

    def reduce(self, op: Vec, i: int, lane: int) -> int:
        """Return the sum or maximum that pixel i of the tile has in one lane."""
        g = op.geom
        if g.source == 0:
            return self.acc[op.acc_half][op.src_base + i][lane]
        byte = op.out_byte + lane
        values, sums = [], 0
        for tap, word in self.taps(op, op.src_base, op.src_row0, op.out_y + i // op.tile_w, op.out_x + i % op.tile_w):
            value = byte_value(self.act[word * WORD + byte], g.src_unsigned)
            values.append(value)
            if g.source == 1:
                weight = self.param(op.param_addr + 3 + tap // 4, lane) >> 8 * (tap % 4) & 255
                value *= byte_value(weight, False)
            sums += value
        return max(values) if g.source == 2 else wrap32(sums)

    def vec(self, op: Vec) -> None:
        g = op.geom
        for i in range(op.tile_h * op.tile_w):
            y, x = divmod(i, op.tile_w)
            out = (op.out_base + y * g.out_row_pitch + x * g.out_pixel_pitch) * WORD
            res = (op.res_base + y * g.res_row_pitch + x * g.res_pixel_pitch) * WORD
            results = []
            for lane in range(op.lanes):
                bias = wrap32(self.param(op.param_addr, lane))
                scale = self.param(op.param_addr + 1, lane)
                second = wrap16(self.param(op.param_addr + 2, lane))
                multiplier, shift = wrap16(scale), scale >> 16 & 63
                value = self.reduce(op, i, lane)
                if g.product:
                    value *= byte_value(self.act[res + op.out_byte + lane], g.res_unsigned)
                value += bias
                value *= second if g.leaky and value < 0 else multiplier
                if g.residual and not g.product:
                    value += byte_value(self.act[res + op.out_byte + lane], g.res_unsigned) * second
                value = (value + (1 << (shift - 1))) >> shift
                value = min(max(value, g.clamp_low), g.clamp_high)
                results.append(self.looked_up[value % 256] if g.table else value)
            for lane, value in enumerate(results):
                group, byte = divmod(op.out_byte + lane, WORD)
                at = out + group * (1 + g.wide) * WORD + byte
                self.act[at] = value & 255
                if g.wide:
                    self.act[at + WORD] = value >> 8 & 255
