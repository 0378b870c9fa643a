"""The RTL after synthesis, on random programs: python -m tests.benchmarks.gates --count 30 (about ten minutes).

Yosys turns the whole engine of a small array into gates and flip-flops; Verilator simulates them in place of the
sources. Yosys: see area.py.
"""

import argparse
import sys
from pathlib import Path

from npu_isa.machine.config import MachineConfig
from npu_sim.random_programs.machines import RTL_SIZES
from npu_sim.rtl.build import CACHE, DRIVER, TOP, compile_model, driver_sizes, parameters, sources

from tests.benchmarks.area import synthesize
from tests.rtl_models import random_case, run_case

ARRAY = RTL_SIZES[2]


def netlist(machine: MachineConfig) -> Path:
    """Synthesize the engine and return the Verilog file of its gates."""
    values = "".join(f" -chparam {name} {value}" for name, value in parameters(machine).items())
    return synthesize(
        sources(),
        f"hierarchy -top {TOP}{values}",
        f"synth -noabc -top {TOP}; clean; rename -top {TOP}; write_verilog -noattr out.txt",
    )


def main() -> int:
    """Run the programs; 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="random programs")
    args = parser.parse_args()
    machine = random_case(0, ARRAY)[0].machine
    made = netlist(machine)
    gates = made.rename(made.with_name("gates.v"))
    options = ["-Wno-fatal", "-Wno-lint"]
    simulator = compile_model([gates], TOP, DRIVER, driver_sizes(machine), options, CACHE)
    instructions = cycles = values = 0
    for seed in range(args.count):
        _, found = run_case(*random_case(seed, ARRAY), simulator=simulator)
        instructions += found.instructions
        cycles += found.cycles
        values += found.values
        if found.difference:
            print(f"DIFFERENCE seed {seed}: {found.difference}")
            return 1
    print(
        f"{args.count} programs on gates of {machine.array_rows}x{machine.array_cols}, {instructions} matrix "
        f"instructions, {cycles} cycles, {values} accumulators: 0 differences"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
