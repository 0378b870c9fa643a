"""Timing simulator against another model on random programs: python -m tests.benchmarks.compare_timing --count 1000.

The cycle-stepping twin compares every time and what each engine spent its cycles on; `--against register` compares with
the register-level machine, and all values with both it and the naive machine. With `--words` programs have so many
instructions at least, more than most of the machines' fetch buffers hold.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from npu_isa.isa.ops import Op
from npu_isa.machine.config import MachineConfig
from npu_runtime.verification import randomly
from npu_runtime.verification.randomly import verify_case
from npu_sim.fast.time.model import simulate

from tests.register_models import ALL
from tests.timing_models import compare, random_case


@dataclass(frozen=True)
class Found:
    """What was compared, the first difference, and the cycles in which the front end waits behind its first block."""

    instructions: int
    cycles: int
    difference: str | None
    waits: int


def waits(ops: Sequence[Op], machine: MachineConfig, boundaries: Sequence[int]) -> int:
    """Return the cycles in which the front end has no word to dispatch after its first block has come."""
    first, end = simulate(ops, machine, boundaries).fetch_waits[1:].T
    return int((end - first).sum())


def against_twin(seed: int, layers: int, words: int | None) -> Iterator[Found]:
    """Yield what each boundary vector of a program shows."""
    case = random_case(seed, layers, words)
    for boundaries in case.boundaries:
        c = compare(case.ops, case.machine, boundaries)
        yield Found(c.instructions, c.cycles, c.difference, waits(case.ops, case.machine, boundaries))


def against_register(seed: int, layers: int, words: int | None) -> Iterator[Found]:
    """Yield what a program, and the one with its tokens scrambled, show on every model."""
    report = verify_case(seed, ALL, layers=layers, words=words)
    p, vectors, _ = randomly.random_case(seed, None, layers, words)
    difference = None if report.difference is None else str(report.difference)
    yield Found(report.instructions, report.cycles, difference, waits(p.ops, p.machine, vectors[0]))


AGAINST = {"twin": against_twin, "register": against_register}


def main() -> int:
    """Run the comparison and print what was compared; 1 on the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="random programs")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=3, help="layers of a program")
    parser.add_argument("--words", type=int, help="least instructions of a program")
    parser.add_argument("--against", choices=AGAINST, default="twin")
    args = parser.parse_args()
    runs = instructions = cycles = waiting = 0
    for seed in range(args.first_seed, args.first_seed + args.count):
        found = list(AGAINST[args.against](seed, args.layers, args.words))
        for f in found:
            runs, instructions, cycles = runs + 1, instructions + f.instructions, cycles + f.cycles
            if f.difference:
                print(f"DIFFERENCE seed {seed}: {f.difference}")
                return 1
        waiting += any(f.waits for f in found)
    print(
        f"{args.count} programs against {args.against}, {runs} runs, {instructions} instructions, {cycles} cycles: 0 "
        f"differences; in {waiting} programs the front end waits for words behind the first block"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
