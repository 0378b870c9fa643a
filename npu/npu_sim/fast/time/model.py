"""Exact time of a program: prepared once, simulated once per boundary vector, without data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from npu_isa.check.program import check_extraction
from npu_isa.errors import ProgramError
from npu_isa.isa.ops import Conv, Engine, Fold, Halt, Load, Op, Setup, Store, Table, Vec
from npu_isa.isa.resolve import Ops
from npu_isa.isa.tables import TIMING
from npu_isa.machine import timing as rules
from npu_isa.machine.config import FETCH_WORDS, MachineConfig
from npu_isa.machine.footprint import footprints, regions
from numpy.typing import NDArray

from npu_sim.activity import conv_activity, fixed_activity
from npu_sim.fast.time import loop
from npu_sim.fast.time import state as events

I64 = NDArray[np.int64]
Array = NDArray[Any]
KINDS: dict[type[Op], int] = {
    Setup: events.SETUP,
    Conv: events.CONV,
    Vec: events.VEC,
    Table: events.VEC,
    Load: events.TRANSFER,
    Fold: events.TRANSFER,
    Store: events.TRANSFER,
}


@dataclass(frozen=True, eq=False)
class Timing:
    """When everything happened, in cycles from START; arrays have one entry per instruction but the halt.

    Attributes:
        total_cycles: when the halt is dispatched: the largest end, if its word is there by then.
        fetch_bytes: bytes of the program that the front end fetched, whole bursts.
        code_there: per block of the program: first cycle in which its words can be dispatched.
        dispatch, accept, start, end: see isa_spec/MICROARCHITECTURE.md section 4; the start of a conv is that of its
            first pixel.
        issue_end: when the engine could start the next one's work (conv: end of the stream).
        table: every time kept, int64 (instructions, events.TIMES).
        activity: what each did, a record `npu_sim.activity.ACTIVITY` (instructions,).
        burst_bytes: of a burst.
    """

    total_cycles: int
    fetch_bytes: int
    code_there: I64
    table: I64
    activity: Array
    burst_bytes: int

    @property
    def dram_bytes(self) -> I64:
        """Bytes moved on the bus, whole bursts."""
        return np.asarray(self.activity["dram_bursts"] * self.burst_bytes)

    @property
    def total_dram_bytes(self) -> int:
        """Bytes moved on the bus in all: by instructions, and of the program."""
        return int(self.dram_bytes.sum()) + self.fetch_bytes

    @property
    def fetch_waits(self) -> I64:
        """Waits of the front end for words that are not there yet, int64 (blocks of the program, 2): first, end."""
        starts = np.arange(1, len(self.code_there)) * FETCH_WORDS  # the first word of each block but the first
        first = np.concatenate([np.zeros(1, np.int64), self.dispatch[starts - 1] + 1])
        return np.stack([first, np.maximum(self.code_there, first)], axis=1)

    @property
    def dispatch(self) -> I64:
        """Cycle of dispatch."""
        return self.table[:, events.DISPATCH]

    @property
    def accept(self) -> I64:
        """Cycle in which the engine took the instruction."""
        return self.table[:, events.ACCEPT]

    @property
    def start(self) -> I64:
        """First cycle of the work."""
        return self.table[:, events.START]

    @property
    def issue_end(self) -> I64:
        """First cycle in which the engine is free for the next work."""
        return self.table[:, events.ISSUE_END]

    @property
    def end(self) -> I64:
        """First cycle after everything, tokens given."""
        return self.table[:, events.END]


class TimingModel:
    """A program on a machine, ready to be timed at any boundary vector."""

    def __init__(self, ops: Sequence[Op], machine: MachineConfig) -> None:
        check_extraction(ops, machine)
        self.machine = machine
        self.ops = tuple(op for op in ops if not isinstance(op, Halt))
        table = np.zeros((len(self.ops), events.COLUMNS), np.int64)
        reads, writes = regions(footprints(ops, machine), machine)
        for i, op in enumerate(self.ops):
            fence = op.fence if isinstance(op, Vec) else 0
            cycles = _vector_cycles(op, machine)
            table[i] = (op.engine, KINDS[type(op)], op.pop, op.push, reads[i], writes[i], cycles, 0, 0, fence, -1)
        self._activity = fixed_activity(Ops.of(ops), machine)[: len(self.ops)]
        self._table = table
        self._tails = self._add_transfers()
        by_engine = [np.flatnonzero(table[:, events.ENGINE] == e) for e in Engine]
        self._order = np.concatenate(by_engine).astype(np.int64)
        self._first_of = np.cumsum([0, *(len(x) for x in by_engine)]).astype(np.int64)
        dials: dict[int, list[int]] = {}  # operations that a boundary register changes
        for i, op in enumerate(self.ops):
            if isinstance(op, Conv) or (isinstance(op, Load) and op.indexed):
                dials.setdefault(op.geom.register if isinstance(op, Conv) else op.register, []).append(i)
        self._dials = {register: np.array(found) for register, found in dials.items()}
        self._at_boundary: dict[tuple[int, int], tuple[I64, Array]] = {}

    def _add_transfers(self) -> I64:
        """Fill in the transfers as they are at boundary 0; return `tails` of all folds."""
        tails: list[int] = []
        for i, op in enumerate(self.ops):
            if isinstance(op, Load | Fold | Store):
                moved = rules.transfer(op, 0, self.machine)
                self._table[i, events.CYCLES], self._table[i, events.BURSTS] = moved.least_cycles, moved.bursts
                self._activity["dram_bursts"][i] = moved.bursts
                if moved.tails:
                    self._table[i, events.TAILS] = len(tails)
                    tails += moved.tails
        return np.array(tails, np.int64)

    def _dialled(self, register: int, boundary: int) -> tuple[I64, Array]:
        """Return CYCLES, LAST and BURSTS, (operations, 3), and activity of the operations that a register changes."""
        known = self._at_boundary.get((register, boundary))
        if known is None:
            places = self._dials[register]
            activity = self._activity[places]
            columns = np.zeros((len(places), 3), np.int64)
            for row, i in enumerate(places.tolist()):
                op = self.ops[i]
                if isinstance(op, Conv):
                    activity[row] = conv_activity(op, boundary, self.machine)
                    columns[row, :2] = self._conv(op, boundary)
                elif isinstance(op, Load):
                    bursts = rules.transfer(op, boundary, self.machine).bursts
                    activity["dram_bursts"][row] = columns[row, 2] = bursts
            known = self._at_boundary[register, boundary] = columns, activity
        return known

    def _conv(self, op: Conv, boundary: int) -> tuple[int, int]:
        """Return CYCLES and LAST of a conv at a boundary."""
        factors = rules.conv_passes(op, boundary, self.machine)
        gaps = sum(rules.pass_interval(op.pixels, k, self.machine) for k in factors[:-1])
        return gaps, op.pixels * factors[-1]

    def simulate(self, boundaries: Sequence[int]) -> Timing:
        """Return the times at a boundary vector (groups per register; registers beyond it read 0).

        Raises:
            ProgramError: the program deadlocks; the static check refuses such programs.
        """
        machine, table, activity = self.machine, self._table.copy(), self._activity.copy()
        count = len(self.ops)
        for register, found in self._dials.items():
            boundary = boundaries[register] if register < len(boundaries) else 0
            table[found, events.CYCLES : events.BURSTS + 1], activity[found] = self._dialled(register, boundary)
        times = np.full((count, events.TIMES), events.NEVER, np.int64)
        blocks = np.array(rules.fetch_bursts(count + 1, machine), np.int64)  # the halt is a word too
        there = np.full(len(blocks), events.NEVER, np.int64)
        program = table, self._order, self._first_of, self._tails, blocks
        total = loop.simulate(events.Run(_power_up(machine), *program, times, there))
        if total < 0:
            stuck = [op.index for op, t in zip(self.ops, times, strict=True) if t[events.END] == events.NEVER]
            raise ProgramError(
                "deadlock: nothing can go on",
                f"instruction {stuck[0]}",
                "check the tokens; `npu inspect` says who waits",
            )
        fetched = int(blocks.sum()) * machine.dram_burst_bytes
        return Timing(int(total), fetched, there, times, activity, machine.dram_burst_bytes)


def _vector_cycles(op: Op, machine: MachineConfig) -> int:
    """Return CYCLES of an operation of the vector engine, 0 of others."""
    if isinstance(op, Table):
        return rules.table_issue_cycles(machine)
    return rules.vec_issue_cycles(op, machine) if isinstance(op, Vec) else 0


def _power_up(machine: MachineConfig) -> NDArray[Any]:
    """Return the state of the event loop at START."""
    return events.power_up(
        queue_depth=machine.queue_depth,
        token_depth=machine.token_depth,
        weight_load=rules.weight_load_cycles(machine),
        shadow_free=TIMING["shadow_free_cycles"],
        array_latency=rules.array_latency(machine),
        vector_latency=TIMING["vector_pipeline_cycles"],
        dram_latency=machine.dram_latency_cycles,
        dispatch_cycles=TIMING["dispatch_cycles"],
        setup_cycles=TIMING["setup_cycles"],
        burst_cycles=rules.burst_cycles(machine),
        block_bursts=rules.block_bursts(machine),
        fetch_words=FETCH_WORDS,
        buffer_words=machine.instruction_words,
    )


def simulate(ops: Sequence[Op], machine: MachineConfig, boundaries: Sequence[int]) -> Timing:
    """Time a program once; use `TimingModel` for several boundary vectors."""
    return TimingModel(ops, machine).simulate(boundaries)
