"""The shared arithmetic against plain Python integers: every 8-bit input, and the extremes of 32-bit sums."""

from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_isa.machine.numerics import (
    MAX_MULTIPLIER,
    MAX_SHIFT,
    MAX_SHIFT_LOWER,
    dynamic_shift,
    look_up,
    lower,
    requantize,
    round_shift,
)

BYTES = np.arange(-128, 256)
INT32 = (-(1 << 31), (1 << 31) - 1)


def nearest(value: int, shift: int) -> int:
    """value / 2^shift rounded to the nearest integer, halves up."""
    return value if shift == 0 else floor(Fraction(value, 1 << shift) + Fraction(1, 2))


@pytest.mark.parametrize("shift", range(9))
def test_round_shift_of_every_byte(shift):
    assert round_shift(BYTES, shift).tolist() == [nearest(q, shift) for q in BYTES.tolist()]


def test_round_shift_by_a_position_each():
    q, s = np.meshgrid(BYTES, np.arange(9))
    assert round_shift(q, s).tolist() == [[nearest(q, s) for q in BYTES.tolist()] for s in range(9)]


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("shift", range(MAX_SHIFT_LOWER + 1))
def test_lower_of_every_byte(shift, unsigned):
    values = np.arange(256) if unsigned else np.arange(-128, 128)
    low, high = (0, 15) if unsigned else (-8, 7)
    expected = [min(max(nearest(q, shift), low), high) * 2**shift for q in values.tolist()]
    assert lower(values, shift, unsigned=unsigned).tolist() == expected
    assert min(expected) >= values.min()
    assert max(expected) <= values.max()  # the code stands for an 8-bit value again


def scaled(acc, bias, mult, shift, low, high, residual=0, mult2=0, leaky=False, product=False):
    """The rule of the microarchitecture page, one element, in exact integers."""
    if product:
        acc, residual = acc * residual, 0
    total = acc + bias
    product_ = total * (mult2 if leaky and total < 0 else mult) + (0 if leaky else residual * mult2)
    return min(max(nearest(product_, shift), low), high)


@pytest.mark.parametrize("shift", range(1, MAX_SHIFT + 1))
def test_requantize_of_every_byte(shift):
    for mult in (0, 1, 3, 0x5555, MAX_MULTIPLIER, -1, -0x5555, -MAX_MULTIPLIER):
        got = requantize(BYTES, np.int64(0), np.int64(mult), np.int64(shift), -128, 127)
        assert got.tolist() == [scaled(q, 0, mult, shift, -128, 127) for q in BYTES.tolist()]


def test_requantize_at_the_extremes():
    multipliers = (0, 1, MAX_MULTIPLIER, -MAX_MULTIPLIER)
    corners = product(INT32, INT32, multipliers, (1, 16, MAX_SHIFT), (-128, 255), multipliers[::2] + multipliers[3:])
    for acc, bias, mult, shift, residual, mult2 in corners:
        arguments = [np.array([v]) for v in (acc, bias, mult, shift)]
        limits = (-(1 << 15), (1 << 15) - 1)
        second = np.array([mult2])
        assert requantize(*arguments, *limits).tolist() == [scaled(acc, bias, mult, shift, *limits)]
        got = requantize(*arguments, *limits, np.array([residual]), second)
        assert got.tolist() == [scaled(acc, bias, mult, shift, *limits, residual, mult2)]
        got = requantize(*arguments, *limits, mult2=second, leaky=True)
        assert got.tolist() == [scaled(acc, bias, mult, shift, *limits, mult2=mult2, leaky=True)]


@given(
    st.integers(*INT32),
    st.integers(*INT32),
    st.integers(-MAX_MULTIPLIER, MAX_MULTIPLIER),
    st.integers(1, MAX_SHIFT),
    st.integers(-128, 255),
    st.integers(-MAX_MULTIPLIER, MAX_MULTIPLIER),
    st.sampled_from([(-128, 127), (0, 255), (-(1 << 15), (1 << 15) - 1), (3, 3)]),
    st.sampled_from(["plain", "residual", "leaky", "product"]),
)
def test_requantize_of_anything(acc, bias, mult, shift, residual, mult2, limits, kind):
    acc = max(min(acc, 255), -128) if kind == "product" else acc
    arguments = [np.array([v]) for v in (acc, bias, mult, shift)]
    more = {
        "plain": {},
        "residual": {"residual": np.array([residual]), "mult2": np.array([mult2])},
        "leaky": {"mult2": np.array([mult2]), "leaky": True},
        "product": {"residual": np.array([residual]), "product": True},
    }[kind]
    plain = {name: value if value is True else int(value[0]) for name, value in more.items()}
    assert requantize(*arguments, *limits, **more).tolist() == [scaled(acc, bias, mult, shift, *limits, **plain)]


@pytest.mark.parametrize("signs", list(product((False, True), (False, True))))
def test_product_of_every_two_bytes(signs):
    """One rounding: of the whole product, its bias and its scale, which may be negative."""
    a, b = (np.arange(256) if unsigned else np.arange(-128, 128) for unsigned in signs)
    acc, residual = np.meshgrid(a, b)
    for bias, mult, shift in ((0, 1, 1), (77, -129, 13), (-1000, MAX_MULTIPLIER, 22)):
        scale = (np.int64(v) for v in (bias, mult, shift))
        got = requantize(acc, *scale, -128, 127, residual, product=True)
        pairs = zip(acc.ravel().tolist(), residual.ravel().tolist(), strict=True)
        want = [min(max((2 * (x * y + bias) * mult + (1 << shift)) >> shift + 1, -128), 127) for x, y in pairs]
        assert got.ravel().tolist() == want


def test_look_up_of_every_byte():
    """The bits of the byte are the place: -1 and 255 are one place, -128 and 128 another."""
    table = np.random.default_rng(0).permutation(256).astype(np.uint8)
    raw = [int(table[v % 256]) for v in BYTES.tolist()]
    assert look_up(BYTES, table, unsigned=True).tolist() == raw
    assert look_up(BYTES, table, unsigned=False).tolist() == [v - 256 * (v > 127) for v in raw]


def test_requantize_has_its_channels_on_the_last_axis():
    acc = np.arange(12).reshape(2, 2, 3)
    got = requantize(acc, np.array([0, 10, 20]), np.array([1, 2, 3]), np.array([1, 1, 2]), -128, 127)
    expected = [[[scaled(a, 10 * c, c + 1, (1, 1, 2)[c], -128, 127) for c, a in enumerate(p)] for p in r] for r in acc]
    assert got.tolist() == expected


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("clip", [0, 1, 4])
def test_dynamic_shift_of_every_byte_among_zeros_and_of_random_groups(unsigned, clip):
    """One value alone sets the position; a group's is that of its largest magnitude (OR keeps the top bit)."""
    values = range(256) if unsigned else range(-128, 128)
    rng = np.random.default_rng(0)
    groups = [[v] + [0] * 15 for v in values] + (rng.integers(min(values), max(values) + 1, (500, 16)) >> 2).tolist()
    got = dynamic_shift(np.array(groups), unsigned=unsigned, clip=clip)
    for group, shift in zip(groups, got.tolist(), strict=True):
        bits = max((~v if v < 0 else v).bit_length() for v in group)
        assert shift == max(bits - (4 if unsigned else 3) - clip, 0)
        if not clip:  # nothing loses more than rounding: half a step, and the clamp of a value rounded up past 15
            step = 1 << shift
            lowered = lower(np.array(group), shift, unsigned=unsigned)
            assert np.abs(lowered - np.array(group)).max() <= step
