"""Damaged binaries are refused or run to their end; tests/benchmarks/mutate_binaries.py tries many more."""

from collections import Counter

import numpy as np
import pytest
from npu_isa.file.container import to_bytes

from tests.binaries import SMALL, TINY, small_binary
from tests.mutations import mutate, outcome

FILES = [to_bytes(small_binary(seed, machine)) for machine in (SMALL, TINY) for seed in range(3)]
REFUSALS = {"ContainerError", "ProgramError"}


@pytest.mark.parametrize("part", range(10))
def test_damaged_files_are_refused_or_run(part):
    found: Counter[str] = Counter()
    for seed in range(30 * part, 30 * part + 30):
        rng = np.random.default_rng(seed)
        _, damaged = mutate(FILES[seed % len(FILES)], rng)
        found[outcome(damaged, rng)] += 1
    assert found.keys() == REFUSALS | {"ran"}, found


def test_whole_files_run():
    assert [outcome(data, np.random.default_rng(0)) for data in FILES] == ["ran"] * len(FILES)
