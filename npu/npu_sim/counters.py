"""What the cycles were spent on: tidy rows whose parts add up exactly to the total."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from npu_isa.isa.ops import Conv, Engine, Op, Setup
from npu_isa.machine.config import MachineConfig
from numpy.typing import NDArray

from npu_sim.activity import CAUSES
from npu_sim.fast.time import state as events
from npu_sim.fast.time.model import Timing

_C = {name: i for i, name in enumerate(CAUSES)}
AT_WORK = ("stream", "bank", "busy", "setup")
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class EngineRow:
    """What one engine did with the cycles of a run, or of one layer's instructions.

    Attributes:
        cycles: by cause, in the order of `CAUSES`; their sum is `total_cycles`.
        dram_bytes: bytes moved on the DRAM bus by its transfers.
    """

    engine: str
    total_cycles: int
    cycles: tuple[int, ...]
    instructions: int
    dram_bytes: int

    def __post_init__(self) -> None:
        assert sum(self.cycles) == self.total_cycles, self
        assert min(self.cycles) >= 0, self


def spent(timing: Timing, ops: Sequence[Op]) -> I64:
    """Return per instruction the cycles of its engine by cause, int64 (instructions, causes), `idle` left out.

    Each row covers the time from the end of the engine's work before to the end of this one's issue.
    """
    found = np.zeros((len(timing.table), len(CAUSES)), np.int64)
    now = dict.fromkeys(Engine, 0)
    fetch = FetchWaits(timing)
    for op in ops[: len(timing.table)]:
        row, times = found[op.index], timing.table[op.index]
        at = now[op.engine]
        dispatched = int(times[events.DISPATCH]) + 1
        if dispatched > at:
            row[_C["fetch"]] = fetch.between(at, dispatched)
            at += int(row[_C["fetch"]])
        for cause, until in _waits(op, times):
            if until > at:
                row[_C[cause]] += until - at
                at = until
        end = int(times[events.ISSUE_END])
        if isinstance(op, Conv):
            row[_C["stream"]] += timing.activity["stream_cycles"][op.index]
            row[_C["bank"]] += timing.activity["bank_cycles"][op.index]
            row[_C["weights"]] += timing.activity["short_cycles"][op.index]
        elif isinstance(op, Setup):
            row[_C["setup"]] += max(end - at, 0)
        else:
            dram = int(times[events.DRAM_WAIT]) if times[events.DRAM_WAIT] != events.NEVER else 0
            row[_C["dram"]] += dram
            row[_C["busy"]] += end - at - dram
        now[op.engine] = max(end, at)
    return found


class FetchWaits:
    """Cycles in which the front end had no word to dispatch, by time."""

    def __init__(self, timing: Timing) -> None:
        self._first, end = timing.fetch_waits.T
        self._length = end - self._first
        self._before = np.cumsum(self._length) - self._length

    def between(self, first: int, end: int) -> int:
        """Return how many of the cycles first..end - 1 are such."""
        return self._until(end) - self._until(first)

    def _until(self, at: int) -> int:
        wait = int(np.searchsorted(self._first, at, "right")) - 1
        return int(self._before[wait] + min(at - self._first[wait], self._length[wait]))


def _waits(op: Op, times: NDArray[Any]) -> list[tuple[str, int]]:
    """Return the causes of waiting with the time until which each held the operation up, in the rules' order."""
    late = int(times[events.LATE])
    token = f"token_{Engine(late).name.lower()}" if late >= 0 else "token_full"
    found = [
        ("queue", int(times[events.DISPATCH]) + 1),
        ("drain" if getattr(op, "fence", 0) else "token_full", int(times[events.ACCEPT])),
    ]
    if isinstance(op, Conv):
        found += [(token, int(times[events.WEIGHTS_TOKENS])), ("weights", int(times[events.READY]))]
        found += [("token_vector", int(times[events.TOKENS]))]
    else:
        found += [(token, int(times[events.TOKENS]))]
    return [*found, ("port", int(times[events.START]))]


def engine_rows(timing: Timing, ops: Sequence[Op], by_cause: I64) -> tuple[EngineRow, ...]:
    """Return one row per engine for the whole run; the cycles add up to the total."""
    rows = []
    for engine in Engine:
        mine = [op.index for op in ops[: len(timing.table)] if op.engine == engine]
        cycles = by_cause[mine].sum(axis=0)
        cycles[_C["idle"]] = timing.total_cycles - cycles.sum()
        rows.append(_row(engine, timing.total_cycles, cycles, mine, timing))
    return tuple(rows)


