"""What the matrix engine meets from outside during a program, cycle by cycle, for the driver.

The other engines are not in RTL: their tokens, ports, memory writes and accumulator reads are replayed at the times of
a `Timing` of the whole program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from npu_isa.isa.codec import encode
from npu_isa.isa.ops import Conv, Engine, Instruction, Memory, Op, Source, Vec
from npu_isa.machine.config import ACT_REGIONS, WORD_BYTES, MachineConfig
from npu_isa.machine.footprint import regions
from npu_isa.machine.timing import param_rows
from numpy.typing import NDArray

from npu_sim.fast.time import state as times
from npu_sim.fast.time.model import Timing
from npu_sim.rtl import window
from npu_sim.rtl.window import Events, Window

SLACK_CYCLES = 1000  # beyond the end that is expected


class Event(IntEnum):
    """Kinds of events, as in driver.cpp."""

    PUT = 0
    TOKEN = 1
    TAKEN = 2
    BUSY = 3
    WRITE_ACT = 4
    WRITE_WEIGHT = 5
    READ_ACC = 6


@dataclass(frozen=True)
class Written:
    """Bytes that an operation of another engine leaves in a memory.

    Attributes:
        memory: Memory.ACT or Memory.WEIGHT.
        first: address of the first word of 16 bytes.
        data: uint8, whole words.
    """

    memory: Memory
    first: int
    data: NDArray[np.uint8]


Writes = Mapping[int, Sequence[Written]]


def stimulus(
    instructions: Sequence[Instruction],
    ops: Sequence[Op],
    machine: MachineConfig,
    timing: Timing,
    writes: Writes,
    boundaries: Sequence[int],
    part: Window | None = None,
) -> bytes:
    """Return the driver's input.

    Args:
        instructions, ops: the program and its resolved operations, of one length.
        timing: times of all operations at `boundaries`.
        writes: per index of an operation, what it writes to activation and weight memory; it is there from the end of
            the operation's work on.
        part: what is simulated; all if None.
    """
    events: Events = []
    blob = bytearray()
    words = encode(instructions if part is None else window.words(instructions, part))

    def put(data: NDArray[np.uint8]) -> tuple[int, int]:
        at = len(blob)
        blob.extend(data.tobytes())
        return at, data.size

    for op, row in zip(ops, timing.table, strict=False):  # the halt has no row
        if op.engine == Engine.MATRIX:
            if part is None or op.index <= part.last:
                events.append((int(row[times.DISPATCH]), Event.PUT, put(words[op.index])[0], 0, 0))
            continue
        if op.push >> Engine.MATRIX & 1:
            events.append((int(row[times.END]), Event.TOKEN, op.engine, 0, 0))
        if op.pop >> Engine.MATRIX & 1:
            events.append((int(row[times.TOKENS]), Event.TAKEN, op.engine, 0, 0))
        for w in writes.get(op.index, ()):
            kind = Event.WRITE_ACT if w.memory == Memory.ACT else Event.WRITE_WEIGHT
            events.append((int(row[times.WORK_END]), kind, w.first * WORD_BYTES, *put(w.data)))
        if isinstance(op, Vec) and op.geom.source == Source.ACC and (part is None or op.index in part.only):
            first, step = int(row[times.START]) + param_rows(op.geom), 1 + op.geom.wide
            events += [(first + i * step, Event.READ_ACC, op.acc_half, op.src_base + i, 0) for i in range(op.pixels)]
    events += _busy(ops, machine, timing)
    events.sort(key=lambda e: e[:2])
    if part is not None:
        events = window.moved(events, timing, machine, part, Event.BUSY, {Event.WRITE_ACT, Event.WRITE_WEIGHT})
    shown = [op for op in ops if part is None or part.first <= op.index <= part.last]
    convs = [(op.acc_half, op.acc_row, op.pixels) for op in shown if isinstance(op, Conv)]
    matrix = sum(op.engine == Engine.MATRIX for op in ops[: len(timing.table) if part is None else part.last + 1])
    limit = (timing.total_cycles if part is None else part.end) + SLACK_CYCLES
    zero = min(events[0][0], 0) if part is None or not part.held else events[0][0]
    header = (
        *(len(events), len(blob), len(boundaries), len(convs), matrix, limit),
        *(zero, 0 if part is None else part.begin),
        *(machine.act_words, machine.weight_memory_bytes),
    )
    parts = (header, boundaries, convs, events)
    return b"".join(np.array(p, "<i8").tobytes() for p in parts) + bytes(blob)


def _busy(ops: Sequence[Op], machine: MachineConfig, timing: Timing) -> Events:
    """Return when the read ports held by others change.

    The matrix engine comes first in a cycle: a port is held against it from the cycle after the other's start on.
    """
    change: dict[int, list[int]] = {}
    for op, row in zip(ops, timing.table, strict=False):
        if op.engine == Engine.MATRIX:
            continue
        reads = regions(op, machine)[0]
        for at, step in ((int(row[times.START]) + 1, 1), (int(row[times.WORK_END]), -1)):
            steps = change.setdefault(at, [0] * ACT_REGIONS)
            for r in range(ACT_REGIONS):
                steps[r] += step * (reads >> r & 1)
    held, found = [0] * ACT_REGIONS, []
    for at in sorted(change):
        held = [h + s for h, s in zip(held, change[at], strict=True)]
        found.append((at, int(Event.BUSY), sum(1 << r for r in range(ACT_REGIONS) if held[r]), 0, 0))
    return found
