"""What the matrix engine finds in its memories, and the sums that it must leave, from the value simulator."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from npu_isa.isa.ops import Conv, Load, Memory, Op
from npu_isa.machine.blocks import position_words, weight_block_words
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.footprint import footprints
from numpy.typing import NDArray

from npu_sim.fast.values.run import Values
from npu_sim.rtl.stimulus import Written

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]


@dataclass(frozen=True)
class Memories:
    """One image's way through a program.

    Attributes:
        writes: per index of an operation of another engine, what it leaves in activation and weight memory.
        sums: per index of a conv, its accumulators at its end, int32 (pixels, columns).
    """

    writes: dict[int, list[Written]]
    sums: dict[int, I32]


def trace(
    ops: Sequence[Op],
    machine: MachineConfig,
    constants: U8,
    boundaries: Sequence[int],
    dram_bytes: int,
    image: U8,
    input_address: int,
) -> Memories:
    """Execute a checked program in program order and note what the RTL needs and must reproduce.

    Args:
        ops: the resolved program.
        machine: the design point.
        constants: uint8, DRAM from address 0.
        boundaries: groups in 4 bits per boundary register.
        dram_bytes: DRAM used in all.
        image: uint8 (bytes,), the input at `input_address`.
        input_address: DRAM byte address.
    """
    writes: dict[int, list[Written]] = {}
    sums: dict[int, I32] = {}
    weights = np.zeros(machine.weight_memory_bytes, np.uint8)
    left = np.zeros((2, machine.acc_rows, machine.array_cols), np.int32)
    touched = footprints(ops, machine)
    loads = deque(op for op in ops if isinstance(op, Load) and op.memory == Memory.WEIGHT)
    for op, act, acc in Values(ops, machine, constants, boundaries, dram_bytes).steps(image, input_address):
        while loads and loads[0].index < op.index:
            load = loads.popleft()
            writes[load.index] = _load_weights(load, constants, weights)
        if isinstance(op, Conv):
            rows = slice(op.acc_row, op.acc_row + op.pixels)
            used = _columns(op, machine, weights)
            if not op.accumulate:
                left[op.acc_half, rows] = 0
            left[op.acc_half, rows, :used] = acc[op.acc_half, rows, :used]
            sums[op.index] = left[op.acc_half, rows].copy()
        for a in touched.of(op.index):
            if a.write and a.memory == Memory.ACT:
                words = act[a.first * WORD_BYTES : a.end * WORD_BYTES]
                writes.setdefault(op.index, []).append(Written(Memory.ACT, a.first, words.copy()))
    return Memories(writes, sums)


def _load_weights(op: Load, constants: U8, weights: U8) -> list[Written]:
    """Execute a load of weights, which are constants."""
    found = []
    for r in range(op.rows):
        for c in range(op.cols):
            at = op.dram_addr + r * op.dram_row_pitch + c * op.dram_col_pitch
            first = op.addr + r * op.row_pitch + c * op.col_pitch
            data = constants[at : at + op.run]
            weights[first * WORD_BYTES : first * WORD_BYTES + op.run] = data
            found.append(Written(Memory.WEIGHT, first, data))
    return found


def _columns(op: Conv, machine: MachineConfig, weights: U8) -> int:
    """Return how many columns have weights in a conv's block; the others' sums are zero."""
    end = op.weight_addr + weight_block_words(machine, op.group_count, op.taps)
    first = op.weight_addr + op.group_count * position_words(machine)
    block = weights[first * WORD_BYTES : end * WORD_BYTES].reshape(-1, machine.array_cols)
    return int(np.max(np.nonzero(block.any(axis=0))[0], initial=-1)) + 1
