"""Damage binaries at random and see what becomes of them: python -m tests.benchmarks.mutate_binaries --count 10000.

Every damaged file must be refused with an error or run to a defined end. The simulators' kernels check their bounds
here; a program that does not end within two minutes ends the script with a traceback.
"""

import argparse
import os
import sys
from pathlib import Path

from tests.benchmarks.fuzz import fuzz

CACHE = Path(__file__).parents[2] / ".cache" / "bounds"
LIMIT_SECONDS = 120
NETWORKS = 8


def main() -> int:
    """Run and print how many were refused by which error and how many ran; 1 on anything else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="damaged files")
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["NUMBA_BOUNDSCHECK"], os.environ["NUMBA_CACHE_DIR"] = "1", str(CACHE)  # before Numba is imported
    from npu_isa.file.container import to_bytes

    from tests.binaries import SMALL, TINY, small_binary
    from tests.mutations import mutate, outcome

    files = [to_bytes(small_binary(seed, machine)) for machine in (SMALL, TINY) for seed in range(NETWORKS)]
    seeds = range(args.first_seed, args.first_seed + args.count)
    return 1 if fuzz(files, seeds, LIMIT_SECONDS, mutate, outcome) else 0


if __name__ == "__main__":
    sys.exit(main())
