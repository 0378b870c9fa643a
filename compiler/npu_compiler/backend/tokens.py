"""Tokens: the fewest that order every pair of conflicting operations on different engines.

Conflicts come from npu_isa.machine.footprint, the same claims that the static check uses. Program order is a legal
order, so each operation waits for earlier ones only and no set of tokens made here can deadlock.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from npu_isa.isa.ops import Engine, Halt, Instruction, Memory, Op, Vec, resolve
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import Access, claims

ENGINES = tuple(Engine)


@dataclass
class _History:
    """Accesses of one engine to one memory, oldest first."""

    reads: list[tuple[int, Access]] = field(default_factory=list)
    writes: list[tuple[int, Access]] = field(default_factory=list)

    def latest_conflict(self, access: Access, after: int) -> int:
        """Return the last operation later than `after` that conflicts with `access`, or `after`."""
        for past in (self.writes, self.reads) if access.write else (self.writes,):
            for index, other in reversed(past):
                if index <= after:
                    break
                if other.first < access.end and access.first < other.end:
                    after = index
                    break
        return after


def add_tokens(program: Sequence[Instruction], machine: MachineConfig) -> tuple[Instruction, ...]:
    """Return the program with tokens and fences; instructions must come without any."""
    ops = resolve(program)
    waits, fences = _dependencies(ops, machine)
    pop, push = [0] * len(ops), [0] * len(ops)
    for (giver, taker), pairs in waits.items():
        for given, taken in _within_depth(pairs, machine.token_depth):
            push[given] |= 1 << taker
            pop[taken] |= 1 << giver
    return tuple(
        replace(
            ins,
            pop=pop[i],
            push=push[i],
            operands={**ins.operands, "fence": 1} if i in fences else ins.operands,
        )
        for i, ins in enumerate(program)
    )


def _dependencies(
    ops: Sequence[Op], machine: MachineConfig
) -> tuple[dict[tuple[Engine, Engine], list[tuple[int, int]]], set[int]]:
    """Return per pair of engines the (given, taken) pairs of operations, ascending, and the vecs that need a fence."""
    history: dict[Engine, dict[Memory, _History]] = {e: defaultdict(_History) for e in ENGINES}
    # known[e][f]: the last operation of engine f known to have ended before what engine e starts next
    known = {e: dict.fromkeys(ENGINES, -1) for e in ENGINES}
    known_by: list[dict[Engine, int]] = []
    waits: dict[tuple[Engine, Engine], list[tuple[int, int]]] = defaultdict(list)
    fences: set[int] = set()
    last_vec: tuple[Access, ...] = ()
    for op in ops:
        if isinstance(op, Halt):
            continue
        accesses = claims(op, machine)
        mine = known[op.engine]
        for other in ENGINES:
            if other is op.engine:
                continue
            need = mine[other]
            for access in accesses:
                past = history[other].get(access.memory)
                if past is not None:
                    need = past.latest_conflict(access, need)
            if need > mine[other]:
                waits[other, op.engine].append((need, op.index))
                for e, index in known_by[need].items():
                    mine[e] = max(mine[e], index)
                mine[other] = need
        if isinstance(op, Vec):
            if _reads_what(accesses, last_vec):
                fences.add(op.index)
            last_vec = accesses
        for access in accesses:
            target = history[op.engine][access.memory]
            (target.writes if access.write else target.reads).append((op.index, access))
        while len(known_by) <= op.index:
            known_by.append({})
        known_by[op.index] = dict(mine)
    return waits, fences


def _reads_what(accesses: tuple[Access, ...], before: tuple[Access, ...]) -> bool:
    """Whether an access reads activation words that an operation before wrote."""
    return any(
        not a.write and b.write and a.memory == b.memory == Memory.ACT and a.first < b.end and b.first < a.end
        for a in accesses
        for b in before
    )


def _within_depth(pairs: list[tuple[int, int]], depth: int) -> list[tuple[int, int]]:
    """Merge neighbouring tokens until, in program order, no more than `depth` wait in the FIFO.

    The earlier taker then waits for the later giver: more than it needs, never less.
    """
    kept: list[tuple[int, int]] = []
    first = 0  # oldest token not yet taken when the newest is given
    for given, taken in pairs:
        while first < len(kept) and kept[first][1] <= given:
            first += 1
        if len(kept) - first >= depth:
            kept[-1] = (given, kept[-1][1])
        else:
            kept.append((given, taken))
    return kept
