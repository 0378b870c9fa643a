"""Copies of the register-level machine with one line changed, run uncompiled."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from npu_runtime.verification.models import Model, Observation, Workload, register_observation

from tests.planted import copy_of
from tests.register_models import Made, crowded_conv, long_code, positions, two_tokens, windows_follow

DIRECTED: dict[str, Callable[[], Made]] = {
    "crowded conv": crowded_conv,
    "positions": lambda: positions(8, 0),
    "two tokens": two_tokens,
    "long code": long_code,
    "windows follow": windows_follow,
}
MOST_CYCLES = 6000  # more than any program here takes


@dataclass(frozen=True)
class Fault:
    """One line of the machine as it should not be.

    Attributes:
        file: of the package, without .py.
        right, wrong: text that stands there once, and what takes its place.
        by: seed of the random program that shows it, or the name of a program in `DIRECTED`.
    """

    file: str
    right: str
    wrong: str
    by: int | str


@contextmanager
def machine_with(fault: Fault | None, folder: Path, name: str) -> Iterator[Model]:
    """Yield the model of a copy of the machine, under another name so that copies do not meet."""
    change = None if fault is None else (fault.file, fault.right, fault.wrong)
    with copy_of("npu_sim.register", folder, name, change):
        run = importlib.import_module(f"{name}.machine").run

        def model(work: Workload, boundaries: tuple[int, ...], image: np.ndarray) -> Observation:
            program = work.instructions, work.machine, work.constants, boundaries
            return register_observation(work, run(*program, work.dram_bytes, image, work.input_address, MOST_CYCLES))

        yield model
