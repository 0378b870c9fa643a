"""The static check: what it passes cannot crash, hang, race or leave a memory, at any legal boundary.

Rules, in the order in which they are checked; the first broken one is reported.

1. check_shape: one halt, last; the DRAM segments follow each other.
2. check_operands: operands agree with each other and with the machine (`check_extraction`, `_check_conv`, ...);
   check_boundaries: legal boundaries fit the places that a register's convs cover.
3. check_bounds (check_bounds): every access lies within its memory; `_check_target`: no operation writes a word twice;
   `_check_in_place`: no vec reads what an earlier pixel of its own wrote. check_code: no store writes the program (no
   load can read it: rule 6, nothing has written it).
4. check_tokens (check_order): no deadlock at these queue and FIFO depths; every token is taken.
5. check_races (check_order): conflicts of different engines are ordered; check_fences, check_accumulators
   (check_order): those of one engine that its pipeline leaves open.
6. check_written (check_memory): nothing is read before it is written, the output is written whole; positions,
   multipliers and shifts in the constants are in range.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from npu_isa.check.bounds import check_bounds
from npu_isa.check.memory import Walk
from npu_isa.check.order import check_accumulators, check_fences, check_races, check_tokens, fault
from npu_isa.errors import ProgramError
from npu_isa.file.binary import Binary, code_address, data_address
from npu_isa.isa.codec import decode
from npu_isa.isa.ops import Conv, Fold, Halt, Load, Memory, Op, Source, Store, Vec, resolve
from npu_isa.isa.tables import RAW
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.footprint import footprint

MAX_GROUPS: int = RAW["max_groups"]
NO_DIAL: int = RAW["boundary_registers"] - 1  # hard-wired to zero
TABLE: int = RAW["table_entries_per_word"]
Legal = Mapping[int, tuple[int, ...]]


def check_program(
    ops: tuple[Op, ...],
    machine: MachineConfig,
    *,
    constants_bytes: int,
    dram_bytes: int,
    input_range: tuple[int, int],
    output_range: tuple[int, int],
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
        input_range, output_range: DRAM bytes [first, end) of the image and of the result.
        registers: boundary registers in use.
        legal: boundaries (groups) that each register may take; (0,) where it is missing.
        constants: contents of the read-only segment; without them multipliers, shifts and positions are not checked.

    Raises:
        ProgramError: the first fault; `where` names the instruction, as in "instruction 17 (conv)".
    """
    check_shape(ops, machine, constants_bytes, dram_bytes, input_range, output_range)
    check_operands(ops, machine, constants_bytes, registers, legal)
    check_boundaries(ops, registers, legal)
    touched = check_bounds(ops, machine, dram_bytes, constants_bytes, input_range)
    check_code(ops, constants_bytes)
    known = check_tokens(ops, machine)
    check_races(ops, machine, known)
    check_fences(ops, touched)
    check_accumulators(ops, machine)
    check_written(ops, Walk(machine, constants_bytes, dram_bytes, input_range, constants), output_range)


def check_binary(binary: Binary) -> tuple[Op, ...]:
    """Decode and check the program of a binary; return its operations.

    Raises:
        ProgramError: the first fault; `where` names the instruction and its layer.
    """
    try:
        program = decode(binary.code)
        for index, instruction in enumerate(program):
            first = instruction.operands.get("first", 0)
            if instruction.name == "groups" and isinstance(first, int) and first % TABLE:
                raise ProgramError(f"first = {first}: must be a multiple of {TABLE}", f"instruction {index} (groups)")
        ops = resolve(program)
        legal = _legal(binary)
        check_program(
            ops,
            binary.machine,
            constants_bytes=len(binary.constants),
            dram_bytes=binary.dram_bytes,
            input_range=(binary.input.address, binary.input.address + binary.input.bytes),
            output_range=(binary.output.address, binary.output.address + binary.output.bytes),
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
    ops: tuple[Op, ...],
    machine: MachineConfig,
    constants_bytes: int,
    dram_bytes: int,
    input_range: tuple[int, int],
    output_range: tuple[int, int],
) -> None:
    """Check the program's end and the DRAM segments: constants, program, then input and output, apart."""
    if not ops or not isinstance(ops[-1], Halt):
        raise ProgramError("the program does not end in halt", f"instruction {max(len(ops) - 1, 0)}", "add a halt")
    for op in ops[:-1]:
        if isinstance(op, Halt):
            raise fault(op, "halt before the end of the program", "keep only the last one")
    if dram_bytes > machine.dram_bytes:
        raise ProgramError(f"{dram_bytes} bytes of DRAM used, the machine has {machine.dram_bytes}", machine.name)
    base = data_address(constants_bytes, len(ops))
    for name, (first, end) in (("input", input_range), ("output", output_range)):
        if not base <= first < end <= dram_bytes:
            raise ProgramError(
                f"DRAM bytes {first}..{end - 1} must lie between the program, which ends at {base}, and the end "
                f"({dram_bytes} bytes)",
                name,
            )
    if input_range[0] < output_range[1] and output_range[0] < input_range[1]:
        raise ProgramError("overlaps the input in DRAM", "output")


