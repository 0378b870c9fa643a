"""Instruction words: encode and decode, column by column, as loops over the table."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from npu_isa.errors import ProgramError
from npu_isa.isa.program import KINDS, Array, Instruction, Program, of_tables
from npu_isa.isa.program import OPERANDS as FIELDS
from npu_isa.isa.tables import ENGINES, FRONT, ISA_HASH, RAW, SPECS, InstructionSpec, Operand, header_field

__all__ = ["ISA_HASH", "decode", "encode"]

INSTRUCTION_BYTES: int = RAW["word_bytes"]
LANES = INSTRUCTION_BYTES // 8  # 64-bit parts of a word
_OPCODE, _POP, _PUSH = (header_field(name) for name in ("opcode", "pop", "push"))
_MASK = (1 << len(ENGINES)) - 1
_HINT = "see isa_spec/ISA.md"
_KIND_OF = np.full(256, -1, np.int64)
_KIND_OF[[spec.opcode for spec in SPECS]] = np.arange(len(SPECS))


def operand_values(instruction: Instruction, operand: Operand) -> tuple[int, ...]:
    """Return the values of an operand, one for a plain operand."""
    value = instruction.operands[operand.name]
    return value if isinstance(value, tuple) else (value,)


def operand_problem(operand: Operand, values: Sequence[int]) -> str | None:
    """Return what is wrong with the values of an operand: their number, or the first one out of range."""
    if len(values) != operand.elements:
        return f"{operand.name} has {len(values)} values, needs {operand.elements}"
    for value in values:
        if not operand.least <= value <= operand.most:
            return f"{operand.name} = {value} is outside {operand.least}..{operand.most}"
    return None


def token_problem(spec: InstructionSpec, tokens: int) -> str | None:
    """Return what is wrong with a mask of the engines that an instruction takes tokens of, or gives tokens to."""
    if spec.engine == FRONT:
        return "tokens belong to the four engines" if tokens else None
    own = tokens >> ENGINES.index(spec.engine) & 1
    return "an engine gives itself no tokens" if own or tokens > _MASK else None


def problems(instruction: Instruction) -> list[str]:
    """Return what is wrong with an instruction by itself: operands out of range, tokens to its own engine."""
    spec = SPECS[KINDS[instruction.name]]
    found = [operand_problem(o, operand_values(instruction, o)) for o in spec.operands]
    found.append(token_problem(spec, instruction.pop | instruction.push))
    return [text for text in found if text is not None]


def _check(program: Program) -> None:
    """Raise the error of the first instruction that is wrong by itself."""
    wrong = np.zeros(len(program), np.bool_)
    for spec in SPECS:
        at, table = program.indices(spec.name), program.tables[spec.name]
        own = 0 if spec.engine == FRONT else _MASK & ~(1 << ENGINES.index(spec.engine))
        bad = (program.pop[at] | program.push[at]) & ~own != 0
        for o in spec.operands:
            values = table[o.name].reshape(len(at), o.elements)
            bad |= ((values < o.least) | (values > o.most)).any(axis=1)
        wrong[at] = bad
    if wrong.any():
        index = int(np.argmax(wrong))
        raise ProgramError(problems(program[index])[0], f"instruction {index} ({program[index].name})", _HINT)


def encode(instructions: Iterable[Instruction]) -> NDArray[np.uint8]:
    """Return the words of a program, uint8 of shape (instructions, 32).

    Raises:
        ProgramError: an operand is out of its range; the message names instruction and operand.
    """
    if isinstance(instructions, Program):
        program = instructions
        _check(program)
    else:
        listed = list(instructions)
        for index, instruction in enumerate(listed):
            if found := problems(instruction):
                raise ProgramError(found[0], f"instruction {index} ({instruction.name})", _HINT)
        program = Program.of(listed)
    words = np.zeros((len(program), LANES), np.uint64)
    opcode = np.array([spec.opcode for spec in SPECS], np.int64)[program.kind]
    for values, (low, width) in ((opcode, _OPCODE), (program.pop, _POP), (program.push, _PUSH)):
        _put(words, values, low, width)
    for spec in SPECS:
        at = program.indices(spec.name)
        mine = words[at]
        for o in spec.operands:
            values = program.tables[spec.name][o.name].reshape(len(at), o.elements)
            for i in range(o.elements):
                _put(mine, values[:, i], o.low + i * o.width, o.width)
        words[at] = mine
    return words.astype("<u8").view(np.uint8).reshape(-1, INSTRUCTION_BYTES)


def _put(words: Array, values: Array, low: int, width: int) -> None:
    """Set bits low..low + width - 1 of each word."""
    lane, shift = divmod(low, 64)
    bits = values.astype(np.uint64) & np.uint64((1 << width) - 1)
    words[:, lane] |= bits << np.uint64(shift)
    if shift + width > 64:
        words[:, lane + 1] |= bits >> np.uint64(64 - shift)


def _get(words: Array, low: int, width: int, *, signed: bool = False) -> Array:
    """Return bits low..low + width - 1 of each word, int64."""
    lane, shift = divmod(low, 64)
    bits = words[:, lane] >> np.uint64(shift)
    if shift + width > 64:
        bits = bits | words[:, lane + 1] << np.uint64(64 - shift)
    values = (bits & np.uint64((1 << width) - 1)).astype(np.int64)
    return values - ((values >> (width - 1)) << width) if signed else values


def decode(code: NDArray[np.uint8]) -> Program:
    """Return the program of uint8 words of shape (instructions, 32).

    Raises:
        ProgramError: unknown opcode, bits that no field owns, a field out of its range, tokens to the own engine.
    """
    words = np.ascontiguousarray(code).view("<u8").reshape(-1, LANES).astype(np.uint64)
    opcode = _get(words, *_OPCODE)
    kind = _KIND_OF[opcode]
    tables = {}
    left = words.copy()  # bits that no field owns
    for k, spec in enumerate(SPECS):
        at = np.flatnonzero(kind == k)
        tables[spec.name] = np.zeros(len(at), FIELDS[spec.name])
        mine = words[at]
        for o in spec.operands:
            found = [_get(mine, o.low + i * o.width, o.width, signed=o.signed) for i in range(o.elements)]
            tables[spec.name][o.name] = np.stack(found, axis=1) if o.repeat else found[0]
        left[at] &= _unowned(spec)
    _check_bits(kind, opcode, left)
    program = of_tables(kind, _get(words, *_POP), _get(words, *_PUSH), tables)
    _check(program)
    return program


def _unowned(spec: InstructionSpec) -> Array:
    """Return the bits of a word that no field of an instruction owns, uint64 (lanes,)."""
    owned = np.zeros((1, LANES), np.uint64)
    fields = [_OPCODE, _POP, _PUSH, *((o.low + i * o.width, o.width) for o in spec.operands for i in range(o.elements))]
    for low, width in fields:
        _put(owned, np.array([-1]), low, width)
    return np.asarray(~owned[0])


def _check_bits(kind: Array, opcode: Array, left: Array) -> None:
    """Raise the error of the first word whose opcode is unknown or in which a bit is set that no field owns."""
    unknown = kind < 0
    wrong = unknown | (left != 0).any(axis=1)
    if not wrong.any():
        return
    index = int(np.argmax(wrong))
    if unknown[index]:
        raise ProgramError(f"unknown opcode {int(opcode[index]):#04x}", f"instruction {index}", _HINT)
    extra = sum(int(part) << 64 * lane for lane, part in enumerate(left[index]))
    where = f"instruction {index} ({SPECS[kind[index]].name})"
    raise ProgramError(f"bit {extra.bit_length() - 1} belongs to no field and is set", where, "clear it")
