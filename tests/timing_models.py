"""The timing simulator and the naive twin on random programs, machines and boundaries: for tests and a long script."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from npu_isa.isa.ops import Engine, Op
from npu_isa.machine.config import SEGMENT_ROWS, WORD_BYTES, MachineConfig
from npu_sim.activity import CAUSES
from npu_sim.counters import spent
from npu_sim.fast.time.model import Timing, simulate
from npu_sim.random_programs.machines import random_machine
from npu_sim.random_programs.programs import random_program
from npu_sim.random_programs.tokens import random_tokens

from tests.naive_timing import NAMES, Twin

MOMENTS = ("dispatch", "accept", "start", "issue_end", "end")


@dataclass(frozen=True)
class Case:
    """What is timed: a program on a machine, and the boundary vectors."""

    ops: tuple[Op, ...]
    machine: MachineConfig
    boundaries: tuple[tuple[int, ...], ...]


def random_case(seed: int, layers: int = 2, words: int | None = None) -> Case:
    """Return a random program at several boundary vectors; two of three seeds have tokens and machine scrambled.

    `words`: least instructions; if None one program of eight has 300.
    """
    rng = np.random.default_rng(seed)
    p = random_program(rng, random_machine(rng), layers, (0 if seed % 8 != 5 else 300) if words is None else words)
    vectors = [(0,) * p.registers, tuple(p.legal[r][-1] for r in range(p.registers)), p.boundaries(rng)]
    ops, machine = p.ops, p.machine
    if seed % 3:
        machine = with_other_speeds(machine, rng)
        ops = random_tokens(p.ops, machine, rng)
    return Case(ops, machine, tuple(dict.fromkeys(vectors)))


def with_other_speeds(machine: MachineConfig, rng: np.random.Generator) -> MachineConfig:
    """Return a machine of the same memories: as many words per pass as banks, other latencies, shallow queues."""
    rows = SEGMENT_ROWS * machine.act_banks
    bus = int(rng.choice([b for b in (8, 16, 32, 64) if b <= machine.act_banks * WORD_BYTES]))
    return replace(
        machine,
        array_rows=rows,
        weight_rows_per_cycle=int(rng.choice([d for d in (1, 4, 8) if rows % d == 0])),
        vector_taps=int(rng.integers(1, 10)),
        dram_bytes_per_cycle=bus,
        dram_burst_bytes=int(rng.choice([b for b in (bus, 4 * bus, 1024) if b <= 1024])),
        dram_latency_cycles=int(rng.choice([1, 2, 200])),
        queue_depth=int(rng.integers(2, 4)),
        token_depth=2,
    ).check()


@dataclass(frozen=True)
class Comparison:
    """What was compared, and the first difference in words, if any."""

    instructions: int
    cycles: int
    difference: str | None


def compare(ops: Sequence[Op], machine: MachineConfig, boundaries: Sequence[int]) -> Comparison:
    """Compare every moment of every instruction, the total, and what each engine spent its cycles on."""
    twin = Twin(ops, machine, boundaries).run()
    return Comparison(len(twin.flights), twin.total_cycles, difference(twin, simulate(ops, machine, boundaries), ops))


def difference(twin: Twin, timing: Timing, ops: Sequence[Op]) -> str | None:
    """Return the first difference, in words."""
    found = moment_difference(twin, timing) or spent_difference(twin, timing, ops)
    if found is None and twin.total_cycles != timing.total_cycles:
        return f"total: {timing.total_cycles}, twin {twin.total_cycles}"
    return found


def moment_difference(twin: Twin, timing: Timing) -> str | None:
    """Return the first instruction whose times differ."""
    if sorted(twin.flights) != list(range(len(timing.table))):
        return f"{len(timing.table)} instructions, twin {len(twin.flights)}"
    for index, flight in sorted(twin.flights.items()):
        got = {m: int(getattr(timing, m)[index]) for m in MOMENTS}
        want = {m: getattr(flight, m) for m in MOMENTS}
        if got != want:
            return f"instruction {index} ({type(flight.op).__name__}): {got}, twin {want}"
    return None


def spent_difference(twin: Twin, timing: Timing, ops: Sequence[Op]) -> str | None:
    """Return the first instruction whose cycles are split in another way."""
    table = spent(timing, ops)
    want: Counter[tuple[int, str]] = Counter()
    for engine in Engine:
        want.update(twin.engines[engine].spent)
    for index, row in enumerate(table):
        got = {cause: int(n) for cause, n in zip(CAUSES, row, strict=True) if n}
        expected = {cause: want[index, cause] for cause in CAUSES if want[index, cause]}
        if got != expected:
            return f"instruction {index} ({type(ops[index]).__name__}): spent {got}, twin {expected}"
    return None


def causes_of(twin: Twin) -> dict[str, Counter[str]]:
    """Return the cycles of each engine by cause, as the twin saw them."""
    return {NAMES[e]: Counter(cause for _, cause in twin.engines[e].spent) for e in Engine}
