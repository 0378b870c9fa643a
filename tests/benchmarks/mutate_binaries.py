"""Damage binaries at random and see what becomes of them: python -m tests.benchmarks.mutate_binaries --count 10000.

Every damaged file must be refused with an error or run to a defined end. The simulators' kernels check their bounds
here; a program that does not end within two minutes ends the script with a traceback.
"""

import argparse
import faulthandler
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

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
    import numpy as np
    from npu_isa.file.container import to_bytes

    from tests.binaries import SMALL, TINY, small_binary
    from tests.mutations import mutate, outcome

    files = [to_bytes(small_binary(seed, machine)) for machine in (SMALL, TINY) for seed in range(NETWORKS)]
    found: Counter[tuple[str, str]] = Counter()
    crashes, started, longest = 0, time.perf_counter(), 0.0
    for seed in range(args.first_seed, args.first_seed + args.count):
        rng = np.random.default_rng(seed)
        kind, damaged = mutate(files[seed % len(files)], rng)
        faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
        before = time.perf_counter()
        try:
            result = outcome(damaged, rng)
        except Exception:  # anything that escapes is what this script looks for
            crashes += 1
            result = "CRASHED"
            print(f"seed {seed}, {kind}:\n{traceback.format_exc()}")
        longest = max(longest, time.perf_counter() - before)
        found[kind, result] += 1
    faulthandler.cancel_dump_traceback_later()
    _report(found, args.count, time.perf_counter() - started, longest)
    return 1 if crashes else 0


def _report(found: Counter[tuple[str, str]], count: int, seconds: float, longest: float) -> None:
    results = sorted({result for _, result in found})
    print(f"{'damage':16}" + "".join(f"{r:>16}" for r in results))
    for kind in sorted({kind for kind, _ in found}):
        print(f"{kind:16}" + "".join(f"{found[kind, r]:16}" for r in results))
    totals = {r: sum(n for (_, result), n in found.items() if result == r) for r in results}
    print(f"{'all':16}" + "".join(f"{totals[r]:16}" for r in results))
    print(f"{count} files in {seconds:.0f} s, the longest {longest:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