def _row(engine: Engine, total: int, cycles: I64, mine: list[int], timing: Timing) -> EngineRow:
    parts = tuple(int(c) for c in cycles)
    return EngineRow(engine.name.lower(), total, parts, len(mine), int(timing.dram_bytes[mine].sum()))


def layer_cycles(timing: Timing, layer_of: NDArray[np.int32], layers: int) -> I64:
    """Split the total among the layers: each owns the cycles by which it moves the finish line of those before it.

    Layers overlap; a layer that ends before an earlier one does owns nothing. The sum is the total.
    """
    ends = np.zeros(layers + 1, np.int64)
    np.maximum.at(ends, layer_of[: len(timing.table)], timing.end)  # the last entry takes instructions of no layer
    line = np.maximum.accumulate(ends[:layers]) if layers else np.zeros(0, np.int64)
    own = np.diff(line, prepend=0)
    if layers:
        own[-1] += timing.total_cycles - line[-1]
    assert own.sum() == timing.total_cycles or not layers
    return own


@dataclass(frozen=True)
class MatrixUse:
    """Where the PE-cycles of the matrix engine went: rows x columns x total cycles, split exactly.

    A PE makes one 8-bit or two 4-bit multiplications per cycle. Counts are doubled PE-cycles (halves are whole).

    Attributes:
        useful: on multiply-accumulates of the layers as given.
        padding: while streaming, on zeros: channels that fill up groups, columns that fill up tiles, unused entries of
            a last pass.
        bank, weights, waiting: array standing still: bank conflicts, weight load, everything else.
    """

    useful: int
    padding: int
    bank: int
    weights: int
    waiting: int
    total: int

    def __post_init__(self) -> None:
        assert self.useful + self.padding + self.bank + self.weights + self.waiting == self.total, self
        assert min(self.useful, self.padding, self.bank, self.weights, self.waiting) >= 0, self

    @property
    def utilization_percent(self) -> float:
        """Share of PE-cycles spent on useful multiplications."""
        return 100.0 * self.useful / self.total if self.total else 0.0


def matrix_use(machine: MachineConfig, row: EngineRow, macs8: int, macs4: int) -> MatrixUse:
    """Return the split of the PE-cycles.

    Args:
        machine: the design point.
        row: the matrix engine's row.
        macs8, macs4: multiply-accumulates of the original layers done in 8 and in 4 bits.
    """
    pes2 = 2 * machine.array_rows * machine.array_cols
    cycles = dict(zip(CAUSES, row.cycles, strict=True))
    useful = 2 * macs8 + macs4
    return MatrixUse(
        useful=useful,
        padding=pes2 * cycles["stream"] - useful,
        bank=pes2 * cycles["bank"],
        weights=pes2 * cycles["weights"],
        waiting=pes2 * (row.total_cycles - cycles["stream"] - cycles["bank"] - cycles["weights"]),
        total=pes2 * row.total_cycles,
    )


def ideal_cycles(machine: MachineConfig, macs8: int, macs4: int) -> float:
    """Return the cycles of the matrix engine if every PE did useful work all the time."""
    return (macs8 + macs4 / 2) / (machine.array_rows * machine.array_cols)


def trace_events(timing: Timing, ops: Sequence[Op], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return Chrome trace events (Perfetto reads them): microseconds stand for cycles.

    One track per engine holds the issue of its instructions, which never overlap; the time until the end (pipeline,
    DRAM latency) is an argument of the slice.
    """
    found: list[dict[str, Any]] = [
        {"ph": "M", "pid": 0, "tid": int(e), "name": "thread_name", "args": {"name": e.name.lower()}} for e in Engine
    ]
    for op in ops[: len(timing.table)]:
        start, end = int(timing.start[op.index]), int(timing.issue_end[op.index])
        if isinstance(op, Setup) or end <= start:
            continue
        found.append(
            {
                "ph": "X",
                "pid": 0,
                "tid": int(op.engine),
                "ts": start,
                "dur": end - start,
                "name": names[op.index] or type(op).__name__.lower(),
                "args": {
                    "instruction": op.index,
                    "accepted": int(timing.accept[op.index]),
                    "end": int(timing.end[op.index]),
                },
            }
        )
    return found
