"""Do the models of the machine agree? A program on several models: every time, every counter, every value.

Each quantity is compared between all models that know it; see `npu_runtime.verification.models` for what they know.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from npu_compiler.qgraph.ir import QuantizedGraph
from npu_isa.file.binary import Binary
from npu_isa.isa.ops import Memory
from npu_isa.isa.tables import ENGINES
from npu_isa.machine.config import WORD_BYTES
from npu_isa.machine.footprint import footprints
from numpy.typing import NDArray

from npu_runtime.verification.models import (
    MOMENTS,
    UNKNOWN,
    Model,
    Observation,
    Workload,
    check_network,
    models_named,
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """The first number on which two models differ: times before counters before memories, the earliest time first.

    Attributes:
        what: the quantity and its place.
        found: model to its value; empty where `what` says it.
        boundaries: of the run.
    """

    what: str
    found: Mapping[str, int]
    boundaries: tuple[int, ...]

    def __str__(self) -> str:
        """Return the difference in one line."""
        values = ", ".join(f"{name} {value}" for name, value in self.found.items())
        return f"{self.what}{': ' * bool(values)}{values} (boundaries {', '.join(map(str, self.boundaries)) or 'none'})"


@dataclass(frozen=True)
class VerifyReport:
    """What was compared.

    Attributes:
        models: their names.
        runs: programs x boundary vectors x images.
        instructions, cycles: of all runs.
        times, counters, values: numbers compared, each time with another model's.
        difference: the first, or None; nothing is compared after it.
    """

    models: tuple[str, ...] = ()
    runs: int = 0
    instructions: int = 0
    cycles: int = 0
    times: int = 0
    counters: int = 0
    values: int = 0
    difference: Difference | None = None

    def __add__(self, other: "VerifyReport") -> "VerifyReport":
        """Return what both compared."""
        names = ("runs", "instructions", "cycles", "times", "counters", "values")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        models = tuple(dict.fromkeys(self.models + other.models))
        return VerifyReport(models, **sums, difference=self.difference or other.difference)

    def __str__(self) -> str:
        """Return the counts, and the difference if there is one."""
        counts = (
            f"{' = '.join(self.models)}: {self.runs} runs, {self.instructions} instructions, {self.cycles} cycles; "
            f"compared {self.times} times, {self.counters} counters, {self.values} values: "
        )
        return counts + ("0 differences" if self.difference is None else f"DIFFERENCE {self.difference}")


def verify(
    subject: Binary | Workload,
    boundaries: Iterable[Sequence[int]],
    models: Mapping[str, Model] | Sequence[str] = ("fast", "register"),
    images: NDArray[np.uint8] | None = None,
    graph: QuantizedGraph | None = None,
    layers: Sequence[str] | None = None,
    progress: Callable[[int], None] = lambda steps: None,
) -> VerifyReport:
    """Run a checked program on several models and compare every quantity that two of them know.

    Args:
        subject: a binary or any program.
        boundaries: boundary vectors.
        models: names, see `models_named`, or functions by name.
        images: input bytes (after the table of the binary), uint8 (N, bytes); one of noise if None, which a `Workload`
            cannot do without knowing its size.
        graph: the network, for the golden model.
        layers: compare only the instructions of these source layers: their times, and in RTL their accumulators.
        progress: called after each run.

    Raises:
        NpuError: unknown model or layer; the binary does not belong to the network.
        ProgramError: the program does not end.
    """
    if graph is not None and isinstance(subject, Binary):
        check_network(graph, subject)
    work = subject if isinstance(subject, Workload) else Workload.of(subject)
    if layers is not None:
        work = work.of_layers(layers)
    chosen = models if isinstance(models, Mapping) else models_named(models, graph)
    if images is None:
        assert isinstance(subject, Binary), "a workload does not say how large its input is"
        images = np.random.default_rng(0).integers(0, 256, (1, subject.input.bytes), np.uint8)
    report = VerifyReport(tuple(chosen))
    for vector in boundaries:
        for image in images:
            seen = {name: model(work, tuple(vector), image) for name, model in chosen.items()}
            report += replace(compare(work, seen, tuple(vector)), models=report.models)
            progress(1)
            if report.difference is not None:
                return report
    return report


def compare(work: Workload, seen: Mapping[str, Observation], boundaries: tuple[int, ...]) -> VerifyReport:
    """Compare what models say of one run."""
    totals = {name: o.total_cycles for name, o in seen.items() if o.total_cycles is not None}
    agreements = [o.agreement for o in seen.values() if o.agreement is not None]
    cycles = max([*totals.values(), *(a.cycles for a in agreements)], default=0)
    instructions = len(work.instructions if work.only is None else work.only)
    report = VerifyReport(tuple(seen), 1, instructions, cycles)
    times = {name: _times_of(work, o.times) for name, o in seen.items() if o.times is not None}
    counted, found = _compare_times(work, times)
    if found is None and len(set(totals.values())) > 1:
        found = "total cycles", totals
    counters = values = 0
    late: Found = None
    if work.only is None:
        causes = {name: o.causes for name, o in seen.items() if o.causes is not None}
        counters, late = _compare_arrays(causes, _cause)
    if work.only is None and work.computes:
        for memory in sorted({m for o in seen.values() for m in o.memories}):
            held = {name: o.memories[memory] for name, o in seen.items() if memory in o.memories}
            count, wrong = _compare_arrays(held, partial(_place, work, memory))
            values, late = values + count, late or wrong
    for agreement in agreements:
        counted, values = counted + agreement.times, values + agreement.values
        late = late or ((agreement.difference, {}) if agreement.difference else None)
    found = found or late
    difference = None if found is None else Difference(found[0], found[1], boundaries)
    return replace(report, times=counted, counters=counters, values=values, difference=difference)


def _times_of(work: Workload, times: Array) -> Array:
    """Return the times of the instructions that are compared; the others' are `UNKNOWN`."""
    if work.only is None:
        return times
    chosen = np.isin(np.arange(len(times)), list(work.only))
    return np.where(chosen[:, None], times, UNKNOWN)


