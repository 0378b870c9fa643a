"""The RTL against another model's times and values: every matrix instruction, every pass, every sum."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from npu_isa.isa.ops import Conv, Op, Vec
from npu_isa.isa.tables import TIMING
from npu_isa.machine.config import MachineConfig
from npu_isa.machine.timing import conv_factors, conv_passes, pass_interval, weight_load_cycles
from numpy.typing import NDArray

from npu_sim.fast.time import state as times
from npu_sim.fast.time.model import Timing
from npu_sim.rtl.run import RtlRun

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

PASS_COLUMNS = ("weight load", "first pixel", "end of stream", "4-bit form", "bank factor")


@dataclass(frozen=True)
class Agreement:
    """What was compared.

    Attributes:
        instructions: matrix instructions.
        passes: passes of the convs.
        times: numbers compared that are not values: cycles, forms and bank factors.
        values: accumulators, those at each conv's end and those that the vector engine reads.
        cycles: simulated by the RTL.
        difference: the first one in program order, in words; None if there is none.
    """

    instructions: int
    passes: int
    times: int
    values: int
    cycles: int
    difference: str | None


@dataclass(frozen=True)
class _Compared:
    """One comparison of some numbers that belong to an instruction; `text` is empty if they are equal."""

    index: int
    numbers: int
    text: str


def compare(
    rtl: RtlRun,
    ops: Sequence[Op],
    machine: MachineConfig,
    timing: Timing,
    sums: Mapping[int, I32] | None,
    boundaries: Sequence[int],
    only: Collection[int] | None = None,
) -> Agreement:
    """Compare a run of the RTL with the times of a program and its accumulators.

    Args:
        rtl: the run.
        ops: the resolved program.
        machine: the design point.
        timing: expected times of all operations.
        sums: expected accumulators at the end of each conv, per instruction, int32 (pixels, columns); None: only times.
        boundaries: groups in 4 bits per boundary register.
        only: instructions that are compared, None: all.
    """
    clock = [*_times(rtl, timing)]
    for index, passes in zip(rtl.conv, rtl.passes, strict=True):
        clock.append(_passes(ops[index], passes, machine, timing, boundaries))
    values = [] if sums is None else [*_values(rtl, ops, machine, sums)]
    if only is not None:
        clock, values = ([c for c in part if c.index in only] for part in (clock, values))
    wrong = sorted(((c.index, c.text) for c in (*clock, *values) if c.text), key=lambda w: w[0])
    found = [f"instruction {i} ({type(ops[i]).__name__.lower()}): {text}" for i, text in wrong[:1]]
    found += [rtl.fault] if rtl.fault else []
    return Agreement(
        instructions=sum(only is None or i in only for i in rtl.index.tolist()),
        passes=sum(len(p) for i, p in zip(rtl.conv.tolist(), rtl.passes, strict=True) if only is None or i in only),
        times=sum(c.numbers for c in clock),
        values=sum(c.numbers for c in values),
        cycles=rtl.cycles,
        difference="; ".join(found) or None,
    )


def _times(rtl: RtlRun, timing: Timing) -> Iterator[_Compared]:
    for name, index, got, column in (
        ("accepted", rtl.index, rtl.accept, times.ACCEPT),
        ("weights' tokens taken", rtl.conv, rtl.weights_tokens, times.WEIGHTS_TOKENS),
        ("tokens taken", rtl.index, rtl.tokens, times.TOKENS),
        ("start", rtl.index, rtl.start, times.START),
        ("last sum written", rtl.conv, rtl.work_end, times.WORK_END),
        ("end", rtl.index, rtl.end, times.END),
    ):
        for i, a, b in zip(index, got, timing.table[index, column], strict=True):
            yield _Compared(int(i), 1, "" if a == b else f"{name}: RTL {a}, expected {b}")


def _passes(op: Op, got: I64, machine: MachineConfig, timing: Timing, boundaries: Sequence[int]) -> _Compared:
    """Compare the passes of a conv with the rules of the page, counted from its first pixel."""
    assert isinstance(op, Conv)
    boundary = boundaries[op.geom.register] if op.geom.register < len(boundaries) else 0
    factors = np.array(conv_passes(op, boundary, machine))
    low = op.low_places(boundary)
    low_passes = len(conv_factors(op.geom, op.groups[:low], low, machine))
    intervals = [pass_interval(op.pixels, int(k), machine) for k in factors[:-1]]
    start = timing.start[op.index] + np.cumsum([0, *intervals])
    load = np.array([timing.table[op.index, times.READY] - weight_load_cycles(machine), *start[:-1]])
    load[1:] += TIMING["shadow_free_cycles"]
    form = np.arange(len(factors)) < low_passes
    want = np.stack([load, start, start + op.pixels * factors, form, factors], axis=1)
    if got.shape != want.shape:
        return _Compared(op.index, 1, f"RTL ran {len(got)} passes, expected {len(want)}")
    for p, c in np.argwhere(got != want)[:1]:
        return _Compared(op.index, got.size, f"pass {p}: {PASS_COLUMNS[c]}: RTL {got[p, c]}, expected {want[p, c]}")
    return _Compared(op.index, got.size, "")


def _values(rtl: RtlRun, ops: Sequence[Op], machine: MachineConfig, sums: Mapping[int, I32]) -> Iterator[_Compared]:
    """Compare what each conv left and what each vec read, in program order."""
    expected = np.zeros((2, machine.acc_rows, machine.array_cols), np.int32)
    left = dict(zip(rtl.conv.tolist(), rtl.sums, strict=True))
    read = dict(rtl.reads)
    for op in ops:
        if isinstance(op, Conv) and op.index in left:
            expected[op.acc_half, op.acc_row : op.acc_row + op.pixels] = sums[op.index]
            yield _same_sums(op.index, left[op.index], sums[op.index])
        elif isinstance(op, Vec) and op.index in read:
            rows = expected[op.acc_half, op.src_base : op.src_base + op.pixels]
            yield _same_sums(op.index, read[op.index], rows)


def _same_sums(index: int, got: I32, want: I32) -> _Compared:
    if got.shape != want.shape:
        return _Compared(index, 1, f"RTL has sums of {len(got)} pixels, expected {len(want)}")
    for pixel, column in np.argwhere(got != want)[:1]:
        text = f"sum of pixel {pixel}, column {column}: RTL {got[pixel, column]}, expected {want[pixel, column]}"
        return _Compared(index, got.size, text)
    return _Compared(index, got.size, "")
