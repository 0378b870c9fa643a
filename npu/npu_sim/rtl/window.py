"""A part of a program on the RTL: one layer, without the cycles of those before it.

The part begins with the conv before the first instruction asked for, since one conv decides when the next may start.
That conv is held back by its ports until the cycle in which it starts in the whole program; from there on every time
is that of the whole program. The instructions before it take and give the same tokens and set the same state, but
their convs compute nothing: they stand as a repeated geom, some cycles apart, before the part.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from npu_isa.isa.ops import Conv, Engine, Instruction, Op
from npu_isa.machine.config import ACT_REGIONS, MachineConfig
from npu_isa.machine.timing import weight_load_cycles

from npu_sim.fast.time import state as times
from npu_sim.fast.time.model import Timing

Events = list[tuple[int, int, int, int, int]]
LEAD_CYCLES = 100  # more than from a word in the queue to its weights
ALL_PORTS = (1 << ACT_REGIONS) - 1


@dataclass(frozen=True)
class Window:
    """Instructions `first` to `last`, both matrix instructions.

    Attributes:
        only: the instructions asked for.
        first: the conv that is held back, or 0 where no conv comes before those asked for.
        held: whether `first` is held back.
        begin: cycle from which on times are those of the whole program.
        end: cycle after which nothing more is compared.
    """

    only: frozenset[int]
    first: int
    last: int
    held: bool
    begin: int
    end: int


def window(ops: Sequence[Op], machine: MachineConfig, timing: Timing, only: Collection[int]) -> Window | None:
    """Return the part that shows some instructions, None if none of them is the matrix engine's."""
    chosen = [op.index for op in ops[: len(timing.table)] if op.engine == Engine.MATRIX and op.index in only]
    if not chosen:
        return None
    before = [op.index for op in ops[: chosen[0]] if isinstance(op, Conv)]
    first, last = before[-1] if before else 0, chosen[-1]
    begin = max(int(timing.start[first]) - weight_load_cycles(machine) - LEAD_CYCLES, 0) if before else 0
    end = max(int(timing.end[i]) for i in only if i < len(timing.table))  # the halt has no end
    return Window(frozenset(only), first, last, bool(before), begin, end)


def words(instructions: Sequence[Instruction], part: Window) -> tuple[Instruction, ...]:
    """Return the program with the convs before a part replaced by what only takes and gives their tokens."""
    found, geom = [], None
    for i, ins in enumerate(instructions):
        geom = ins if ins.name == "geom" else geom
        if ins.name == "conv" and i < part.first:
            assert geom is not None, "a conv has a geom"
            ins = replace(geom, pop=ins.pop, push=ins.push)
        found.append(ins)
    return tuple(found)


def moved(events: Events, timing: Timing, machine: MachineConfig, part: Window, busy: int, writes: set[int]) -> Events:
    """Return the events of a part: those before it one after the other, each when the engine is done with the last.

    Args:
        events: (cycle, kind, ...), in order of cycles.
        busy: kind of an event that says which ports others hold.
        writes: kinds of events that write a memory.
    """
    if not part.held:
        return [e for e in events if e[0] <= part.end]
    start = int(timing.table[part.first, times.START])
    ports = [e for e in events if e[1] == busy]
    state = next((e[2] for e in reversed(ports) if e[0] <= start), 0)
    rest = [e for e in events if e[1] != busy]
    step = 4 * (machine.queue_depth + 2)  # in so many cycles a full queue of setups is done
    early = sorted({e[0] for e in rest if e[0] < part.begin and e[1] not in writes})
    at = {cycle: part.begin - step * (len(early) - i) for i, cycle in enumerate(early)}
    zero = min(at.values(), default=part.begin)
    found = [(zero, busy, ALL_PORTS, 0, 0), (start, busy, state, 0, 0)]
    found += [(zero if e[1] in writes else at[e[0]], *e[1:]) if e[0] < part.begin else e for e in rest]
    found += [e for e in ports if e[0] > start]
    return sorted((e for e in found if e[0] <= part.end), key=lambda e: e[0])
