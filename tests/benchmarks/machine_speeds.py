"""Cycles per second of every model of the machine, on one program in one run.

    python -m tests.benchmarks.machine_speeds [MODEL.npubin] --ratio 0,100

Without a model: the demo network, compiled for npu32. Each figure is that of one thread, the least time of some runs,
since other work may share the processor. What is done once per binary is not counted (decoding, power-up, building the
RTL). The register-level clock is measured in stretches of cycles, the RTL by its driver, without input and output. The
times do not depend on the image: those of a batch are simulated once, its values for each image.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from npu_isa.check.program import check_binary
from npu_isa.file.binary import Binary
from npu_isa.file.container import load
from npu_runtime.session.compiling import compile_file
from npu_runtime.verification.models import Workload
from npu_sim.fast.time.model import TimingModel
from npu_sim.fast.values.run import Values
from npu_sim.register import clock, machine
from npu_sim.register.power import power_up
from npu_sim.rtl.memories import trace
from npu_sim.rtl.run import run

from tests.rtl_models import missing_tools

DEMO = Path(__file__).parents[1] / "demo"
STRETCH = 2000  # cycles
BATCH = 64


def least(what: Callable[[], object], runs: int) -> float:
    """Return the least seconds of some runs, the first of which may compile."""
    what()
    found = []
    for _ in range(runs):
        begin = time.perf_counter()
        what()
        found.append(time.perf_counter() - begin)
    return min(found)


def clock_seconds(work: Workload, boundaries: tuple[int, ...], runs: int) -> float:
    """Return the seconds of the register-level clock on an image of zeros: each stretch's least time."""
    least_of: dict[int, float] = {}
    for _ in range(runs):
        memory = work.constants, work.dram_bytes, np.zeros(0, np.uint8), 0
        state = power_up(work.instructions, work.machine, boundaries, *memory)
        status, cycle = clock.TOO_LONG, 0
        while status != clock.HALTED:
            begin = time.perf_counter()
            status, end = clock.run_clock(state, machine._flush(state), cycle, cycle + STRETCH)
            spent = time.perf_counter() - begin
            least_of[cycle] = min(least_of.get(cycle, spent), spent)
            cycle = int(end)
    return sum(least_of.values())


def measure(binary: Binary, ratio: float, runs: int) -> None:
    """Print a row for each model."""
    ops, work, boundaries = check_binary(binary), Workload.of(binary), binary.boundaries_at(ratio)
    model = TimingModel(ops, binary.machine)
    timing = model.simulate(boundaries)
    values = Values(ops, binary.machine, binary.constants, boundaries, binary.dram_bytes)
    images = np.zeros((BATCH, binary.input.bytes), np.uint8)
    image, places = images[0], (binary.input.address, binary.output_ranges)
    once = least(lambda: model.simulate(boundaries), 20 * runs)
    seconds = {
        "fast, times": once,
        "fast, an image": once + least(lambda: values.run(images[:1], *places), 20 * runs),
        f"fast, {BATCH} images": (once + least(lambda: values.run(images, *places), runs)) / BATCH,
        "register-level": clock_seconds(work, boundaries, runs),
    }
    if missing_tools():
        print(f"no RTL: {missing_tools()}", file=sys.stderr)
    else:
        program = ops, binary.machine, binary.constants, boundaries
        memories = trace(*program, binary.dram_bytes, image, binary.input.address)
        seconds["RTL, matrix engine"] = min(
            run(work.instructions, binary.machine, timing, memories.writes, boundaries).seconds for _ in range(runs)
        )
    slowest = max(seconds.values())
    array = f"{binary.machine.array_rows} x {binary.machine.array_cols}"
    print(f"{binary.model} at {ratio:g} % on {binary.machine.name}, {array}: {timing.total_cycles} cycles")
    for name, spent in seconds.items():
        print(f"  {name:24} {timing.total_cycles / spent:16,.0f} cycles/s {slowest / spent:10,.1f} x")


def main() -> int:
    """Measure at each ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help=".npubin file")
    parser.add_argument("--ratio", default="0,100", help="ratios in percent")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement")
    args = parser.parse_args()
    numba.set_num_threads(1)
    if args.model:
        binary = load(args.model)
    else:
        binary = compile_file(DEMO / "digits.onnx", DEMO / "digits_train.npz", "npu32").binary
    for ratio in args.ratio.split(","):
        measure(binary, float(ratio), args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
