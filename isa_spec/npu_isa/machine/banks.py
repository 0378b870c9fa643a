"""Bank conflicts of passes, compiled: the compiler asks for those of every pitch and boundary that it weighs."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


@njit(cache=True)
def _factor(words: Array, count: int, banks: int, used: Array) -> tuple[int, int]:
    """Return the most different words among the first `count` that fall on one bank, and how many differ in all.

    `used` is scratch of `banks`.
    """
    most = different = 0
    for i in range(count):
        used[words[i] % banks] = 0
    for i in range(count):
        new = True
        for j in range(i):
            if words[j] == words[i]:
                new = False
                break
        if new:
            different += 1
            used[words[i] % banks] += 1
            most = max(most, used[words[i] % banks])
    return most, different


@njit(cache=True)
def pass_factors(
    groups: Array, taps: Array, tap_fastest: int, low: int, per_pass: int, copies: Array, banks: int, found: Array
) -> int:
    """Write the bank factor and the different words of each pass over (tap, place) entries; return the passes.

    Args:
        groups: int64, input group of each place; the first `low` in 4-bit form.
        taps: int64, word offset of each tap.
        tap_fastest: order of the entries.
        low: places in 4-bit form.
        per_pass: entries of a pass.
        copies: times that an entry stands in the list, in 4-bit and in 8-bit form.
        banks: of a region.
        found: int64 (2, passes at most), written.
    """
    words, used, passes = np.empty(per_pass, np.int64), np.zeros(banks, np.int64), 0
    for form in range(2):
        first, places = (0, low) if form == 0 else (low, len(groups) - low)
        entries = places * len(taps) * copies[form]
        for start in range(0, entries, per_pass):
            count = min(per_pass, entries - start)
            for i in range(count):
                entry = (start + i) // copies[form]
                if tap_fastest:
                    place, tap = entry // len(taps), entry % len(taps)
                else:
                    tap, place = entry // places, entry % places
                words[i] = taps[tap] + groups[first + place]
            found[0, passes], found[1, passes] = _factor(words, count, banks, used)
            passes += 1
    return passes


@njit(cache=True)
def conflicts(
    groups: Array, taps: Array, tap_fastest: int, lows: Array, per_pass: int, copies: Array, banks: int, found: Array
) -> int:
    """Return the extra cycles per pixel of all passes, summed over the numbers of places in 4-bit form `lows`."""
    total = 0
    for low in lows:
        passes = pass_factors(groups, taps, tap_fastest, low, per_pass, copies, banks, found)
        for i in range(passes):
            total += found[0, i] - 1
    return total
