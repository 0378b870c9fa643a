"""Damage ONNX files at random and see what becomes of them: python -m tests.benchmarks.mutate_onnx --count 6000.

Every damaged file must be imported or refused with an error of ours. The models are small ones made here, the demo's
and those of ../shared/data up to --largest bytes. More memory than --memory above the start is an escaped
MemoryError; an import that does not end within a minute ends the script with a traceback, its file stays.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.fuzz import Rng, fuzz
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
    path, start = Path(tempfile.mkdtemp()) / "damaged.onnx", _peak()

    def written(data: bytes, _: Rng) -> str:
        path.write_bytes(data)
        return outcome(path)

    escaped = fuzz(files, range(args.first_seed, args.first_seed + args.count), LIMIT_SECONDS, mutate, written)
    path.unlink()
    print(f"peak memory grew by {(_peak() - start) / 1024:.0f} MiB")
    return 1 if escaped else 0


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _limit_memory(more: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main())
