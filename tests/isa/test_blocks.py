"""Block layouts against bytes written by hand, and there and back; window geometry against plain enumeration."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_isa.machine.blocks import (
    ParamBlock,
    WeightBlock,
    pack_params,
    pack_table,
    pack_weights,
    param_block_rows,
    unpack_params,
    unpack_weights,
    weight_block_words,
)
from npu_isa.machine.config import load_machine
from npu_isa.machine.window import Axis


def test_a_weight_block_by_hand():
    """2 columns, 1 place, 1 tap: a word of positions, then channel by channel a byte per column."""
    machine = replace(load_machine("npu16"), array_rows=2, array_cols=2)
    weights = np.arange(32, dtype=np.int8).reshape(1, 1, 16, 2) - 16
    data = pack_weights(WeightBlock(np.array([[3, 4]], np.uint8), weights), machine)
    assert data.tolist() == [0x43, *[0] * 15, *[(i - 16) & 255 for i in range(32)]]
    assert data.size == 16 * weight_block_words(machine, 1, 1)


def test_a_parameter_block_by_hand():
    """One lane, five taps: bias, multiplier with its shift, second multiplier, two rows of taps."""
    lane = [np.array([v]) for v in (-2, 0x1234, 7, 0x7FFF)]
    taps = np.array([[1], [-1], [3], [-128], [127]], np.int8)
    rows = pack_params(ParamBlock(*lane, taps))
    assert [hex(v) for v in rows[:, 0].tolist()] == ["0xfffffffe", "0x71234", "0x7fff", "0x8003ff01", "0x7f"]
    assert len(rows) == param_block_rows(5)


def test_negative_multipliers_by_hand():
    """Two's complement of 16 bits; the shift beside the first is not touched."""
    lane = [np.array([v]) for v in (0, -1, 7, -32767)]
    rows = pack_params(ParamBlock(*lane, np.zeros((0, 1), np.int8)))
    assert [hex(v) for v in rows[:, 0].tolist()] == ["0x0", "0x7ffff", "0x8001"]
    got = unpack_params(rows, 0)
    assert (got.mult.tolist(), got.shift.tolist(), got.mult2.tolist()) == ([-1], [7], [-32767])


@pytest.mark.parametrize(("cols", "row_bytes", "rows"), [(2, 8, 32), (16, 64, 4), (48, 192, 2), (128, 512, 1)])
def test_a_table_by_hand(cols, row_bytes, rows):
    """The bytes in their order from the row's beginning on; the last row is filled up."""
    machine = replace(load_machine("npu16"), array_cols=cols)
    table = np.arange(256, dtype=np.uint8)[::-1]
    data = pack_table(table, machine).tolist()
    assert data == table.tolist() + [0] * (row_bytes * rows - 256)


@pytest.mark.parametrize("cols", [2, 8, 16, 48])
@given(seed=st.integers(0, 1 << 30), places=st.integers(1, 4), taps=st.integers(1, 5))
def test_blocks_there_and_back(cols, seed, places, taps):
    rng = np.random.default_rng(seed)
    machine = replace(load_machine("npu16"), array_cols=cols)
    weights = rng.integers(-128, 128, (places, taps, 16, cols)).astype(np.int8)
    block = WeightBlock(rng.integers(0, 5, (places, cols)).astype(np.uint8), weights)
    for got, want in zip(unpack_weights(pack_weights(block, machine), machine, places, taps), block, strict=True):
        assert np.array_equal(got, want)
    limits = ((-(1 << 31), 1 << 31), (-32767, 32768), (1, 48), (-32767, 32768))
    params = ParamBlock(*(rng.integers(*span, cols) for span in limits), rng.integers(-128, 128, (taps, cols)))
    for got, want in zip(unpack_params(pack_params(params), taps), params, strict=True):
        assert np.array_equal(got, want)


@given(
    first=st.integers(0, 6), count=st.integers(1, 5), stride=st.integers(1, 4), dilation=st.integers(1, 3),
    kernel=st.integers(1, 4), pad=st.integers(-4, 4), limit=st.integers(1, 12),
)  # fmt: skip
def test_an_axis_as_enumerated(first, count, stride, dilation, kernel, pad, limit):
    axis = Axis(first, count, stride, dilation, kernel, pad, limit)
    readers: dict[int, int] = {}
    lost = None
    for o in range(count):
        met = [at for k in range(kernel) if 0 <= (at := (first + o) * stride - pad + k * dilation) < limit]
        readers |= dict.fromkeys(met, o)
        if not met and lost is None:
            lost = first + o
    assert axis.tapped() == tuple(sorted(readers))
    assert axis.last_reader() == readers
    assert axis.without_tap() == lost
    low, end = axis.span()
    assert all(low <= at < end for at in readers)  # what lies between the taps counts too
