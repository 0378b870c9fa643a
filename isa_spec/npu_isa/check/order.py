"""Order between engines: deadlock, left-over tokens and races, found once for every timing and every boundary.

In-order engines with bounded queues and bounded token FIFOs are a determinate marked graph: if one untimed run
reaches the halt, every timed one does. The run also yields what each operation knows to have ended before it starts.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from npu_isa.errors import ProgramError
from npu_isa.isa.ops import Conv, Engine, Memory, Op, Setup, Vec
from npu_isa.isa.tables import TIMING
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import Access, claims
from npu_isa.machine.timing import weight_load_cycles

I64 = NDArray[np.int64]
PAIRS_AT_ONCE = 1 << 20
UNITS = {
    Memory.ACT: "activation words",
    Memory.WEIGHT: "weight words",
    Memory.PARAM: "parameter rows",
    Memory.ACC0: "accumulator rows of half 0",
    Memory.ACC1: "accumulator rows of half 1",
    Memory.DRAM: "DRAM bytes",
}


def name_of(op: Op) -> str:
    """Return an operation's mnemonic."""
    return op.name if isinstance(op, Setup) else type(op).__name__.lower()


def label(op: Op) -> str:
    """Return how messages name an operation: instruction 17 (conv)."""
    return f"instruction {op.index} ({name_of(op)})"


def fault(op: Op, message: str, hint: str = "") -> ProgramError:
    """Return the error of one operation."""
    return ProgramError(message, label(op), hint)


def _engines(mask: int) -> list[int]:
    return [e for e in range(len(Engine)) if mask >> e & 1]


class TokenRun:
    """An untimed run of front end, queues and token FIFOs; `known` is its result.

    An engine works on one operation at a time and gives its tokens all at once. The machine overlaps operations and
    may give tokens singly: it waits for less, so it reaches the halt whenever this run does.

    Attributes:
        known: shape (operations, 4): the last operation of each engine that has ended whenever this one starts.
    """

    def __init__(self, ops: Sequence[Op], machine: MachineConfig) -> None:
        self.known: I64 = np.full((len(ops), len(Engine)), -1, np.int64)
        self._machine = machine
        self._ops = ops
        self._engine_of = [int(op.engine) for op in ops[:-1]]
        self._work: list[list[Op]] = [[] for _ in Engine]
        for op, engine in zip(ops, self._engine_of, strict=False):  # all but the halt
            self._work[engine].append(op)
        self._fifos: dict[tuple[int, int], deque[tuple[int, list[int]]]] = {
            (g, t): deque() for g in range(len(Engine)) for t in range(len(Engine)) if g != t
        }
        self._clock = [[-1] * len(Engine) for _ in Engine]
        self._sent = [0] * len(Engine)  # operations dispatched
        self._done = [0] * len(Engine)
        self._taken = [False] * len(Engine)  # the operation in work has its tokens

    def run(self) -> None:
        """Run to the halt.

        Raises:
            ProgramError: a deadlock, with who waits for whom, or a token that is never taken.
        """
        dispatched, moved = 0, True
        while moved:
            moved = False
            while dispatched < len(self._engine_of) and self._has_place(self._engine_of[dispatched]):
                self._sent[self._engine_of[dispatched]] += 1
                dispatched += 1
                moved = True
            for engine in range(len(Engine)):
                while self._done[engine] < self._sent[engine] and self._step(engine):
                    moved = True
        if any(done < len(work) for done, work in zip(self._done, self._work, strict=True)):
            raise self._deadlock(dispatched)
        for (giver, taker), fifo in self._fifos.items():
            if fifo:
                raise fault(
                    self._ops[fifo[0][0]],
                    f"the token that it gives from {Engine(giver).name.lower()} to {Engine(taker).name.lower()} "
                    "is never taken",
                    "drop this bit of push, or add the matching pop",
                )

    def _has_place(self, engine: int) -> bool:
        # one operation has left the queue for its engine
        return self._sent[engine] - self._done[engine] <= self._machine.queue_depth

    def _step(self, engine: int) -> bool:
        """Take the tokens of the operation at the engine, or end it; return whether anything happened."""
        op = self._work[engine][self._done[engine]]
        clock = self._clock[engine]
        if not self._taken[engine]:
            givers = _engines(op.pop)
            if any(not self._fifos[g, engine] for g in givers):
                return False
            for g in givers:
                _, seen = self._fifos[g, engine].popleft()
                clock[:] = map(max, clock, seen)
            self._taken[engine] = True
            self.known[op.index] = clock
            return True
        takers = _engines(op.push)
        if any(len(self._fifos[engine, t]) >= self._machine.token_depth for t in takers):
            return False
        ended = clock.copy()
        if not isinstance(op, Setup):  # a setup ends while the operation before it is still in the pipeline
            ended[engine] = op.index
        for t in takers:
            self._fifos[engine, t].append((op.index, ended))
        self._done[engine] += 1
        self._taken[engine] = False
        return True

    def _deadlock(self, dispatched: int) -> ProgramError:
        """Describe every engine that has work left; the place is the first stuck operation."""
        stuck: list[tuple[int, str]] = []
        for engine, work in enumerate(self._work):
            if self._done[engine] == len(work):
                continue
            op = work[self._done[engine]]
            stuck.append(
                (op.index, f"{Engine(engine).name.lower()}: {label(op)} {self._reason(engine, op, dispatched)}")
            )
        stuck.sort()
        return ProgramError(
            "deadlock: " + "; ".join(text for _, text in stuck),
            label(self._ops[stuck[0][0]]),
            "tokens must follow program order and fit queue_depth and token_depth",
        )

    def _reason(self, engine: int, op: Op, dispatched: int) -> str:
        if self._done[engine] == self._sent[engine]:
            full = Engine(self._engine_of[dispatched]).name.lower()
            return f"is not dispatched: the front end waits with instruction {dispatched} for the queue of {full}"
        if not self._taken[engine]:
            givers = [Engine(g).name.lower() for g in _engines(op.pop) if not self._fifos[g, engine]]
            return f"waits for a token of {' and '.join(givers)}"
        depth = self._machine.token_depth
        takers = [Engine(t).name.lower() for t in _engines(op.push) if len(self._fifos[engine, t]) >= depth]
        return f"waits for room for its token to {' and '.join(takers)}"


