"""Copies of the register-level machine with one line changed, run uncompiled."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import npu_sim.register
import numpy as np
from npu_runtime.verification.models import Model, Observation, Workload, register_observation

from tests.register_models import Made, crowded_conv, positions, two_tokens

DIRECTED: dict[str, Callable[[], Made]] = {
    "crowded conv": crowded_conv,
    "positions": lambda: positions(8, 0),
    "two tokens": two_tokens,
}
SOURCE = Path(npu_sim.register.__file__).parent
MOST_CYCLES = 4000
PLAIN = "def kernel(function):\n    return function\n\n\ninlined = cached = kernel\n"


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
    package = folder / name
    package.mkdir()
    for path in SOURCE.glob("*.py"):
        text = path.read_text(encoding="utf-8").replace("npu_sim.register", name)
        if fault is not None and path.stem == fault.file:
            assert text.count(fault.right) == 1, (
                f"{fault.right!r} stands {text.count(fault.right)} times in {path.name}"
            )
            text = text.replace(fault.right, fault.wrong)
        (package / path.name).write_text(PLAIN if path.stem == "kernel" else text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        run = importlib.import_module(f"{name}.machine").run

        def model(work: Workload, boundaries: tuple[int, ...], image: np.ndarray) -> Observation:
            program = work.instructions, work.machine, work.constants, boundaries
            return register_observation(work, run(*program, work.dram_bytes, image, work.input_address, MOST_CYCLES))

        yield model
    finally:
        sys.path.remove(str(folder))
        for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[module]
