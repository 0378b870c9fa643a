"""Tokens: the fewest that order every pair of conflicting operations on different engines.

Conflicts come from npu_isa.machine.footprint, the same claims that the static check uses. Program order is a legal
order, so each operation waits for earlier ones only and no set of tokens made here can deadlock.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from npu_isa.isa.ops import Engine, Memory
from npu_isa.isa.program import KINDS, Program
from npu_isa.isa.resolve import Ops, resolve
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import claims, footprints
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


def add_tokens(program: Program, machine: MachineConfig) -> Program:
    """Return the program with tokens and fences; instructions must come without any."""
    ops = resolve(program)
    waits, fences = _dependencies(ops, machine)
    pop, push = program.pop.copy(), program.push.copy()
    for giver in Engine:
        for taker in Engine:
            pairs = waits[(waits[:, 0] == giver) & (waits[:, 1] == taker), 2:]
            for given, taken in _within_depth(pairs.tolist(), machine.token_depth):
                push[given] |= 1 << taker
                pop[taken] |= 1 << giver
    vec = program.tables["vec"].copy()
    vec["fence"] = fences[program.indices("vec")]
    return replace(program, pop=pop, push=push, tables={**program.tables, "vec": vec})


def _dependencies(ops: Ops, machine: MachineConfig) -> tuple[Array, Array]:
    """Return what waits for what, int64 (waits, 4): engines of giver and taker, operations given and taken, by taker.

    And per operation 1 where it is a vec that needs a fence.
    """
    touched = claims(footprints(ops, machine), machine)
    waits, fences = np.zeros((len(Engine) * len(ops), 4), np.int64), np.zeros(len(ops), np.int64)
    columns = (touched.start, touched.memory, touched.first, touched.end, touched.write)
    is_vec = ops.kind == KINDS["vec"]
    count = depend(ops.engine, is_vec, *columns, len(Engine), len(Memory), int(Memory.ACT), waits, fences)
    return waits[:count], fences


@njit(cache=True)
def depend(engine: Array, is_vec: Array, start: Array, memory: Array, first: Array, end: Array, write: Array,
           engines: int, memories: int, act: int, waits: Array, fences: Array) -> int:  # fmt: skip
    """Fill in what waits for what, and the vecs that need a fence; return the number of waits.

    Args:
        engine: of each operation, -1 for the halt.
        is_vec: whether it is a vec.
        start: first access of each operation, and one past the last of all.
        memory, first, end, write: the accesses.
        engines, memories, act: numbers of them, and the activation memory's.
        waits, fences: see `_dependencies`.
    """
    ops, count, last_vec = len(engine), 0, -1
    newest = np.full((engines, memories, 2), -1, np.int64)  # newest access of an engine to a memory: read, write
    before = np.full(len(memory), -1, np.int64)  # the access of the same kind before
    owner = np.zeros(len(memory), np.int64)
    known = np.full((engines, engines), -1, np.int64)  # last operation of f that ended before what e starts next
    known_by = np.full((ops, engines), -1, np.int64)
    for op in range(ops):
        e = engine[op]
        if e < 0:
            continue
        for other in range(engines):
            if other == e:
                continue
            need = known[e, other]
            for a in range(start[op], start[op + 1]):
                for side in (1, 0):
                    if side == 0 and not write[a]:
                        continue
                    past = newest[other, memory[a], side]
                    while past >= 0 and owner[past] > need:
                        if first[past] < end[a] and first[a] < end[past]:
                            need = owner[past]
                        else:
                            past = before[past]
            if need > known[e, other]:
                waits[count, 0], waits[count, 1], waits[count, 2], waits[count, 3] = other, e, need, op
                count += 1
                for f in range(engines):
                    known[e, f] = max(known[e, f], known_by[need, f])
                known[e, other] = need
        if is_vec[op]:
            for a in range(start[op], start[op + 1]):
                for b in range(start[last_vec], start[last_vec + 1]) if last_vec >= 0 else range(0):
                    meets = first[a] < end[b] and first[b] < end[a]
                    if meets and memory[a] == act and memory[b] == act and not write[a] and write[b]:
                        fences[op] = 1
            last_vec = op
        for a in range(start[op], start[op + 1]):
            owner[a], before[a] = op, newest[e, memory[a], write[a]]
            newest[e, memory[a], write[a]] = a
        known_by[op] = known[e]
    return count


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