def check_tokens(ops: Sequence[Op], machine: MachineConfig) -> I64:
    """Check that tokens balance and cannot deadlock.

    Returns:
        int64 (operations, 4): the last operation of each engine that tokens prove to have ended before each starts.

    Raises:
        ProgramError: see `TokenRun.run`; an operation that takes from or gives to its own engine.
    """
    for op in ops[:-1]:
        if (op.pop | op.push) >> op.engine & 1:
            raise fault(op, f"token of its own engine ({op.engine.name.lower()})", "an engine works in order by itself")
        if (op.pop | op.push) >> len(Engine):
            raise fault(op, f"pop {op.pop:#x}, push {op.push:#x}: a token of no engine")
    if ops[-1].pop or ops[-1].push:
        raise fault(ops[-1], "halt takes and gives no tokens", "it waits for every engine by itself")
    run = TokenRun(ops, machine)
    run.run()
    return run.known


def check_races(ops: Sequence[Op], machine: MachineConfig, known: I64) -> None:
    """Check that operations of different engines whose claims conflict are ordered by tokens, in program order.

    Args:
        ops: the program, within bounds.
        machine: the design point.
        known: from `check_tokens`.

    Raises:
        ProgramError: naming the later of the first two operations that race.
    """
    touched = [claims(op, machine) for op in ops]
    races = [pair for memory in Memory for pair in _memory_races(ops, touched, known, memory)]
    if not races:
        return
    later, earlier, memory = min(races)
    giver, taker = ops[earlier].engine.name.lower(), ops[later].engine.name.lower()
    ours, theirs = _conflict(touched[later], touched[earlier], memory)
    raise fault(
        ops[later],
        f"race: {'writes' if ours.write else 'reads'} {UNITS[memory]} {ours.first}..{ours.end - 1} while "
        f"{label(ops[earlier])} may still {'write' if theirs.write else 'read'} {theirs.first}..{theirs.end - 1}",
        "a half serves one engine at a time: " * (memory in (Memory.ACC0, Memory.ACC1))
        + f"{giver} must give a token to {taker} at instruction {earlier} or later, taken at {later} or before",
    )


def _conflict(ours: Sequence[Access], theirs: Sequence[Access], memory: Memory) -> tuple[Access, Access]:
    return next(
        (a, b)
        for a in ours
        for b in theirs
        if a.memory == b.memory == memory and (a.write or b.write) and a.first < b.end and b.first < a.end
    )


def _memory_races(
    ops: Sequence[Op], touched: Sequence[tuple[Access, ...]], known: I64, memory: Memory
) -> Iterator[tuple[int, int, Memory]]:
    """Yield (later, earlier, memory), one per pair of engines that race in one memory."""
    rows: list[list[tuple[int, int, int, int]]] = [[] for _ in Engine]
    for op, accesses in zip(ops, touched, strict=True):
        for a in accesses:
            if a.memory == memory:
                rows[op.engine].append((op.index, a.first, a.end, a.write))
    tables = [np.array(r, np.int64).reshape(-1, 4) for r in rows]
    for engine, mine in enumerate(tables):
        for other, theirs in enumerate(tables):
            if engine != other and len(mine) and len(theirs):
                found = _first_race(mine, theirs, known[mine[:, 0], other])
                if found is not None:
                    yield (*found, memory)


