"""Runs the matrix instructions of a program on the RTL of the matrix engine."""

import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from pathlib import Path

import numpy as np
from npu_isa.check.program import check_extraction
from npu_isa.isa.ops import Conv, Engine, Op, Source, Vec
from npu_isa.isa.program import Instruction
from npu_isa.isa.resolve import resolve
from npu_isa.machine.config import MachineConfig
from numpy.typing import NDArray

from npu_sim.fast.time.model import Timing
from npu_sim.rtl.build import CACHE, RtlError, build
from npu_sim.rtl.stimulus import Writes, stimulus
from npu_sim.rtl.window import Window, window

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

NEVER = -1


class Log(IntEnum):
    """Kinds of the driver's records, as in driver.cpp."""

    ACCEPT = 0
    WEIGHTS_TOKENS = 1
    LOAD = 2
    TOKENS = 3
    START = 4
    PASS = 5
    STREAM_END = 6
    DONE = 7
    END = 8
    FAULT = 9


FAULTS = (
    "a word came to a full queue",
    "two words of one bank in one cycle",
    "a read from a region whose port is not held",
    "a port is held that another engine holds",
    "an address outside the memory",
    "nothing goes on",
)


@dataclass(frozen=True, eq=False)
class RtlRun:
    """What the RTL did. Times in cycles from START, NEVER for what has not happened.

    Attributes:
        index: instruction of each matrix operation of the run, int64 (operations,); so are the times:
        accept, start, end: as in `Timing`; tokens: when the last tokens were taken.
        conv: instruction of each conv, int64 (convs,); so are the times:
        weights_tokens: when the tokens of load and store were taken; work_end: when the last sum is written.
        passes: of each conv, int64 (passes, 5): first cycle of the weight load, first pixel, end of the stream, 1 for
            4-bit form, bank factor.
        sums: of each conv, int32 (pixels, columns): its accumulators at its end.
        reads: what the vector engine read for each vec from the accumulators: instruction and int32 (pixels, columns).
        cycles: simulated cycles.
        seconds: host time that they took.
        fault: what stopped the run, None if nothing did.
    """

    index: I64
    accept: I64
    tokens: I64
    start: I64
    end: I64
    conv: I64
    weights_tokens: I64
    work_end: I64
    passes: tuple[I64, ...]
    sums: tuple[I32, ...]
    reads: tuple[tuple[int, I32], ...]
    cycles: int
    seconds: float
    fault: str | None


def run(
    instructions: Sequence[Instruction],
    machine: MachineConfig,
    timing: Timing,
    writes: Writes,
    boundaries: Sequence[int],
    *,
    simulator: Path | None = None,
    vcd: Path | None = None,
    folder: Path = CACHE,
    only: Collection[int] | None = None,
) -> RtlRun:
    """Execute the matrix instructions of a checked program on the RTL.

    Args:
        instructions: the whole program.
        machine: the design point.
        timing: times of the whole program at `boundaries`: when the other engines act.
        writes: what each operation of another engine writes, per instruction; see `stimulus`.
        boundaries: groups in 4 bits per boundary register.
        simulator: a compiled simulator of `machine`; if None it is taken from `folder`, or built.
        vcd: file for the waveform of the run, from cycle 0 or from the first one of `only` on.
        folder: where compiled simulators are kept.
        only: instructions that matter: what comes before and after them is not simulated where that is possible, and
            the run says nothing of it. One of the matrix engine must be among them.

    Raises:
        RtlError: the tools are missing, or the driver fails.
        UnsupportedError: the RTL cannot have the machine's sizes.
        ProgramError: the program asks for an extraction that the machine does not have.
    """
    ops = resolve(instructions)
    check_extraction(ops, machine)
    if simulator is None:
        simulator = build(machine, waves=vcd is not None, folder=folder)
    part = None if only is None else window(ops, machine, timing, only)
    given = stimulus(instructions, ops, machine, timing, writes, boundaries, part)
    command = [str(simulator), *([] if vcd is None else [str(vcd)])]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode:
        raise RtlError(f"the simulator ended with {done.returncode}: {done.stderr.decode()[-500:]}", str(simulator))
    if vcd is not None and not vcd.exists():
        raise RtlError("cannot write the waveform", str(vcd), "give a file in a folder that exists")
    found = _read(done.stdout, ops[: len(timing.table)], machine.array_cols, part)
    if part is not None and part.held and found.start[0] != timing.start[part.first]:
        # an end before the part waited for room, while the conv that is held back was already on its way
        return run(instructions, machine, timing, writes, boundaries, simulator=simulator, vcd=vcd)
    return found


