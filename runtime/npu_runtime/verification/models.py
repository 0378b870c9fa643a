"""The models of the machine behind one interface: a program, boundaries and an image in, what the model knows out.

A model is added by a function in `MODELS`; `npu_runtime.verification.verify` compares what models say.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from npu_compiler.qgraph import golden
from npu_compiler.qgraph.ir import QTensor, QuantizedGraph
from npu_isa.errors import DataError, NpuError, did_you_mean
from npu_isa.file.binary import Binary, OutputInfo, data_address
from npu_isa.isa.codec import decode
from npu_isa.isa.ops import Engine
from npu_isa.isa.program import Instruction
from npu_isa.isa.resolve import Ops, resolve
from npu_isa.machine.config import MachineConfig
from numpy.typing import NDArray

if TYPE_CHECKING:
    from npu_sim.register.machine import RegisterRun
    from npu_sim.rtl.compare import Agreement

Array = NDArray[Any]

MOMENTS = ("dispatch", "accept", "start", "issue_end", "end")
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Workload:
    """A checked program and what it runs with.

    Attributes:
        outputs: first and end DRAM address of each output.
        labels: the source layer of each instruction, "" if it has none; may be empty.
        only: instructions that are compared; None: all, and with them what is not of one instruction.
        computes: False if the values mean nothing, since operations race: times alone are compared.
    """

    machine: MachineConfig
    instructions: Sequence[Instruction]
    constants: NDArray[np.uint8]
    dram_bytes: int
    input_address: int
    outputs: tuple[tuple[int, int], ...]
    labels: tuple[str, ...] = ()
    only: frozenset[int] | None = None
    computes: bool = True

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
            binary.output_ranges,
            tuple(names[i] if i >= 0 else "" for i in binary.layer_of),
        )

    @property
    def data_address(self) -> int:
        """First DRAM address behind constants and program."""
        return data_address(self.constants.size, len(self.instructions))

    def output_bytes(self, dram: Array, base: int = 0) -> Array:
        """Return the bytes of the outputs, one output after the other, from DRAM that begins at address `base`."""
        return np.concatenate([dram[first - base : end - base] for first, end in self.outputs])

    @cached_property
    def ops(self) -> Ops:
        """The program with its state resolved."""
        return resolve(self.instructions)

    def of_layers(self, names: Iterable[str]) -> "Workload":
        """Return the workload of which only the instructions of some source layers are compared.

        Raises:
            NpuError: no instruction has such a name.
        """
        chosen = set(names)
        known = list(dict.fromkeys(label for label in self.labels if label))
        for name in sorted(chosen.difference(known)):
            near = get_close_matches(name, known, 3, 0.4)
            hint = f"did you mean {', '.join(near)}?" if near else f"layers: {', '.join(known)}"
            raise NpuError(f"no layer {name!r}", hint=hint)
        return replace(self, only=frozenset(i for i, label in enumerate(self.labels) if label in chosen))

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
        memories: final contents. "output": uint8, the bytes of the outputs in order; "dram": uint8, all behind the
            program; "act", "weight", "param": uint8; "acc": int32 (halves, rows, columns).
        agreement: what the model has compared by itself with the one whose surroundings it replays.
    """

    total_cycles: int | None = None
    times: Array | None = None
    causes: Array | None = None
    memories: Mapping[str, Array] = field(default_factory=dict)
    agreement: "Agreement | None" = None


Model = Callable[[Workload, tuple[int, ...], NDArray[np.uint8]], Observation]


def fast_times(work: Workload, boundaries: tuple[int, ...], image: NDArray[np.uint8]) -> Observation:
    """Run the fast simulator of times alone; it looks at no data."""
    from npu_sim.counters import engine_rows, spent
    from npu_sim.fast.time.model import simulate

    timing = simulate(work.ops, work.machine, boundaries)
    rows = engine_rows(timing, work.ops, spent(timing, work.ops))
    return Observation(
        total_cycles=timing.total_cycles,
        times=np.stack([getattr(timing, name) for name in MOMENTS], axis=1),
        causes=np.array([row.cycles for row in rows], np.int64),
    )


def fast(work: Workload, boundaries: tuple[int, ...], image: NDArray[np.uint8]) -> Observation:
    """Run the fast simulators of times and of values."""
    from npu_sim.fast.values.run import Values

    if not work.computes:
        return fast_times(work, boundaries, image)
    values = Values(work.ops, work.machine, work.constants, boundaries, work.dram_bytes)
    dram, act = values.memories(image, work.input_address)
    base = work.constants.size
    memories = {
        "dram": dram[work.data_address - base :],
        "output": work.output_bytes(dram, base),
        "act": act,
    }
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
    dram = run.memories["dram"]
    return Observation(
        total_cycles=run.total_cycles,
        times=np.stack([getattr(run, name) for name in MOMENTS], axis=1),
        causes=run.causes,
        memories={**run.memories, "dram": dram[work.data_address :], "output": work.output_bytes(dram)},
    )


