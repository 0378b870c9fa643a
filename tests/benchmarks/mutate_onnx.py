"""Damage ONNX files at random and see what becomes of them: python -m tests.benchmarks.mutate_onnx --count 6000.

Every damaged file must be imported or refused with an error of ours. The models are small ones made here, the demo's
and those of ../shared/data up to --largest bytes. More memory than --memory above the start is an escaped
MemoryError; an import that does not end within a minute ends the script with a traceback, its file stays.
"""

import argparse
import faulthandler
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from tests.onnx_mutations import mutate, outcome, small_models

DEMO = Path(__file__).parents[1] / "demo" / "digits.onnx"
DATA = Path(__file__).parents[3] / "shared" / "data" / "models"
LIMIT_SECONDS = 60


def main() -> int:
    """Run and print how many files were accepted, refused and escaped; 1 if any escaped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=6000, help="damaged files")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--largest", type=int, default=1_200_000, help="bytes of the largest model of the data")
    parser.add_argument("--memory", type=int, default=2, help="GiB that an import may take")
    parser.add_argument("--data", type=Path, default=DATA, help="a folder of models; skipped if absent")
    args = parser.parse_args()
    given = [DEMO, *(p for p in sorted(args.data.glob("*.onnx")) if p.stat().st_size <= args.largest)]
    files = small_models() + [p.read_bytes() for p in given]
    _limit_memory(args.memory << 30)
    found: Counter[tuple[str, str]] = Counter()
    escaped: Counter[str] = Counter()
    started, longest, start_peak = time.perf_counter(), 0.0, _peak()
    path = Path(tempfile.mkdtemp()) / "damaged.onnx"
    for seed in range(args.first_seed, args.first_seed + args.count):
        rng = np.random.default_rng(seed)
        kind, damaged = mutate(files[seed % len(files)], rng)
        path.write_bytes(damaged)
        faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
        before = time.perf_counter()
        try:
            result = outcome(path)
        except Exception as error:  # anything that escapes is what this script looks for
            result = "ESCAPED"
            where = traceback.extract_tb(error.__traceback__)[-1]
            escaped[f"{type(error).__name__}: {Path(where.filename).name}:{where.lineno} {where.name}"] += 1
            print(f"seed {seed}, {kind}: {str(error)[:200]}\n{traceback.format_exc()}", file=sys.stderr)
        longest = max(longest, time.perf_counter() - before)
        found[kind, result] += 1
    faulthandler.cancel_dump_traceback_later()
    path.unlink()
    _report(found, escaped, args.count, len(files))
    grown = (_peak() - start_peak) / 1024
    print(f"{time.perf_counter() - started:.0f} s, the longest {longest:.2f} s; peak memory grew by {grown:.0f} MiB")
    return 1 if escaped else 0


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _limit_memory(more: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))


def _report(found: Counter[tuple[str, str]], escaped: Counter[str], count: int, models: int) -> None:
    results = sorted({result for _, result in found})
    print(f"{'damage':16}" + "".join(f"{r:>18}" for r in results))
    for kind in sorted({kind for kind, _ in found}):
        print(f"{kind:16}" + "".join(f"{found[kind, r]:18}" for r in results))
    totals = {r: sum(n for (_, result), n in found.items() if result == r) for r in results}
    print(f"{'all':16}" + "".join(f"{totals[r]:18}" for r in results))
    for text, times in escaped.most_common():
        print(f"{times:6} x {text}")
    print(f"{count} damaged files of {models} models")


if __name__ == "__main__":
    sys.exit(main())
