"""What programs read: exact word sets, in program order, and the constants that arithmetic depends on.

Program order is a legal execution once races are excluded, so one walk over the program decides what is written.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from npu_isa.check import kernels
from npu_isa.check.faults import UNITS, fault
from npu_isa.errors import ProgramError
from npu_isa.isa.ops import Memory, Table
from npu_isa.isa.program import KINDS
from npu_isa.isa.resolve import Ops
from npu_isa.machine import blocks
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.numerics import MAX_MULTIPLIER, MAX_SHIFT, MAX_SHIFT_LOWER

Ranges = Sequence[tuple[int, int]]  # first byte and end of each

_KINDS = np.full(len(KINDS), kernels.OTHER, np.int64)
for _name in ("conv", "vec", "table", "load", "fold", "store"):
    _KINDS[KINDS[_name]] = getattr(kernels, _name.upper())
LIMITS = np.array(
    [blocks.MULTIPLIER_BITS, blocks.SHIFT_AT, blocks.SHIFT_MASK, MAX_SHIFT, MAX_MULTIPLIER, MAX_SHIFT_LOWER], np.int64
)


def check_written(
    ops: Ops,
    machine: MachineConfig,
    constants_bytes: int,
    dram_bytes: int,
    input_range: tuple[int, int],
    output_ranges: Ranges,
    constants: NDArray[np.uint8] | None,
) -> None:
    """Check that everything read has been written, at the end the outputs too, and constants are in range.

    Raises:
        ProgramError: an operation reads what nothing has written, or constants that the arithmetic does not allow;
            an output is not written whole.
    """
    parts = WORD_BYTES // min(WORD_BYTES, machine.array_cols)
    held = _nothing(ops, machine, parts, dram_bytes, constants)
    held.dram[:constants_bytes] = 1
    held.dram[slice(*input_range)] = 1
    groups = [sorted(set(layout.groups)) for layout in ops.layouts]
    status, index, a, b = kernels.walk(
        _KINDS[ops.kind],
        ops.row,
        ops.conv,
        ops.vec,
        ops.table,
        ops.load,
        ops.fold,
        ops.store,
        np.array([g for layout in groups for g in layout], np.int64),
        np.cumsum([0, *map(len, groups)]),
        np.arange(machine.tile_groups),
        held,
        parts,
        machine.array_cols,
        blocks.position_words(machine) * WORD_BYTES,
        blocks.HEAD_ROWS,
        blocks.table_rows(machine),
        LIMITS,
    )
    if status:
        raise _fault(ops, int(index), int(status), int(a), int(b), parts)
    for number, (first, end) in enumerate(output_ranges):
        written = held.dram[first:end]
        if not written.all():
            raise ProgramError(
                f"DRAM byte {first + int(np.argmin(written))} is never written",
                output_name(output_ranges, number),
                "the program must store the whole output tensor",
            )


def output_name(ranges: Ranges, number: int) -> str:
    """Return how an error names an output, counted from 0: by its number where there are several."""
    return "output" if len(ranges) == 1 else f"output {number}"


def _nothing(
    ops: Ops, machine: MachineConfig, parts: int, dram_bytes: int, constants: NDArray[np.uint8] | None
) -> kernels.Held:
    sides = [table[side].max(initial=1) for table in (ops.conv, ops.vec) for side in ("in_h", "in_w")]
    contents = np.zeros(0, np.uint8) if constants is None else np.require(constants, np.uint8, ["C", "W"])
    return kernels.Held(
        act=np.zeros(machine.act_words * parts, np.uint8),
        weight=np.zeros(machine.weight_words, np.uint8),
        param=np.zeros(machine.param_rows, np.uint8),
        acc=np.zeros((2, machine.acc_rows), np.uint8),
        dram=np.zeros(dram_bytes, np.uint8),
        chosen=np.zeros(machine.param_rows, np.uint8),
        weights=np.zeros(machine.weight_memory_bytes, np.uint8),
        params=np.zeros((machine.param_rows, machine.array_cols, 4), np.uint8),
        constants=contents,
        met=np.zeros((2, max(sides)), np.uint8),
    )


def _fault(ops: Ops, index: int, status: int, a: int, b: int, parts: int) -> ProgramError:
    op = ops[index]
    match status:
        case kernels.UNWRITTEN:
            memory = Memory(a)
            unit = b // parts if memory == Memory.ACT else b
            one = UNITS[memory].replace("words", "word").replace("rows", "row").replace("bytes", "byte")
            return fault(op, f"reads {one} at {unit}, which nothing has written")
        case kernels.POSITION:
            return fault(op, f"its weight block has a position s_wgt of {a}, at most {MAX_SHIFT_LOWER} is possible")
        case kernels.CHOSEN:
            hint = "only row 0 of a parameter block, the bias, may depend on a boundary"
            what = "table comes" if isinstance(op, Table) else "multipliers come"
            return fault(op, f"its {what} from an indexed load", hint)
        case kernels.SHIFT:
            return fault(op, f"its parameter block has a shift of {a}, 1..{MAX_SHIFT} is possible")
        case _:
            limits = f"-{MAX_MULTIPLIER}..{MAX_MULTIPLIER}"
            return fault(op, f"its parameter block has a multiplier of {a}, {limits} is possible")