def rtl(work: Workload, boundaries: tuple[int, ...], image: NDArray[np.uint8], vcd: Path | None = None) -> Observation:
    """Run the matrix instructions on the RTL, among the other engines as the fast simulators see them.

    It compares every pass and every accumulator with the fast simulators by itself. `vcd`: file for the waveform.
    """
    from npu_sim.fast.time.model import simulate
    from npu_sim.rtl.compare import compare
    from npu_sim.rtl.memories import trace
    from npu_sim.rtl.run import run

    timing = simulate(work.ops, work.machine, boundaries)
    program = work.ops, work.machine, work.constants, boundaries
    memories = trace(*program, work.dram_bytes, image, work.input_address)
    only = work.only
    if only is not None and not any(op.engine == Engine.MATRIX for op in work.ops[:-1] if op.index in only):
        return Observation()  # it knows nothing of the other engines
    found = run(work.instructions, work.machine, timing, memories.writes, boundaries, vcd=vcd, only=only)
    times = np.full((len(timing.table), len(MOMENTS)), UNKNOWN, np.int64)
    for moment in ("accept", "start", "end"):
        times[found.index, MOMENTS.index(moment)] = getattr(found, moment)
    sums = memories.sums if work.computes else None
    agreement = compare(found, work.ops, work.machine, timing, sums, boundaries, only)
    return Observation(times=times, agreement=agreement)


def check_network(graph: QuantizedGraph, binary: Binary) -> None:
    """Check that a binary may have been compiled from a network: its dials, tensors, input and outputs are there.

    Raises:
        DataError: they are not.
    """
    image = graph.tensors[graph.input]
    given = [(o.name, o.shape, *_sizes(graph.tensors[o.tensor])) for o in graph.outputs]
    same = (
        [layer.out in graph.tensors for layer in binary.layers],
        [sum(layer.register >= 0 for layer in binary.layers) == len(graph.lowerable)],
        [getattr(binary.input, size) == getattr(image, size) for size in ("height", "width", "channels")],
        [given == [(o.name, o.shape, *_sizes(o)) for o in binary.outputs]],
    )
    if not all(map(all, same)):
        raise DataError(
            f"the binary ({binary.model}) was not compiled from this network ({graph.name})",
            hint="compile both from the same model with the same options",
        )


def _sizes(tensor: QTensor | OutputInfo) -> tuple[int, int, int, int]:
    return tensor.height, tensor.width, tensor.channels, tensor.bits


def golden_model(graph: QuantizedGraph) -> Model:
    """Return the model that computes the outputs from the network that the binary was compiled from."""

    def model(work: Workload, boundaries: tuple[int, ...], image: NDArray[np.uint8]) -> Observation:
        shape = graph.tensors[graph.input]
        data = image.reshape(1, shape.height, shape.width, shape.channels)
        values = golden.run(graph, data, boundaries)
        parts = [_as_bytes(values[o.tensor][0], graph.tensors[o.tensor].bits) for o in graph.outputs]
        return Observation(memories={"output": np.concatenate(parts)})

    return model


def _as_bytes(values: Array, bits: int) -> Array:
    """Return values (height, width, channels) as they lie in DRAM: 16 bytes a group, or 16 low and 16 high ones."""
    groups = values.astype(np.int64).reshape(*values.shape[:2], -1, 1, 16)
    planes = 8 * np.arange(bits // 8)
    return (groups >> planes[:, None] & 255).astype(np.uint8).reshape(-1)


MODELS: dict[str, Model] = {"fast": fast, "register": register, "rtl": rtl}


def models_named(names: Iterable[str], graph: QuantizedGraph | None = None) -> dict[str, Model]:
    """Return models by name.

    Args:
        names: of `MODELS`, or "golden".
        graph: the network that the golden model computes.

    Raises:
        NpuError: unknown name, the golden model without a network, or the RTL without the tools that run it.
    """
    found: dict[str, Model] = {}
    for name in names:
        if name == "golden" and graph is None:
            raise NpuError("the golden model computes a network, and none is given", hint="give the compiled model")
        if name != "golden" and name not in MODELS:
            near = did_you_mean(name, ["golden", *MODELS])
            raise NpuError(f"unknown model {name!r}", hint=near or f"models: golden, {', '.join(MODELS)}")
        if name == "rtl":
            from npu_sim.rtl.build import find_toolchain

            find_toolchain()
        found[name] = golden_model(graph) if name == "golden" and graph is not None else MODELS[name]
    return found
