"""Golden model against simulator on many random networks: python -m tests.benchmarks.compare_random --count 1000."""

import argparse
import sys
from itertools import pairwise

from npu_isa.errors import CompileError

from tests.equality import random_case


def main() -> int:
    """Run the comparison and print what was compared; 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="random networks")
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    networks = runs = values = instructions = cycles = refused = rising = 0
    for seed in range(args.first_seed, args.first_seed + args.count):
        try:
            found, by_ratio, text = random_case(seed)
        except CompileError:
            refused += 1
            continue
        networks += 1
        for c in found:
            runs += 1
            values += c.values
            instructions += c.instructions
            cycles += c.cycles
            if c.difference:
                print(f"DIFFERENCE {text}: {c.difference}")
                return 1
        rising += any(b > a for a, b in pairwise(by_ratio))
    print(
        f"{networks} networks x 6 boundary vectors = {runs} runs, {values} values, {instructions} instructions, "
        f"{cycles} cycles simulated: 0 differences; {refused} networks did not fit their machine; "
        f"{rising} networks where some higher ratio took more cycles"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
