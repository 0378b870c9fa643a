"""Ports of the activation regions: kernels of the event loop; arguments as in `npu_sim.fast.time.queues`."""

from typing import Any

from npu_isa.machine.config import ACT_REGIONS

from npu_sim.fast.time.state import ENGINE, READS, Run
from npu_sim.kernel import inlined


@inlined
def taken(now: int, e: int, op: int, s: Any, m: Run) -> bool:
    """Return whether another engine holds a port that an operation wants; it takes all at once, or none."""
    for side in range(2):
        for r in range(ACT_REGIONS):
            wanted = m.ops[op, READS + side] >> r & 1
            if wanted and s["release"][side, r] > now and m.ops[s["holder"][side, r], ENGINE] != e:
                return True
    return False


@inlined
def hold(op: int, until: int, s: Any, m: Run) -> None:
    """Give an operation its ports until a cycle."""
    for side in range(2):
        for r in range(ACT_REGIONS):
            if m.ops[op, READS + side] >> r & 1:
                s["holder"][side, r] = op
                s["release"][side, r] = until


@inlined
def release(op: int, at: int, s: Any) -> None:
    """Set when the ports that an operation still holds become free."""
    for side in range(2):
        for r in range(ACT_REGIONS):
            if s["holder"][side, r] == op:
                s["release"][side, r] = at


@inlined
def next_release(now: int, soon: int, s: Any) -> Any:
    """Return the next cycle in which a port becomes free, `soon` if none does before."""
    for side in range(2):
        for r in range(ACT_REGIONS):
            if s["release"][side, r] > now:
                soon = min(soon, s["release"][side, r])
    return soon
