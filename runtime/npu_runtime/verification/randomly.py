"""Do the models of the machine agree on random programs? A seed names a program, its machine, boundaries and image."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from npu_isa.errors import ProgramError
from npu_isa.machine.config import MachineConfig
from npu_sim.random_programs.machines import RTL_SIZES, random_machine, with_sizes, with_speeds
from npu_sim.random_programs.programs import RandomProgram, random_program, scrambled
from numpy.typing import NDArray

from npu_runtime.verification.models import Model, Workload, models_named
from npu_runtime.verification.verify import Difference, VerifyReport, verify

LAYERS = 2
CHUNK = 4  # programs that a process takes at once
LONG_EVERY, LONG_WORDS = 8, 400  # of so many programs one has so many instructions, more than most fetch buffers

Case = tuple[RandomProgram, list[tuple[int, ...]], NDArray[np.uint8]]


def random_case(
    seed: int,
    machine: MachineConfig | None = None,
    layers: int = LAYERS,
    words: int | None = None,
    *,
    rtl: bool = False,
) -> Case:
    """Return a random program, two boundary vectors at most, and an image, uint8 (1, bytes).

    Args:
        seed: names the case, together with the other arguments.
        machine: what it runs on; a small random one if None.
        layers: about as many.
        words: least instructions; if None some programs are long, most are not.
        rtl: only random machines of a few sizes, so that few simulators are compiled.
    """
    rng = np.random.default_rng(seed)
    chosen = random_machine(rng) if machine is None else machine
    if machine is None and rtl:
        chosen = with_sizes(chosen, RTL_SIZES[seed % len(RTL_SIZES)])
    if words is None:
        words = LONG_WORDS if seed % LONG_EVERY == LONG_EVERY - 3 else 0
    p = random_program(rng, chosen, layers, words)
    if machine is None and not rtl and seed % 2:
        p = replace(p, machine=with_speeds(p.machine, rng))
    most = tuple(p.legal[r][-1] for r in range(p.registers))
    vectors = list(dict.fromkeys([most, p.boundaries(rng)]))
    return p, vectors, p.images(rng, 1)


def workload(p: RandomProgram, *, computes: bool = True) -> Workload:
    """Return a random program as a workload; `computes` as there."""
    memory = p.constants, p.dram_bytes, p.input_range[0], (p.output_range,)
    return Workload(p.machine, p.instructions, *memory, computes=computes)


def verify_case(
    seed: int,
    models: Sequence[str] | Mapping[str, Model] = ("fast", "register"),
    machine: MachineConfig | None = None,
    layers: int = LAYERS,
    words: int | None = None,
) -> VerifyReport:
    """Compare models on one random program, then on the program with its tokens scrambled: its times alone."""
    p, vectors, image = random_case(seed, machine, layers, words, rtl="rtl" in models)
    try:
        report = verify(workload(p), vectors, models, image)
        if report.difference is None:
            depth = p.machine.token_depth if "rtl" in models else 2  # the RTL has what it was compiled with
            changed = scrambled(p, np.random.default_rng(seed), depth)
            report += verify(workload(changed, computes=False), vectors[:1], models, image)
    except ProgramError as error:  # a model gives up on a program that another one runs
        return VerifyReport(tuple(models), 1, difference=Difference(str(error), {}, ()))
    return report


def verify_random(
    seeds: Sequence[int],
    models: Sequence[str] = ("fast", "register"),
    machine: MachineConfig | None = None,
    layers: int = LAYERS,
    jobs: int = 1,
) -> Iterator[tuple[int, VerifyReport]]:
    """Compare models on random programs, each at two boundary vectors and once more with its tokens scrambled.

    Args:
        seeds: one program each.
        models: names, see `models_named`.
        machine: the machine of all programs; random ones if None.
        layers: about as many per program.
        jobs: processes.

    Yields:
        seed and report, in the order of seeds.

    Raises:
        NpuError: unknown model, or no tools for the RTL.
    """
    models_named(models)
    case = partial(verify_case, models=tuple(models), machine=machine, layers=layers)
    if jobs == 1:
        for seed in seeds:
            yield seed, case(seed)
        return
    with get_context("spawn").Pool(jobs, _leave_interrupts_to_the_parent) as pool:
        yield from zip(seeds, pool.imap(case, seeds, CHUNK), strict=True)


def _leave_interrupts_to_the_parent(*_: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
