"""The dial of a binary: which steps a ratio takes, against trying them all."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_isa.file.binary import Binary, DialStep

from tests.binaries import small_binary

BINARY = small_binary(5)  # two registers with a dial


def with_dial(lows: list[int], macs: int) -> Binary:
    """Steps of two registers in turn; each reaches the next boundary."""
    steps = (DialStep(register=i % 2, boundary=i // 2 + 1, low_macs=low) for i, low in enumerate(lows))
    return replace(BINARY, dial=tuple(steps), dial_macs=macs)


@given(st.lists(st.integers(0, 1000), max_size=8).map(sorted), st.integers(0, 5), st.integers(0, 400))
def test_ratio_takes_the_nearest_step(lows, extra, quarters):
    ratio = quarters / 4
    binary = with_dial(lows, (lows[-1] if lows else 0) + extra + 1)
    asked = ratio * binary.dial_macs  # in hundredths, exact
    away = [abs(100 * low - asked) for low in (0, *lows)]
    taken = binary.steps_at(ratio)
    assert away[taken] == min(away)
    assert (0, *lows)[taken] == min(low for low, d in zip((0, *lows), away, strict=True) if d == min(away))
    assert binary.effective_percent(ratio) == pytest.approx(100 * (0, *lows)[taken] / binary.dial_macs)


def test_boundaries_of_a_ratio():
    binary = with_dial([10, 20, 40, 80], 100)
    assert binary.registers == 2
    vectors = {0: (0, 0), 5: (0, 0), 6: (1, 0), 15: (1, 0), 16: (1, 1), 30: (1, 1), 31: (2, 1), 100: (2, 2)}
    assert {ratio: binary.boundaries_at(ratio) for ratio in vectors} == vectors


def test_binary_without_a_dial():
    binary = with_dial([], 0)
    assert (binary.steps_at(100), binary.boundaries_at(100), binary.effective_percent(100)) == (0, (0, 0), 0.0)
