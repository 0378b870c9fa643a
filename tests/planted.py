"""Faults to plant: wrong rules of time, and copies of a package of kernels with one line changed, run uncompiled."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

PLAIN = """from npu_sim.kernel import record


def kernel(function):
    return function


inlined = cached = kernel
"""

ENGINE_RULES = {  # of npu_isa.machine.timing: what is wrong about what each returns
    "conv_passes": lambda found: (1,) * len(found),  # no bank conflicts
    "weight_load_cycles": lambda found: found + 1,
    "array_latency": lambda found: found - 1,
    "vec_issue_cycles": lambda found: found + 1,
    "table_issue_cycles": lambda found: found - 1,
}


@contextmanager
def copy_of(package: str, folder: Path, name: str, change: tuple[str, str, str] | None) -> Iterator[None]:
    """Let `name` be a copy of a package, so that copies do not meet, while the context lasts.

    Args:
        package: its modules and `npu_sim.kernel` are all that it needs changed.
        folder: an empty folder.
        name: of the copy.
        change: module, text that stands there once, and what takes its place; None: nothing.
    """
    copy = folder / name
    copy.mkdir()
    (copy / "kernel.py").write_text(PLAIN, encoding="utf-8")
    for path in Path(str(resources.files(package))).glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if change is not None and path.stem == change[0]:
            _, right, wrong = change
            assert text.count(right) == 1, f"{right!r} stands {text.count(right)} times in {path.name}"
            text = text.replace(right, wrong)
        text = text.replace(package, name).replace("npu_sim.kernel", f"{name}.kernel")
        (copy / path.name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[module]
