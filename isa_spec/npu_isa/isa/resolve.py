"""A program with the state of `geom`, `groups` and `vgeom` resolved: in columns, whose rows are operations.

Those three set state that later instructions use. `resolve` gives each instruction everything it needs, so that timing,
footprints, checks and simulators never track that state themselves.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, overload

import numpy as np

from npu_isa.errors import ProgramError
from npu_isa.isa.ops import (
    MAX_GROUPS,
    Conv,
    Engine,
    Fold,
    Geom,
    Halt,
    Load,
    Op,
    Setup,
    Store,
    Table,
    Vec,
    VGeom,
    name_of,
)
from npu_isa.isa.program import ENGINE_OF, KINDS, Array, Instruction, Program
from npu_isa.isa.tables import BY_NAME, RAW

TABLE: int = RAW["table_entries_per_word"]
_ROWS: dict[str, type[Conv | Vec | Table | Load | Fold | Store]] = {
    "conv": Conv,
    "vec": Vec,
    "table": Table,
    "load": Load,
    "fold": Fold,
    "store": Store,
}
_STATE: dict[str, type[Geom | VGeom]] = {"conv": Geom, "vec": VGeom}  # whose fields a row holds as `geom`
_SETUPS = ("geom", "groups", "vgeom")
_NAMES = tuple(KINDS)
_RESOLVED = ("index", "pop", "push", "geom", "groups", "shifts")  # fields of rows that are no operands
_OWN = {name: [f.name for f in fields(row) if f.name not in _RESOLVED] for name, row in _ROWS.items()}
assert {"halt", *_SETUPS, *_ROWS} == set(KINDS), "every instruction of isa.toml is known here"
assert all(set(own) == {o.name for o in BY_NAME[name].operands} for name, own in _OWN.items()), "so is every operand"


def _columns(name: str) -> list[str]:
    """Return the fields of the table of one kind: place in the program, operands, those of its state, layout."""
    state = [f.name for f in fields(_STATE[name])] if name in _STATE else []
    return ["index", *_OWN[name], *state, *(["layout"] if name == "conv" else [])]


COLUMNS: dict[str, np.dtype[Any]] = {name: np.dtype([(f, np.int64) for f in _columns(name)]) for name in _ROWS}


@dataclass(frozen=True)
class Layout:
    """What a conv finds in the group table: input group and position of each place that it covers."""

    groups: tuple[int, ...]
    shifts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Ops(Sequence[Op]):
    """A resolved program in columns; `ops[i]` is operation i as a row.

    Attributes:
        kind: place of each operation in `tables.SPECS`, int64 (operations,), as the next four.
        row: its row in the table of its kind; 0 for setups and the halt.
        engine: its engine, -1 for the halt.
        pop, push: token masks.
        conv, vec, table, load, fold, store: one record per operation of that kind, in program order, all int64: `index`
            in the program, its operands, those of its geom or vgeom; of a conv `layout`, a place in `layouts`.
        layouts: the different contents of the group table that convs find, in order of first use.
    """

    kind: Array
    row: Array
    engine: Array
    pop: Array
    push: Array
    conv: Array
    vec: Array
    table: Array
    load: Array
    fold: Array
    store: Array
    layouts: tuple[Layout, ...]

    @staticmethod
    def of(ops: Sequence[Op]) -> "Ops":
        """Return the columns of rows; columns are returned as they are."""
        if isinstance(ops, Ops):
            return ops
        names = [name_of(op) for op in ops]
        layouts: dict[Layout, int] = {}
        tables = {}
        for name in _ROWS:
            mine = [(i, op) for i, op in enumerate(ops) if names[i] == name]
            tables[name] = np.zeros(len(mine), COLUMNS[name])
            for field in COLUMNS[name].names or ():
                tables[name][field] = [_value(i, op, field, layouts) for i, op in mine]
        kind = np.array([KINDS[name] for name in names], np.int64)
        pop, push = (np.array([getattr(op, side) for op in ops], np.int64) for side in ("pop", "push"))
        return _ops(kind, pop, push, tables, tuple(layouts))

    def of_kind(self, name: str) -> Array:
        """Return the records of a kind by its mnemonic."""
        found: Array = getattr(self, name)
        return found

    def __len__(self) -> int:
        return len(self.kind)

    @overload
    def __getitem__(self, index: int) -> Op: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Op, ...]: ...
    def __getitem__(self, index: int | slice) -> Op | tuple[Op, ...]:
        if isinstance(index, slice) or "_rows" in self.__dict__:
            return self._rows[index]
        return self._made(range(len(self))[index], {})

    def __iter__(self) -> Iterator[Op]:
        return iter(self._rows)

    @cached_property
    def _rows(self) -> tuple[Op, ...]:
        """All operations as rows."""
        geoms: dict[tuple[int, ...], Geom | VGeom] = {}
        return tuple(self._made(i, geoms) for i in range(len(self)))

    def _made(self, index: int, geoms: dict[tuple[int, ...], Geom | VGeom]) -> Op:
        """Return an operation as a row; rows with equal geometry share it through `geoms`."""
        head = (index, int(self.pop[index]), int(self.push[index]))
        name = _NAMES[self.kind[index]]
        if name == "halt":
            return Halt(*head)
        if name in _SETUPS:
            return Setup(*head, name, Engine(int(self.engine[index])))
        row: Any = _ROWS[name]
        values = self.of_kind(name)[self.row[index]].item()
        if name not in _STATE:
            made: Op = row(*head, *values[1:])
            return made
        own = 1 + len(_OWN[name])
        state = values[own : own + len(fields(_STATE[name]))]
        if state not in geoms:
            geoms[state] = _STATE[name](*state)
        layout = (self.layouts[values[-1]].groups, self.layouts[values[-1]].shifts) if name == "conv" else ()
        made = row(*head, geoms[state], *layout, *values[1:own])
        return made


def _value(index: int, op: Op, field: str, layouts: dict[Layout, int]) -> int:
    if field == "index":
        return index
    if field == "layout" and isinstance(op, Conv):
        return layouts.setdefault(Layout(op.groups, op.shifts), len(layouts))
    state = isinstance(op, Conv | Vec) and not hasattr(op, field)
    return int(getattr(op.geom if isinstance(op, Conv | Vec) and state else op, field))


def _ops(kind: Array, pop: Array, push: Array, tables: Mapping[str, Array], layouts: tuple[Layout, ...]) -> Ops:
    row = np.zeros(len(kind), np.int64)
    for table in tables.values():
        row[table["index"]] = np.arange(len(table))
    return Ops(kind, row, ENGINE_OF[kind], pop, push, **tables, layouts=layouts)


def resolve(program: Iterable[Instruction]) -> Ops:
    """Return the operations of a program, one per instruction and in its order.

    Raises:
        ProgramError: a conv without geom or with places that no groups instruction filled; a vec without vgeom; entries
            of the group table that do not begin at a multiple of 16.
    """
    p = Program.of(program)
    tables = {}
    for name in _ROWS:
        found = p.tables[name]
        tables[name] = np.zeros(len(found), COLUMNS[name])
        tables[name]["index"] = p.indices(name)
        for field in found.dtype.names or ():
            tables[name][field] = found[field]
    for name, setter in (("conv", "geom"), ("vec", "vgeom")):
        before = np.searchsorted(p.indices(setter), tables[name]["index"]) - 1
        if len(before) and before[0] < 0:
            raise ProgramError(
                f"{name} before any {setter}", f"instruction {tables[name]['index'][0]}", f"put a {setter} before it"
            )
        for field in p.tables[setter].dtype.names or ():
            tables[name][field] = p.tables[setter][field][before]
    layouts = _fill_layouts(p, tables["conv"])
    return _ops(p.kind, p.pop, p.push, tables, layouts)


def _fill_layouts(p: Program, conv: Array) -> tuple[Layout, ...]:
    """Give each conv its layout; return the layouts."""
    first = p.tables["groups"]["first"]
    if (odd := np.flatnonzero(first % TABLE)).size:
        index = p.indices("groups")[odd[0]]
        raise ProgramError(f"first = {first[odd[0]]}: must be a multiple of {TABLE}", f"instruction {index} (groups)")
    layouts: dict[Layout, int] = {}
    held = np.full((2, MAX_GROUPS + TABLE), -1, np.int64)  # the group table: group and shift of each place
    known: dict[tuple[int, int], int] = {}  # layout of (first place, places) in the table as it is now
    changes = np.concatenate([p.indices("geom"), p.indices("groups")])
    is_geom = np.arange(len(changes)) < len(p.indices("geom"))
    order = np.argsort(changes)
    ends = np.searchsorted(conv["index"], changes[order][1:])
    start = 0
    for change, end in zip(order, [*ends, len(conv)] if len(order) else [], strict=True):
        known.clear()
        if is_geom[change]:
            held[:] = -1
        else:
            entry = p.tables["groups"][change - len(p.indices("geom"))]
            held[:, entry["first"] : entry["first"] + TABLE] = entry["group"], entry["shift"]
        spans = np.stack([conv["group_first"][start:end], conv["group_count"][start:end]], axis=1)
        for row, (at, count) in enumerate(spans.tolist(), start):
            if (at, count) not in known:
                layout = _layout(held, at, count, int(conv["index"][row]))
                known[at, count] = layouts.setdefault(layout, len(layouts))
            conv["layout"][row] = known[at, count]
        start = end
    return tuple(layouts)


def _layout(held: Array, first: int, count: int, index: int) -> Layout:
    groups, shifts = held[:, first : first + count].tolist()
    missing = groups.index(-1) if -1 in groups else len(groups)
    if missing < count:
        raise ProgramError(
            f"conv covers places {first}..{first + count - 1} of the group table, place {first + missing} is not set "
            "since the last geom",
            f"instruction {index}",
            "put groups instructions between geom and conv",
        )
    return Layout(tuple(groups), tuple(shifts))
