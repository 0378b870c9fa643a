"""From operations to the tables of the value kernels, for any boundary vector.

What depends neither on the image nor on the boundaries is done once: addresses, patches, and where each word of the
weight and parameter memories comes from. Weights are lowered and packed for a boundary vector; those that the vector
before had too are kept.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from npu_isa.check.program import check_extraction
from npu_isa.isa.ops import Conv, Fold, Load, Memory, Op, Source, Store, Vec
from npu_isa.machine.blocks import position_words, weight_block_words
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.footprint import footprints
from npu_isa.machine.numerics import MAX_SHIFT_LOWER, lower
from npu_isa.machine.timing import param_rows
from numpy.typing import NDArray

from npu_sim.fast.values import kernels, tables
from npu_sim.fast.values.simd import GROUP, QUAD, VECTOR, WHOLE

U8 = NDArray[np.uint8]
Array = NDArray[Any]

PATCH_BYTES = 256 << 10  # patches kept for later convs on the same input: part of a core's cache
LINE_BYTES = 64
SPAN_BYTES = 256  # rows of `lowering` are repeated to about this length
OFFSET = 128  # of signed activations in a patch
# lowered value of each int8 weight at each position: LOWERED[s, w + 128]
LOWERED = np.stack([lower(np.arange(-128, 128), s, unsigned=False) for s in range(MAX_SHIFT_LOWER + 1)]).astype(np.int8)


@dataclass(frozen=True)
class _Layout:
    """Groups that a conv reads of a pixel, in the order of its group table."""

    groups: tuple[int, ...]
    shifts: tuple[int, ...]
    unsigned: int
    dynamic: int
    adjoining: bool  # one pixel's groups end where the next pixel's begin

    @property
    def order(self) -> list[int]:
        """Places by group, as they lie in a patch."""
        return sorted(range(len(self.groups)), key=lambda place: self.groups[place])


@dataclass(frozen=True)
class _Block:
    """A weight block: the place of each of its words in DRAM, and how it is packed."""

    words: bytes | tuple[int, int]  # int64 addresses, or the first and their number if they adjoin
    layout: _Layout
    taps: int


class _Pool:
    """Arrays put one behind the other."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._parts: list[Array] = [np.zeros(0, dtype)]
        self._size = 0

    def append(self, part: Array) -> int:
        """Return the index of the first element of an array."""
        first = self._size
        self._parts.append(part.reshape(-1))
        self._size += part.size
        return first

    def array(self) -> Array:
        """Return everything as one array."""
        return np.concatenate(self._parts)


class _Patches:
    """Where patches lie: a memory filled round and round, in which a patch stays while its input does."""

    def __init__(self) -> None:
        self.bytes = 0
        self._next = 0
        self._held: dict[Hashable, tuple[int, int, int, int]] = {}

    def place(self, key: Hashable, size: int, source: tuple[int, int]) -> tuple[int, bool]:
        """Return the address of a patch and whether it must be gathered; `source` are the words that it reads."""
        if key in self._held:
            return self._held[key][0], False
        start = self._next if self._next + size <= PATCH_BYTES else 0
        self._drop([k for k, v in self._held.items() if v[0] < start + size and start < v[1]])
        self._held[key] = (start, start + size, *source)
        self._next = _round_up(start + size, LINE_BYTES)
        self.bytes = max(self.bytes, start + size)
        return start, True

    def written(self, first: int, end: int) -> None:
        """Forget the patches that read from words first..end-1."""
        self._drop([k for k, v in self._held.items() if v[2] < end and first < v[3]])

    def _drop(self, keys: list[Hashable]) -> None:
        for key in keys:
            del self._held[key]