# -- rule 2


def check_operands(
    ops: tuple[Op, ...], machine: MachineConfig, constants_bytes: int, registers: int, legal: Legal
) -> None:
    """Check each operation's operands against each other and against the machine."""
    check_extraction(ops, machine)
    for op in ops:
        match op:
            case Conv():
                _check_conv(op, machine, registers)
            case Vec():
                _check_vec(op, machine)
            case Load():
                _check_load(op, machine, constants_bytes, registers, legal)
            case Fold():
                _check_fold(op, machine, constants_bytes)
            case Store():
                _need(op, op.run % WORD_BYTES == 0, f"run = {op.run}: must be a multiple of {WORD_BYTES} bytes")


def check_extraction(ops: Sequence[Op], machine: MachineConfig) -> None:
    """Check that the machine can find positions at run time if a conv asks for it; simulators do so as they load.

    Raises:
        ProgramError: it cannot; naming the first such conv.
    """
    for op in ops:
        if isinstance(op, Conv):
            _need(
                op,
                machine.dynamic_extraction or not op.geom.dynamic,
                f"dynamic = 1 of its geom: the machine {machine.name} has no dynamic extraction",
                "set dynamic_extraction = true in the machine, or quantize with --extract static",
            )


def _need(op: Op, ok: bool, message: str, hint: str = "") -> None:
    if not ok:
        raise fault(op, message, hint)


def _check_conv(op: Conv, machine: MachineConfig, registers: int) -> None:
    register = op.geom.register
    _need(
        op,
        register < registers or register == NO_DIAL,
        f"register = {register} of its geom: the program uses {registers} boundary registers",
        f"a layer without a dial names register {NO_DIAL}",
    )
    end = op.acc_row + op.pixels
    _need(
        op,
        end <= machine.acc_rows,
        f"accumulator rows {op.acc_row}..{end - 1}: a half has {machine.acc_rows} rows",
        "use smaller tiles",
    )
    end = op.group_first + op.group_count
    _need(op, end <= MAX_GROUPS, f"places {op.group_first}..{end - 1}: the group table has {MAX_GROUPS}")


def _check_vec(op: Vec, machine: MachineConfig) -> None:
    g, cols = op.geom, machine.array_cols
    unit = min(WORD_BYTES, cols)
    _need(op, op.lanes % unit == 0, f"lanes = {op.lanes}: must be a multiple of {unit}")
    _need(op, op.lanes <= cols, f"lanes = {op.lanes}: the machine has {cols}")
    if cols < WORD_BYTES:
        fits = op.out_byte % cols == 0 and op.out_byte + op.lanes <= WORD_BYTES
        _need(op, fits, f"out_byte = {op.out_byte}: must be a multiple of {cols} below {WORD_BYTES}")
    else:
        _need(op, op.out_byte == 0, f"out_byte = {op.out_byte}: must be 0 on an array of {cols} columns")
    _need(op, not (g.residual and g.leaky), "residual and leaky share the second multiplier", "use one of them")
    if g.source == Source.ACC:
        _need(op, g.kernel_h == g.kernel_w == 1, f"window {g.kernel_h} x {g.kernel_w}: accumulators have 1 x 1")
    _check_clamp(op)
    if g.source == Source.MAX:
        _check_maximum(op)


def _check_clamp(op: Vec) -> None:
    low, high = op.geom.clamp_low, op.geom.clamp_high
    _need(op, low <= high, f"clamp {low}..{high} is empty")
    if op.geom.wide:
        _need(op, low >= -(1 << 15) and high < 1 << 15, f"clamp {low}..{high}: 16 bits hold -32768..32767")
    else:
        fits = (low >= -128 and high <= 127) or (low >= 0 and high <= 255)
        _need(op, fits, f"clamp {low}..{high}: a byte holds -128..127 or 0..255", "set wide=1 for 16 bits")


