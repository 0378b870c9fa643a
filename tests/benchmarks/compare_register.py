"""Register-level machine, fast simulators and naive machine on many random programs.

python -m tests.benchmarks.compare_register --count 1000
"""

import argparse
import sys
import time
from multiprocessing import get_context

from npu_runtime.verify import VerifyReport

from tests.register_models import compare_case


def main() -> int:
    """Run the comparison and print what was compared; 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="random programs")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=2, help="layers of a program")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.count)
    total, begin = VerifyReport(), time.perf_counter()
    with get_context("spawn").Pool(args.jobs) as pool:
        for seed, report in zip(seeds, pool.imap(_case, [(s, args.layers) for s in seeds], 16), strict=True):
            total += report
            if total.difference is not None:
                print(f"DIFFERENCE seed {seed}: {total.difference}")
                return 1
    print(f"{args.count} programs from seed {args.first_seed}, {time.perf_counter() - begin:.0f} s: {total}")
    return 0


def _case(arguments: tuple[int, int]) -> VerifyReport:
    return compare_case(*arguments)


if __name__ == "__main__":
    sys.exit(main())
