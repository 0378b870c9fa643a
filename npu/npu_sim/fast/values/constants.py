"""What a program loads into weight and parameter memory, as the kernels take it.

Where each word comes from in DRAM does not depend on the boundaries; how weights are lowered, and which row of a table
a parameter comes from, does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from npu_isa.isa.ops import GROUP, Conv, Load, Table, Vec
from npu_isa.machine.blocks import (
    TABLE_BYTES,
    ParamBlock,
    table_rows,
    unpack_params,
    unpack_weights,
    weight_block_words,
)
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.numerics import MAX_SHIFT_LOWER, lower
from npu_isa.machine.timing import param_rows
from numpy.typing import NDArray

from npu_sim.fast.values.patches import Layout, round_up
from npu_sim.fast.values.tables import OFFSET, QUAD, VECTOR

U8 = NDArray[np.uint8]
Array = NDArray[Any]

LANE_BYTES = 4  # of a parameter row
_INT8 = np.arange(np.iinfo(np.int8).min, np.iinfo(np.int8).max + 1)
# lowered value of each int8 weight at each position: LOWERED[s, w + 128]
LOWERED = np.stack([lower(_INT8, s, unsigned=False) for s in range(MAX_SHIFT_LOWER + 1)]).astype(np.int8)


def _runs(op: Load, unit: int) -> Iterator[tuple[int, slice]]:
    """Yield the runs of a load: their first byte in DRAM, and the units of the memory that they fill."""
    for r in range(op.rows):
        for c in range(op.cols):
            first = op.addr + r * op.row_pitch + c * op.col_pitch
            source = op.dram_addr + r * op.dram_row_pitch + c * op.dram_col_pitch
            yield source, slice(first, first + op.run // unit)


@dataclass(frozen=True)
class Block:
    """A weight block.

    Attributes:
        words: DRAM address of each of its words, as bytes of int64; or the first and their number if they adjoin.
        layout: the places that its weights meet.
        taps: of the kernel.
    """

    words: bytes | tuple[int, int]
    layout: Layout
    taps: int


class Packed(NamedTuple):
    """Weights of a block as in tables.Program: int8 `weights`, int32 `starts`."""

    weights: Array
    starts: Array


class WeightMemory:
    """Where each word of the weight memory comes from.

    Args:
        machine: the design point.
        constants: uint8, DRAM from address 0.
    """

    def __init__(self, machine: MachineConfig, constants: U8) -> None:
        self._machine = machine
        self._constants = constants
        # DRAM byte of each word, less 16 x its address: constant within one load
        self._source = np.zeros(machine.weight_words, np.int64)

    def load(self, op: Load) -> None:
        """Execute a load of weights."""
        for source, words in _runs(op, WORD_BYTES):
            self._source[words] = source - words.start * WORD_BYTES

    def block(self, op: Conv, layout: Layout) -> Block:
        """Return the block that a conv reads now."""
        words = weight_block_words(self._machine, op.group_count, op.taps)
        source = self._source[op.weight_addr : op.weight_addr + words]
        if (source == source[0]).all():
            return Block((int(source[0]) + op.weight_addr * WORD_BYTES, words), layout, op.taps)
        addresses = source + np.arange(op.weight_addr, op.weight_addr + words) * WORD_BYTES
        return Block(addresses.tobytes(), layout, op.taps)

    def pack(self, block: Block, low: int) -> Packed:
        """Return the weights of a block, the first `low` places lowered, and what its sums start from."""
        places, columns = len(block.layout.groups), self._machine.array_cols
        shifts, weights = unpack_weights(self._bytes(block), self._machine, places, block.taps)
        weights = weights.reshape(places, block.taps * GROUP, columns)
        used = int(np.max(np.flatnonzero(weights.any(axis=(0, 1))), initial=0)) + 1
        vectors = 1 if used <= VECTOR else round_up(used, 2 * VECTOR) // VECTOR
        full = np.zeros((places, block.taps * GROUP, vectors * VECTOR), np.int8)
        used = min(columns, full.shape[2])
        full[..., :used] = weights[..., :used]
        full[:low, :, :used] = LOWERED[shifts[:low, None, :used], weights[:low, :, :used].astype(np.int16) - _INT8[0]]
        starts = full.sum(axis=(0, 1), dtype=np.int32) * (0 if block.layout.unsigned else -OFFSET)
        full = full[block.layout.order].reshape(places, block.taps, GROUP // QUAD, QUAD, vectors, VECTOR)
        return Packed(np.ascontiguousarray(full.transpose(4, 1, 0, 2, 5, 3)), starts.astype(np.int32))

    def _bytes(self, block: Block) -> U8:
        if isinstance(block.words, bytes):
            addresses = np.frombuffer(block.words, np.int64)
            return self._constants[np.add.outer(addresses, np.arange(WORD_BYTES))].reshape(-1)
        first, words = block.words
        return self._constants[first : first + words * WORD_BYTES]


class Shape(NamedTuple):
    """What a vec takes from parameter memory, for `lanes` lanes: also `taps` weights of each, or `ones` instead."""

    lanes: int
    taps: int
    ones: int


class ParamMemory:
    """Where each row of the parameter memory comes from.

    Args:
        machine: the design point.
        constants: uint8, DRAM from address 0.
    """

    def __init__(self, machine: MachineConfig, constants: U8) -> None:
        self._row_bytes, self._table_rows = LANE_BYTES * machine.array_cols, table_rows(machine)
        self._constants = constants
        # of each row: DRAM byte, boundary register, bytes per boundary
        self._source = np.zeros((machine.param_rows, 3), np.int64)

    def load(self, op: Load) -> None:
        """Execute a load of parameters."""
        for source, rows in _runs(op, self._row_bytes):
            self._source[rows, 0] = np.arange(source, source + op.run, self._row_bytes)
            self._source[rows, 1:] = (op.register, op.table_pitch) if op.indexed else (0, 0)

    def rows(self, op: Vec) -> bytes:
        """Return where the rows that a vec reads now come from, for `blocks`."""
        return self._source[op.param_addr : op.param_addr + param_rows(op.geom)].tobytes()

    def table(self, op: Table) -> U8:
        """Return the table that is loaded now, uint8 (256,); no boundary changes it."""
        starts = self._source[op.param_addr : op.param_addr + self._table_rows, 0]
        return self._constants[np.add.outer(starts, np.arange(self._row_bytes))].reshape(-1)[:TABLE_BYTES]

    def blocks(self, rows: Sequence[bytes], boundaries: Sequence[int], shape: Shape) -> ParamBlock:
        """Return what blocks of one shape hold at a boundary vector; see `boundary_of`.

        Args:
            rows: where those of each block come from.
            boundaries: of each register.
            shape: of all blocks.

        Returns:
            arrays (blocks, lanes), and taps (blocks, taps, lanes).
        """
        source = np.frombuffer(b"".join(rows), np.int64).reshape(len(rows), -1, 3)
        vector = np.zeros(max(len(boundaries), int(source[..., 1].max()) + 1), np.int64)
        vector[: len(boundaries)] = boundaries
        starts = source[..., 0] + vector[source[..., 1]] * source[..., 2]
        data = self._constants[np.add.outer(starts, np.arange(LANE_BYTES * shape.lanes))]
        return unpack_params(data.view("<u4"), shape.taps)


def boundary_of(boundaries: Sequence[int], register: int) -> int:
    """Return the boundary in a register; registers beyond the vector read 0."""
    return boundaries[register] if register < len(boundaries) else 0
