"""What the front end's fetch buffer costs, by its size: python -m tests.benchmarks.fetch_waits MODEL.npubin ...

For each binary and ratio the same program is timed with fetch buffers of several sizes. `cycles` is the total, `more`
what it is above that of the largest buffer, `front end` the cycles in which the front end had no word to dispatch, the
columns of the engines those of them in which the engine had nothing else to do (cause `fetch`). Before its first block
is there every program waits: `start` cycles of each.
"""

import argparse
import sys
from dataclasses import replace

from npu_isa.check.program import check_binary
from npu_isa.file.binary import Binary
from npu_isa.file.container import load
from npu_isa.isa.ops import Engine
from npu_sim.activity import CAUSES
from npu_sim.counters import engine_rows, spent
from npu_sim.fast.time.model import TimingModel

SIZES = (64, 96, 128, 192, 256, 512, 1024)


def measure(binary: Binary, ratio: float, sizes: list[int]) -> None:
    """Print a row for each size."""
    ops, at = check_binary(binary), binary.boundaries_at(ratio)
    timings = {}
    for words in sizes:
        machine = replace(binary.machine, instruction_words=words).check()
        timings[words] = TimingModel(ops, machine).simulate(at)
    most = timings[max(sizes)]
    print(
        f"{binary.model} at {ratio:g} % on {binary.machine.name}: {len(ops)} instructions, {most.fetch_bytes} bytes of "
        f"{most.total_dram_bytes} fetched; start {int(most.code_there[0])}"
    )
    print(f"  {'words':>6}{'cycles':>12}{'more':>8}{'front end':>11}" + "".join(f"{e.name.lower():>9}" for e in Engine))
    for words, timing in timings.items():
        first, end = timing.fetch_waits.T
        engines = [row.cycles[CAUSES.index("fetch")] for row in engine_rows(timing, ops, spent(timing, ops))]
        more = 100 * (timing.total_cycles / most.total_cycles - 1)
        print(
            f"  {words:>6}{timing.total_cycles:>12,}{more:>7.2f}%{int((end - first).sum()):>11,}"
            + "".join(f"{cycles:>9,}" for cycles in engines)
        )


def main() -> int:
    """Measure at each ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help=".npubin files")
    parser.add_argument("--ratio", default="0,100", help="ratios in percent")
    parser.add_argument("--words", default=",".join(map(str, SIZES)), help="sizes of the fetch buffer, instructions")
    args = parser.parse_args()
    sizes = [int(words) for words in args.words.split(",")]
    for path in args.models:
        binary = load(path)
        for ratio in args.ratio.split(","):
            measure(binary, float(ratio), sizes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
