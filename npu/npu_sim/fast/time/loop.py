"""The event loop of the timing simulator: isa_spec/MICROARCHITECTURE.md section 4, in Numba.

One call simulates one run. The loop jumps from one time at which something can happen to the next; within a time it
follows the page's order: ends, then engines (matrix, vector, store, load), then the bus.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

NEVER = np.int64(1) << 62
ENGINES = 4
LOAD, MATRIX, VECTOR, STORE = 0, 1, 2, 3  # as in isa.toml
SETUP, CONV, VEC, TRANSFER = 0, 1, 2, 3  # kinds of operations
REGIONS = 4
# columns of the table of times, one row an operation
DISPATCH, ACCEPT, WEIGHTS_TOKENS, TOKENS, READY, START, ISSUE_END, WORK_END, END, LATE, DRAM_WAIT = range(11)
TIMES = 11
# columns of the table of operations
ENGINE, KIND, POP, PUSH, READS, WRITES, CYCLES, LAST, BURSTS, FENCE, TAILS = range(11)
COLUMNS = 11
# stages of the operation at the head of an engine
WAIT_ACCEPT, WAIT_WEIGHTS, WAIT_READY, WAIT_TOKENS, WAIT_PORTS = range(5)


@njit(cache=True)
def simulate(
    ops: Array,
    order: Array,
    first_of: Array,
    tails: Array,
    times: Array,
    queue_depth: int,
    token_depth: int,
    weight_load: int,
    shadow_free: int,
    array_latency: int,
    vector_latency: int,
    dram_latency: int,
    dispatch_cycles: int,
    setup_cycles: int,
    burst_cycles: int,
    block_bursts: int,
) -> int:
    """Fill `times` for every operation and return the total, or -1 if the program deadlocks.

    Args:
        ops: int64 (operations, COLUMNS): engine, kind, pop and push masks, region masks of the read and write ports,
            CYCLES (conv: first pixel of the first pass to first pixel of the last; vec: issue cycles; transfer: least
            cycles), LAST (conv: cycles of the last pass), BURSTS, FENCE, TAILS (fold: where its blocks stand in
            `tails`; -1: nowhere).
        order: operations of each engine, one engine after the other.
        first_of: int64 (5,): where each engine's operations start in `order`.
        tails: int64 (blocks of folds,): see npu_isa.machine.timing.Transfer.
        times: int64 (operations, TIMES), filled with NEVER for what has not happened; LATE is the engine whose token
            came last (-1: no wait), DRAM_WAIT the cycles in which the bus served the other engine.
    """
    count = ops.shape[0]
    accepted = np.zeros(ENGINES, np.int64)  # operations taken from the queue
    started = np.zeros(ENGINES, np.int64)
    ended = np.zeros(ENGINES, np.int64)
    stage = np.zeros(ENGINES, np.int64)
    free_at = np.zeros(ENGINES, np.int64)  # when the engine may accept the next operation
    missing = np.zeros(ENGINES, np.int64)  # token mask missing at the last look
    tokens = np.zeros((ENGINES, ENGINES), np.int64)
    room = np.full((ENGINES, ENGINES), token_depth, np.int64)
    freed = np.zeros((ENGINES, ENGINES), np.int64)  # places that can be used from the next cycle on
    holder = np.full((2, REGIONS), -1, np.int64)  # last operation on each read and write port
    release = np.zeros((2, REGIONS), np.int64)
    s_last, stream_end, weights_at, ready_at = np.int64(-shadow_free), np.int64(0), np.int64(0), np.int64(0)
    bus_free, served = np.int64(0), STORE
    bursts_left = np.zeros(ENGINES, np.int64)
    asked_at = np.zeros(ENGINES, np.int64)
    tail_at = np.zeros(ENGINES, np.int64)  # place in `tails` of the next block, -1 if it has none
    least_end = np.zeros(ENGINES, np.int64)  # issue end that the start and the blocks so far allow
    in_queue = np.zeros(ENGINES, np.int64)  # operations of each engine dispatched so far
    dispatched, last_dispatch = 0, np.int64(-1)
    done = 0
    now = np.int64(0)
    while True:
        # -- ends: work finished, room for the tokens
        stuck = False
        for e in range(ENGINES):
            while ended[e] < started[e]:
                op = order[first_of[e] + ended[e]]
                if times[op, WORK_END] > now:
                    break
                push = ops[op, PUSH]
                full = False
                for f in range(ENGINES):
                    if push >> f & 1 and room[e, f] == 0:
                        full = True
                if full:
                    stuck = True
                    break
                for f in range(ENGINES):
                    if push >> f & 1:
                        room[e, f] -= 1
                        tokens[e, f] += 1
                times[op, END] = now
                ended[e] += 1
                done += 1
        if done == count:
            return int(now)
        # -- engines
        for turn in range(ENGINES):
            e = MATRIX if turn == 0 else (VECTOR if turn == 1 else (STORE if turn == 2 else LOAD))
            if accepted[e] == started[e]:  # nothing accepted that has not started: look at the queue
                if accepted[e] >= in_queue[e]:
                    continue
                op = order[first_of[e] + accepted[e]]
                if times[op, DISPATCH] + dispatch_cycles > now or free_at[e] > now:
                    continue
                if ended[e] < started[e]:
                    before = order[first_of[e] + ended[e]]
                    if times[before, WORK_END] <= now:  # waits for room: the engine stands still
                        continue
                    if ops[op, FENCE]:
                        continue
                times[op, ACCEPT] = now
                accepted[e] += 1
                stage[e] = WAIT_WEIGHTS if ops[op, KIND] == CONV else WAIT_TOKENS
                missing[e] = 0
            op = order[first_of[e] + started[e]]
            kind = ops[op, KIND]
            if stage[e] == WAIT_WEIGHTS:
                mask = ops[op, POP] & ~(1 << VECTOR)
                if not _take(tokens, freed, missing, e, mask):
                    continue
                times[op, WEIGHTS_TOKENS] = now
                times[op, LATE] = _lowest(missing[e])
                missing[e] = 0
                weights_at = max(now, s_last + shadow_free)
                ready_at = max(weights_at + weight_load, stream_end)
                times[op, READY] = weights_at + weight_load
                stage[e] = WAIT_READY
            if stage[e] == WAIT_READY:
                if now < ready_at:
                    continue
                stage[e] = WAIT_TOKENS
            if stage[e] == WAIT_TOKENS:
                mask = ops[op, POP]
                if kind == CONV:
                    mask &= 1 << VECTOR
                if not _take(tokens, freed, missing, e, mask):
                    continue
                times[op, TOKENS] = now
                if kind != CONV:
                    times[op, LATE] = _lowest(missing[e])
                stage[e] = WAIT_PORTS
            # ports of all regions at once; an engine does not wait for its own
            busy = False
            for side in range(2):
                for r in range(REGIONS):
                    wanted = ops[op, READS + side] >> r & 1
                    if wanted and release[side, r] > now and ops[holder[side, r], ENGINE] != e:
                        busy = True
            if busy:
                continue
            times[op, START] = now
            started[e] += 1
            stage[e] = WAIT_ACCEPT
            held_to = NEVER
            if kind == SETUP:
                times[op, ISSUE_END] = now + setup_cycles
                times[op, WORK_END] = now + setup_cycles
                free_at[e] = now + setup_cycles
                continue
            if kind == CONV:
                s_last = now + ops[op, CYCLES]
                stream_end = s_last + ops[op, LAST]
                free_at[e] = s_last + 1
                times[op, ISSUE_END] = stream_end
                times[op, WORK_END] = stream_end + array_latency
                held_to = stream_end
            elif kind == VEC:
                free_at[e] = now + ops[op, CYCLES]
                times[op, ISSUE_END] = free_at[e]
                times[op, WORK_END] = free_at[e] + vector_latency
                held_to = times[op, WORK_END]
            else:
                bursts_left[e] = ops[op, BURSTS]
                asked_at[e] = now
                tail_at[e] = ops[op, TAILS]
                least_end[e] = now + ops[op, CYCLES]
                times[op, DRAM_WAIT] = 0
                free_at[e] = NEVER
                if bursts_left[e] == 0:
                    free_at[e] = least_end[e]
                    times[op, ISSUE_END] = free_at[e]
                    times[op, WORK_END] = free_at[e] + dram_latency
                    held_to = times[op, WORK_END]
            for side in range(2):
                for r in range(REGIONS):
                    if ops[op, READS + side] >> r & 1:
                        holder[side, r] = op
                        release[side, r] = held_to
        # -- dispatch: known as soon as the place in the queue is known to become free
        while dispatched < count:
            e = ops[dispatched, ENGINE]
            at = last_dispatch + 1
            if in_queue[e] >= queue_depth:
                if in_queue[e] - queue_depth >= accepted[e]:
                    break
                at = max(at, times[order[first_of[e] + in_queue[e] - queue_depth], ACCEPT] + 1)
            times[dispatched, DISPATCH] = at
            last_dispatch = at
            in_queue[e] += 1
            dispatched += 1
        # -- the bus: one block, the engine not served last first
        if bus_free <= now:
            e = LOAD if served == STORE else STORE
            if bursts_left[e] == 0:
                e = served
            if bursts_left[e] > 0:
                served = e
                op = order[first_of[e] + started[e] - 1]
                block = min(bursts_left[e], block_bursts)
                bursts_left[e] -= block
                bus_free = now + block * burst_cycles
                times[op, DRAM_WAIT] += now - asked_at[e]
                asked_at[e] = bus_free
                if tail_at[e] >= 0:
                    least_end[e] = max(least_end[e], now + tails[tail_at[e]])
                    tail_at[e] += 1
                if bursts_left[e] == 0:
                    free_at[e] = max(bus_free, least_end[e])
                    times[op, ISSUE_END] = free_at[e]
                    times[op, WORK_END] = free_at[e] + dram_latency
                    for side in range(2):
                        for r in range(REGIONS):
                            if holder[side, r] == op:
                                release[side, r] = times[op, WORK_END]
        # -- the next time at which something can change
        soon = NEVER
        freed_some = False
        for e in range(ENGINES):
            if ended[e] < started[e]:
                at = times[order[first_of[e] + ended[e]], WORK_END]
                if at > now:
                    soon = min(soon, at)
            if accepted[e] == started[e]:
                if accepted[e] < in_queue[e]:
                    at = max(times[order[first_of[e] + accepted[e]], DISPATCH] + dispatch_cycles, free_at[e])
                    if at > now:
                        soon = min(soon, at)
            elif stage[e] == WAIT_READY and ready_at > now:
                soon = min(soon, ready_at)
            for f in range(ENGINES):
                if freed[e, f] > 0:
                    freed_some = True
                    room[e, f] += freed[e, f]
                    freed[e, f] = 0
        if stuck and freed_some:
            soon = min(soon, now + 1)
        for side in range(2):
            for r in range(REGIONS):
                if release[side, r] > now:
                    soon = min(soon, release[side, r])
        if bursts_left[LOAD] > 0 or bursts_left[STORE] > 0:
            soon = min(soon, max(bus_free, now + 1))
        if soon == NEVER:
            return -1
        now = soon


@njit(cache=True)
def _take(tokens: Array, freed: Array, missing: Array, e: int, mask: int) -> bool:
    """Take a token from every engine of the mask if all are there; else note which are missing."""
    absent = 0
    for f in range(tokens.shape[0]):
        if mask >> f & 1 and tokens[f, e] == 0:
            absent |= 1 << f
    if absent:
        missing[e] = absent
        return False
    for f in range(tokens.shape[0]):
        if mask >> f & 1:
            tokens[f, e] -= 1
            freed[f, e] += 1
    return True


@njit(cache=True)
def _lowest(mask: int) -> int:
    """Return the number of the lowest bit set, -1 for none."""
    for e in range(8):
        if mask >> e & 1:
            return e
    return -1
