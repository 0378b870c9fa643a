"""Whole networks on the register-level machine: equal to the fast simulators and the golden model, and how fast.

    python -m tests.benchmarks.networks_register --models resnet20_cifar10 --hardware npu32,npu16

Each network is compiled from ../shared/data, and compared at five ratios. Speed is that of one thread, the compiled
clock alone: the least time of each stretch of cycles over some runs, since other work may share the processor.
"""

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
from npu_isa.binary import Binary
from npu_isa.codec import decode
from npu_runtime.verify import verify
from npu_sim.register import clock, machine
from npu_sim.register.power import power_up

from tests.benchmarks.models import RATIOS, catalogue, compile_one

STRETCH = 2000  # cycles


@dataclass(frozen=True)
class Speed:
    """Cycles of a run, and the seconds of the clock."""

    cycles: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.cycles} cycles at {self.cycles / self.seconds / 1e6:.2f} million a second"


def clock_speed(binary: Binary, boundaries: tuple[int, ...], runs: int) -> Speed:
    """Measure the clock on an image of zeros."""
    least: dict[int, float] = {}
    program, cycle = decode(binary.code), 0
    for _ in range(runs):
        dram = np.zeros(binary.dram_bytes, np.uint8)
        dram[: binary.constants.size] = binary.constants
        state = power_up(program, binary.machine, boundaries, dram)
        status, cycle = clock.TOO_LONG, 0
        while status != clock.HALTED:
            begin = time.process_time()
            status, end = clock.run_clock(state, machine._flush(state), cycle, cycle + STRETCH)
            spent = time.process_time() - begin
            least[cycle] = min(least.get(cycle, spent), spent)
            cycle = int(end)
    return Speed(cycle, sum(least.values()))


def main() -> int:
    """Compare and measure; 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet20_cifar10", help="comma-separated names of ../shared/data/models")
    parser.add_argument("--hardware", default="npu32,npu16", help="comma-separated machines")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement")
    args = parser.parse_args()
    for name in args.models.split(","):
        for hardware in args.hardware.split(","):
            found = compile_one(catalogue()[name], hardware, None)
            binary, session = found.session.binary, found.session
            images = session.prepare(found.model.labelled_images(1).images).reshape(1, -1)
            vectors = [binary.boundaries_at(ratio) for ratio in RATIOS]
            report = verify(binary, vectors, ("golden", "fast", "register"), images, found.graph)
            print(f"{name} on {hardware}: {report}", flush=True)
            if report.difference is not None:
                return 1
            for ratio in (0, 100):
                speed = clock_speed(binary, binary.boundaries_at(ratio), args.runs)
                print(f"  {ratio:3} %: {speed}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
