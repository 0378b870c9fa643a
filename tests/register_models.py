"""The register-level machine against the fast simulators and the naive machine on random programs."""

from dataclasses import replace

import numpy as np
from npu_isa.machine import MachineConfig
from npu_isa.ops import Instruction
from npu_isa.tables import BY_NAME
from npu_runtime.verify import MODELS, Model, Observation, VerifyReport, Workload, fast_times, verify

from tests.naive_machine import NaiveMachine
from tests.programs import RandomProgram, random_machine, random_program
from tests.timing_models import with_random_tokens


def instruction(name: str, pop: int = 0, push: int = 0, **operands: int | tuple[int, ...]) -> Instruction:
    """Return an instruction; operands that are not given have their defaults."""
    rest = {o.name: (o.default,) * o.repeat if o.repeat else o.default for o in BY_NAME[name].operands}
    assert operands.keys() <= rest.keys(), operands
    return Instruction(name, {**rest, **operands}, pop, push)


ALL: dict[str, Model] = {}  # every model of a whole program, filled below


def naive(work: Workload, boundaries: tuple[int, ...], image: np.ndarray) -> Observation:
    """Run the naive machine: it knows values, of every memory."""
    machine = NaiveMachine(work.machine, work.constants.tobytes(), work.dram_bytes)
    machine.dram[work.input_address : work.input_address + image.size] = image.tobytes()
    machine.run(work.ops, boundaries)
    dram, act, weight, param = (
        np.frombuffer(bytes(m), np.uint8) for m in (machine.dram, machine.act, machine.weights, machine.params)
    )
    output = dram[work.output[0] : work.output[1]]
    memories = {"act": act, "weight": weight, "param": param, "dram": dram[work.constants.size :], "output": output}
    return Observation(memories={**memories, "acc": np.array(machine.acc, np.int64).astype(np.int32)})


ALL |= {**MODELS, "naive": naive}


def workload(p: RandomProgram) -> Workload:
    """Return a random program as a workload."""
    return Workload(p.machine, p.instructions, p.constants, p.dram_bytes, p.input_range[0], p.output_range)


def with_speeds(machine: MachineConfig, rng: np.random.Generator) -> MachineConfig:
    """Return the machine at other speeds; what programs compute and which of them are valid does not change."""
    rows, bus = machine.array_rows, int(rng.choice([b for b in (4, 8, 16, 32) if b <= machine.act_banks * 16]))
    return replace(
        machine,
        weight_rows_per_cycle=int(rng.choice([d for d in (1, 2, 4, 8, 16, 32) if rows % d == 0])),
        vector_taps=int(rng.integers(1, 10)),
        dram_bytes_per_cycle=bus,
        dram_burst_bytes=int(rng.choice([b for b in (bus, 4 * bus, 1024) if b <= 1024])),
        dram_latency_cycles=int(rng.choice([1, 2, 17, 200])),
        queue_depth=int(rng.integers(2, 6)),
    ).check()


def random_case(seed: int, layers: int = 2) -> tuple[RandomProgram, list[tuple[int, ...]], np.ndarray]:
    """Return a random program, two boundary vectors and an image; every second machine has other speeds."""
    rng = np.random.default_rng(seed)
    p = random_program(rng, random_machine(rng), layers)
    if seed % 2:
        p = replace(p, machine=with_speeds(p.machine, rng))
    most = tuple(p.legal[r][-1] for r in range(p.registers))
    vectors = list(dict.fromkeys([most, p.boundaries(rng)]))
    return p, vectors, rng.integers(0, 256, (1, p.input_range[1] - p.input_range[0]), np.uint8)


def scrambled(p: RandomProgram, seed: int) -> RandomProgram:
    """Return a program with other tokens, often many, a shallow FIFO: its values mean nothing, its times do."""
    rng = np.random.default_rng(seed)
    machine = replace(p.machine, token_depth=2)
    ops = with_random_tokens(p, machine, rng)

    def changed(ins: Instruction, pop: int, push: int, fence: int) -> Instruction:
        operands = {**ins.operands, "fence": fence} if ins.name == "vec" else ins.operands
        return replace(ins, pop=pop, push=push, operands=operands)

    code = [changed(i, op.pop, op.push, getattr(op, "fence", 0)) for i, op in zip(p.instructions, ops, strict=True)]
    return replace(p, machine=machine, instructions=tuple(code))


def register_times(work: Workload, boundaries: tuple[int, ...], image: np.ndarray) -> Observation:
    """Clock the register-level machine, for its times alone."""
    return replace(MODELS["register"](work, boundaries, image), memories={})


TIMED: dict[str, Model] = {"fast": fast_times, "register": register_times}


def compare_case(seed: int, layers: int = 2) -> VerifyReport:
    """Compare all models on one random program, then the times of the program with its tokens scrambled."""
    p, vectors, image = random_case(seed, layers)
    report = verify(workload(p), vectors, ALL, image)
    if report.difference is None:
        report += verify(workload(scrambled(p, seed)), vectors[:1], TIMED, image)
    return report
