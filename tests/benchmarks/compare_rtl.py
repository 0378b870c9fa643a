"""RTL of the matrix engine on random programs: python -m tests.benchmarks.compare_rtl --count 1000."""

import argparse
import sys

from npu_sim.random_programs.machines import RTL_SIZES

from tests.rtl_models import missing_tools, random_case, run_case, token_case


def main() -> int:
    """Run the comparison and print what was compared; 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="random programs; one of five is about tokens alone")
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    if missing_tools():
        print(missing_tools())
        return 1
    instructions = passes = times = values = cycles = 0
    seconds = 0.0
    for seed in range(args.first_seed, args.first_seed + args.count):
        sizes = RTL_SIZES[seed % len(RTL_SIZES)]
        make = token_case if seed % 5 == 4 else random_case
        rtl, found = run_case(*make(seed, sizes))
        instructions += found.instructions
        passes += found.passes
        times += found.times
        values += found.values
        cycles += found.cycles
        seconds += rtl.seconds
        if found.difference:
            print(f"DIFFERENCE seed {seed}, {sizes['array_rows']}x{sizes['array_cols']}: {found.difference}")
            return 1
    print(
        f"{args.count} programs on {len(RTL_SIZES)} arrays, {instructions} matrix instructions, {passes} passes, "
        f"{cycles} cycles simulated in {seconds:.0f} s: {times} times and {values} accumulators compared, 0 differences"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
