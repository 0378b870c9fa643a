"""From operations to the tables of the value kernels, for any boundary vector.

What depends neither on the image nor on the boundaries is done once: addresses, patches, and where each word of the
weight and parameter memories comes from. Weights are lowered and packed for a boundary vector; those that the vector
before had too are kept.
"""

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
from npu_isa.check.program import check_extraction
from npu_isa.isa.ops import GROUP, Conv, Fold, Halt, Load, Memory, Op, Setup, Source, Store, Table, Vec
from npu_isa.machine.blocks import ParamBlock
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import footprints
from npu_isa.machine.window import axes
from numpy.typing import NDArray

from npu_sim.fast.values import execute, tables
from npu_sim.fast.values.constants import Block, Packed, ParamMemory, Shape, WeightMemory, boundary_of
from npu_sim.fast.values.patches import Layout, Patches, layout_of, patch_axis, round_up, segment_rows
from npu_sim.fast.values.tables import OFFSET, PARAMS, VECTOR, Pool, Record, Row

U8 = NDArray[np.uint8]
Array = NDArray[Any]


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
        self._acc_width = VECTOR if columns <= VECTOR else round_up(columns, 2 * VECTOR)
        self._weights = WeightMemory(machine, self._constants)
        self._params = ParamMemory(machine, self._constants)
        self._patches = Patches()
        self._rows: dict[Record, list[Row]] = {}
        self._convs: list[tuple[Conv, Layout, Block]] = []
        self._shapes: dict[Shape, dict[bytes, int]] = {}  # parameter blocks, numbered, by what they hold
        self._vecs: list[tuple[Shape, int]] = []
        self._tables = Pool(np.uint8)
        self._loaded = -1  # place in them of the one that is loaded
        self._packed: dict[tuple[Block, int], Packed] = {}
        self._steps: list[Row] = []
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
            case Load() if op.memory == Memory.WEIGHT:
                self._weights.load(op)
                return
            case Load() if op.memory == Memory.PARAM:
                self._params.load(op)
                return
            case Table():
                self._loaded = self._tables.append(self._params.table(op))
                return
            case Load():
                kind, record, row = execute.LOAD, tables.TRANSFER, _transfer_row(op)
            case Store():
                kind, record, row = execute.STORE, tables.TRANSFER, _transfer_row(op)
            case Fold():
                kind, record, row = execute.FOLD, tables.FOLD, _fold_row(op)
            case Conv():
                kind, record, row = execute.CONV, tables.CONV, self._conv_row(op)
            case Vec():
                kind, record, row = execute.VEC, tables.VEC, self._vec_row(op)
            case Setup() | Halt():
                return
            case _:
                assert_never(op)
        for access in self._touched.of(op.index):
            if access.memory == Memory.ACT and access.write:
                self._patches.written(access.first, access.end)
        rows = self._rows.setdefault(record, [])
        self._steps.append(tables.STEP.row(kind=kind, row=len(rows)))
        self.ops.append(op)
        rows.append(row)

    def _conv_row(self, op: Conv) -> Row:
        g = op.geom
        rows, cols = (patch_axis(axis) for axis in axes(op))
        layout = layout_of(op, cols)
        self._convs.append((op, layout, self._weights.block(op, layout)))
        pixel = op.group_count * GROUP
        row = cols.parts * cols.positions * pixel
        reads = [(a.first, a.end) for a in self._touched.of(op.index) if a.memory == Memory.ACT]
        key = (g, op.act_base, op.act_row0, op.out_y, op.out_x, op.tile_h, op.tile_w, op.group_first, layout)
        patch, fresh = self._patches.place(key, rows.parts * rows.positions * row, reads[0] if reads else (0, 0))
        runs = 1 if cols.tap == 1 else g.kernel_w
        return tables.CONV.row(
            patch=patch,
            fresh=fresh,
            padded=rows.padded or cols.padded,
            source=(op.act_base - op.act_row0 * g.row_pitch) * GROUP,
            source_row=g.row_pitch * GROUP,
            source_col=g.pixel_pitch * GROUP,
            y=rows.first,
            row_parts=rows.parts,
            row_step=rows.step,
            part_rows=rows.positions,
            part_row_step=rows.position_step,
            x=cols.first,
            col_parts=cols.parts,
            col_step=cols.step,
            part_cols=cols.positions,
            part_col_step=cols.position_step,
            in_h=g.in_h,
            in_w=g.in_w,
            flip=0 if g.unsigned else OFFSET,
            places=op.group_count,
            tile_h=op.tile_h,
            tile_w=op.tile_w,
            next_y=rows.next * row,
            next_x=cols.next * pixel,
            tap_rows=g.kernel_h,
            tap_row=rows.tap * row,
            tap_cols=runs,
            tap_col=cols.tap * pixel,
            run=g.kernel_w // runs * pixel,
            acc=op.acc_half * self._machine.acc_rows + op.acc_row,
            accumulate=op.accumulate,
            segment=0,  # this and the rest: `_fill_convs`
            segments=0,
            weight=0,
            start=0,
            vectors=0,
        )

    def _vec_row(self, op: Vec) -> Row:
        g = op.geom
        count = g.kernel_h * g.kernel_w
        shape = Shape(op.lanes, count if g.source == Source.MAC else 0, count if g.source == Source.SUM else 0)
        blocks = self._shapes.setdefault(shape, {})
        self._vecs.append((shape, blocks.setdefault(self._params.rows(op), len(blocks))))
        base = (op.src_base - op.src_row0 * g.row_pitch) * GROUP + op.out_byte
        if g.source == Source.ACC:
            base = op.acc_half * self._machine.acc_rows + op.src_base
        return tables.VEC.row(
            source=g.source,
            tile_h=op.tile_h,
            tile_w=op.tile_w,
            lanes=op.lanes,
            base=base,
            row=g.row_pitch * GROUP,
            col=g.pixel_pitch * GROUP,
            out=op.out_base * GROUP + op.out_byte,
            out_row=g.out_row_pitch * GROUP,
            out_col=g.out_pixel_pitch * GROUP,
            residual=g.residual,
            product=g.product,
            res=op.res_base * GROUP + op.out_byte,
            res_row=g.res_row_pitch * GROUP,
            res_col=g.res_pixel_pitch * GROUP,
            res_flip=0 if g.res_unsigned else OFFSET,
            leaky=g.leaky,
            wide=g.wide,
            table=self._loaded if g.table else -1,
            low=g.clamp_low,
            high=g.clamp_high,
            kernel_h=g.kernel_h,
            kernel_w=g.kernel_w,
            stride_y=g.stride_y,
            stride_x=g.stride_x,
            dilation_y=g.dilation_y,
            dilation_x=g.dilation_x,
            y=op.out_y * g.stride_y - g.pad_top,
            x=op.out_x * g.stride_x - g.pad_left,
            in_h=g.in_h,
            in_w=g.in_w,
            flip=0 if g.src_unsigned else OFFSET,
            params=0,  # both: `_fill_vecs`
            taps=0,
        )

    # -- what does

    def program(self, boundaries: Sequence[int]) -> tables.Program:
        """Return the program at a boundary vector; registers beyond the vector read 0."""
        convs, vecs = self._table(tables.CONV), self._table(tables.VEC)
        segments, lowering, weights, starts = self._fill_convs(convs, boundaries)
        params, taps = self._fill_vecs(vecs, boundaries)
        return tables.Program(
            steps=tables.STEP.table(self._steps),
            convs=convs,
            segments=segments,
            lowering=lowering,
            weights=weights,
            starts=starts,
            vecs=vecs,
            params=params,
            taps=taps,
            tables=self._tables.array(),
            transfers=self._table(tables.TRANSFER),
            folds=self._table(tables.FOLD),
            constants=self._constants,
            acc_width=self._acc_width,
        )

    def _table(self, record: Record) -> Array:
        return record.table(self._rows.get(record, []))

    def _fill_convs(self, convs: Array, boundaries: Sequence[int]) -> tuple[Array, Array, Array, Array]:
        """Fill the fields of convs that depend on boundaries; return segments, lowering, weights and starts."""
        lowering, weights, starts = Pool(np.uint8), Pool(np.int8), Pool(np.int32)
        segments: list[Row] = []
        layouts: dict[tuple[Layout, int], dict[str, int]] = {}
        blocks: dict[tuple[Block, int], dict[str, int]] = {}
        before, self._packed = self._packed, {}
        found = []
        for op, layout, block in self._convs:
            low = op.low_places(boundary_of(boundaries, op.geom.register))
            if (layout, low) not in layouts:
                rows = segment_rows(layout, low, lowering)
                layouts[layout, low] = {"segment": len(segments), "segments": len(rows)}
                segments += rows
            if (block, low) not in blocks:
                packed = before[block, low] if (block, low) in before else self._weights.pack(block, low)
                self._packed[block, low] = packed
                blocks[block, low] = {
                    "weight": weights.append(packed.weights),
                    "start": starts.append(packed.starts),
                    "vectors": packed.starts.size // VECTOR,
                }
            found.append(layouts[layout, low] | blocks[block, low])
        tables.fill(convs, found)
        return tables.SEGMENT.table(segments), lowering.array(), weights.array(), starts.array()

    def _fill_vecs(self, vecs: Array, boundaries: Sequence[int]) -> tuple[Array, Array]:
        """Fill the fields of vecs that depend on boundaries; return params and taps."""
        params, taps = Pool(np.int64), Pool(np.int32)
        first: dict[Shape, tuple[int, int]] = {}
        for shape, numbers in self._shapes.items():
            blocks = self._params.blocks(list(numbers), boundaries, shape)
            weights = np.ones((len(numbers), shape.ones, shape.lanes)) if shape.ones else blocks.taps
            first[shape] = params.append(_param_tables(blocks)), taps.append(weights.astype(np.int32))
        found = []
        for shape, number in self._vecs:
            at = first[shape]
            weights_of_block = (shape.taps + shape.ones) * shape.lanes
            found.append({"params": at[0] + number * PARAMS * shape.lanes, "taps": at[1] + number * weights_of_block})
        tables.fill(vecs, found)
        for pool, dtype in ((params, np.int64), (taps, np.int32)):
            pool.append(np.zeros(VECTOR, dtype))  # whole vectors are read
        return params.array(), taps.array()


