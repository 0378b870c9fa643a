"""Numba kernels of `fast_eval`: what surrounds the matrix products. Integers only but for the products' operands.

Each runs on one thread without Python's lock: the evaluator runs several batches of images at once.

Tensors are uint8 (two's complement where signed), shape (N, height, width, channels) or (pixels, channels). A window is
int64: kernel, stride and dilation (height, width each), pad_top, pad_left.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
GROUP = 16
MAC, MAX, SUM = 0, 1, 2


@njit(cache=True, nogil=True)
def gather(x: Array, signed: int, window: Array, out_h: int, out_w: int, first: int, block: Array) -> None:
    """Fill rows `first`, ... of the matrix of windows (a row an output pixel), shape (rows, taps * channels)."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    for r in range(block.shape[0]):
        pixel = first + r
        image, rest = pixel // (out_h * out_w), pixel % (out_h * out_w)
        y = rest // out_w * window[2] - window[6]
        x0 = rest % out_w * window[3] - window[7]
        at = 0
        for ky in range(window[0]):
            iy = y + ky * window[4]
            for kx in range(window[1]):
                ix = x0 + kx * window[5]
                if iy < 0 or iy >= height or ix < 0 or ix >= width:
                    for c in range(channels):
                        block[r, at + c] = 0
                elif signed:
                    for c in range(channels):
                        block[r, at + c] = np.int8(x[image, iy, ix, c])
                else:
                    for c in range(channels):
                        block[r, at + c] = x[image, iy, ix, c]
                at += channels


@njit(cache=True, nogil=True)
def window_sums(x: Array, signed: int, window: Array, out_h: int, out_w: int, sums: Array) -> None:
    """Add up all windows of all images: sums int64 (kernel_h, kernel_w, channels), which starts as zeros."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    for image in range(x.shape[0]):
        for ky in range(window[0]):
            for kx in range(window[1]):
                line = sums[ky, kx]
                for oy in range(out_h):
                    iy = oy * window[2] - window[6] + ky * window[4]
                    if iy < 0 or iy >= height:
                        continue
                    for ox in range(out_w):
                        ix = ox * window[3] - window[7] + kx * window[5]
                        if ix < 0 or ix >= width:
                            continue
                        for c in range(channels):
                            line[c] += np.int8(x[image, iy, ix, c]) if signed else x[image, iy, ix, c]


@njit(cache=True, nogil=True)
def finish(acc: Array, params: Array, rule: Array, table: Array, residual: Array, signed: int, y: Array) -> None:
    """Requantize sums (numerics.requantize), and look them up where there is a table.

    Args:
        acc: whole numbers, shape (pixels, channels).
        params: int64 (4, channels): bias, multiplier, shift, second multiplier.
        rule: leaky?, lowest, highest value, does the residual multiply?
        table: uint8 (256,), or (0,) for none.
        residual: shape of acc, or (0, 0) for none; `signed` says how to read it.
        y: uint8 or int16, at least as many pixels as acc.
    """
    leaky, low, high, product = rule[0], rule[1], rule[2], rule[3]
    second = residual.shape[0] > 0
    for p in range(acc.shape[0]):
        for c in range(acc.shape[1]):
            value, other = np.int64(acc[p, c]), np.int64(0)
            if second:
                other = np.int64(residual[p, c])
                if signed and other > 127:
                    other -= 256
            if product:
                value *= other
                other = np.int64(0)
            value += params[0, c]
            value = value * params[3, c] if leaky and value < 0 else value * params[1, c]
            value += other * params[3, c]
            shift = params[2, c]
            value = min(max((value + (np.int64(1) << (shift - 1))) >> shift, low), high)
            y[p, c] = table[value & 255] if table.shape[0] else value


@njit(cache=True, nogil=True)
def reduce(x: Array, signed: int, kind: int, window: Array, weight: Array, acc: Array) -> None:
    """Sum, maximum or multiply-add over windows; acc int32 (N, out height, out width, channels), overwritten.

    A tap outside the image is zero, or ignored by a maximum. weight: int32 (kernel_h, kernel_w, channels) for MAC.
    """
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    out_h, out_w = acc.shape[1], acc.shape[2]
    for row in range(acc.shape[0] * out_h):
        image, oy = row // out_h, row % out_h
        for ox in range(out_w):
            line = acc[image, oy, ox]
            line[:] = -(1 << 31) if kind == MAX else 0
            for ky in range(window[0]):
                iy = oy * window[2] - window[6] + ky * window[4]
                if iy < 0 or iy >= height:
                    continue
                for kx in range(window[1]):
                    ix = ox * window[3] - window[7] + kx * window[5]
                    if ix < 0 or ix >= width:
                        continue
                    for c in range(channels):
                        value = np.int32(x[image, iy, ix, c])
                        if signed:
                            value = np.int32(np.int8(x[image, iy, ix, c]))
                        if kind == MAC:
                            line[c] += value * weight[ky, kx, c]
                        elif kind == MAX:
                            line[c] = max(line[c], value)
                        else:
                            line[c] += value


@njit(cache=True, nogil=True)
def fold(x: Array, window: Array, y: Array) -> None:
    """Gather windows of the image: (taps, channels) of each output pixel after each other; y starts as zeros."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    out_h = y.shape[1]
    for row in range(y.shape[0] * out_h):
        image, oy = row // out_h, row % out_h
        for ox in range(y.shape[2]):
            at = 0
            for ky in range(window[0]):
                iy = oy * window[2] - window[6] + ky
                for kx in range(window[1]):
                    ix = ox * window[3] - window[7] + kx
                    if 0 <= iy < height and 0 <= ix < width:
                        for c in range(channels):
                            y[image, oy, ox, at + c] = x[image, iy, ix, c]
                    at += channels


@njit(cache=True, nogil=True)
def lower_static(x: Array, shift: Array, table: Array, y: Array) -> None:
    """Lower pixels: `shift` of each group, -1 for 8 bits; `table` uint8 (positions, 256)."""
    for p in range(x.shape[0]):
        for g in range(shift.shape[0]):
            s = shift[g]
            for c in range(g * GROUP, (g + 1) * GROUP):
                y[p, c] = x[p, c] if s < 0 else table[s, x[p, c]]


@njit(cache=True, nogil=True)
def lower_dynamic(x: Array, clip: Array, table: Array, signed: int, y: Array) -> None:
    """Lower pixels, each group at the position that its own 16 values ask for (numerics.dynamic_shift).

    `clip` of each group, -1 for 8 bits; `table` uint8 (positions, 256).
    """
    for p in range(x.shape[0]):
        for g in range(clip.shape[0]):
            first = g * GROUP
            if clip[g] < 0:
                for c in range(first, first + GROUP):
                    y[p, c] = x[p, c]
                continue
            bits = np.int64(0)
            for c in range(first, first + GROUP):
                value = np.int64(x[p, c])
                if signed and value > 127:
                    value = 255 - value  # ~x of a negative x
                bits |= value
            s = np.int64(-3 if signed else -4) - clip[g]
            while bits > 0:
                bits >>= 1
                s += 1
            s = max(s, np.int64(0))
            for c in range(first, first + GROUP):
                y[p, c] = table[s, x[p, c]]


@njit(cache=True, nogil=True)
def count_bytes(x: Array, counts: Array) -> None:
    """Count the bytes of each channel: x (pixels, channels), counts int64 (channels, 256), which is added to."""
    for p in range(x.shape[0]):
        for c in range(x.shape[1]):
            counts[c, x[p, c]] += 1
