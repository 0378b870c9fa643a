"""Random valid programs on random small machines: what the models of the machine are compared on.

`random_machine(rng)` and `random_program(rng, machine)` take a NumPy generator, so a seed names a program. Programs
use every instruction, strides, dilations, paddings and crops, loose pitches, accumulation, residuals (in place too),
leaky and wide outputs, all sources, stores and reloads, folds, bias tables, and tokens from true conflicts beside some
that are not needed. Layers' tiles overlap in time as far as the tokens allow.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from npu_isa.footprint import footprint
from npu_isa.machine import MachineConfig
from npu_isa.ops import Instruction, Op, Vec, resolve

from tests.program_builder import CONSTANTS_BYTES, INPUT, INPUT_BYTES, OUTPUT, WORD, Builder

__all__ = ["INPUT_BYTES", "RandomProgram", "conflicts", "needed", "random_machine", "random_program", "with_tokens"]


@dataclass(frozen=True)
class RandomProgram:
    """A program and what it runs with; the image is INPUT_BYTES of anything."""

    machine: MachineConfig
    instructions: tuple[Instruction, ...]
    constants: np.ndarray
    dram_bytes: int
    input_range: tuple[int, int]
    output_range: tuple[int, int]
    registers: int
    legal: dict[int, tuple[int, ...]]

    @property
    def ops(self) -> tuple[Op, ...]:
        return resolve(self.instructions)

    def check_arguments(self) -> dict[str, object]:
        """Keyword arguments of npu_isa.check.check_program."""
        return {
            "constants_bytes": len(self.constants),
            "dram_bytes": self.dram_bytes,
            "input_range": self.input_range,
            "output_range": self.output_range,
            "registers": self.registers,
            "legal": self.legal,
            "constants": self.constants,
        }

    def boundaries(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Return a legal boundary for each register."""
        return tuple(int(rng.choice(self.legal[r])) for r in range(self.registers))


def random_machine(rng: np.random.Generator) -> MachineConfig:
    """Return a small consistent machine."""
    rows = int(rng.choice([2, 4, 8, 8, 16, 32]))
    cols = int(rng.choice([2, 4, 8, 16, 16, 32, 48]))
    banks = int(rng.choice([b for b in (1, 2, 3, 4, 8) if b >= max(1, rows // 8, -(-cols // 16))]))
    bus = int(rng.choice([b for b in (4, 8, 16, 32) if b <= banks * WORD]))
    return MachineConfig(
        name="random",
        array_rows=rows,
        array_cols=cols,
        weight_rows_per_cycle=int(rng.choice([d for d in (1, 2, 4) if rows % d == 0])),
        act_region_bytes=WORD * banks * (int(rng.integers(90, 200)) // banks),
        act_banks=banks,
        weight_memory_bytes=WORD * int(rng.integers(12, 26)) * max(cols, 8) * 2,
        param_memory_bytes=4 * cols * int(rng.integers(8, 40)),
        acc_rows=int(rng.integers(8, 40)),
        vector_taps=int(rng.integers(1, 5)),
        dram_bytes=1 << 20,
        dram_bytes_per_cycle=bus,
        dram_latency_cycles=int(rng.integers(1, 60)),
        dram_burst_bytes=bus * int(rng.choice([1, 2, 4])),
        instruction_words=4096,
        queue_depth=int(rng.integers(2, 6)),
        token_depth=int(rng.integers(2, 6)),
        clock_hz=1e9,
    ).check()


def random_program(rng: np.random.Generator, machine: MachineConfig, layers: int = 3) -> RandomProgram:
    """Return a valid program of about `layers` layers and a few dozen instructions."""
    builder = Builder(rng, machine)
    builder.start()
    for _ in range(layers):
        builder.layer()
    output_bytes = builder.finish()
    constants = np.zeros(CONSTANTS_BYTES, np.uint8)
    constants[: len(builder.constants)] = np.frombuffer(bytes(builder.constants), np.uint8)
    return RandomProgram(
        machine=machine,
        instructions=with_tokens(builder.code, machine, rng),
        constants=constants,
        dram_bytes=OUTPUT + output_bytes,
        input_range=(INPUT, INPUT + INPUT_BYTES),
        output_range=(OUTPUT, OUTPUT + output_bytes),
        registers=len(builder.legal),
        legal=builder.legal,
    )


def conflicts(a: Op, b: Op, machine: MachineConfig) -> bool:
    """Whether two operations touch common words, at least one writing."""
    return any(
        x.memory == y.memory and (x.write or y.write) and x.first < y.end and y.first < x.end
        for x in footprint(a, machine)
        for y in footprint(b, machine)
    )


def with_tokens(
    code: list[Instruction], machine: MachineConfig, rng: np.random.Generator | None = None
) -> tuple[Instruction, ...]:
    """Add tokens for every conflict, fences, and, with `rng`, tokens that nothing needs."""
    ops = resolve(code)[:-1]
    pop, push, fences = [0] * len(code), [0] * len(code), set()
    for taker in range(4):
        for giver in range(4):
            if giver == taker:
                continue
            edges = needed(ops, giver, taker, machine)
            for _ in range(3 if rng is not None else 0):
                edges = one_more(edges, ops, giver, taker, machine, rng)
            for given, taken in edges:
                push[given] |= 1 << taker
                pop[taken] |= 1 << giver
    vecs = [op for op in ops if isinstance(op, Vec)]
    for before, op in pairwise(vecs):
        out = footprint(before, machine)[-1]
        for a in footprint(op, machine):
            if a.memory == out.memory and not a.write and a.first < out.end and out.first < a.end:
                fences.add(op.index)
    return tuple(
        replace(ins, pop=pop[i], push=push[i], operands={**ins.operands, "fence": 1} if i in fences else ins.operands)
        for i, ins in enumerate(code)
    )


def needed(ops, giver: int, taker: int, machine: MachineConfig) -> list[tuple[int, int]]:
    """Return (giving, taking) operations, both ascending: each waits for its latest conflict not yet waited for."""
    edges: list[tuple[int, int]] = []
    for op in ops:
        if op.engine != taker:
            continue
        last = edges[-1][0] if edges else -1
        past = [o for o in ops[last + 1 : op.index] if o.engine == giver and conflicts(o, op, machine)]
        if not past:
            continue
        given = past[-1].index
        waiting = [e for e in edges if e[1] > given]
        if len(waiting) >= machine.token_depth:  # the FIFO would be full: the newest token is given later instead
            edges[-1] = (given, edges[-1][1])
        else:
            edges.append((given, op.index))
    return edges


def one_more(edges, ops, giver: int, taker: int, machine: MachineConfig, rng) -> list[tuple[int, int]]:
    """Add a token between two random operations if both orders and the FIFO's depth allow it."""
    givers, takers = ([o.index for o in ops if o.engine == e] for e in (giver, taker))
    if not givers or not takers:
        return edges
    given, taken = int(rng.choice(givers)), int(rng.choice(takers))
    if given > taken or not all((a < given) == (b < taken) and a != given and b != taken for a, b in edges):
        return edges
    more = sorted([*edges, (given, taken)])
    deepest = max(sum(a <= g < b for a, b in more) for g, _ in more)
    return more if deepest <= machine.token_depth else edges
