"""The static check: what it passes cannot crash, hang, race or leave a memory, at any legal boundary.

Rules, in the order in which they are checked; the first broken one is reported.

1. check_shape: one halt, last; the DRAM segments follow each other.
2. check_operands, check_boundaries (`operands`): operands agree with each other and with the machine; legal boundaries
   fit the places that a register's convs cover.
3. check_bounds (`bounds`): every access lies within its memory; no operation writes a word twice; no vec reads what an
   earlier pixel of its own wrote; no store writes the program (no load can read it: rule 6, nothing has written it).
4. check_tokens (`order`): no deadlock at these queue and FIFO depths; every token is taken.
5. check_races (`order`): conflicts of different engines are ordered; check_fences, check_accumulators: those of one
   engine that its pipeline leaves open.
6. check_written (`memory`): nothing is read before it is written, every output is written whole; positions, multipliers
   and shifts in the constants are in range.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from npu_isa.check.bounds import check_bounds
from npu_isa.check.faults import First
from npu_isa.check.memory import Ranges, check_written, output_name
from npu_isa.check.operands import Legal, check_boundaries, check_extraction, check_operands
from npu_isa.check.order import check_accumulators, check_fences, check_races, check_tokens
from npu_isa.errors import ProgramError
from npu_isa.file.binary import Binary, data_address
from npu_isa.isa.codec import decode
from npu_isa.isa.ops import Op
from npu_isa.isa.program import KINDS
from npu_isa.isa.resolve import Ops, resolve
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import footprints

__all__ = ["check_binary", "check_extraction", "check_program"]


def check_program(
    ops: Sequence[Op],
    machine: MachineConfig,
    *,
    constants_bytes: int,
    dram_bytes: int,
    input_range: tuple[int, int],
    output_ranges: Ranges,
    registers: int,
    legal: Legal,
    constants: NDArray[np.uint8] | None = None,
) -> None:
    """Check a program for every legal boundary at once.

    Args:
        ops: operations as `resolve` returns them.
        machine: the machine that runs them.
        constants_bytes: size of the read-only DRAM segment, from address 0.
        dram_bytes: DRAM that the program may use.
        input_range: DRAM bytes [first, end) of the image.
        output_ranges: DRAM bytes [first, end) of each result.
        registers: boundary registers in use.
        legal: boundaries (groups) that each register may take; (0,) where it is missing.
        constants: contents of the read-only segment; without them multipliers, shifts and positions are not checked.

    Raises:
        ProgramError: the first fault; `where` names the instruction, as in "instruction 17 (conv)".
    """
    columns = Ops.of(ops)
    check_shape(columns, machine, constants_bytes, dram_bytes, input_range, output_ranges)
    touched = footprints(columns, machine)
    check_operands(columns, touched, machine, constants_bytes, registers, legal)
    check_boundaries(columns, registers, legal)
    check_bounds(columns, touched, machine, dram_bytes, constants_bytes, input_range)
    known = check_tokens(columns, machine)
    check_races(columns, touched, machine, known)
    check_fences(columns, touched)
    check_accumulators(columns, machine)
    check_written(columns, machine, constants_bytes, dram_bytes, input_range, output_ranges, constants)


def check_binary(binary: Binary) -> Ops:
    """Decode and check the program of a binary; return its operations.

    Raises:
        ProgramError: the first fault; `where` names the instruction and its layer.
    """
    try:
        ops = resolve(decode(binary.code))
        legal = _legal(binary)
        check_program(
            ops,
            binary.machine,
            constants_bytes=len(binary.constants),
            dram_bytes=binary.dram_bytes,
            input_range=binary.input.range,
            output_ranges=binary.output_ranges,
            registers=binary.registers,
            legal=legal,
            constants=binary.constants,
        )
    except ProgramError as error:
        raise ProgramError(error.message, _with_layer(error.where, binary), error.hint) from None
    return ops


def _legal(binary: Binary) -> Legal:
    """Return the legal boundaries of each register; check that the dial stays within them."""
    legal = {layer.register: layer.boundaries for layer in binary.layers if layer.has_dial}
    if sorted(legal) != list(range(binary.registers)):
        raise ProgramError(
            f"boundary registers {sorted(legal)} of {binary.registers} layers: must be 0, 1, ...", "dial"
        )
    for place, step in enumerate(binary.dial):
        if step.boundary not in legal.get(step.register, ()):
            raise ProgramError(
                f"boundary {step.boundary} of register {step.register} is not legal", f"dial step {place}"
            )
    return legal


def _with_layer(where: str, binary: Binary) -> str:
    """Add the layer to a place that names an instruction."""
    found = re.match(r"instruction (\d+)", where)
    if found is None or int(found[1]) >= len(binary.layer_of):
        return where
    layer = int(binary.layer_of[int(found[1])])
    return f"{where}, layer {binary.layers[layer].name}" if 0 <= layer < len(binary.layers) else where


# -- rule 1


def check_shape(
    ops: Ops,
    machine: MachineConfig,
    constants_bytes: int,
    dram_bytes: int,
    input_range: tuple[int, int],
    output_ranges: Ranges,
) -> None:
    """Check the program's end and the DRAM segments: constants, program, then input and outputs, apart from it."""
    halts = np.flatnonzero(ops.kind == KINDS["halt"])
    if not len(ops) or len(halts) == 0 or halts[-1] != len(ops) - 1:
        raise ProgramError("the program does not end in halt", f"instruction {max(len(ops) - 1, 0)}", "add a halt")
    found = First(ops)
    text = "halt before the end of the program"
    found.need(halts, halts == len(ops) - 1, lambda i, op: text, "keep only the last one")
    found.check()
    if dram_bytes > machine.dram_bytes:
        raise ProgramError(f"{dram_bytes} bytes of DRAM used, the machine has {machine.dram_bytes}", machine.name)
    base = data_address(constants_bytes, len(ops))
    outputs = [(output_name(output_ranges, number), held) for number, held in enumerate(output_ranges)]
    for name, (first, end) in (("input", input_range), *outputs):
        if not base <= first < end <= dram_bytes:
            raise ProgramError(
                f"DRAM bytes {first}..{end - 1} must lie between the program, which ends at {base}, and the end "
                f"({dram_bytes} bytes)",
                name,
            )
    for name, (first, end) in outputs:
        if input_range[0] < end and first < input_range[1]:
            raise ProgramError("overlaps the input in DRAM", name)
