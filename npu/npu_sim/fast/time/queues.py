"""Front end, queues, tokens and the in-order end of every engine: kernels of the event loop.

`s` is the record STATE, `m` what a run works on (`npu_sim.fast.time.state`), `e` an engine, `now` the present cycle.
"""

from typing import Any

from npu_sim.fast.time.state import (
    ACCEPT,
    CONV,
    DISPATCH,
    END,
    ENGINE,
    ENGINES,
    FENCE,
    KIND,
    PUSH,
    WAIT_TOKENS,
    WAIT_WEIGHTS,
    WORK_END,
    Run,
)
from npu_sim.kernel import inlined


@inlined
def retire(now: int, e: int, s: Any, m: Run) -> bool:
    """End what has ended its work, in order, and give its tokens. Return whether one waits for room for them."""
    q = s["queue"][e]
    while q["ended"] < q["started"]:
        op = m.order[m.first_of[e] + q["ended"]]
        if m.times[op, WORK_END] > now:
            return False
        push = m.ops[op, PUSH]
        for f in range(ENGINES):
            if push >> f & 1 and s["room"][e, f] == 0:
                return True
        for f in range(ENGINES):
            if push >> f & 1:
                s["room"][e, f] -= 1
                s["tokens"][e, f] += 1
        m.times[op, END] = now
        q["ended"] += 1
        s["front"]["done"] += 1
    return False


@inlined
def accept(now: int, e: int, s: Any, m: Run) -> bool:
    """Take the next operation out of the queue if the engine can. Return whether it did."""
    q = s["queue"][e]
    if q["accepted"] >= q["dispatched"]:
        return False
    op = m.order[m.first_of[e] + q["accepted"]]
    if m.times[op, DISPATCH] + s["sizes"]["dispatch_cycles"] > now or q["free_at"] > now:
        return False
    if q["ended"] < q["started"]:
        before = m.order[m.first_of[e] + q["ended"]]
        if m.times[before, WORK_END] <= now:  # waits for room: the engine stands still
            return False
        if m.ops[op, FENCE]:
            return False
    m.times[op, ACCEPT] = now
    q["accepted"] += 1
    q["stage"] = WAIT_WEIGHTS if m.ops[op, KIND] == CONV else WAIT_TOKENS
    q["missing"] = 0
    return True


@inlined
def take(e: int, mask: int, s: Any) -> bool:
    """Take a token from every engine of the mask if all are there; else note which are missing."""
    absent = 0
    for f in range(ENGINES):
        if mask >> f & 1 and s["tokens"][f, e] == 0:
            absent |= 1 << f
    if absent:
        s["queue"][e]["missing"] = absent
        return False
    for f in range(ENGINES):
        if mask >> f & 1:
            s["tokens"][f, e] -= 1
            s["freed"][f, e] += 1
    return True


@inlined
def lowest(mask: int) -> Any:
    """Return the number of the lowest bit set, -1 for none."""
    for e in range(ENGINES):
        if mask >> e & 1:
            return e
    return -1


@inlined
def make_room(s: Any) -> bool:
    """Let places that tokens have left be used from the next cycle on. Return whether there are any."""
    some = False
    for e in range(ENGINES):
        for f in range(ENGINES):
            if s["freed"][e, f] > 0:
                some = True
                s["room"][e, f] += s["freed"][e, f]
                s["freed"][e, f] = 0
    return some


@inlined
def dispatch(s: Any, m: Run) -> None:
    """Dispatch ahead: as far as it is known when words come and when places in the queues become free."""
    front, sizes = s["front"], s["sizes"]
    while front["dispatched"] < m.ops.shape[0]:
        op = front["dispatched"]
        block = op // sizes["fetch_words"]
        if block >= front["fetched"]:
            return
        at = max(front["last_at"] + 1, m.there[block])
        e = m.ops[op, ENGINE]
        q = s["queue"][e]
        place = q["dispatched"] - sizes["queue_depth"]
        if place >= 0:
            if place >= q["accepted"]:
                return
            at = max(at, m.times[m.order[m.first_of[e] + place], ACCEPT] + 1)
        m.times[op, DISPATCH] = at
        front["last_at"] = at
        q["dispatched"] += 1
        front["dispatched"] += 1
