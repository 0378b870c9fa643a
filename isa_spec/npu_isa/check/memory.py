"""What programs read: exact word sets, in program order, and the constants that arithmetic depends on.

Program order is a legal execution once races are excluded, so one walk over the program decides what is written.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from npu_isa.check.order import UNITS, fault
from npu_isa.errors import ProgramError
from npu_isa.isa.ops import Conv, Fold, Load, Memory, Op, Source, Store, Vec
from npu_isa.machine.blocks import unpack_params, unpack_positions, weight_block_words
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.footprint import load_words
from npu_isa.machine.numerics import MAX_MULTIPLIER, MAX_SHIFT, MAX_SHIFT_LOWER
from npu_isa.machine.timing import param_rows
from npu_isa.machine.window import axes

Bools = NDArray[np.bool_]
U8 = NDArray[np.uint8]


@lru_cache(maxsize=4096)
def _progression(values: tuple[int, ...]) -> int | None:
    """Return the step of an arithmetic progression, or None."""
    step = values[1] - values[0] if len(values) > 1 else 1
    return step if values[-1] - values[0] == step * (len(values) - 1) and len(set(np.diff(values))) <= 1 else None


class Walk:
    """What has been written so far, and the contents of weight and parameter memory.

    The activation memory is tracked in parts of a word: one vec of an array with fewer than 16 columns writes only
    array_cols bytes of each word.
    """

    def __init__(
        self,
        machine: MachineConfig,
        constants_bytes: int,
        dram_bytes: int,
        input_range: tuple[int, int],
        constants: U8 | None,
    ) -> None:
        self._machine = machine
        self._parts = WORD_BYTES // min(WORD_BYTES, machine.array_cols)
        self._constants = constants
        self._weights = np.zeros(machine.weight_words * WORD_BYTES, np.uint8)
        self._params = np.zeros(machine.param_rows * 4 * machine.array_cols, np.uint8)
        self._chosen = np.zeros(machine.param_rows, np.bool_)  # rows that depend on a boundary
        self._written: dict[Memory, Bools] = {
            Memory.ACT: np.zeros(machine.act_words * self._parts, np.bool_),
            Memory.WEIGHT: np.zeros(machine.weight_words, np.bool_),
            Memory.PARAM: np.zeros(machine.param_rows, np.bool_),
            Memory.ACC0: np.zeros(machine.acc_rows, np.bool_),
            Memory.ACC1: np.zeros(machine.acc_rows, np.bool_),
            Memory.DRAM: np.zeros(dram_bytes, np.bool_),
        }
        self._written[Memory.DRAM][:constants_bytes] = True
        self._written[Memory.DRAM][slice(*input_range)] = True

    def step(self, op: Op) -> None:
        """Check the reads of an operation, then mark its writes.

        Raises:
            ProgramError: it reads what nothing has written, or constants that the arithmetic does not allow.
        """
        match op:
            case Conv():
                self._conv(op)
            case Vec():
                self._vec(op)
            case Load():
                self._load(op)
            case Fold():
                first, last = op.image_rows
                line = op.in_w * op.channels
                self._read(op, Memory.DRAM, op.dram_addr + first * line, ((last - first) * line,), (1,))
                self._write_words(op.addr, op.rows, op.cols, op.words, op.row_pitch, op.pixel_pitch)
            case Store():
                words = op.run // WORD_BYTES
                self._read_words(op, op.addr, op.rows, op.cols, words, op.row_pitch, op.col_pitch)
                shape, pitches = (op.rows, op.cols, op.run), (op.dram_row_pitch, op.dram_col_pitch, 1)
                self._write(Memory.DRAM, op.dram_addr, shape, pitches)

    def unwritten_output(self, first: int, end: int) -> int | None:
        """Return the first byte of a DRAM range that nothing has written, or None."""
        written = self._written[Memory.DRAM][first:end]
        return None if written.all() else first + int(np.argmin(written))

    # -- masks: `first`, `shape` and `pitches` in the units of the mask; bounds have been checked

    def _view(self, memory: Memory, first: int, shape: tuple[int, ...], pitches: tuple[int, ...]) -> Bools:
        return np.ndarray(shape, np.bool_, self._written[memory].data, first, pitches)

    def _write(self, memory: Memory, first: int, shape: tuple[int, ...], pitches: tuple[int, ...]) -> None:
        self._view(memory, first, shape, pitches)[...] = True

    def _read(self, op: Op, memory: Memory, first: int, shape: tuple[int, ...], pitches: tuple[int, ...]) -> None:
        if 0 in shape:
            return
        written = self._view(memory, first, shape, pitches)
        if not written.all():
            place = np.unravel_index(int(np.argmin(written)), shape)
            raise self._unwritten(op, memory, first + sum(int(p) * q for p, q in zip(place, pitches, strict=True)))

    def _unwritten(self, op: Op, memory: Memory, place: int) -> ProgramError:
        unit = place // self._parts if memory == Memory.ACT else place
        one = UNITS[memory].replace("words", "word").replace("rows", "row").replace("bytes", "byte")
        return fault(op, f"reads {one} at {unit}, which nothing has written")

    def _write_words(self, first: int, rows: int, cols: int, words: int, row_pitch: int, col_pitch: int) -> None:
        n = self._parts
        self._write(Memory.ACT, first * n, (rows, cols, words * n), (row_pitch * n, col_pitch * n, 1))

    def _read_words(self, op: Op, first: int, rows: int, cols: int, words: int, row_pitch: int, col_pitch: int) -> None:
        n = self._parts
        self._read(op, Memory.ACT, first * n, (rows, cols, words * n), (row_pitch * n, col_pitch * n, 1))

    # -- matrix

    def _conv(self, op: Conv) -> None:
        self._window(op, op.act_base, op.act_row0, tuple(sorted(set(op.groups))), 0, self._parts)
        words = weight_block_words(self._machine, op.group_count, op.taps)
        self._read(op, Memory.WEIGHT, op.weight_addr, (words,), (1,))
        acc = Memory.ACC1 if op.acc_half else Memory.ACC0
        if op.accumulate:
            self._read(op, acc, op.acc_row, (op.pixels,), (1,))
        self._write(acc, op.acc_row, (op.pixels,), (1,))
        if self._constants is not None:
            self._check_positions(op)

    def _window(self, op: Conv | Vec, base: int, row0: int, groups: tuple[int, ...], part: int, parts: int) -> None:
        """Check the words of a window: rows x columns x groups inside the image, `parts` of each word from `part`."""
        g, n = op.geom, self._parts
        rows, cols = (axis.tapped() for axis in axes(op))
        if not rows or not cols:
            return
        places = ((rows, g.row_pitch), (cols, g.pixel_pitch), (groups, 1))
        steps = [_progression(values) for values, _ in places]
        if None not in steps:
            first = base - row0 * g.row_pitch + sum(values[0] * pitch for values, pitch in places)
            shape = (len(rows), len(cols), len(groups), parts)
            pitches = tuple(
                step * pitch * n for step, (_, pitch) in zip(steps, places, strict=True) if step is not None
            )
            self._read(op, Memory.ACT, first * n + part, shape, (*pitches, 1))
            return
        words = np.add.outer(
            np.add.outer((np.array(rows) - row0) * g.row_pitch, np.array(cols) * g.pixel_pitch), groups
        )
        units = np.add.outer((base + words) * n + part, np.arange(parts))
        written = self._written[Memory.ACT][units]
        if not written.all():
            raise self._unwritten(op, Memory.ACT, int(units[~written][0]))

    def _check_positions(self, op: Conv) -> None:
        block = self._weights[op.weight_addr * WORD_BYTES :]
        most = int(unpack_positions(block, self._machine, op.group_count).max())
        if most > MAX_SHIFT_LOWER:
            raise fault(op, f"its weight block has a position s_wgt of {most}, at most {MAX_SHIFT_LOWER} is possible")

    # -- vector

    def _vec(self, op: Vec) -> None:
        g, n = op.geom, self._parts
        part, parts = (op.out_byte // self._machine.array_cols, 1) if n > 1 else (0, 1)
        if g.source == Source.ACC:
            acc = Memory.ACC1 if op.acc_half else Memory.ACC0
            self._read(op, acc, op.src_base, (op.pixels,), (1,))
        else:
            self._window(op, op.src_base, op.src_row0, tuple(range(op.words)), part, parts)
        if g.residual:
            pitches = (g.res_row_pitch * n, g.res_pixel_pitch * n, n)
            self._read(op, Memory.ACT, op.res_base * n + part, (op.tile_h, op.tile_w, op.words), pitches)
        self._read(op, Memory.PARAM, op.param_addr, (param_rows(g),), (1,))
        if self._constants is not None:
            self._check_scaling(op)
        pitches = (g.out_row_pitch * n, g.out_pixel_pitch * n, n)
        self._write(Memory.ACT, op.out_base * n + part, (op.tile_h, op.tile_w, op.words * (1 + g.wide)), pitches)

    def _check_scaling(self, op: Vec) -> None:
        if self._chosen[op.param_addr + 1 : op.param_addr + 3].any():
            raise fault(
                op,
                "its multipliers come from an indexed load",
                "only row 0 of a parameter block, the bias, may depend on a boundary",
            )
        rows = self._params.view("<u4").reshape(-1, self._machine.array_cols)
        block = unpack_params(rows[op.param_addr : op.param_addr + param_rows(op.geom), : op.lanes], 0)
        for found in (int(block.shift.min()), int(block.shift.max())):
            if not 1 <= found <= MAX_SHIFT:
                raise fault(op, f"its parameter block has a shift of {found}, 1..{MAX_SHIFT} is possible")
        used = [block.mult, block.mult2] if op.geom.residual or op.geom.leaky else [block.mult]
        most = max(int(row.max()) for row in used)
        if most > MAX_MULTIPLIER:
            raise fault(op, f"its parameter block has a multiplier of {most}, at most {MAX_MULTIPLIER} is possible")

    # -- load

    def _load(self, op: Load) -> None:
        words = load_words(op, self._machine)
        shape = (op.rows, op.cols, op.run)
        source = (op.dram_row_pitch, op.dram_col_pitch, 1)
        if op.memory == Memory.ACT:
            self._read(op, Memory.DRAM, op.dram_addr, shape, source)
            self._write_words(op.addr, op.rows, op.cols, words, op.row_pitch, op.col_pitch)
            return
        memory = Memory(op.memory)
        self._write(memory, op.addr, (op.rows, op.cols, words), (op.row_pitch, op.col_pitch, 1))
        if memory == Memory.PARAM:
            rows = np.ndarray(
                (op.rows, op.cols, words), np.bool_, self._chosen.data, op.addr, (op.row_pitch, op.col_pitch, 1)
            )
            rows[...] = bool(op.indexed)
        if self._constants is not None:
            unit = op.run // words
            held = self._weights if memory == Memory.WEIGHT else self._params
            target = (op.row_pitch * unit, op.col_pitch * unit, 1)
            to = np.ndarray(shape, np.uint8, held.data, op.addr * unit, target)
            to[...] = np.ndarray(shape, np.uint8, self._constants.data, op.dram_addr, source)
