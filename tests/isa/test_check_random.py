"""The static check on random programs, against graph closure, random schedules, garbage memories and brute force."""

from dataclasses import replace
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_isa.check.bounds import _apart
from npu_isa.check.order import check_tokens
from npu_isa.errors import NpuError, ProgramError
from npu_isa.isa.codec import decode, encode
from npu_isa.isa.ops import Engine, Op, Setup
from npu_isa.isa.resolve import resolve
from npu_isa.machine.footprint import claims, footprints
from npu_sim.random_programs.machines import random_machine
from npu_sim.random_programs.programs import RandomProgram, random_program
from npu_sim.random_programs.tokens import conflicts, needed, with_tokens

from tests.naive_machine import NaiveMachine


def make(seed: int) -> RandomProgram:
    rng = np.random.default_rng(seed)
    return random_program(rng, random_machine(rng), layers=2)


def check(p: RandomProgram, ops: tuple[Op, ...] | None = None) -> None:
    p.check(ops)


def random_order(ops: tuple[Op, ...], p: RandomProgram, rng: np.random.Generator) -> list[Op]:
    """Run front end, queues and FIFOs in a random order of events; return the operations as they end."""
    work = [[op for op in ops[:-1] if op.engine == e] for e in Engine]
    done, sent, given = [0] * 4, [0] * 4, np.zeros((4, 4), int)
    taken: list[int | None] = [None] * 4
    ended: list[Op] = []
    dispatched = 0
    while len(ended) < len(ops) - 1:
        events = []
        if dispatched < len(ops) - 1:
            e = ops[dispatched].engine
            if sent[e] - done[e] - (taken[e] is not None) < p.machine.queue_depth:
                events.append(("dispatch", e))
        for e in range(4):
            if taken[e] is None and done[e] < sent[e]:
                events.append(("accept", e))
            elif taken[e] is not None:
                op = work[e][done[e]]
                wanted = [g for g in range(4) if taken[e] >> g & 1]
                events += [("take", e)] if wanted and all(given[g, e] for g in wanted) else []
                room = all(given[e, t] < p.machine.token_depth for t in range(4) if op.push >> t & 1)
                events += [("end", e)] if not wanted and room else []
        assert events, "deadlock"
        what, e = events[int(rng.integers(len(events)))]
        if what == "dispatch":
            sent[e] += 1
            dispatched += 1
        elif what == "accept":
            taken[e] = work[e][done[e]].pop
        elif what == "take":
            for g in range(4):
                given[g, e] -= taken[e] >> g & 1
            taken[e] = 0
        else:
            op = work[e][done[e]]
            for t in range(4):
                given[e, t] += op.push >> t & 1
            ended.append(op)
            done[e] += 1
            taken[e] = None
    assert not given.any()
    return ended


def outcome(p: RandomProgram, ops, boundaries: tuple[int, ...], garbage: int) -> bytes:
    """Return the output that a program computes in memories filled with garbage."""
    m = NaiveMachine(p.machine, p.constants.tobytes(), p.dram_bytes)
    dirt = np.random.default_rng(garbage)
    for memory in (m.act, m.weights, m.params):
        memory[:] = dirt.integers(0, 256, len(memory), dtype=np.uint8).tobytes()
    m.acc = dirt.integers(-(1 << 31), 1 << 31, (2, p.machine.acc_rows, p.machine.array_cols)).tolist()
    m.looked_up = dirt.integers(0, 256, 256, dtype=np.uint8).tobytes()
    rest = p.dram_bytes - len(p.constants)
    m.dram[len(p.constants) :] = dirt.integers(0, 256, rest, dtype=np.uint8).tobytes()
    image = np.random.default_rng(1).integers(0, 256, p.input_range[1] - p.input_range[0], dtype=np.uint8)
    m.dram[slice(*p.input_range)] = image.tobytes()
    m.run(ops, boundaries)
    return bytes(m.dram[slice(*p.output_range)])


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_pass_and_mean_the_same_in_any_schedule_and_any_memory(seed):
    p = make(seed)
    check(p)
    assert tuple(decode(encode(p.instructions))) == p.instructions
    rng = np.random.default_rng(seed)
    boundaries = p.boundaries(rng)
    expected = outcome(p, p.ops, boundaries, garbage=2)
    for trial in range(2):
        assert outcome(p, random_order(p.ops, p, rng), boundaries, garbage=3 + trial) == expected


def ordered(ops: tuple[Op, ...]) -> nx.DiGraph:
    """Starts and ends of operations, with an edge from what always comes first."""
    g = nx.DiGraph()
    for op in ops[:-1]:
        g.add_edge(("start", op.index), ("end", op.index))
    for e in Engine:
        mine = [op for op in ops[:-1] if op.engine == e]
        for a, b in pairwise(mine):
            g.add_edge(("start", a.index), ("start", b.index))
        for a, b in pairwise([op for op in mine if not isinstance(op, Setup)]):
            g.add_edge(("end", a.index), ("end", b.index))
        for f in Engine:
            gives = [op.index for op in mine if op.push >> f & 1]
            takes = [op.index for op in ops[:-1] if op.engine == f and op.pop >> e & 1]
            for a, b in zip(gives, takes, strict=True):
                g.add_edge(("end", a), ("start", b))
    return g