def _read(data: bytes, ops: Sequence[Op], columns: int, part: Window | None) -> RtlRun:
    """Return what the driver reports."""
    count, cycles, nanoseconds = (int(x) for x in np.frombuffer(data, "<i8", 3))
    log = np.frombuffer(data, "<i8", 3 * count, 24).reshape(count, 3)
    rows = np.frombuffer(data, "<i4", offset=24 * (1 + count)).reshape(-1, columns)
    matrix = [op for op in ops if op.engine == Engine.MATRIX and (part is None or op.index <= part.last)]
    vecs = [op for op in ops if isinstance(op, Vec) and op.geom.source == Source.ACC]
    before = 0
    if part is not None:
        before = sum(op.index < part.first for op in matrix)
        matrix, vecs = matrix[before:], [op for op in vecs if op.index in part.only]
    convs = [op for op in matrix if isinstance(op, Conv)]

    def when(kind: Log, size: int, skip: int = 0) -> I64:
        found = log[log[:, 0] == kind, 1][skip : skip + size]
        return np.concatenate([found, np.full(size - len(found), NEVER, np.int64)])

    start = when(Log.START, len(matrix), before)
    begun = [t for op, t in zip(matrix, start, strict=True) if isinstance(op, Conv) and t != NEVER]
    passes = _passes(log)
    parts = np.split(passes, np.searchsorted(passes[:, 1], begun)[1:]) if begun else []
    ends = np.cumsum([0, *(op.pixels for op in convs), *(op.pixels for op in vecs)])
    blocks = [rows[a:b] for a, b in pairwise(ends)]
    faults = log[log[:, 0] == Log.FAULT]
    return RtlRun(
        index=np.array([op.index for op in matrix], np.int64),
        accept=when(Log.ACCEPT, len(matrix), before),
        tokens=when(Log.TOKENS, len(matrix), before),
        start=start,
        end=when(Log.END, len(matrix), before),
        conv=np.array([op.index for op in convs], np.int64),
        weights_tokens=when(Log.WEIGHTS_TOKENS, len(convs)),
        work_end=when(Log.DONE, len(convs)),
        passes=(*parts, *(np.zeros((0, 5), np.int64) for _ in range(len(convs) - len(parts)))),
        sums=tuple(blocks[: len(convs)]),
        reads=tuple((op.index, block) for op, block in zip(vecs, blocks[len(convs) :], strict=True)),
        cycles=cycles,
        seconds=nanoseconds / 1e9,
        fault=f"{FAULTS[faults[0, 2]]} in cycle {faults[0, 1]}" if len(faults) else None,
    )


def _passes(log: I64) -> I64:
    """Return all passes that started, int64 (passes, 5), columns as in `RtlRun.passes`."""
    begun = log[log[:, 0] == Log.PASS]
    loads = log[log[:, 0] == Log.LOAD, 1][: len(begun)]
    ends = log[log[:, 0] == Log.STREAM_END, 1]
    ends = np.concatenate([ends, np.full(len(begun) - len(ends), NEVER, np.int64)])
    return np.stack([loads, begun[:, 1], ends, begun[:, 2] & 1, (begun[:, 2] >> 1) + 1], axis=1)
