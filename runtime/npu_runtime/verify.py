"""Do the models of the machine agree? A program on several models: every time, every counter, every value.

A model says what it knows of a run: times of instructions, cycles by cause, contents of memories. Each quantity is
compared between all models that know it. A model is added by a function in `MODELS`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from npu_compiler import golden
from npu_compiler.qgraph import QuantizedGraph
from npu_isa.binary import Binary
from npu_isa.codec import decode
from npu_isa.errors import NpuError, did_you_mean
from npu_isa.machine import MachineConfig
from npu_isa.ops import Instruction, Op, resolve
from npu_isa.tables import ENGINES
from numpy.typing import NDArray

if TYPE_CHECKING:
    from npu_sim.register.machine import RegisterRun

Array = NDArray[Any]

MOMENTS = ("dispatch", "accept", "start", "issue_end", "end")
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Workload:
    """A checked program and what it runs with.

    Attributes:
        output: first and end DRAM address of the output.
        labels: what a person calls each instruction; may be empty.
    """

    machine: MachineConfig
    instructions: tuple[Instruction, ...]
    constants: NDArray[np.uint8]
    dram_bytes: int
    input_address: int
    output: tuple[int, int]
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, binary: Binary) -> "Workload":
        """Return the program of a binary; its instructions are named after the layers."""
        names = [layer.name for layer in binary.layers]
        return cls(
            binary.machine,
            decode(binary.code),
            binary.constants,
            binary.dram_bytes,
            binary.input.address,
            (binary.output.address, binary.output.address + binary.output.bytes),
            tuple(names[i] if i >= 0 else "" for i in binary.layer_of),
        )

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """The program with its state resolved."""
        return resolve(self.instructions)

    def where(self, index: int) -> str:
        """Return the name of an instruction for a person."""
        label = self.labels[index] if self.labels else ""
        return f"instruction {index} ({self.instructions[index].name}{f', layer {label}' if label else ''})"


@dataclass(frozen=True, eq=False)
class Observation:
    """What a model says of one run; what it does not know is left out.

    Attributes:
        total_cycles: cycles from START to the halt.
        times: int64 (instructions but the halt, moments); `UNKNOWN` where the model has nothing to say.
        causes: int64 (engines, causes): cycles of each engine by cause.
        memories: final contents. "output": uint8, the output's bytes; "dram": uint8, all behind the constants;
            "act", "weight", "param": uint8; "acc": int32 (halves, rows, columns).
    """

    total_cycles: int | None = None
    times: Array | None = None
    causes: Array | None = None
    memories: Mapping[str, Array] = field(default_factory=dict)


Model = Callable[[Workload, tuple[int, ...], NDArray[np.uint8]], Observation]


def fast_times(work: Workload, boundaries: tuple[int, ...], image: NDArray[np.uint8]) -> Observation:
    """Run the fast simulator of times alone; it looks at no data."""
    from npu_sim.counters import engine_rows, spent
    from npu_sim.fast.timing import simulate

    timing = simulate(work.ops, work.machine, boundaries)
    rows = engine_rows(timing, work.ops, spent(timing, work.ops))
    return Observation(
        total_cycles=timing.total_cycles,
        times=np.stack([getattr(timing, name) for name in MOMENTS], axis=1),
        causes=np.array([row.cycles for row in rows], np.int64),
    )


def fast(work: Workload, boundaries: tuple[int, ...], image: NDArray[np.uint8]) -> Observation:
    """Run the fast simulators of times and of values."""
    from npu_sim.fast.values import Values

    values = Values(work.ops, work.machine, work.constants, boundaries, work.dram_bytes)
    base = work.constants.size
    dram = values.run(image.reshape(1, -1), work.input_address, base, work.dram_bytes - base)[0]
    memories = {"dram": dram, "output": dram[work.output[0] - base : work.output[1] - base]}
    return replace(fast_times(work, boundaries, image), memories=memories)


def register(work: Workload, boundaries: tuple[int, ...], image: NDArray[np.uint8]) -> Observation:
    """Clock the register-level machine."""
    from npu_sim.register.machine import run

    return register_observation(
        work,
        run(work.instructions, work.machine, work.constants, boundaries, work.dram_bytes, image, work.input_address),
    )


def register_observation(work: Workload, run: "RegisterRun") -> Observation:
    """Return what a run of the register-level machine says."""
    dram, first = run.memories["dram"], work.constants.size
    output = dram[work.output[0] : work.output[1]]
    return Observation(
        total_cycles=run.total_cycles,
        times=np.stack([getattr(run, name) for name in MOMENTS], axis=1),
        causes=run.causes,
        memories={**run.memories, "dram": dram[first:], "output": output},
    )


def golden_model(graph: QuantizedGraph) -> Model:
    """Return the model that computes the output from the network that the binary was compiled from."""

    def model(work: Workload, boundaries: tuple[int, ...], image: NDArray[np.uint8]) -> Observation:
        shape = graph.tensors[graph.input]
        data = image.reshape(1, shape.height, shape.width, shape.channels)
        values = golden.run(graph, data, boundaries)[graph.output][0].astype(np.int64)
        groups = values.reshape(*values.shape[:2], -1, 1, 16)
        planes = 8 * np.arange(graph.tensors[graph.output].bits // 8)
        return Observation(memories={"output": (groups >> planes[:, None] & 255).astype(np.uint8).reshape(-1)})

    return model


MODELS: dict[str, Model] = {"fast": fast, "register": register}


def models_named(names: Iterable[str], graph: QuantizedGraph | None = None) -> dict[str, Model]:
    """Return models by name.

    Args:
        names: of `MODELS`, or "golden".
        graph: the network that the golden model computes.

    Raises:
        NpuError: unknown name, or the golden model without a network.
    """
    found: dict[str, Model] = {}
    for name in names:
        if name == "golden" and graph is None:
            raise NpuError("the golden model computes a network, and none is given", hint="give the compiled model")
        if name != "golden" and name not in MODELS:
            near = did_you_mean(name, ["golden", *MODELS])
            raise NpuError(f"unknown model {name!r}", hint=near or f"models: golden, {', '.join(MODELS)}")
        found[name] = golden_model(graph) if name == "golden" and graph is not None else MODELS[name]
    return found


@dataclass(frozen=True)
class Difference:
    """The first number on which two models differ: times before counters before memories, the earliest time first.

    Attributes:
        what: the quantity and its place.
        found: model to its value.
        boundaries: of the run.
    """

    what: str
    found: Mapping[str, int]
    boundaries: tuple[int, ...]

    def __str__(self) -> str:
        """Return the difference in one line."""
        values = ", ".join(f"{name} {value}" for name, value in self.found.items())
        return f"{self.what}: {values} (boundaries {', '.join(map(str, self.boundaries)) or 'none'})"


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
) -> VerifyReport:
    """Run a checked program on several models and compare every quantity that two of them know.

    Args:
        subject: a binary or any program.
        boundaries: boundary vectors.
        models: names, see `models_named`, or functions by name.
        images: input bytes (after the table of the binary), uint8 (N, bytes); one of noise if None, which a `Workload`
            cannot do without knowing its size.
        graph: the network, for the golden model.

    Raises:
        NpuError: unknown model.
        ProgramError: the program does not end.
    """
    work = subject if isinstance(subject, Workload) else Workload.of(subject)
    chosen = models if isinstance(models, Mapping) else models_named(models, graph)
    if images is None:
        assert isinstance(subject, Binary), "a workload does not say how large its input is"
        images = np.random.default_rng(0).integers(0, 256, (1, subject.input.bytes), np.uint8)
    report = VerifyReport(tuple(chosen))
    for vector in boundaries:
        for image in images:
            seen = {name: model(work, tuple(vector), image) for name, model in chosen.items()}
            report += replace(compare(work, seen, tuple(vector)), models=report.models)
            if report.difference is not None:
                return report
    return report


def compare(work: Workload, seen: Mapping[str, Observation], boundaries: tuple[int, ...]) -> VerifyReport:
    """Compare what models say of one run."""
    totals = {name: o.total_cycles for name, o in seen.items() if o.total_cycles is not None}
    cycles = max(totals.values(), default=0)
    report = VerifyReport(tuple(seen), 1, len(work.instructions), cycles)
    times = {name: o.times for name, o in seen.items() if o.times is not None}
    counted, found = _compare_times(work, times)
    if found is None and len(set(totals.values())) > 1:
        found = "total cycles", totals
    causes = {name: o.causes for name, o in seen.items() if o.causes is not None}
    counters, late = _compare_arrays(causes, _cause)
    values = 0
    for memory in sorted({m for o in seen.values() for m in o.memories}):
        held = {name: o.memories[memory] for name, o in seen.items() if memory in o.memories}
        count, wrong = _compare_arrays(held, partial(_place, memory))
        values, late = values + count, late or wrong
    found = found or late
    difference = None if found is None else Difference(found[0], found[1], boundaries)
    return replace(report, times=counted, counters=counters, values=values, difference=difference)


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
    from npu_sim.counters import CAUSES

    return f"cycles of the {ENGINES[at[0]]} engine by cause {CAUSES[at[1]]}"


def _place(memory: str, at: tuple[int, ...]) -> str:
    if memory == "acc":
        return f"memory acc, half {at[0]}, row {at[1]}, column {at[2]}"
    return f"memory {memory}, byte {at[0]}" + (" behind the constants" if memory == "dram" else "")
