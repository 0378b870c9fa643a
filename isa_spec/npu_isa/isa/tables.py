"""The instruction set as data: isa.toml, read and checked at import. Every contradiction is reported at once."""

import hashlib
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

_OPERAND_KEYS = {"name", "bits", "signed", "min", "max", "repeat", "names", "doc"}
_INSTRUCTION_KEYS = {"name", "opcode", "engine", "summary", "operands"}
_FOR_PEOPLE = ("doc", "summary", "names")
FRONT = "front"  # the engine of what the front end does itself


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand of an instruction.

    Attributes:
        name: as in assembly.
        low, width: lowest bit of the first element, and bits of one element.
        signed: two's complement.
        least, most: legal values, both inclusive.
        repeat: number of elements, 0 for a plain operand.
        names: what assembly calls the values 0, 1, ...; empty if they are numbers.
        doc: one line for people, unit included.
    """

    name: str
    low: int
    width: int
    signed: bool
    least: int
    most: int
    repeat: int
    names: tuple[str, ...]
    doc: str

    @property
    def elements(self) -> int:
        """Number of values encoded."""
        return self.repeat or 1

    @property
    def bits(self) -> range:
        """Bits of the word that the operand owns."""
        return range(self.low, self.low + self.width * self.elements)

    @property
    def default(self) -> int:
        """Value that assembly may leave out: the legal one next to 0."""
        return min(max(0, self.least), self.most)


@dataclass(frozen=True, slots=True)
class InstructionSpec:
    """One instruction of the table."""

    name: str
    opcode: int
    engine: str
    summary: str
    operands: tuple[Operand, ...]


def _bare(value: Any) -> Any:
    """Return a table with each { value, doc } replaced by its value."""
    if isinstance(value, dict):
        return _bare(value["value"]) if value.keys() == {"value", "doc"} else {k: _bare(v) for k, v in value.items()}
    return [_bare(v) for v in value] if isinstance(value, list) else value


def _meaning(value: Any) -> Any:
    """Return a table without what is for people only."""
    if isinstance(value, dict):
        return {k: _meaning(v) for k, v in value.items() if k not in _FOR_PEOPLE}
    return [_meaning(v) for v in value] if isinstance(value, list) else value


def _unknown(entry: dict[str, Any], known: set[str]) -> list[str]:
    unknown = sorted(entry.keys() - known)
    return [f"unknown key(s) {', '.join(unknown)}"] if unknown else []


def _limits(entry: dict[str, Any], width: int, found: list[str]) -> tuple[int, int]:
    """Return least and most legal value; note limits and names that the bits cannot hold."""
    first, last = (-(1 << width - 1), (1 << width - 1) - 1) if entry.get("signed") else (0, (1 << width) - 1)
    least, most, names = entry.get("min", first), entry.get("max", last), entry.get("names")
    if not first <= least <= most <= last:
        found.append(f"{least}..{most} does not fit {width} bits")
    if names is not None and (least, most) != (0, len(names) - 1):
        found.append(f"{len(names)} names for the values {least}..{most}")
    return least, most


def _read_operand(entry: dict[str, Any], found: list[str]) -> Operand | None:
    found += _unknown(entry, _OPERAND_KEYS)
    bits = entry.get("bits")
    if not (isinstance(bits, list) and len(bits) == 2 and all(isinstance(b, int) for b in bits) and bits[0] >= bits[1]):
        found.append(f"bits {bits!r} must be [high, low]")
        return None
    width = bits[0] - bits[1] + 1
    least, most = _limits(entry, width, found)
    operand = Operand(
        name=entry.get("name", "?"),
        low=bits[1],
        width=width,
        signed=bool(entry.get("signed", False)),
        least=least,
        most=most,
        repeat=int(entry.get("repeat", 0)),
        names=tuple(entry.get("names", ())),
        doc=entry.get("doc", ""),
    )
    if operand.bits.start < 0 or operand.bits.stop > WORD_BITS:
        found.append(f"bits {operand.bits.start}..{operand.bits.stop - 1} are outside the word")
    return operand


def _read_instruction(entry: dict[str, Any], engines: set[str], header: set[int], found: list[str]) -> InstructionSpec:
    name, opcode, engine = entry.get("name", "?"), entry.get("opcode", -1), entry.get("engine")
    found += (f"{name}: {text}" for text in _unknown(entry, _INSTRUCTION_KEYS))
    if engine not in engines:
        found.append(f"{name}: unknown engine {engine!r}")
    if not 0 <= opcode <= 255:
        found.append(f"{name}: opcode {opcode} does not fit 8 bits")
    used = dict.fromkeys(header, "the header")
    operands: dict[str, Operand] = {}
    for o in entry.get("operands", []):
        wrong: list[str] = []
        operand = _read_operand(o, wrong)
        if operand is not None:
            shared = next((bit for bit in operand.bits if bit in used), None)
            if shared is not None:
                wrong.append(f"bit {shared} belongs to {used[shared]}")
            if operand.name in operands:
                wrong.append("named twice")
            used |= dict.fromkeys(operand.bits, operand.name)
            operands[operand.name] = operand
        found += (f"{name}.{o.get('name', '?')}: {text}" for text in wrong)
    return InstructionSpec(name, opcode, str(engine), entry.get("summary", ""), tuple(operands.values()))


def _twins(specs: list[InstructionSpec]) -> Iterator[str]:
    for i, spec in enumerate(specs):
        for other in specs[:i]:
            if other.name == spec.name:
                yield f"{spec.name}: two instructions have this name"
            if other.opcode == spec.opcode:
                yield f"{spec.name}: opcode {spec.opcode:#x} belongs to {other.name}"


def read_specs(raw: dict[str, Any]) -> tuple[InstructionSpec, ...]:
    """Return the instructions of a table.

    Args:
        raw: the table as `RAW`, each { value, doc } replaced by its value.

    Raises:
        ValueError: listing every contradiction: shared bits, twin names or opcodes, fields outside the word, unknown
            keys, limits and names that the bits cannot hold.
    """
    header = {bit for high, low in raw["header"].values() for bit in range(low, high + 1)}
    engines = {*raw["engines"], FRONT}
    found: list[str] = []
    specs = [_read_instruction(entry, engines, header, found) for entry in raw["instruction"]]
    found += _twins(specs)
    if found:
        raise ValueError("isa.toml contradicts itself:\n" + "\n".join(f"  - {f}" for f in found))
    return tuple(specs)


_FILE: dict[str, Any] = tomllib.loads(resources.files("npu_isa.isa").joinpath("isa.toml").read_text(encoding="utf-8"))
RAW: dict[str, Any] = _bare(_FILE)
TIMING: dict[str, int] = RAW["timing"]
NO_DIAL: int = RAW["boundary_registers"] - 1  # the register that is hard-wired to 0
ENGINES: tuple[str, ...] = tuple(RAW["engines"])
WORD_BITS = 8 * int(RAW["word_bytes"])
SPECS: tuple[InstructionSpec, ...] = read_specs(RAW)
BY_NAME: dict[str, InstructionSpec] = {s.name: s for s in SPECS}
BY_OPCODE: dict[int, InstructionSpec] = {s.opcode: s for s in SPECS}
ISA_HASH: str = hashlib.sha256(json.dumps(_meaning(RAW), sort_keys=True).encode()).hexdigest()


def header_field(name: str) -> tuple[int, int]:
    """Return lowest bit and width of a header field."""
    high, low = RAW["header"][name]
    return low, high - low + 1


def docs(part: str = "") -> dict[str, str]:
    """Return what each constant of a part of the table ("header", "timing", or the top) means, in its order."""
    table = _FILE[part] if part else _FILE
    return {name: str(v["doc"]) for name, v in table.items() if isinstance(v, dict) and v.keys() == {"value", "doc"}}