def _first_race(mine: I64, theirs: I64, ended: I64) -> tuple[int, int] | None:
    """Return the first (later, earlier) operations that conflict although `theirs` may not have ended.

    Args:
        mine, theirs: rows (operation, first, end, write), operations ascending.
        ended: for each row of `mine`, the last operation of the other engine known to have ended.
    """
    start = np.searchsorted(theirs[:, 0], ended, "right")
    count = np.maximum(np.searchsorted(theirs[:, 0], mine[:, 0], "left") - start, 0)
    total = np.cumsum(count)
    first = 0
    while first < len(mine):  # compare rows with their open windows, a bounded number of pairs at a time
        done = total[first - 1] if first else 0
        end = max(int(np.searchsorted(total, done + PAIRS_AT_ONCE, "right")), first + 1)
        row = np.repeat(np.arange(first, end), count[first:end])
        place = np.arange(len(row)) - np.repeat(total[first:end] - count[first:end] - done, count[first:end])
        a, b = mine[row], theirs[start[row] + place]
        bad = ((a[:, 3] | b[:, 3]) != 0) & (a[:, 1] < b[:, 2]) & (b[:, 1] < a[:, 2])
        hit = int(np.argmax(bad)) if len(bad) else 0
        if len(bad) and bad[hit]:
            return int(a[hit, 0]), int(b[hit, 0])
        first = end
    return None


def check_fences(ops: Sequence[Op], touched: Sequence[tuple[Access, ...]]) -> None:
    """Check that a vec that reads what the vec before it wrote has `fence`.

    The vec before is still in the pipeline (6 cycles) when the next one starts. An older one is not: the vec between
    takes at least 4 cycles of issue and 3 parameter rows pass before the first pixel is read, 7 in all. Reads come
    before writes in the pipeline, so no other order is open. Loads and stores end in order.

    Raises:
        ProgramError: naming the vec that needs the fence.
    """
    before: Op | None = None
    for op in ops:
        if not isinstance(op, Vec):
            continue
        if before is not None and not op.fence:
            for a in touched[op.index]:
                for b in touched[before.index]:
                    if not a.write and b.write and a.memory == b.memory and a.first < b.end and b.first < a.end:
                        raise fault(
                            op,
                            f"reads activation words {a.first}..{a.end - 1} while {label(before)}, still in the "
                            f"pipeline, writes {b.first}..{b.end - 1}",
                            "set fence=1",
                        )
        before = op


def check_accumulators(ops: tuple[Op, ...], machine: MachineConfig) -> None:
    """Check that an accumulating conv finds the sums of the conv before it already written.

    Read, add and write of an accumulator row take A = 3 cycles. Let the conv before have M pixels from row a, its
    last pass k cycles a pixel, and this one start at row a + d. Its first pixel enters at least max(M k, I) cycles
    after the first pixel of that pass, I = weight load + 8 (the pass interval). Row a + m (m >= d) recurs after at
    least max(M k, I) - m k + (m - d) cycles. If M - d >= A this is at least (M - m) + (m - d) >= A, whatever k is. If
    3 M <= I it is A or more as well: for M k >= I it is at least (M - m) k >= I / M >= 3; for M k < I it is more than
    (M - m) k, which does for k >= 2, and k = 1 leaves I - d > 2 M. Passes of one conv, and tiles that start at the
    same row, have d = 0: M >= 3 or 3 M <= 9 <= I. Older convs are a whole pass interval further away.

    Raises:
        ProgramError: naming the accumulating conv.
    """
    interval = TIMING["shadow_free_cycles"] + weight_load_cycles(machine)
    before: Conv | None = None
    for op in ops:
        if not isinstance(op, Conv):
            continue
        if before is not None and op.accumulate and op.acc_half == before.acc_half:
            end = before.acc_row + before.pixels
            overlap = op.acc_row < end and before.acc_row < op.acc_row + op.pixels
            close = end - op.acc_row < TIMING["acc_write_cycles"] and 3 * before.pixels > interval
            if overlap and close:
                raise fault(
                    op,
                    f"accumulates onto rows from {op.acc_row} on while instruction {before.index} (conv) is still "
                    f"writing rows up to {end - 1}",
                    "let both tiles start at the same accumulator row",
                )
        before = op
