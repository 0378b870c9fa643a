"""Timing simulator against its cycle-stepping twin: python -m tests.benchmarks.compare_timing --count 1000."""

import argparse
import sys

from tests.timing_models import compare, random_case


def main() -> int:
    """Run the comparison and print what was compared; 1 on the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="random programs")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=3, help="layers of a program")
    args = parser.parse_args()
    runs = instructions = cycles = 0
    for seed in range(args.first_seed, args.first_seed + args.count):
        case = random_case(seed, args.layers)
        for boundaries in case.boundaries:
            found = compare(case.ops, case.machine, boundaries)
            runs, instructions, cycles = runs + 1, instructions + found.instructions, cycles + found.cycles
            if found.difference:
                print(f"DIFFERENCE seed {seed}, boundaries {boundaries}: {found.difference}")
                return 1
    print(
        f"{args.count} programs, {runs} runs, {instructions} instructions x 5 times and their cycles by cause, "
        f"{cycles} cycles stepped: 0 differences"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
