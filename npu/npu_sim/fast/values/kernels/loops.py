"""The innermost kernels as compiled loops, for where `llvm` does not work; see `arguments`.

Indices are unsigned: Numba leaves out its test for negative ones then, and LLVM can use vector instructions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from npu_isa.isa.ops import GROUP
from numpy.typing import NDArray

from npu_sim.fast.values.kernels.arguments import NARROW, WIDE, Copy, Dot, Fill, LookUp, Lower, Scale, Window, Write
from npu_sim.fast.values.tables import BYTE_MAX, QUAD, SIGNED, UNSIGNED, VECTOR, WHOLE
from npu_sim.kernel import kernel

Array = NDArray[Any]
Kernel = Callable[..., None]
U64 = np.uint64
ONE = np.uint64(1)
LEAST = -(1 << 31)  # of int32


@kernel
def copy(arrays: Any, n: Copy) -> None:
    """Copy bytes."""
    to, source = arrays
    for i in range(n.size):
        to[U64(n.target + i)] = source[U64(n.source + i)]


@kernel
def fill(arrays: Any, n: Fill) -> None:
    """Fill bytes."""
    for i in range(n.size):
        arrays[0][U64(n.target + i)] = n.value


def _dot(vectors: int) -> Kernel:
    @kernel
    def dot(arrays: Any, n: Dot) -> None:
        patch, pixels, weights, starts, acc = arrays
        vector_pitch = n.tap_rows * n.tap_cols * n.run * VECTOR
        for p in range(n.pixels):
            first = pixels[U64(n.first + p)]
            for v in range(vectors):
                row, start = n.row + p * n.width + v * VECTOR, n.start + v * VECTOR
                for c in range(VECTOR):
                    before = acc[U64(row + c)] if n.accumulate else 0
                    acc[U64(row + c)] = starts[U64(start + c)] + before
                weight = n.weight + v * vector_pitch
                for ty in range(n.tap_rows):
                    for tx in range(n.tap_cols):
                        at = first + ty * n.tap_row + tx * n.tap_col
                        for k in range(at, at + n.run, GROUP):
                            _add_group(patch, U64(k), weights, U64(weight), acc, U64(row))
                            weight += VECTOR * GROUP

    return dot  # type: ignore[no-any-return]


@kernel
def _add_group(patch: Array, at: int, weights: Array, weight: int, acc: Array, row: int) -> None:
    """Add the products of a group to the sums of a vector; each sum stays in a register meanwhile."""
    for c in range(VECTOR):
        total = np.int32(0)
        for quad in range(GROUP // QUAD):
            a, w = at + U64(quad * QUAD), weight + U64((quad * VECTOR + c) * QUAD)
            low = np.int32(patch[a]) * np.int32(weights[w]) + np.int32(patch[a + ONE]) * np.int32(weights[w + ONE])
            a, w = a + U64(2), w + U64(2)
            high = np.int32(patch[a]) * np.int32(weights[w]) + np.int32(patch[a + ONE]) * np.int32(weights[w + ONE])
            total += low + high
        acc[row + U64(c)] += np.int32(total)


def _window(largest: bool) -> Kernel:
    @kernel
    def window(arrays: Any, n: Window) -> None:
        act, weights, window = arrays
        for lane in range(n.lanes):
            window[U64(n.target + lane)] = LEAST if largest else 0
        for ty in range(n.tap_rows):
            for tx in range(n.tap_cols):
                source = n.source + ty * n.source_row + tx * n.source_col
                weight = n.weight + ty * n.weight_row + tx * n.weight_col
                for lane in range(n.lanes):
                    value = _value(act[U64(source + lane)], n.offset)
                    before = window[U64(n.target + lane)]
                    if largest:
                        window[U64(n.target + lane)] = max(value, before)
                    else:
                        window[U64(n.target + lane)] = before + value * weights[U64(weight + lane)]

    return window  # type: ignore[no-any-return]


@kernel
def _value(byte: int, offset: int) -> np.int32:
    """Return the value of an activation."""
    return np.int32(byte ^ np.uint8(offset)) - np.int32(offset)


def _scale(residual: bool, leaky: bool, product: bool) -> Kernel:
    @kernel
    def scale(arrays: Any, n: Scale) -> None:
        sums, params, act, window = arrays
        row, bias = U64(n.lanes), U64(n.params)
        mult, shift, second = bias + row, bias + U64(2) * row, bias + U64(3) * row
        start, leak = bias + U64(4) * row, bias + U64(5) * row
        for pixel in range(n.pixels):
            first, to, res = n.first + pixel * n.width, pixel * n.width, n.res + pixel * n.res_col
            for c in range(n.lanes):
                lane, total = U64(c), np.int64(sums[U64(first + c)])
                if product:
                    total *= _value(act[U64(res + c)], n.res_offset)
                value = total * params[mult + lane] + params[start + lane]
                if leaky and total + params[bias + lane] < 0:
                    value = total * params[second + lane] + params[leak + lane]
                if residual:
                    value += _value(act[U64(res + c)], n.res_offset) * params[second + lane]
                window[U64(to + c)] = min(max(value >> params[shift + lane], n.low), n.high)

    return scale  # type: ignore[no-any-return]


@kernel
def look_up(arrays: Any, n: LookUp) -> None:
    """Replace values by those of a table."""
    window, tables = arrays
    for pixel in range(n.pixels):
        for c in range(pixel * n.width, pixel * n.width + n.lanes):
            window[U64(c)] = tables[U64(n.table + (window[U64(c)] & BYTE_MAX))]


def _write(wide: bool) -> Kernel:
    @kernel
    def write(arrays: Any, n: Write) -> None:
        window, act = arrays
        for pixel in range(n.pixels):
            for group in range(0, n.lanes, GROUP):
                source = pixel * n.width + group
                to = n.out + pixel * n.out_col + (2 * group if wide else group)
                for c in range(GROUP):
                    value = window[U64(source + c)]
                    act[U64(to + c)] = np.uint8(value & BYTE_MAX)
                    if wide:
                        act[U64(to + GROUP + c)] = np.uint8(value >> 8 & BYTE_MAX)

    return write  # type: ignore[no-any-return]


@kernel
def lower_dynamic(arrays: Any, n: Lower) -> None:
    """Lower each group at a position of its own."""
    act, patch, lowering = arrays
    code = SIGNED if n.flip else UNSIGNED
    groups = n.span // GROUP
    for g in range(n.size // GROUP):
        source, target, clip = n.source + g * GROUP, n.target + g * GROUP, np.int64(lowering[U64(n.clips + g % groups)])
        if clip == WHOLE:
            for c in range(GROUP):
                patch[U64(target + c)] = act[U64(source + c)] ^ np.uint8(n.flip)
            continue
        bits = np.int64(0)
        for c in range(GROUP):
            value = np.int64(_value(act[U64(source + c)], n.flip))
            bits |= ~value if value < 0 else value
        shift = -code.bits - clip
        while bits > 0:
            bits >>= 1
            shift += 1
        shift = max(shift, np.int64(0))
        half = np.int64(1) << shift >> 1
        for c in range(GROUP):
            value = np.int64(_value(act[U64(source + c)], n.flip))
            made = min(max((value + half) >> shift, np.int64(code.least)), np.int64(code.most)) << shift
            patch[U64(target + c)] = np.uint8(made + n.flip)


dot_narrow, dot_wide = (_dot(vectors) for _, vectors in (NARROW, WIDE))
window_sum, window_largest = (_window(largest) for largest in (False, True))
scale, scale_leaky, scale_residual, scale_residual_leaky = (
    _scale(residual, leaky, False) for residual in (False, True) for leaky in (False, True)
)
scale_product = _scale(False, False, True)
write_bytes, write_wide = (_write(wide) for wide in (False, True))
