"""The instruction set as data: isa.toml, read and checked at import. Every contradiction is reported at once."""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

RAW: dict[str, Any] = tomllib.loads(resources.files("npu_isa").joinpath("isa.toml").read_text(encoding="utf-8"))
TIMING: dict[str, int] = RAW["timing"]
ENGINES: tuple[str, ...] = tuple(RAW["engines"])
WORD_BITS = 8 * int(RAW["word_bytes"])
_OPERAND_KEYS = {"name", "bits", "signed", "min", "max", "repeat", "doc"}
_INSTRUCTION_KEYS = {"name", "opcode", "engine", "summary", "operands"}


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand of an instruction.

    Attributes:
        name: as in assembly.
        low, width: lowest bit of the first element, and bits of one element.
        signed: two's complement.
        least, most: legal values, both inclusive.
        repeat: number of elements, 0 for a plain operand.
        doc: one line for people, unit included.
    """

    name: str
    low: int
    width: int
    signed: bool
    least: int
    most: int
    repeat: int
    doc: str

    @property
    def elements(self) -> int:
        """Number of values encoded."""
        return self.repeat or 1


@dataclass(frozen=True, slots=True)
class InstructionSpec:
    """One instruction of the table."""

    name: str
    opcode: int
    engine: str
    summary: str
    operands: tuple[Operand, ...]


def header_field(name: str) -> tuple[int, int]:
    """Return lowest bit and width of a header field."""
    high, low = RAW["header"][name]
    return low, high - low + 1


def _read_operand(entry: dict[str, Any], where: str, found: list[str]) -> Operand | None:
    unknown = entry.keys() - _OPERAND_KEYS
    if unknown:
        found.append(f"{where}: unknown key(s) {', '.join(sorted(unknown))}")
    bits = entry.get("bits")
    if not (isinstance(bits, list) and len(bits) == 2 and all(isinstance(b, int) for b in bits) and bits[0] >= bits[1]):
        found.append(f"{where}: bits {bits!r} must be [high, low]")
        return None
    high, low = bits
    width, signed, repeat = high - low + 1, bool(entry.get("signed", False)), int(entry.get("repeat", 0))
    first, last = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    least, most = entry.get("min", first), entry.get("max", last)
    if not first <= least <= most <= last:
        found.append(f"{where}: {least}..{most} does not fit {width} bits")
    if low + width * (repeat or 1) > WORD_BITS or low < 0:
        found.append(f"{where}: bits {low}..{low + width * (repeat or 1) - 1} are outside the word")
    return Operand(entry.get("name", "?"), low, width, signed, least, most, repeat, entry.get("doc", ""))


def read_specs(raw: dict[str, Any]) -> tuple[InstructionSpec, ...]:
    """Return the instructions of a table.

    Raises:
        ValueError: listing every contradiction: shared bits, twin names or opcodes, fields outside the word, unknown
            keys, limits that the bits cannot hold.
    """
    found: list[str] = []
    header = {bit for high, low in raw["header"].values() for bit in range(low, high + 1)}
    specs: list[InstructionSpec] = []
    for entry in raw["instruction"]:
        name = entry.get("name", "?")
        unknown = entry.keys() - _INSTRUCTION_KEYS
        if unknown:
            found.append(f"{name}: unknown key(s) {', '.join(sorted(unknown))}")
        if entry.get("engine") not in (*raw["engines"], "front"):
            found.append(f"{name}: unknown engine {entry.get('engine')!r}")
        used = dict.fromkeys(header, "the header")
        operands: list[Operand] = []
        for o in entry.get("operands", []):
            operand = _read_operand(o, f"{name}.{o.get('name', '?')}", found)
            if operand is None:
                continue
            for bit in range(operand.low, operand.low + operand.width * operand.elements):
                if bit in used:
                    found.append(f"{name}.{operand.name}: bit {bit} belongs to {used[bit]}")
                    break
                used[bit] = operand.name
            if any(operand.name == other.name for other in operands):
                found.append(f"{name}.{operand.name}: named twice")
            operands.append(operand)
        specs.append(
            InstructionSpec(
                name, entry.get("opcode", -1), entry.get("engine", ""), entry.get("summary", ""), tuple(operands)
            )
        )
    for i, spec in enumerate(specs):
        if not 0 <= spec.opcode <= 255:
            found.append(f"{spec.name}: opcode {spec.opcode} does not fit 8 bits")
        for other in specs[:i]:
            if other.name == spec.name:
                found.append(f"{spec.name}: two instructions have this name")
            if other.opcode == spec.opcode:
                found.append(f"{spec.name}: opcode {spec.opcode:#x} belongs to {other.name}")
    if found:
        raise ValueError("isa.toml contradicts itself:\n" + "\n".join(f"  - {f}" for f in found))
    return tuple(specs)


SPECS: tuple[InstructionSpec, ...] = read_specs(RAW)
BY_NAME: dict[str, InstructionSpec] = {s.name: s for s in SPECS}
BY_OPCODE: dict[int, InstructionSpec] = {s.opcode: s for s in SPECS}


def _meaning(value: Any) -> Any:
    """Return a table without the words that are for people only."""
    if isinstance(value, dict):
        return {k: _meaning(v) for k, v in value.items() if k not in ("doc", "summary")}
    return [_meaning(v) for v in value] if isinstance(value, list) else value


ISA_HASH: str = hashlib.sha256(json.dumps(_meaning(RAW), sort_keys=True).encode()).hexdigest()
