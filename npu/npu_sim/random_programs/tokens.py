"""Tokens and fences of a random program: those that its conflicts need, some that nothing needs, or random ones."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
from npu_isa.check.order import check_tokens
from npu_isa.isa.ops import Engine, Op, Vec
from npu_isa.isa.program import Instruction
from npu_isa.isa.resolve import resolve
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import Access, claims, footprints

Edges = list[tuple[int, int]]


def conflicts(a: Sequence[Access], b: Sequence[Access]) -> bool:
    """Whether the claims of two operations have common words, at least one to write."""
    return any(
        x.memory == y.memory and (x.write or y.write) and x.first < y.end and y.first < x.end for x in a for y in b
    )


def with_tokens(
    code: list[Instruction], machine: MachineConfig, rng: np.random.Generator | None = None
) -> tuple[Instruction, ...]:
    """Add tokens for every conflict, fences, and, with `rng`, tokens that nothing needs."""
    ops = resolve(code)[:-1]
    pop, push = [0] * len(code), [0] * len(code)
    fences: set[int] = set()
    for taker in range(4):
        for giver in range(4):
            if giver == taker:
                continue
            edges = needed(ops, giver, taker, machine)
            if rng is not None:
                for _ in range(3):
                    edges = one_more(edges, ops, giver, taker, machine, rng)
            for given, taken in edges:
                push[given] |= 1 << taker
                pop[taken] |= 1 << giver
    touched = footprints(ops, machine)
    vecs = [op for op in ops if isinstance(op, Vec)]
    for before, op in pairwise(vecs):
        out = touched.of(before.index)[-1]
        for a in touched.of(op.index):
            if a.memory == out.memory and not a.write and a.first < out.end and out.first < a.end:
                fences.add(op.index)
    return tuple(
        replace(ins, pop=pop[i], push=push[i], operands={**ins.operands, "fence": 1} if i in fences else ins.operands)
        for i, ins in enumerate(code)
    )


def needed(ops: Sequence[Op], giver: int, taker: int, machine: MachineConfig) -> Edges:
    """Return (giving, taking) operations, both ascending: each waits for its latest conflict not yet waited for."""
    edges: Edges = []
    claimed = claims(footprints(ops, machine), machine)
    mine = [claimed.of(op.index) for op in ops]
    for op in ops:
        if op.engine != taker:
            continue
        last = edges[-1][0] if edges else -1
        past = [o for o in ops[last + 1 : op.index] if o.engine == giver and conflicts(mine[o.index], mine[op.index])]
        if not past:
            continue
        given = past[-1].index
        waiting = [e for e in edges if e[1] > given]
        if len(waiting) >= machine.token_depth:  # the FIFO would be full: the newest token is given later instead
            edges[-1] = (given, edges[-1][1])
        else:
            edges.append((given, op.index))
    return edges


def one_more(
    edges: Edges, ops: Sequence[Op], giver: int, taker: int, machine: MachineConfig, rng: np.random.Generator
) -> Edges:
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


def random_tokens(ops: Sequence[Op], machine: MachineConfig, rng: np.random.Generator) -> tuple[Op, ...]:
    """Return the operations with other tokens, often many, and other fences.

    What the program computes has no meaning any more; how long it takes has. In program order no FIFO ever overflows,
    so nothing deadlocks; in time an engine that runs ahead waits for room.
    """
    pop, push = np.zeros(len(ops), int), np.zeros(len(ops), int)
    for giver, taker in permutations(Engine, 2):
        some = float(rng.choice([0, 0.1, 0.4, 0.9]))
        waiting: list[int] = []  # givers whose token nobody has taken yet
        for op in ops[:-1]:
            if op.engine == giver and len(waiting) < machine.token_depth and rng.random() < some:
                waiting.append(op.index)
                push[op.index] |= 1 << taker
            elif op.engine == taker and waiting and rng.random() < some:
                waiting.pop(0)
                pop[op.index] |= 1 << giver
        push[waiting] &= ~(1 << taker)
    changed = tuple(replace(op, pop=int(pop[op.index]), push=int(push[op.index])) for op in ops)
    check_tokens(changed, machine)
    return tuple(replace(op, fence=int(rng.integers(2))) if isinstance(op, Vec) else op for op in changed)
