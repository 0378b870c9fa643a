"""Order between engines: deadlock, left-over tokens and races, found once for every timing and every boundary.

In-order engines with bounded queues and bounded token FIFOs are a determinate marked graph: if one untimed run
reaches the halt, every timed one does. The run also yields what each operation knows to have ended before it starts.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from npu_isa.check import kernels
from npu_isa.check.faults import UNITS, First, fault, label
from npu_isa.errors import ProgramError
from npu_isa.isa.ops import Conv, Engine, Memory, Op
from npu_isa.isa.program import KINDS
from npu_isa.isa.resolve import Ops
from npu_isa.isa.tables import TIMING
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.footprint import Access, Accesses, claims
from npu_isa.machine.timing import weight_load_cycles

I64 = NDArray[np.int64]
PAIRS_AT_ONCE = 1 << 20
assert TIMING["vector_pipeline_cycles"] <= 2 * TIMING["param_rows"] + 1, "check_fences: older vecs are through"
SETUPS = np.array([KINDS[name] for name in ("geom", "groups", "vgeom")])


def _engines(mask: int) -> list[int]:
    return [e for e in range(len(Engine)) if mask >> e & 1]


def check_tokens(ops: Sequence[Op], machine: MachineConfig) -> I64:
    """Check that tokens balance and cannot deadlock.

    Returns:
        int64 (operations, 4): the last operation of each engine that tokens prove to have ended before each starts.

    Raises:
        ProgramError: a deadlock, with who waits for whom; a token that is never taken; an operation that takes from or
            gives to its own engine.
    """
    columns = Ops.of(ops)
    first, both = First(columns), columns.pop | columns.push
    own = np.where(columns.engine >= 0, both >> np.maximum(columns.engine, 0) & 1, 0)
    at = np.arange(len(columns))
    hint = "an engine works in order by itself"
    first.need(at, own == 0, lambda i, op: f"token of its own engine ({op.engine.name.lower()})", hint)
    first.need(
        at,
        (both >> len(Engine) == 0) | (columns.engine < 0),
        lambda i, op: f"pop {op.pop:#x}, push {op.push:#x}: a token of no engine",
    )
    first.need(
        at,
        (both == 0) | (columns.engine >= 0),
        lambda i, op: "halt takes and gives no tokens",
        "it waits for every engine by itself",
    )
    first.check()
    return _run(columns, machine)


def _run(ops: Ops, machine: MachineConfig) -> I64:
    """Run the tokens; see `kernels.run_tokens`."""
    engine = ops.engine[:-1]
    work = [np.flatnonzero(engine == e) for e in Engine]
    first = np.cumsum([0, *(len(w) for w in work)])
    n, most = len(Engine), min(machine.token_depth, len(ops))  # a FIFO cannot hold more than there are operations
    state = kernels.TokenRun(
        sent=np.zeros(n, np.int64),
        done=np.zeros(n, np.int64),
        taken=np.zeros(n, np.int64),
        waiting=np.zeros((n, n), np.int64),
        fifo=np.zeros((n, n, most), np.int64),
        dispatched=np.zeros(1, np.int64),
    )
    known, ended = np.full((2, len(ops), n), -1, np.int64)
    setup = np.isin(ops.kind, SETUPS)
    words = kernels.Words(engine, ops.pop, ops.push, setup, np.concatenate(work), first)
    kernels.run_tokens(words, machine.queue_depth, state, known, ended)
    if any(state.done[e] < len(work[e]) for e in Engine):
        raise _deadlock(ops, work, state, machine)
    for giver in Engine:
        for taker in Engine:
            if state.waiting[giver, taker]:
                raise fault(
                    ops[int(state.fifo[giver, taker, 0])],
                    f"the token that it gives from {giver.name.lower()} to {taker.name.lower()} is never taken",
                    "drop this bit of push, or add the matching pop",
                )
    return known


def _deadlock(ops: Ops, work: list[I64], s: kernels.TokenRun, machine: MachineConfig) -> ProgramError:
    """Describe every engine that has work left; the place is the first stuck operation."""
    stuck: list[tuple[int, str]] = []
    for engine in Engine:
        if s.done[engine] < len(work[engine]):
            op = ops[int(work[engine][s.done[engine]])]
            stuck.append((op.index, f"{engine.name.lower()}: {label(op)} {_reason(ops, engine, op, s, machine)}"))
    stuck.sort()
    return ProgramError(
        "deadlock: " + "; ".join(text for _, text in stuck),
        label(ops[stuck[0][0]]),
        "tokens must follow program order and fit queue_depth and token_depth",
    )


def _reason(ops: Ops, engine: Engine, op: Op, s: kernels.TokenRun, machine: MachineConfig) -> str:
    if s.done[engine] == s.sent[engine]:
        dispatched = int(s.dispatched[0])
        full = Engine(int(ops.engine[dispatched])).name.lower()
        return f"is not dispatched: the front end waits with instruction {dispatched} for the queue of {full}"
    if not s.taken[engine]:
        givers = [Engine(g).name.lower() for g in _engines(op.pop) if not s.waiting[g, engine]]
        return f"waits for a token of {' and '.join(givers)}"
    takers = [
        Engine(t).name.lower() for t in _engines(op.push) if s.waiting[engine, t] >= min(machine.token_depth, len(ops))
    ]
    return f"waits for room for its token to {' and '.join(takers)}"


def check_races(ops: Ops, touched: Accesses, machine: MachineConfig, known: I64) -> None:
    """Check that operations of different engines whose claims conflict are ordered by tokens, in program order.

    Args:
        ops: the program, within bounds.
        touched: its footprints.
        machine: the design point.
        known: from `check_tokens`.

    Raises:
        ProgramError: naming the later of the first two operations that race.
    """
    claimed = claims(touched, machine)
    races = [pair for memory in Memory for pair in _memory_races(ops, claimed, known, memory)]
    if not races:
        return
    later, earlier, memory = min(races)
    giver, taker = ops[earlier].engine.name.lower(), ops[later].engine.name.lower()
    ours, theirs = _conflict(claimed.of(later), claimed.of(earlier), memory)
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


def _memory_races(ops: Ops, claimed: Accesses, known: I64, memory: Memory) -> Iterator[tuple[int, int, Memory]]:
    """Yield (later, earlier, memory), one per pair of engines that race in one memory."""
    mine = claimed.memory == memory
    columns = (claimed.op, claimed.first, claimed.end, claimed.write)
    rows, engine = np.stack([c[mine] for c in columns], axis=1), ops.engine[claimed.op[mine]]
    tables = [rows[engine == e] for e in Engine]
    for here, ours in enumerate(tables):
        for there, theirs in enumerate(tables):
            if here != there and len(ours) and len(theirs):
                found = _first_race(ours, theirs, known[ours[:, 0], there])
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


def check_fences(ops: Ops, touched: Accesses) -> None:
    """Check that a vec that reads what the vec before it wrote has `fence`.

    The vec before is still in the pipeline when the next one starts. An older one is not: the vec between issues its
    parameter rows and a pixel at least, and the parameter rows of this one pass before its first pixel is read, which
    is more than the pipeline. Reads come before writes in the pipeline, so no other order is open. Loads and stores end
    in order.

    Raises:
        ProgramError: naming the vec that needs the fence.
    """
    at = ops.vec["index"]
    if len(at) < 2:
        return
    written = touched.start[at[:-1] + 1] - 1  # the last access of each vec but the last one
    before = np.full(touched.count, -1, np.int64)
    before[at[1:]] = np.where(ops.vec["fence"][1:] == 0, written, -1)
    other = before[touched.op]
    t = touched
    meets = (other >= 0) & (t.write == 0) & (t.memory == t.memory[other])
    meets &= (t.first < t.end[other]) & (t.first[other] < t.end)
    if meets.any():
        entry = int(np.argmax(meets))
        a, b = entry, int(other[entry])
        raise fault(
            ops[int(t.op[a])],
            f"reads activation words {t.first[a]}..{t.end[a] - 1} while {label(ops[int(t.op[b])])}, still in the "
            f"pipeline, writes {t.first[b]}..{t.end[b] - 1}",
            "set fence=1",
        )


def check_accumulators(ops: Ops, machine: MachineConfig) -> None:
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
    op, before = ops.conv[1:], ops.conv[:-1]
    pixels = before["tile_h"] * before["tile_w"]
    end = before["acc_row"] + pixels
    overlap = (op["acc_row"] < end) & (before["acc_row"] < op["acc_row"] + op["tile_h"] * op["tile_w"])
    close = (end - op["acc_row"] < TIMING["acc_write_cycles"]) & (3 * pixels > interval)
    follows = (op["accumulate"] != 0) & (op["acc_half"] == before["acc_half"])

    def text(i: int, row: Conv) -> str:
        return (
            f"accumulates onto rows from {row.acc_row} on while instruction {before['index'][i]} (conv) is still "
            f"writing rows up to {end[i] - 1}"
        )

    first = First(ops)
    first.need(op["index"], ~(follows & overlap & close), text, "let both tiles start at the same accumulator row")
    first.check()
