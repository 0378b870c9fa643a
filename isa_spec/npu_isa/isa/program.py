"""A program as columns: a table per instruction with a field per operand, made from isa.toml; rows are instructions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from npu_isa.isa.tables import ENGINES, SPECS

Array = NDArray[Any]

KINDS: dict[str, int] = {spec.name: kind for kind, spec in enumerate(SPECS)}
ENGINE_OF = np.array([ENGINES.index(s.engine) if s.engine in ENGINES else -1 for s in SPECS], np.int64)  # -1: front end
OPERANDS: dict[str, list[tuple[str, type] | tuple[str, type, tuple[int]]]] = {
    spec.name: [(o.name, np.int64, (o.repeat,)) if o.repeat else (o.name, np.int64) for o in spec.operands]
    for spec in SPECS
}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction word.

    Attributes:
        name: mnemonic, as in isa.toml.
        operands: value of each operand; a tuple for a repeated one.
        pop: bit e set: wait for a token of engine e.
        push: bit e set: give a token to engine e.
    """

    name: str
    operands: Mapping[str, int | tuple[int, ...]]
    pop: int = 0
    push: int = 0


@dataclass(frozen=True, eq=False)
class Program(Sequence[Instruction]):
    """The instructions of a program in columns; all are int64.

    Attributes:
        kind: place of each instruction in `tables.SPECS`.
        row: its row in the table of its kind.
        pop, push: token masks.
        tables: per mnemonic one record per instruction of that kind, in program order: its operands.
    """

    kind: Array
    row: Array
    pop: Array
    push: Array
    tables: Mapping[str, Array]

    @staticmethod
    def of(instructions: Iterable[Instruction]) -> "Program":
        """Return the program of instructions; a program is returned as it is."""
        if isinstance(instructions, Program):
            return instructions
        rows: dict[str, list[Instruction]] = {spec.name: [] for spec in SPECS}
        listed = list(instructions)
        for instruction in listed:
            rows[instruction.name].append(instruction)
        tables = {}
        for name, mine in rows.items():
            tables[name] = np.zeros(len(mine), OPERANDS[name])
            for field in (tables[name].dtype.names or ()) if mine else ():
                tables[name][field] = [i.operands[field] for i in mine]
        pop, push = (np.array([getattr(i, side) for i in listed], np.int64) for side in ("pop", "push"))
        return of_tables(np.array([KINDS[i.name] for i in listed], np.int64), pop, push, tables)

    def indices(self, name: str) -> Array:
        """Return the places in the program of the instructions of one kind."""
        return np.flatnonzero(self.kind == KINDS[name])

    def __len__(self) -> int:
        return len(self.kind)

    @overload
    def __getitem__(self, index: int) -> Instruction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Instruction, ...]: ...
    def __getitem__(self, index: int | slice) -> Instruction | tuple[Instruction, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        name = SPECS[self.kind[index]].name
        values = self.tables[name][self.row[index]]
        operands = {
            f: tuple(values[f].tolist()) if values[f].ndim else int(values[f]) for f in values.dtype.names or ()
        }
        return Instruction(name, operands, int(self.pop[index]), int(self.push[index]))

    def __iter__(self) -> Iterator[Instruction]:
        return (self[i] for i in range(len(self)))


def of_tables(kind: Array, pop: Array, push: Array, tables: Mapping[str, Array]) -> Program:
    """Return the program whose instructions of each kind are the rows of its table, in order."""
    row = np.zeros(len(kind), np.int64)
    for k, name in enumerate(KINDS):
        mine = kind == k
        row[mine] = np.arange(len(tables[name]))
    return Program(kind, row, pop, push, tables)
