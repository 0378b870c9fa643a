"""Instruction words: encode and decode, as loops over the table."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from npu_isa.errors import ProgramError
from npu_isa.isa.ops import Instruction
from npu_isa.isa.tables import BY_NAME, BY_OPCODE, ENGINES, FRONT, ISA_HASH, RAW, InstructionSpec, Operand, header_field

__all__ = ["ISA_HASH", "decode", "encode"]

WORD_BYTES: int = RAW["word_bytes"]
_POP, _PUSH = header_field("pop")[0], header_field("push")[0]
_MASK = (1 << len(ENGINES)) - 1


def operand_values(instruction: Instruction, operand: Operand) -> tuple[int, ...]:
    """Return the values of an operand, one for a plain operand."""
    value = instruction.operands[operand.name]
    return value if isinstance(value, tuple) else (value,)


def _used_bits(spec: InstructionSpec) -> int:
    bits = 0xFF | _MASK << _POP | _MASK << _PUSH
    for o in spec.operands:
        bits |= ((1 << o.width * o.elements) - 1) << o.low
    return bits


_USED = {spec.opcode: _used_bits(spec) for spec in BY_NAME.values()}


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
    spec = BY_NAME[instruction.name]
    found = [operand_problem(o, operand_values(instruction, o)) for o in spec.operands]
    found.append(token_problem(spec, instruction.pop | instruction.push))
    return [text for text in found if text is not None]


def encode(program: Iterable[Instruction]) -> NDArray[np.uint8]:
    """Return the words of a program, uint8 of shape (instructions, 32).

    Raises:
        ProgramError: an operand is out of its range; the message names instruction and operand.
    """
    words = bytearray()
    for index, instruction in enumerate(program):
        found = problems(instruction)
        if found:
            raise ProgramError(found[0], f"instruction {index} ({instruction.name})", "see isa_spec/ISA.md")
        spec = BY_NAME[instruction.name]
        word = spec.opcode | instruction.pop << _POP | instruction.push << _PUSH
        for o in spec.operands:
            mask = (1 << o.width) - 1
            for i, value in enumerate(operand_values(instruction, o)):
                word |= (value & mask) << (o.low + i * o.width)
        words += word.to_bytes(WORD_BYTES, "little")
    return np.frombuffer(bytes(words), dtype=np.uint8).reshape(-1, WORD_BYTES)


def _field(word: int, o: Operand, i: int) -> int:
    value = word >> (o.low + i * o.width) & ((1 << o.width) - 1)
    return value - (1 << o.width) if o.signed and value >> (o.width - 1) else value


def decode(code: NDArray[np.uint8]) -> tuple[Instruction, ...]:
    """Return the instructions of uint8 words of shape (instructions, 32).

    Raises:
        ProgramError: unknown opcode, bits that no field owns, a field out of its range, tokens to the own engine.
    """
    found = []
    for index, row in enumerate(np.ascontiguousarray(code)):
        word = int.from_bytes(row.tobytes(), "little")
        spec = BY_OPCODE.get(word & 0xFF)
        if spec is None:
            raise ProgramError(f"unknown opcode {word & 0xFF:#04x}", f"instruction {index}", "see isa_spec/ISA.md")
        where = f"instruction {index} ({spec.name})"
        extra = word & ~_USED[spec.opcode]
        if extra:
            raise ProgramError(f"bit {extra.bit_length() - 1} belongs to no field and is set", where, "clear it")
        operands: dict[str, int | tuple[int, ...]] = {
            o.name: tuple(_field(word, o, i) for i in range(o.repeat)) if o.repeat else _field(word, o, 0)
            for o in spec.operands
        }
        instruction = Instruction(spec.name, operands, word >> _POP & _MASK, word >> _PUSH & _MASK)
        wrong = problems(instruction)
        if wrong:
            raise ProgramError(wrong[0], where, "see isa_spec/ISA.md")
        found.append(instruction)
    return tuple(found)
