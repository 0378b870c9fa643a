"""Exact time of a program: prepared once, simulated once per boundary vector, without data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from npu_isa import timing as rules
from npu_isa.errors import ProgramError
from npu_isa.footprint import regions
from npu_isa.machine import MachineConfig
from npu_isa.ops import Conv, Engine, Fold, Halt, Load, Op, Setup, Store, Vec
from npu_isa.tables import TIMING
from numpy.typing import NDArray

from npu_sim.fast import events

I64 = NDArray[np.int64]
KINDS: dict[type[Op], int] = {
    Setup: events.SETUP,
    Conv: events.CONV,
    Vec: events.VEC,
    Load: events.TRANSFER,
    Fold: events.TRANSFER,
    Store: events.TRANSFER,
}


@dataclass(frozen=True, eq=False)
class Timing:
    """When everything happened, in cycles from START; arrays have one entry per instruction but the halt.

    Attributes:
        total_cycles: the largest end.
        dispatch, accept, start, end: see isa_spec/MICROARCHITECTURE.md section 4; the start of a conv is that of its
            first pixel.
        issue_end: when the engine could start the next one's work (conv: end of the stream).
        table: every time kept, int64 (instructions, events.TIMES).
        stream, bank, short: conv: cycles per pixel and pass, extra ones by bank conflicts, and waits between its
            passes for weights.
        dram_bytes: bytes moved on the bus, whole bursts.
        passes: passes of a conv.
    """

    total_cycles: int
    table: I64
    stream: I64
    bank: I64
    short: I64
    dram_bytes: I64
    passes: I64

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
        self.machine = machine
        self.ops = tuple(op for op in ops if not isinstance(op, Halt))
        table = np.zeros((len(self.ops), events.COLUMNS), np.int64)
        for i, op in enumerate(self.ops):
            reads, writes = regions(op, machine)
            fence = op.fence if isinstance(op, Vec) else 0
            cycles = rules.vec_issue_cycles(op, machine) if isinstance(op, Vec) else 0
            table[i] = (op.engine, KINDS[type(op)], op.pop, op.push, reads, writes, cycles, 0, 0, fence, -1)
        self._table = table
        by_engine = [np.flatnonzero(table[:, events.ENGINE] == e) for e in Engine]
        self._order = np.concatenate(by_engine).astype(np.int64)
        self._first_of = np.cumsum([0, *(len(x) for x in by_engine)]).astype(np.int64)

    def simulate(self, boundaries: Sequence[int]) -> Timing:
        """Return the times at a boundary vector (groups per register; registers beyond it read 0).

        Raises:
            ProgramError: the program deadlocks; the static check refuses such programs.
        """
        machine, table = self.machine, self._table.copy()
        count = len(self.ops)
        tails: list[int] = []
        stream, bank, short, dram, passes = (np.zeros(count, np.int64) for _ in range(5))
        burst = machine.dram_burst_bytes
        for i, op in enumerate(self.ops):
            if isinstance(op, Conv):
                factors = rules.conv_passes(op, _at(boundaries, op.geom.register), machine)
                gaps = sum(rules.pass_interval(op.pixels, k, machine) for k in factors[:-1])
                last = op.pixels * factors[-1]
                table[i, events.CYCLES], table[i, events.LAST] = gaps, last
                passes[i] = len(factors)
                stream[i] = op.pixels * len(factors)
                bank[i] = op.pixels * (sum(factors) - len(factors))
                short[i] = gaps + last - stream[i] - bank[i]
            elif isinstance(op, Load | Fold | Store):
                boundary = _at(boundaries, op.register) if isinstance(op, Load) else 0
                moved = rules.transfer(op, boundary, machine)
                table[i, events.CYCLES], table[i, events.BURSTS] = moved.least_cycles, moved.bursts
                if moved.tails:
                    table[i, events.TAILS] = len(tails)
                    tails += moved.tails
                dram[i] = moved.bursts * burst
        times = np.full((count, events.TIMES), events.NEVER, np.int64)
        total = events.simulate(
            table,
            self._order,
            self._first_of,
            np.array(tails, np.int64),
            times,
            machine.queue_depth,
            machine.token_depth,
            rules.weight_load_cycles(machine),
            TIMING["shadow_free_cycles"],
            rules.array_latency(machine),
            TIMING["vector_pipeline_cycles"],
            machine.dram_latency_cycles,
            TIMING["dispatch_cycles"],
            TIMING["setup_cycles"],
            rules.burst_cycles(machine),
            rules.block_bursts(machine),
        )
        if total < 0:
            stuck = [op.index for op, t in zip(self.ops, times, strict=True) if t[events.END] == events.NEVER]
            raise ProgramError(
                "deadlock: nothing can go on",
                f"instruction {stuck[0]}",
                "check the tokens; `npu inspect` says who waits",
            )
        return Timing(int(total), times, stream, bank, short, dram, passes)


def _at(boundaries: Sequence[int], register: int) -> int:
    return boundaries[register] if register < len(boundaries) else 0


def simulate(ops: Sequence[Op], machine: MachineConfig, boundaries: Sequence[int]) -> Timing:
    """Time a program once; use `TimingModel` for several boundary vectors."""
    return TimingModel(ops, machine).simulate(boundaries)