def _check_maximum(op: Vec) -> None:
    """Every output must have a tap inside the image: the maximum of nothing is not defined."""
    g = op.geom
    axes = (
        ("row", op.out_y, op.tile_h, g.stride_y, g.dilation_y, g.kernel_h, g.pad_top, g.in_h),
        ("column", op.out_x, op.tile_w, g.stride_x, g.dilation_x, g.kernel_w, g.pad_left, g.in_w),
    )
    for axis, first, count, stride, dilation, kernel, pad, limit in axes:
        at = np.arange(first, first + count, dtype=np.int64) * stride - pad
        met = np.zeros(count, np.bool_)
        for k in range(kernel):
            met |= (at + k * dilation >= 0) & (at + k * dilation < limit)
        if not met.all():
            outside = first + int(np.argmin(met))
            raise fault(op, f"the window of output {axis} {outside} lies outside the image: its maximum is not defined")


def _check_load(op: Load, machine: MachineConfig, constants_bytes: int, registers: int, legal: Legal) -> None:
    unit = 4 * machine.array_cols if op.memory == Memory.PARAM else WORD_BYTES
    _need(op, op.run % unit == 0, f"run = {op.run}: must be a multiple of {unit} bytes")
    source = footprint(op, machine)[0]
    if op.memory != Memory.ACT:
        _need(
            op,
            source.end <= constants_bytes,
            f"reads DRAM bytes {source.first}..{source.end - 1}: weights and parameters come from the constants, "
            f"bytes 0..{constants_bytes - 1}",
        )
    if not op.indexed:
        return
    _need(op, op.memory == Memory.PARAM, "only loads of parameters may be indexed")
    _need(op, op.register < registers, f"register = {op.register}: the program uses {registers} boundary registers")
    most = max(legal.get(op.register, (0,)))
    _need(
        op,
        most < op.table_entries,
        f"table of {op.table_entries} entries: register {op.register} may be {most}",
        "the table needs an entry for each boundary from 0 on",
    )


def _check_fold(op: Fold, machine: MachineConfig, constants_bytes: int) -> None:
    for source in footprint(op, machine)[:-1]:  # nothing if all lies in the padding
        _need(
            op,
            source.first >= constants_bytes,
            f"reads DRAM bytes {source.first}..{source.end - 1}: no image lies in the constants, "
            f"bytes 0..{constants_bytes - 1}",
            "load constants with load",
        )


def check_code(ops: tuple[Op, ...], constants_bytes: int) -> None:
    """Check that no store writes the program."""
    first, end = code_address(constants_bytes), data_address(constants_bytes, len(ops))
    for op in ops:
        if isinstance(op, Store):
            _need(op, op.dram_addr >= end, f"writes the program, DRAM bytes {first}..{end - 1}")


def check_boundaries(ops: tuple[Op, ...], registers: int, legal: Legal) -> None:
    """Check that no register may exceed the places that its convs cover."""
    if registers > NO_DIAL:
        raise ProgramError(f"{registers} boundary registers used, {NO_DIAL} exist beside the one that is zero", "dial")
    covered: dict[int, int] = {}
    for op in ops:
        if isinstance(op, Conv):
            covered[op.geom.register] = max(covered.get(op.geom.register, 0), op.group_first + op.group_count)
    for register, values in sorted(legal.items()):
        if not 0 <= register < registers:
            raise ProgramError(f"not one of the {registers} registers in use", f"boundary register {register}")
        for value in values:
            if not 0 <= value <= covered.get(register, 0):
                raise ProgramError(
                    f"boundary {value}: its convs cover {covered.get(register, 0)} groups",
                    f"boundary register {register}",
                )


# -- rule 6


def check_written(ops: tuple[Op, ...], walk: Walk, output_range: tuple[int, int]) -> None:
    """Check in program order that everything read has been written, and at the end the output."""
    for op in ops:
        walk.step(op)
    missing = walk.unwritten_output(*output_range)
    if missing is not None:
        raise ProgramError(
            f"DRAM byte {missing} is never written", "output", "the program must store the whole output tensor"
        )