def races(ops: tuple[Op, ...], machine) -> bool:
    """Whether two conflicting operations of different engines are not ordered; brute force."""
    reach = dict(nx.all_pairs_shortest_path_length(ordered(ops)))
    claimed = claims(footprints(ops, machine), machine)
    mine = [claimed.of(i) for i in range(len(ops))]
    return any(
        a.engine != b.engine
        and conflicts(mine[a.index], mine[b.index])
        and ("start", b.index) not in reach["end", a.index]
        for b in ops[:-1]
        for a in ops[: b.index]
    )


@pytest.mark.parametrize("seed", range(6))
def test_dropping_one_token(seed):
    """Half a token is a deadlock or left over; a whole one is refused exactly when brute force finds a race."""
    p = make(seed + 100)
    code = with_tokens(list(_bare(p.instructions)), p.machine)
    ops = resolve(code)
    edges = [
        (giving, taking)
        for taker in range(4)
        for giver in range(4)
        if giver != taker
        for giving, taking in needed(ops[:-1], giver, taker, p.machine)
    ]
    refused = 0
    for giving, taking in edges:
        no_push = _without(code, giving, push=1 << ops[taking].engine)
        no_pop = _without(code, taking, pop=1 << ops[giving].engine)
        with pytest.raises(ProgramError, match="deadlock"):
            check(p, resolve(no_push))
        with pytest.raises(ProgramError, match=r"is never taken|deadlock"):
            check(p, resolve(no_pop))
        neither = resolve(_without(no_push, taking, pop=1 << ops[giving].engine))
        try:
            check(p, neither)
            found = False
        except ProgramError as error:
            found = "race" in error.message
        assert found == races(neither, p.machine), (giving, taking)
        refused += found
    assert refused > len(edges) // 4


def _bare(code):
    return [
        replace(i, pop=0, push=0, operands={**i.operands, **({"fence": 0} if "fence" in i.operands else {})})
        for i in code
    ]


def _without(code, place: int, pop: int = 0, push: int = 0):
    changed = list(code)
    changed[place] = replace(code[place], pop=code[place].pop & ~pop, push=code[place].push & ~push)
    return tuple(changed)


@pytest.mark.parametrize("seed", range(10))
def test_what_passes_the_token_check_ends_in_every_schedule(seed):
    """Random tokens, mostly against program order: a deadlock in any schedule is one that the check has named."""
    p = make(seed)
    rng = np.random.default_rng(seed)
    passed = 0
    for _ in range(30):
        pop, push = np.zeros(len(p.ops), int), np.zeros(len(p.ops), int)
        for _ in range(int(rng.integers(1, 9))):
            a, b = sorted(int(i) for i in rng.integers(0, len(p.ops) - 1, 2))
            if rng.random() < 0.2:
                a, b = b, a
            if p.ops[a].engine != p.ops[b].engine:
                push[a] |= 1 << p.ops[b].engine
                pop[b] |= 1 << p.ops[a].engine
        ops = tuple(replace(op, pop=int(pop[op.index]), push=int(push[op.index])) for op in p.ops)
        try:
            check_tokens(ops, p.machine)
        except ProgramError:
            continue
        passed += 1
        assert len(random_order(ops, p, rng)) == len(ops) - 1
    assert 0 < passed < 30


def mutate(p: RandomProgram, rng: np.random.Generator) -> np.ndarray:
    """Return the program's words with a few bits flipped, or an instruction dropped, doubled or swapped."""
    code = encode(p.instructions).copy()
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            code[rng.integers(len(code)), rng.integers(32)] ^= 1 << rng.integers(8)
        return code
    i, j = rng.integers(len(code), size=2)
    order = list(range(len(code)))
    match int(rng.integers(3)):
        case 0:
            del order[i]
        case 1:
            order.insert(j, i)
        case _:
            order[i], order[j] = order[j], order[i]
    return code[order]


def survivor(p: RandomProgram, rng: np.random.Generator) -> tuple[Op, ...] | None:
    """Return the operations of a mutated program if the check passes it; anything but an NpuError is a bug."""
    try:
        ops = resolve(decode(mutate(p, rng)))
        check(p, ops)
    except NpuError:
        return None
    return ops


@pytest.mark.parametrize("seed", range(6))
def test_a_mutated_program_is_refused_or_has_a_defined_result(seed):
    p = make(seed)
    rng = np.random.default_rng(seed)
    boundaries = p.boundaries(rng)
    for _ in range(60):
        ops = survivor(p, rng)
        if ops is not None:
            first = outcome(p, ops, boundaries, garbage=4)
            assert outcome(p, random_order(ops, p, rng), boundaries, garbage=5) == first


# -- index arithmetic against brute force


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 9), st.integers(0, 9))
def test_apart(rows, cols, size, row_pitch, col_pitch):
    places = [r * row_pitch + c * col_pitch + k for r in range(rows) for c in range(cols) for k in range(size)]
    shape = (np.array([v]) for v in (rows, cols, size, row_pitch, col_pitch))
    assert _apart(*shape).tolist() == [len(set(places)) == len(places)]
