"""The arithmetic of the machine, on NumPy integer arrays; every model of the machine obeys these functions bit for bit.

The rules are those of the microarchitecture page, section "Numerics". Nothing here is fast; the simulators have
kernels of their own that the tests compare with these.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[Any]

MAX_SHIFT_LOWER = 4  # positions 0..4: 4 of 8 bits
MAX_MULTIPLIER = 32767  # of both multipliers, and as large below zero
MAX_SHIFT = 47


def round_shift(q: IntArray, s: IntArray | int) -> IntArray:
    """Return (q + half) >> s with half = (1 << s) >> 1: an arithmetic shift that rounds ties towards +infinity."""
    q = np.asarray(q, dtype=np.int64)
    s = np.asarray(s, dtype=np.int64)
    result: IntArray = (q + ((np.int64(1) << s) >> 1)) >> s
    return result


def lower(q: IntArray, s: IntArray | int, *, unsigned: bool) -> IntArray:
    """Extract 4 bits of 8-bit values at position `s` (0..4) and put them back in place.

    Returns:
        int64 array of the 8-bit values that the 4-bit codes stand for: code << s, where
        code = clamp(round_shift(q, s)) to 0..15 (unsigned) or -8..7.
    """
    low, high = (0, 15) if unsigned else (-8, 7)
    return np.clip(round_shift(q, s), low, high) << np.asarray(s, dtype=np.int64)


def dynamic_shift(group: IntArray, *, unsigned: bool, clip: IntArray | int = 0) -> IntArray:
    """Return the position that the values of a group ask for: the bit length of their magnitudes less the bits kept.

    The magnitude of a negative x is ~x; magnitudes are joined by OR, as a tree of gates does. 4 bits are kept of
    unsigned values, 3 beside the sign. `clip` positions less are taken: the largest values clip, the others keep more
    bits.

    Args:
        group: 8-bit values, last axis the 16 channels of a group.
        unsigned: whether the values are.
        clip: 0..4, of the shape of `group` without its last axis, or what broadcasts to it.

    Returns:
        int64, 0..4, the shape of `group` without its last axis.
    """
    group = np.asarray(group, dtype=np.int64)
    bits = np.bitwise_or.reduce(np.where(group < 0, ~group, group), axis=-1)
    length = (bits[..., None] >> np.arange(8) > 0).sum(axis=-1)
    return np.asarray(np.maximum(length - (4 if unsigned else 3) - clip, 0))


def requantize(
    acc: IntArray,
    bias: IntArray,
    mult: IntArray,
    shift: IntArray,
    low: int,
    high: int,
    residual: IntArray | None = None,
    mult2: IntArray | None = None,
    *,
    leaky: bool = False,
    product: bool = False,
) -> IntArray:
    """Scale 32-bit sums to the output's integers with one rounding.

    y = clamp(((acc + bias) * mult [+ residual * mult2] + 2^(shift-1)) >> shift); with `leaky`, mult2 takes the place
    of mult where acc + bias < 0; with `product` the residual, a byte, multiplies acc, a byte too, and nothing is added:
    y = clamp(((acc * residual + bias) * mult + 2^(shift-1)) >> shift). Multipliers may be negative; all values stay
    below 2^48. Per-channel arguments have the last axis of `acc`.

    Returns:
        int64 array of the shape of `acc`, within low..high.
    """
    value = np.asarray(acc, dtype=np.int64)
    if product:
        assert residual is not None
        value = value * np.asarray(residual, dtype=np.int64)
    value = value + np.asarray(bias, dtype=np.int64)
    mult = np.asarray(mult, dtype=np.int64)
    shift = np.asarray(shift, dtype=np.int64)
    if leaky:
        assert mult2 is not None
        value *= np.where(value < 0, np.asarray(mult2, dtype=np.int64), mult)
    else:
        value *= mult
    if residual is not None and not product:
        assert mult2 is not None
        value += np.asarray(residual, dtype=np.int64) * np.asarray(mult2, dtype=np.int64)
    value += np.int64(1) << (shift - 1)
    value >>= shift
    return np.clip(value, low, high)


def look_up(values: IntArray, table: IntArray, *, unsigned: bool) -> IntArray:
    """Return table[byte] of each value's byte.

    Args:
        values: -128..255; the bits of a value's byte are its place in the table, whatever its sign.
        table: uint8 (256,).
        unsigned: whether what stands in the table is 0..255, else -128..127.

    Returns:
        int64 array of the shape of `values`.
    """
    found = np.asarray(table, dtype=np.uint8)[np.asarray(values, dtype=np.int64) & 255]
    return np.asarray((found if unsigned else found.view(np.int8)).astype(np.int64))