Found = tuple[str, Mapping[str, int]] | None


def _compare_times(work: Workload, times: Mapping[str, Array]) -> tuple[int, Found]:
    """Return how many times were compared, and the difference whose time is the earliest."""
    if len(times) < 2:
        return 0, None
    table = np.stack(list(times.values()))
    known = table != UNKNOWN
    both = known.sum(axis=0) > 1
    least = np.where(known, table, np.iinfo(np.int64).max).min(axis=0)
    wrong = both & (np.where(known, table, UNKNOWN).max(axis=0) != least)
    compared = int((known.sum(axis=0) - 1)[both].sum())
    if not wrong.any():
        return compared, None
    at = np.argwhere(wrong)
    index, moment = at[np.argmin(least[wrong])]
    values = {name: int(t[index, moment]) for name, t in times.items() if t[index, moment] != UNKNOWN}
    return compared, (f"{MOMENTS[moment].replace('_', ' ')} of {work.where(int(index))}", values)


def _compare_arrays(arrays: Mapping[str, Array], name: Callable[[tuple[int, ...]], str]) -> tuple[int, Found]:
    """Return how many numbers were compared, and the first difference."""
    (first, want), *others = arrays.items() if arrays else [("", np.zeros(0))]
    for other, got in others:
        assert got.shape == want.shape, (first, other, want.shape, got.shape)
        if not np.array_equal(got, want):
            at = tuple(int(i) for i in np.argwhere(got != want)[0])
            return want.size, (name(at), {first: int(want[at]), other: int(got[at])})
    return want.size * len(others), None


def _cause(at: tuple[int, ...]) -> str:
    from npu_sim.activity import CAUSES

    return f"cycles of the {ENGINES[at[0]]} engine by cause {CAUSES[at[1]]}"


def _place(work: Workload, memory: str, at: tuple[int, ...]) -> str:
    """Return the name of a number in a memory, and the instruction that wrote it last in program order."""
    if memory == "acc":
        text, kind, unit = f"half {at[0]}, row {at[1]}, column {at[2]}", (Memory.ACC0, Memory.ACC1)[at[0]], at[1]
    elif memory == "dram":
        text, kind, unit = f"byte {at[0]} behind the program", Memory.DRAM, at[0] + work.data_address
    elif memory == "output":
        text, kind, unit = f"byte {at[0]}", Memory.DRAM, _output_address(work, at[0])
    else:
        size = 4 * work.machine.array_cols if memory == "param" else WORD_BYTES
        text, kind, unit = f"byte {at[0]}", Memory[memory.upper()], at[0] // size
    t = footprints(work.ops, work.machine)
    writers = t.op[(t.write != 0) & (t.memory == kind) & (t.first <= unit) & (unit < t.end)]
    if writers.size:
        return f"memory {memory}, {text}, written by {work.where(int(writers[-1]))}"
    return f"memory {memory}, {text}"


def _output_address(work: Workload, byte: int) -> int:
    """Return the DRAM address of a byte of the outputs, counted through all of them."""
    for first, end in work.outputs:
        if byte < end - first:
            return first + byte
        byte -= end - first
    raise AssertionError(byte)
