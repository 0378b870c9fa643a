"""The timing simulator and the naive twin on random programs, machines and boundaries: for tests and a long script."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from npu_isa.check_order import check_tokens
from npu_isa.machine import SEGMENT_ROWS, WORD_BYTES, MachineConfig
from npu_isa.ops import Engine, Op, Vec
from npu_sim.counters import CAUSES, spent
from npu_sim.fast.timing import Timing, simulate

from tests.naive_timing import NAMES, Twin
from tests.programs import RandomProgram, random_machine, random_program

MOMENTS = ("dispatch", "accept", "start", "issue_end", "end")


@dataclass(frozen=True)
class Case:
    """What is timed: a program on a machine, and the boundary vectors."""

    ops: tuple[Op, ...]
    machine: MachineConfig
    boundaries: tuple[tuple[int, ...], ...]


def random_case(seed: int, layers: int = 2) -> Case:
    """Return a random program at several boundary vectors; two of three seeds have tokens and machine scrambled."""
    rng = np.random.default_rng(seed)
    p = random_program(rng, random_machine(rng), layers)
    vectors = [(0,) * p.registers, tuple(p.legal[r][-1] for r in range(p.registers)), p.boundaries(rng)]
    ops, machine = p.ops, p.machine
    if seed % 3:
        machine = with_other_speeds(machine, rng)
        ops = with_random_tokens(p, machine, rng)
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


def with_random_tokens(p: RandomProgram, machine: MachineConfig, rng: np.random.Generator) -> tuple[Op, ...]:
    """Return the operations with other tokens, often many, and other fences.

    What the program computes has no meaning any more; how long it takes has. In program order no FIFO ever overflows,
    so nothing deadlocks; in time an engine that runs ahead waits for room.
    """
    pop, push = np.zeros(len(p.ops), int), np.zeros(len(p.ops), int)
    for giver, taker in permutations(Engine, 2):
        some = float(rng.choice([0, 0.1, 0.4, 0.9]))
        waiting: list[int] = []  # givers whose token nobody has taken yet
        for op in p.ops[:-1]:
            if op.engine == giver and len(waiting) < machine.token_depth and rng.random() < some:
                waiting.append(op.index)
                push[op.index] |= 1 << taker
            elif op.engine == taker and waiting and rng.random() < some:
                waiting.pop(0)
                pop[op.index] |= 1 << giver
        push[waiting] &= ~(1 << taker)
    ops = tuple(replace(op, pop=int(pop[op.index]), push=int(push[op.index])) for op in p.ops)
    check_tokens(ops, machine)
    return tuple(replace(op, fence=int(rng.integers(2))) if isinstance(op, Vec) else op for op in ops)


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