def _param_tables(blocks: ParamBlock) -> Array:
    """Return rows of tables.Program.params, int64 (blocks, PARAMS, lanes)."""
    half = np.int64(1) << (blocks.shift - 1)
    offsets = blocks.bias * blocks.mult + half, blocks.bias * blocks.mult2 + half
    return np.stack([blocks.bias, blocks.mult, blocks.shift, blocks.mult2, *offsets], axis=1)


def _transfer_row(op: Load | Store) -> Row:
    return tables.TRANSFER.row(
        dram=op.dram_addr,
        dram_row=op.dram_row_pitch,
        dram_col=op.dram_col_pitch,
        act=op.addr * GROUP,
        act_row=op.row_pitch * GROUP,
        act_col=op.col_pitch * GROUP,
        rows=op.rows,
        cols=op.cols,
        run=op.run,
    )


def _fold_row(op: Fold) -> Row:
    return tables.FOLD.row(
        dram=op.dram_addr,
        in_h=op.in_h,
        in_w=op.in_w,
        channels=op.channels,
        kernel_h=op.kernel_h,
        kernel_w=op.kernel_w,
        stride_y=op.stride_y,
        stride_x=op.stride_x,
        y=op.out_y * op.stride_y - op.pad_top,
        x=-op.pad_left,
        rows=op.rows,
        cols=op.cols,
        act=op.addr * GROUP,
        act_row=op.row_pitch * GROUP,
        act_col=op.pixel_pitch * GROUP,
        words=op.words * GROUP,
    )
