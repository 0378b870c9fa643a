"""The event loop of the timing simulator: isa_spec/MICROARCHITECTURE.md section 4, in Numba.

One call simulates one run. The loop jumps from one time at which something can happen to the next; within a time it
follows the page's order: ends, then engines (matrix, vector, store, load), then the bus.
"""

from collections.abc import Callable
from typing import Any

from npu_sim.fast.time import bus, ports, queues
from npu_sim.fast.time.state import (
    CONV,
    CYCLES,
    DISPATCH,
    ENGINES,
    ISSUE_END,
    KIND,
    LAST,
    LATE,
    LOAD,
    MATRIX,
    NEVER,
    POP,
    READY,
    SETUP,
    START,
    STORE,
    TOKENS,
    VEC,
    VECTOR,
    WAIT_ACCEPT,
    WAIT_PORTS,
    WAIT_READY,
    WAIT_TOKENS,
    WAIT_WEIGHTS,
    WEIGHTS_TOKENS,
    WORK_END,
    Run,
)
from npu_sim.kernel import cached, inlined
from npu_sim.sources import depend_on, digest


@inlined
def decide(now: int, e: int, s: Any, m: Run) -> None:
    """Accept, take tokens and ports, start: whatever is due now."""
    q = s["queue"][e]
    if q["accepted"] == q["started"] and not queues.accept(now, e, s, m):
        return
    op = m.order[m.first_of[e] + q["started"]]
    if q["stage"] == WAIT_WEIGHTS and queues.take(e, m.ops[op, POP] & ~(1 << VECTOR), s):
        await_weights(now, op, s, m)
    if q["stage"] == WAIT_READY and now >= s["stream"]["ready_at"]:
        q["stage"] = WAIT_TOKENS
    if q["stage"] == WAIT_TOKENS:
        conv = m.ops[op, KIND] == CONV
        if queues.take(e, m.ops[op, POP] & 1 << VECTOR if conv else m.ops[op, POP], s):
            m.times[op, TOKENS] = now
            if not conv:
                m.times[op, LATE] = queues.lowest(q["missing"])
            q["stage"] = WAIT_PORTS
    if q["stage"] == WAIT_PORTS and not ports.taken(now, e, op, s, m):
        m.times[op, START] = now
        q["started"] += 1
        q["stage"] = WAIT_ACCEPT
        begin(now, e, op, s, m)


@inlined
def await_weights(now: int, op: int, s: Any, m: Run) -> None:
    """Load the weights of a conv's first pass, as soon as the shadow weights may be overwritten."""
    q, stream, sizes = s["queue"][MATRIX], s["stream"], s["sizes"]
    m.times[op, WEIGHTS_TOKENS] = now
    m.times[op, LATE] = queues.lowest(q["missing"])
    q["missing"] = 0
    weights_at = max(now, stream["last_at"] + sizes["shadow_free"])
    m.times[op, READY] = weights_at + sizes["weight_load"]
    stream["ready_at"] = max(weights_at + sizes["weight_load"], stream["end_at"])
    q["stage"] = WAIT_READY


@inlined
def begin(now: int, e: int, op: int, s: Any, m: Run) -> None:
    """Work out how long an operation that starts now works, as far as it is known, and hold its ports."""
    q, sizes, kind = s["queue"][e], s["sizes"], m.ops[op, KIND]
    if kind == SETUP:
        q["free_at"] = now + sizes["setup_cycles"]
        m.times[op, ISSUE_END] = m.times[op, WORK_END] = q["free_at"]
    elif kind == CONV:
        stream = s["stream"]
        stream["last_at"] = now + m.ops[op, CYCLES]
        stream["end_at"] = stream["last_at"] + m.ops[op, LAST]
        q["free_at"] = stream["last_at"] + 1
        m.times[op, ISSUE_END] = stream["end_at"]
        m.times[op, WORK_END] = stream["end_at"] + sizes["array_latency"]
        ports.hold(op, stream["end_at"], s, m)
    elif kind == VEC:
        q["free_at"] = now + m.ops[op, CYCLES]
        m.times[op, ISSUE_END] = q["free_at"]
        m.times[op, WORK_END] = q["free_at"] + sizes["vector_latency"]
        ports.hold(op, m.times[op, WORK_END], s, m)
    else:
        bus.begin(now, e, op, s, m)


@inlined
def next_of_engine(now: int, e: int, soon: int, s: Any, m: Run) -> Any:
    """Return the next cycle in which an engine may end, accept or start something, `soon` if none before."""
    q = s["queue"][e]
    if q["ended"] < q["started"]:
        at = m.times[m.order[m.first_of[e] + q["ended"]], WORK_END]
        if at > now:
            soon = min(soon, at)
    if q["accepted"] == q["started"]:
        if q["accepted"] < q["dispatched"]:
            op = m.order[m.first_of[e] + q["accepted"]]
            at = max(m.times[op, DISPATCH] + s["sizes"]["dispatch_cycles"], q["free_at"])
            if at > now:
                soon = min(soon, at)
    elif q["stage"] == WAIT_READY and s["stream"]["ready_at"] > now:
        soon = min(soon, s["stream"]["ready_at"])
    return soon


def compiled(sources: str) -> Callable[[Run], int]:
    """Return the compiled loop; sources: digest of the package (npu_sim.sources)."""

    @cached
    def simulate(m: Run) -> int:
        """Fill in the times of every operation and return the total, or -1 if the program deadlocks."""
        depend_on(sources)
        s = m.state[0]
        now = 0
        bus.ask_ahead(s, m)
        while True:
            stuck = False
            for e in range(ENGINES):
                stuck |= queues.retire(now, e, s, m)
            for turn in range(ENGINES):
                decide(now, MATRIX if turn == 0 else (VECTOR if turn == 1 else (STORE if turn == 2 else LOAD)), s, m)
            bus.grant(now, s, m)
            queues.dispatch(s, m)
            bus.ask_ahead(s, m)
            # the next cycle in which something can change
            soon = now + 1 if queues.make_room(s) and stuck else NEVER
            for e in range(ENGINES):
                soon = next_of_engine(now, e, soon, s, m)
            soon = bus.next_grant(now, ports.next_release(now, soon, s), s)
            if soon == NEVER:
                done = s["front"]["done"] == m.ops.shape[0] and s["front"]["fetched"] == m.blocks.shape[0]
                return max(now, m.there[-1]) if done else -1  # the halt needs its word
            now = soon

    return simulate  # type: ignore[no-any-return]


simulate = compiled(digest("npu_sim.fast.time"))
