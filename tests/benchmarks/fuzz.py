"""Damage files at random, one after the other, and count what becomes of them: the loop of two benchmarks."""

import faulthandler
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Rng = np.random.Generator


def fuzz(
    files: Sequence[bytes],
    seeds: range,
    limit_seconds: int,
    mutate: Callable[[bytes, Rng], tuple[str, bytes]],
    outcome: Callable[[bytes, Rng], str],
) -> int:
    """Print what became of one damaged file per seed, and a traceback of each that an error escaped from.

    Args:
        files: valid ones, damaged in turn.
        seeds: of one file each.
        limit_seconds: a file that takes longer ends the process with a traceback.
        mutate: returns what was done, and the damaged file.
        outcome: returns what became of it; whatever it raises is what the script looks for.

    Returns:
        how many errors escaped.
    """
    found: Counter[tuple[str, str]] = Counter()
    escaped: Counter[str] = Counter()
    started, longest = time.perf_counter(), 0.0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        kind, damaged = mutate(files[seed % len(files)], rng)
        faulthandler.dump_traceback_later(limit_seconds, exit=True)
        before = time.perf_counter()
        try:
            result = outcome(damaged, rng)
        except Exception as error:
            result = "ESCAPED"
            where = traceback.extract_tb(error.__traceback__)[-1]
            escaped[f"{type(error).__name__}: {Path(where.filename).name}:{where.lineno} {where.name}"] += 1
            print(f"seed {seed}, {kind}: {str(error)[:200]}\n{traceback.format_exc()}", file=sys.stderr)
        longest = max(longest, time.perf_counter() - before)
        found[kind, result] += 1
    faulthandler.cancel_dump_traceback_later()
    _report(found)
    for text, times in escaped.most_common():
        print(f"{times:6} x {text}")
    print(f"{len(seeds)} damaged files of {len(files)}, {time.perf_counter() - started:.0f} s, longest {longest:.2f} s")
    return escaped.total()


def _report(found: Counter[tuple[str, str]]) -> None:
    results = sorted({result for _, result in found})
    print(f"{'damage':16}" + "".join(f"{r:>18}" for r in results))
    for kind in sorted({kind for kind, _ in found}):
        print(f"{kind:16}" + "".join(f"{found[kind, r]:18}" for r in results))
    totals = {r: sum(n for (_, result), n in found.items() if result == r) for r in results}
    print(f"{'all':16}" + "".join(f"{totals[r]:18}" for r in results))
