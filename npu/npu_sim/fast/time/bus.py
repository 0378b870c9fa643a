"""The DRAM bus and its three clients: load, store, fetch. Kernels; arguments as in `npu_sim.fast.time.queues`."""

from typing import Any

from npu_sim.fast.time import ports
from npu_sim.fast.time.state import (
    BURSTS,
    CLIENTS,
    CYCLES,
    DISPATCH,
    DRAM_WAIT,
    FETCHING,
    ISSUE_END,
    LOAD,
    LOADING,
    NEVER,
    STORE,
    STORING,
    TAILS,
    WORK_END,
    Run,
)
from npu_sim.kernel import inlined


@inlined
def begin(now: int, e: int, op: int, s: Any, m: Run) -> None:
    """Start a transfer: from now on its engine asks for blocks, if it has any."""
    c = s["client"][LOADING if e == LOAD else STORING]
    c["op"], c["bursts"], c["asked_at"] = op, m.ops[op, BURSTS], now
    c["tail"], c["least_end"] = m.ops[op, TAILS], now + m.ops[op, CYCLES]
    m.times[op, DRAM_WAIT] = 0
    s["queue"][e]["free_at"] = NEVER
    if c["bursts"] == 0:
        end(e, op, c["least_end"], s, m)
    ports.hold(op, NEVER if c["bursts"] else m.times[op, WORK_END], s, m)


@inlined
def end(e: int, op: int, at: int, s: Any, m: Run) -> None:
    """Set when the issue of a transfer ends: the engine is free, and the rest of its time known."""
    s["queue"][e]["free_at"] = at
    m.times[op, ISSUE_END] = at
    m.times[op, WORK_END] = at + s["sizes"]["dram_latency"]


@inlined
def ask_ahead(s: Any, m: Run) -> None:
    """Ask for the next block of the program as soon as it is known when the buffer has room for it."""
    c, front, sizes = s["client"][FETCHING], s["front"], s["sizes"]
    if c["bursts"] > 0 or front["fetched"] == m.blocks.shape[0]:
        return
    leaves = (front["fetched"] + 1) * sizes["fetch_words"] - sizes["buffer_words"]  # words that must have left
    if leaves > front["dispatched"]:
        return
    if leaves > 0:
        c["asked_at"] = max(c["asked_at"], m.times[leaves - 1, DISPATCH] + 1)
    c["bursts"] = m.blocks[front["fetched"]]


@inlined
def grant(now: int, s: Any, m: Run) -> None:
    """Give a free bus to who asks: of several to the next one behind the one served last."""
    bus = s["bus"]
    if bus["free_at"] > now:
        return
    for turn in range(1, CLIENTS + 1):
        client = (bus["served"] + turn) % CLIENTS
        c = s["client"][client]
        if c["bursts"] > 0 and c["asked_at"] <= now:
            bus["served"] = client
            block = min(c["bursts"], s["sizes"]["block_bursts"])
            c["bursts"] -= block
            bus["free_at"] = now + block * s["sizes"]["burst_cycles"]
            if client == FETCHING:
                m.there[s["front"]["fetched"]] = bus["free_at"] + s["sizes"]["dram_latency"]
                s["front"]["fetched"] += 1
            else:
                move(now, LOAD if client == LOADING else STORE, c, s, m)
            c["asked_at"] = bus["free_at"]
            return


@inlined
def move(now: int, e: int, c: Any, s: Any, m: Run) -> None:
    """Note what a block that the bus moves from now on means for its transfer."""
    op = c["op"]
    m.times[op, DRAM_WAIT] += now - c["asked_at"]
    if c["tail"] >= 0:
        c["least_end"] = max(c["least_end"], now + m.tails[c["tail"]])
        c["tail"] += 1
    if c["bursts"] == 0:
        end(e, op, max(s["bus"]["free_at"], c["least_end"]), s, m)
        ports.release(op, m.times[op, WORK_END], s)


@inlined
def next_grant(now: int, soon: int, s: Any) -> Any:
    """Return the next cycle in which the bus may serve a client, `soon` if none before."""
    for client in range(CLIENTS):
        c = s["client"][client]
        if c["bursts"] > 0:
            soon = min(soon, max(s["bus"]["free_at"], c["asked_at"], now + 1))
    return soon
