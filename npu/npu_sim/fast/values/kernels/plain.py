"""The innermost kernels in NumPy, for where nothing is compiled; see `arguments`."""

from functools import partial
from typing import Any

import numpy as np
from npu_isa.isa.ops import GROUP
from npu_isa.machine import numerics
from npu_isa.machine.blocks import TABLE_BYTES
from npu_isa.machine.numerics import dynamic_shift, lower
from numpy.typing import NDArray

from npu_sim.fast.values.kernels.arguments import NARROW, WIDE, Copy, Dot, Fill, LookUp, Lower, Scale, Window, Write
from npu_sim.fast.values.tables import BYTE_MAX, PARAMS, QUAD, VECTOR, WHOLE

Array = NDArray[Any]


def copy(arrays: Any, n: Copy) -> None:
    """Copy bytes."""
    to, source = arrays
    to[n.target : n.target + n.size] = source[n.source : n.source + n.size]


def fill(arrays: Any, n: Fill) -> None:
    """Fill bytes."""
    arrays[0][n.target : n.target + n.size] = n.value


def _dot(vectors: int, arrays: Any, n: Dot) -> None:
    patch, pixels, weights, starts, acc = arrays
    columns = vectors * VECTOR
    taps = np.add.outer(np.arange(n.tap_rows) * n.tap_row, np.arange(n.tap_cols) * n.tap_col)
    offsets = np.add.outer(taps, np.arange(n.run)).ravel()
    act = patch[np.add.outer(pixels[n.first : n.first + n.pixels], offsets)].astype(np.int64)
    packed = weights[n.weight : n.weight + columns * offsets.size].astype(np.int64)
    packed = packed.reshape(vectors, -1, VECTOR, QUAD).transpose(1, 3, 0, 2).reshape(offsets.size, columns)
    at = np.add.outer(n.row + np.arange(n.pixels) * n.width, np.arange(columns))
    acc[at] = act @ packed + starts[n.start : n.start + columns] + (acc[at].astype(np.int64) if n.accumulate else 0)


def _window(largest: bool, arrays: Any, n: Window) -> None:
    act, weights, window = arrays

    def taps(start: int, row: int, col: int) -> Array:
        grid = np.add.outer(np.arange(n.tap_rows) * row, np.arange(n.tap_cols) * col)
        found: Array = np.add.outer(start + grid.ravel(), np.arange(n.lanes))
        return found

    values = (act[taps(n.source, n.source_row, n.source_col)].astype(np.int64) ^ n.offset) - n.offset
    if not largest:
        values *= weights[taps(n.weight, n.weight_row, n.weight_col)]
    window[n.target : n.target + n.lanes] = values.max(axis=0) if largest else values.sum(axis=0)


def _scale(residual: bool, leaky: bool, product: bool, arrays: Any, n: Scale) -> None:
    sums, params, act, window = arrays
    bias, multiplier, shift, second, start, leak = params[n.params : n.params + PARAMS * n.lanes].reshape(
        PARAMS, n.lanes
    )
    at = np.add.outer(np.arange(n.pixels) * n.width, np.arange(n.lanes))
    total = sums[n.first + at].astype(np.int64)
    place = np.add.outer(n.res + np.arange(n.pixels) * n.res_col, np.arange(n.lanes))
    if product:
        total *= (act[place].astype(np.int64) ^ n.res_offset) - n.res_offset
    value = total * multiplier + start
    if leaky:
        value = np.where(total + bias < 0, total * second + leak, value)
    if residual:
        value += ((act[place].astype(np.int64) ^ n.res_offset) - n.res_offset) * second
    window[at] = np.clip(value >> shift, n.low, n.high)


def look_up(arrays: Any, n: LookUp) -> None:
    """Replace values by those of a table."""
    window, tables = arrays
    at = np.add.outer(np.arange(n.pixels) * n.width, np.arange(n.lanes))
    table = tables[n.table : n.table + TABLE_BYTES]
    window[at] = numerics.look_up(window[at], table, unsigned=True)


def _write(wide: bool, arrays: Any, n: Write) -> None:
    window, act = arrays
    lane = np.arange(n.lanes)
    values = window[np.add.outer(np.arange(n.pixels) * n.width, lane)]
    to = np.add.outer(n.out + np.arange(n.pixels) * n.out_col, lane + wide * (lane // GROUP) * GROUP)
    act[to] = values & BYTE_MAX
    if wide:
        act[to + GROUP] = values >> 8 & BYTE_MAX


def lower_dynamic(arrays: Any, n: Lower) -> None:
    """Lower each group at a position of its own."""
    act, patch, lowering = arrays
    value = act[n.source : n.source + n.size].reshape(-1, GROUP)
    values = (value.view(np.int8) if n.flip else value).astype(np.int64)
    clip = np.resize(lowering[n.clips : n.clips + n.span // GROUP], len(values))
    shift = dynamic_shift(values, unsigned=not n.flip, clip=clip.astype(np.int64))
    lowered = lower(values, shift[:, None], unsigned=not n.flip)
    made = np.where(clip[:, None] == WHOLE, values, lowered) + n.flip
    patch[n.target : n.target + n.size] = made.ravel()


dot_narrow, dot_wide = (partial(_dot, vectors) for _, vectors in (NARROW, WIDE))
window_sum, window_largest = (partial(_window, largest) for largest in (False, True))
scale, scale_leaky, scale_residual, scale_residual_leaky = (
    partial(_scale, residual, leaky, False) for residual in (False, True) for leaky in (False, True)
)
scale_product = partial(_scale, False, False, True)
write_bytes, write_wide = (partial(_write, wide) for wide in (False, True))
