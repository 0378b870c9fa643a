"""The value simulator: a checked program executed in program order, for a batch of images at once.

Program order is a legal order (the static check has excluded races). What does not depend on the image is done once:
weights are lowered and packed, parameters decoded. A mixed layer is one product of lowered 8-bit operands; the sums
equal those of the segments, by distributivity.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from npu_isa.footprint import position_words, weight_block_words
from npu_isa.machine import WORD_BYTES, MachineConfig
from npu_isa.numerics import MAX_SHIFT_LOWER, lower
from npu_isa.ops import Conv, Fold, Load, Memory, Op, Source, Store, Vec
from npu_isa.timing import param_rows
from numpy.typing import NDArray

from npu_sim.fast import kernels

U8 = NDArray[np.uint8]
Array = NDArray[Any]
Observe = Callable[[Vec, Array], None]

BATCH_BYTES = 256 << 20  # memories of one batch of images
MAX_BATCH = 64
# lowered value of each int8 weight at each position: LOWERED[s, w + 128]
LOWERED = np.stack([lower(np.arange(-128, 128), s, unsigned=False) for s in range(MAX_SHIFT_LOWER + 1)]).astype(
    np.int16
)


class Values:
    """A program prepared for one boundary vector.

    Args:
        ops: the resolved program, accepted by npu_isa.check.
        machine: the design point.
        constants: uint8, DRAM from address 0.
        boundaries: groups in 4 bits per boundary register; registers beyond the vector read 0.
        dram_bytes: DRAM used in all.
    """

    def __init__(
        self,
        ops: Sequence[Op],
        machine: MachineConfig,
        constants: U8,
        boundaries: Sequence[int],
        dram_bytes: int,
    ) -> None:
        self._machine = machine
        self._constants = np.ascontiguousarray(constants)
        self._boundaries = tuple(boundaries)
        self._scratch_bytes = dram_bytes - constants.size
        self._weights = np.zeros(machine.weight_memory_bytes, np.uint8)
        self._weight_stamp = np.zeros(machine.weight_words, np.int32)
        self._params = np.zeros((machine.param_rows, machine.array_cols), np.int32)
        self._packed: dict[tuple[int, int, bytes], Array] = {}
        self._steps: list[tuple[Callable[..., None], tuple[Any, ...], Op]] = []
        self._act_bytes = machine.act_words * WORD_BYTES
        for op in ops:
            self._prepare(op)

    def _boundary(self, register: int) -> int:
        return self._boundaries[register] if register < len(self._boundaries) else 0

    # -- preparation: everything that does not depend on the image

    def _prepare(self, op: Op) -> None:
        match op:
            case Load(memory=Memory.ACT):
                self._steps.append((self._run_load, (_runs(op),), op))
            case Load():
                self._load_static(op)
            case Fold():
                self._steps.append((self._run_fold, _fold_arguments(op), op))
            case Store():
                self._steps.append((self._run_store, (_runs(op),), op))
            case Conv():
                self._steps.append((self._run_conv, self._conv_arguments(op), op))
            case Vec():
                self._steps.append((self._run_vec, self._vec_arguments(op), op))

    def _load_static(self, op: Load) -> None:
        """Execute a load of weights or parameters: its source is constant."""
        start = op.dram_addr + (self._boundary(op.register) * op.table_pitch if op.indexed else 0)
        unit = 4 * self._machine.array_cols if op.memory == Memory.PARAM else WORD_BYTES
        for r in range(op.rows):
            for c in range(op.cols):
                at = start + r * op.dram_row_pitch + c * op.dram_col_pitch
                data = self._constants[at : at + op.run]
                first = op.addr + r * op.row_pitch + c * op.col_pitch
                count = op.run // unit
                if op.memory == Memory.PARAM:
                    self._params[first : first + count] = data.view("<i4").reshape(count, -1)
                else:
                    self._weights[first * WORD_BYTES : first * WORD_BYTES + op.run] = data
                    self._weight_stamp[first : first + count] = op.index

    def _conv_arguments(self, op: Conv) -> tuple[Any, ...]:
        g = op.geom
        low = op.low_places(self._boundary(g.register))
        entries = [
            (ky * g.dilation_y, kx * g.dilation_x, group, shift if place < low else kernels.NOT_LOWERED)
            for place, (group, shift) in enumerate(zip(op.groups, op.shifts, strict=True))
            for ky in range(g.kernel_h)
            for kx in range(g.kernel_w)
        ]
        return (
            self._pack(op, low),
            np.array(entries, np.int64),
            g.unsigned,
            op.act_base,
            g.row_pitch,
            g.pixel_pitch,
            op.out_y * g.stride_y - g.pad_top,
            op.out_x * g.stride_x - g.pad_left,
            op.act_row0,
            g.stride_y,
            g.stride_x,
            g.in_h,
            g.in_w,
            op.tile_h,
            op.tile_w,
            op.acc_half * self._machine.acc_rows + op.acc_row,
            op.accumulate,
        )

    def _pack(self, op: Conv, low: int) -> Array:
        """Return the lowered weights of a block, int16 (columns used, places * taps * 16)."""
        places, cols = op.group_count, self._machine.array_cols
        words = weight_block_words(self._machine, places, op.taps)
        stamp = self._weight_stamp[op.weight_addr : op.weight_addr + words].tobytes()
        key = (op.weight_addr, low, stamp)
        if key not in self._packed:
            block = self._weights[op.weight_addr * WORD_BYTES : (op.weight_addr + words) * WORD_BYTES]
            head = places * position_words(self._machine) * WORD_BYTES
            nibbles = block[:head].reshape(places, -1)
            shifts = np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(places, -1)[:, :cols]
            weight = block[head:].view(np.int8).reshape(places, op.taps * WORD_BYTES, cols)
            packed = weight.astype(np.int16)
            packed[:low] = LOWERED[shifts[:low, None, :], weight[:low].astype(np.int16) + 128]
            used = int(np.max(np.nonzero(weight.any(axis=(0, 1)))[0], initial=-1)) + 1
            self._packed[key] = np.ascontiguousarray(
                packed[..., :used].transpose(2, 0, 1).reshape(used, places * op.taps * WORD_BYTES)
            )
        return self._packed[key]

    def _vec_arguments(self, op: Vec) -> tuple[Any, ...]:
        g = op.geom
        rows = self._params[op.param_addr : op.param_addr + param_rows(g), : op.lanes].astype(np.int64)
        params = np.stack([rows[0], rows[1] & 0xFFFF, rows[1] >> 16 & 63, rows[2] & 0xFFFF])
        taps = rows[3:].astype("<i4").view(np.int8).reshape(-1, op.lanes, 4).transpose(0, 2, 1).reshape(-1, op.lanes)
        first = op.src_base + (op.acc_half * self._machine.acc_rows if g.source == Source.ACC else 0)
        geom = _ints(
            *(g.out_row_pitch, g.out_pixel_pitch, g.res_row_pitch, g.res_pixel_pitch, g.residual, g.res_unsigned),
            *(g.leaky, g.wide, g.clamp_low, g.clamp_high),
        )
        tile = _ints(op.tile_h, op.tile_w, op.lanes, first, op.out_base, op.out_byte, op.res_base)
        window = _ints(
            *(g.source, g.kernel_h, g.kernel_w, g.stride_y, g.stride_x, g.dilation_y, g.dilation_x, g.in_h, g.in_w),
            *(g.row_pitch, g.pixel_pitch, g.src_unsigned, op.src_row0),
            *(op.out_y * g.stride_y - g.pad_top, op.out_x * g.stride_x - g.pad_left),
        )
        return (params, np.ascontiguousarray(taps, np.int64), geom, tile, window)

    # -- execution

    def run(
        self,
        images: U8,
        input_address: int,
        output_address: int,
        output_bytes: int,
        observe: Observe | None = None,
    ) -> U8:
        """Execute the program for each image.

        Args:
            images: uint8 (N, bytes), written to DRAM at `input_address`.
            input_address, output_address: DRAM byte addresses.
            output_bytes: bytes of the output.
            observe: called after each vec with the values that it wrote, int32 (N, tile_h, tile_w, lanes); only with
                a batch that fits at once.

        Returns:
            uint8 (N, output_bytes): the output's bytes in DRAM.
        """
        per_image = self._act_bytes + self._scratch_bytes + 8 * self._machine.acc_rows * self._machine.array_cols
        batch = max(1, min(MAX_BATCH, BATCH_BYTES // per_image, len(images)))
        if observe is not None:
            batch = max(len(images), 1)
        outputs = np.empty((len(images), output_bytes), np.uint8)
        base = self._constants.size
        self._act = np.zeros((batch, self._act_bytes), np.uint8)
        self._acc = np.zeros((batch, 2 * self._machine.acc_rows, self._machine.array_cols), np.int32)
        self._dram = np.zeros((batch, self._scratch_bytes), np.uint8)
        for first in range(0, len(images), batch):
            part = images[first : first + batch]
            if len(part) < batch:
                count = len(part)
                self._act, self._acc, self._dram = self._act[:count], self._acc[:count], self._dram[:count]
            self._dram[:, input_address - base : input_address - base + part.shape[1]] = part
            for step, arguments, op in self._steps:
                step(op, *arguments)
                if observe is not None and isinstance(op, Vec):
                    observe(op, self._written(op))
            start = output_address - base
            outputs[first : first + len(part)] = self._dram[:, start : start + output_bytes]
        return outputs

    def _run_load(self, op: Load, runs: Array) -> None:
        kernels.load(self._act, self._dram, self._constants, op.dram_addr, runs, op.run, op.addr)

    def _run_store(self, op: Store, runs: Array) -> None:
        kernels.store(self._act, self._dram, op.dram_addr - self._constants.size, runs, op.run, op.addr)

    def _run_fold(self, op: Fold, window: Array, rows: Array) -> None:
        at = op.dram_addr - self._constants.size
        kernels.fold(self._act, self._dram, at, window, rows, op.addr, op.words)

    def _run_conv(self, op: Conv, weight: Array, entries: Array, *arguments: int) -> None:
        kernels.conv(self._act, self._acc, weight, entries, *arguments)

    def _run_vec(self, op: Vec, params: Array, taps: Array, geom: Array, tile: Array, window: Array) -> None:
        if op.geom.source == Source.ACC:
            kernels.vec_acc(self._act, self._acc, params, geom, tile)
        else:
            kernels.vec_window(self._act, params, taps, geom, tile, window)

    def _written(self, op: Vec) -> Array:
        """Return the values that a vec has just written."""
        g = op.geom
        lane = op.out_byte + np.arange(op.lanes)
        spread = (1 + g.wide) * (lane // WORD_BYTES) * WORD_BYTES + lane % WORD_BYTES
        rows = np.arange(op.tile_h)[:, None, None] * g.out_row_pitch
        cols = np.arange(op.tile_w)[:, None] * g.out_pixel_pitch
        at = (op.out_base + rows + cols) * WORD_BYTES + spread
        found = self._act[:, at].astype(np.int32)
        if g.wide:
            found |= self._act[:, at + WORD_BYTES].astype(np.int32) << 8
        bits = 16 if g.wide else 8
        if g.clamp_high < 1 << (bits - 1):
            found = (found << (32 - bits)) >> (32 - bits)
        return found


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _runs(op: Load | Store) -> Array:
    return _ints(op.rows, op.cols, op.dram_row_pitch, op.dram_col_pitch, op.row_pitch, op.col_pitch)


def _fold_arguments(op: Fold) -> tuple[Array, Array]:
    window = (op.in_h, op.in_w, op.channels, op.kernel_h, op.kernel_w, op.stride_y, op.stride_x)
    rows = (op.out_y, op.rows, op.cols, op.row_pitch, op.pixel_pitch)
    return _ints(*window, op.pad_top, op.pad_left), _ints(*rows)