class Encoder:
    """A program ready to be put into tables.

    Args:
        ops: the resolved program, accepted by npu_isa.check.program.
        machine: the design point.
        constants: uint8, DRAM from address 0.

    Attributes:
        ops: the operations that have a step, one each.
    """

    def __init__(self, ops: Sequence[Op], machine: MachineConfig, constants: U8) -> None:
        check_extraction(ops, machine)
        self._machine = machine
        self._constants = np.require(constants, np.uint8, ["C", "W"])  # read-only ones would be compiled for once more
        columns = machine.array_cols
        self._acc_width = VECTOR if columns <= VECTOR else _round_up(columns, 2 * VECTOR)
        # DRAM byte that a word of the weight memory comes from, less 16 x its address: constant within one load
        self._weight_source = np.zeros(machine.weight_words, np.int64)
        # of each parameter row: DRAM byte, boundary register, bytes per boundary
        self._param_source = np.zeros((machine.param_rows, 3), np.int64)
        self._patches = _Patches()
        self._rows: dict[np.dtype[Any], list[tuple[int, ...]]] = {}
        self._convs: list[tuple[Conv, _Layout, _Block]] = []
        self._vecs: list[tuple[Vec, bytes]] = []
        self._packed: dict[tuple[_Block, int], tuple[Array, Array]] = {}
        self._steps: list[tuple[int, int]] = []
        self.ops: list[Op] = []
        self._touched = footprints(ops, machine)
        for op in ops:
            self._encode(op)

    # -- what does not depend on the boundaries

    @property
    def row_pixels(self) -> int:
        """Output pixels in the longest row of a vec."""
        return max((op.tile_w for op in self.ops if isinstance(op, Vec)), default=0)

    @property
    def patch_bytes(self) -> int:
        """Bytes of the patches."""
        return self._patches.bytes

    def _encode(self, op: Op) -> None:
        """Add the step of an operation, if it has one."""
        match op:
            case Load() if op.memory != Memory.ACT:
                self._load_constants(op)
                return
            case Load():
                kind, record, row = kernels.LOAD, tables.TRANSFER, _transfer_row(op)
            case Store():
                kind, record, row = kernels.STORE, tables.TRANSFER, _transfer_row(op)
            case Fold():
                kind, record, row = kernels.FOLD, tables.FOLD, _fold_row(op)
            case Conv():
                kind, record, row = kernels.CONV, tables.CONV, self._conv_row(op)
            case Vec():
                kind, record, row = kernels.VEC, tables.VEC, self._vec_row(op)
            case _:
                return
        for access in self._touched.of(op.index):
            if access.memory == Memory.ACT and access.write:
                self._patches.written(access.first, access.end)
        rows = self._rows.setdefault(record, [])
        self._steps.append((kind, len(rows)))
        self.ops.append(op)
        rows.append(row)

    def _load_constants(self, op: Load) -> None:
        """Note where a load of weights or parameters takes its words from."""
        unit = 4 * self._machine.array_cols if op.memory == Memory.PARAM else WORD_BYTES
        for r in range(op.rows):
            for c in range(op.cols):
                source = op.dram_addr + r * op.dram_row_pitch + c * op.dram_col_pitch
                first = op.addr + r * op.row_pitch + c * op.col_pitch
                held = slice(first, first + op.run // unit)
                if op.memory == Memory.WEIGHT:
                    self._weight_source[held] = source - first * WORD_BYTES
                else:
                    self._param_source[held, 0] = np.arange(source, source + op.run, unit)
                    self._param_source[held, 1:] = (op.register, op.table_pitch) if op.indexed else (0, 0)

    def _conv_row(self, op: Conv) -> tuple[int, ...]:
        g = op.geom
        y, x = op.out_y * g.stride_y - g.pad_top, op.out_x * g.stride_x - g.pad_left
        rows, next_row, tap_row, padded_y = _patch_axis(y, op.tile_h, g.stride_y, g.kernel_h, g.dilation_y, g.in_h)
        cols, next_col, tap_col, padded_x = _patch_axis(x, op.tile_w, g.stride_x, g.kernel_w, g.dilation_x, g.in_w)
        layout = _Layout(op.groups, op.shifts, g.unsigned, g.dynamic, g.pixel_pitch * cols[3] == op.group_count)
        self._convs.append((op, layout, self._block(op, layout)))
        pixel = op.group_count * GROUP
        row = cols[0] * cols[2] * pixel
        reads = [(a.first, a.end) for a in self._touched.of(op.index) if a.memory == Memory.ACT]
        key = (g, op.act_base, op.act_row0, op.out_y, op.out_x, op.tile_h, op.tile_w, op.group_first, layout)
        patch, fresh = self._patches.place(key, rows[0] * rows[2] * row, reads[0] if reads else (0, 0))
        runs = 1 if tap_col == 1 else g.kernel_w
        source = op.act_base - op.act_row0 * g.row_pitch
        return (
            *(patch, fresh, padded_y or padded_x, source * GROUP, g.row_pitch * GROUP, g.pixel_pitch * GROUP),
            *(y, *rows, x, *cols, g.in_h, g.in_w, 0 if g.unsigned else OFFSET, op.group_count, 0, 0),
            *(op.tile_h, op.tile_w, next_row * row, next_col * pixel),
            *(g.kernel_h, tap_row * row, runs, tap_col * pixel, g.kernel_w // runs * pixel),
            *(0, 0, 0, op.acc_half * self._machine.acc_rows + op.acc_row, op.accumulate),
        )

    def _block(self, op: Conv, layout: _Layout) -> _Block:
        words = weight_block_words(self._machine, op.group_count, op.taps)
        source = self._weight_source[op.weight_addr : op.weight_addr + words]
        if (source == source[0]).all():
            return _Block((int(source[0]) + op.weight_addr * WORD_BYTES, words), layout, op.taps)
        addresses = source + np.arange(op.weight_addr, op.weight_addr + words) * WORD_BYTES
        return _Block(addresses.tobytes(), layout, op.taps)

    def _vec_row(self, op: Vec) -> tuple[int, ...]:
        g = op.geom
        self._vecs.append((op, self._param_source[op.param_addr : op.param_addr + param_rows(g)].tobytes()))
        base = (op.src_base - op.src_row0 * g.row_pitch) * GROUP + op.out_byte
        if g.source == Source.ACC:
            base = op.acc_half * self._machine.acc_rows + op.src_base
        return (
            *(g.source, op.tile_h, op.tile_w, op.lanes, base, g.row_pitch * GROUP, g.pixel_pitch * GROUP),
            *(op.out_base * GROUP + op.out_byte, g.out_row_pitch * GROUP, g.out_pixel_pitch * GROUP, g.residual),
            *(op.res_base * GROUP + op.out_byte, g.res_row_pitch * GROUP, g.res_pixel_pitch * GROUP),
            *(0 if g.res_unsigned else OFFSET, g.leaky, g.wide, g.clamp_low, g.clamp_high, 0, 0),
            *(g.kernel_h, g.kernel_w, g.stride_y, g.stride_x, g.dilation_y, g.dilation_x),
            *(op.out_y * g.stride_y - g.pad_top, op.out_x * g.stride_x - g.pad_left, g.in_h, g.in_w),
            0 if g.src_unsigned else OFFSET,
        )

    # -- what does

    def program(self, boundaries: Sequence[int]) -> tables.Program:
        """Return the program at a boundary vector; registers beyond the vector read 0."""
        convs, vecs = self._table(tables.CONV), self._table(tables.VEC)
        segments, lowering, weights, starts = self._fill_convs(convs, boundaries)
        params, taps = self._fill_vecs(vecs, boundaries)
        return tables.Program(
            steps=_records(self._steps, tables.STEP),
            convs=convs,
            segments=segments,
            lowering=lowering,
            weights=weights,
            starts=starts,
            vecs=vecs,
            params=params,
            taps=taps,
            transfers=self._table(tables.TRANSFER),
            folds=self._table(tables.FOLD),
            constants=self._constants,
            acc_width=self._acc_width,
        )

    def _table(self, record: np.dtype[Any]) -> Array:
        return _records(self._rows.get(record, []), record)

    def _fill_convs(self, convs: Array, boundaries: Sequence[int]) -> tuple[Array, Array, Array, Array]:
        """Fill the fields of convs that depend on boundaries; return segments, lowering, weights and starts."""
        lowering, weights, starts = _Pool(np.uint8), _Pool(np.int8), _Pool(np.int32)
        segments: list[tuple[int, ...]] = []
        layouts: dict[tuple[_Layout, int], tuple[int, int]] = {}
        blocks: dict[tuple[_Block, int], tuple[int, int, int]] = {}
        before, self._packed = self._packed, {}
        filled = []
        for op, layout, block in self._convs:
            low = op.low_places(_boundary(boundaries, op.geom.register))
            if (layout, low) not in layouts:
                rows = _segments(layout, low, lowering)
                layouts[layout, low] = len(segments), len(rows)
                segments += rows
            if (block, low) not in blocks:
                packed = before[block, low] if (block, low) in before else self._pack(block, low)
                self._packed[block, low] = packed
                blocks[block, low] = weights.append(packed[0]), starts.append(packed[1]), packed[1].size // VECTOR
            filled.append((*layouts[layout, low], *blocks[block, low]))
        _fill(convs, ("segment", "segments", "weight", "start", "vectors"), filled)
        return _records(segments, tables.SEGMENT), lowering.array(), weights.array(), starts.array()

    def _pack(self, block: _Block, low: int) -> tuple[Array, Array]:
        """Return the packed weights of a block, the first `low` places lowered, and what its sums start from."""
        places, columns = len(block.layout.groups), self._machine.array_cols
        if isinstance(block.words, bytes):
            addresses = np.frombuffer(block.words, np.int64)
            data = self._constants[np.add.outer(addresses, np.arange(WORD_BYTES))].reshape(-1)
        else:
            first, words = block.words
            data = self._constants[first : first + words * WORD_BYTES]
        head = places * position_words(self._machine) * WORD_BYTES
        codes = data[:head].reshape(places, -1)
        shifts = np.stack([codes & 15, codes >> 4], axis=-1).reshape(places, -1)[:, :columns]
        matrix = data[head:].view(np.int8).reshape(places, block.taps * GROUP, columns)
        used = int(np.max(np.flatnonzero(matrix.any(axis=(0, 1))), initial=0)) + 1
        vectors = 1 if used <= VECTOR else _round_up(used, 2 * VECTOR) // VECTOR
        full = np.zeros((places, block.taps * GROUP, vectors * VECTOR), np.int8)
        used = min(columns, full.shape[2])
        full[..., :used] = matrix[..., :used]
        full[:low, :, :used] = LOWERED[shifts[:low, None, :used], matrix[:low, :, :used].astype(np.int16) + 128]
        start = full.sum(axis=(0, 1), dtype=np.int32) * (0 if block.layout.unsigned else -OFFSET)
        full = full[block.layout.order].reshape(places, block.taps, GROUP // QUAD, QUAD, vectors, VECTOR)
        return np.ascontiguousarray(full.transpose(4, 1, 0, 2, 5, 3)), start.astype(np.int32)

    def _fill_vecs(self, vecs: Array, boundaries: Sequence[int]) -> tuple[Array, Array]:
        """Fill the fields of vecs that depend on boundaries; return params and taps."""
        params, taps = _Pool(np.int64), _Pool(np.int32)
        blocks: dict[Hashable, tuple[int, int]] = {}
        places = []
        for op, source in self._vecs:
            ones = op.geom.kernel_h * op.geom.kernel_w if op.geom.source == Source.SUM else 0
            key = source, op.lanes, ones
            if key not in blocks:
                rows = self._param_rows(source, boundaries, op.lanes)
                bias, multiplier, shift, second = rows[0], rows[1] & 0xFFFF, rows[1] >> 16 & 63, rows[2] & 0xFFFF
                half = np.int64(1) << (shift - 1)
                table = np.stack([bias, multiplier, shift, second, bias * multiplier + half, bias * second + half])
                quads = rows[3:].astype("<i4").view(np.int8).reshape(-1, op.lanes, 4)
                weights = np.ones((ones, op.lanes), np.int32) if ones else quads.transpose(0, 2, 1).astype(np.int32)
                blocks[key] = params.append(table), taps.append(weights)
            places.append(blocks[key])
        _fill(vecs, ("params", "taps"), places)
        for pool, dtype in ((params, np.int64), (taps, np.int32)):
            pool.append(np.zeros(VECTOR, dtype))  # whole vectors are read
        return params.array(), taps.array()

    def _param_rows(self, source: bytes, boundaries: Sequence[int], lanes: int) -> Array:
        """Return parameter rows, int64 (rows, lanes), from where they come in DRAM."""
        starts = [
            first + _boundary(boundaries, register) * pitch
            for first, register, pitch in np.frombuffer(source, np.int64).reshape(-1, 3).tolist()
        ]
        data = np.stack([self._constants[at : at + 4 * lanes] for at in starts])
        return data.view("<i4").astype(np.int64)


def _boundary(boundaries: Sequence[int], register: int) -> int:
    return boundaries[register] if register < len(boundaries) else 0


def _segments(layout: _Layout, low: int, lowering: _Pool) -> list[tuple[int, ...]]:
    """Return the segments of a layout, rows of tables.SEGMENT, of which the first `low` places are lowered."""
    order = layout.order
    rows: list[tuple[int, ...]] = []
    ends = [i for i in range(1, len(order)) if layout.groups[order[i]] != layout.groups[order[i - 1]] + 1]
    for first, end in zip([0, *ends], [*ends, len(order)], strict=True):
        run, at, span = (end - first) * GROUP, 0, 0
        if low and layout.dynamic:
            clips = np.array([layout.shifts[p] if p < low else WHOLE for p in order[first:end]], np.uint8)
            at, span = lowering.append(clips), run
        elif low:
            codes = [_lowering(layout.shifts[p], layout.unsigned) if p < low else (0, 255, 0, 255) for p in order]
            table = np.repeat(np.array(codes[first:end], np.uint8).T, GROUP, axis=1)
            if layout.adjoining and len(ends) == 0:  # runs go on over pixels
                table = np.tile(table, (1, _round_up(SPAN_BYTES, run) // run))
            at, span = lowering.append(table), table.shape[1]
        rows.append((layout.groups[order[first]] * GROUP, first * GROUP, run, at, span, layout.dynamic))
    return rows


def _lowering(shift: int, unsigned: int) -> tuple[int, int, int, int]:
    """Return half, mask, low and high of tables.Program.lowering: numerics.lower on bytes with their offset."""
    zero, least, most = (0, 0, 15) if unsigned else (OFFSET >> shift, -8, 7)
    return (1 << shift) >> 1, 256 - (1 << shift), (zero + least) << shift, (zero + most) << shift


def _patch_axis(
    first: int, count: int, stride: int, kernel: int, dilation: int, limit: int
) -> tuple[tuple[int, int, int, int], int, int, bool]:
    """Return how a patch holds the inputs of `count` outputs along one axis.

    Returns:
        parts, inputs between two parts, positions of a part, inputs between two positions; then the positions between
        two outputs and between two taps, and whether any position lies outside the image.
    """
    last = (count - 1) * stride + (kernel - 1) * dilation
    padded = first < 0 or first + last >= limit
    step = gcd(stride if count > 1 else 0, dilation if kernel > 1 else 0) or 1
    if last // step < count * kernel:
        return (1, 0, last // step + 1, step), stride // step, dilation // step if kernel > 1 else 1, padded
    return (count, stride, kernel, dilation), kernel, 1, padded


def _transfer_row(op: Load | Store) -> tuple[int, ...]:
    pitches = (op.dram_row_pitch, op.dram_col_pitch, op.addr * GROUP, op.row_pitch * GROUP, op.col_pitch * GROUP)
    return (op.dram_addr, *pitches, op.rows, op.cols, op.run)


def _fold_row(op: Fold) -> tuple[int, ...]:
    return (
        *(op.dram_addr, op.in_h, op.in_w, op.channels, op.kernel_h, op.kernel_w, op.stride_y, op.stride_x),
        *(op.out_y * op.stride_y - op.pad_top, -op.pad_left, op.rows, op.cols),
        *(op.addr * GROUP, op.row_pitch * GROUP, op.pixel_pitch * GROUP, op.words * GROUP),
    )


def _records(rows: Sequence[tuple[int, ...]], record: np.dtype[Any]) -> Array:
    return np.array(rows, np.int64).reshape(len(rows), len(record.names or ())).view(record).reshape(-1)


def _fill(table: Array, fields: Sequence[str], rows: Sequence[tuple[int, ...]]) -> None:
    for field, column in zip(fields, np.array(rows, np.int64).reshape(-1, len(fields)).T, strict=True):
        table[field] = column


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
