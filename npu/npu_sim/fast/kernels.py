"""Numba kernels of the value simulator: one call executes one operation for a batch of images.

Constants and helpers stand in this file, sizes are arguments (Numba's cache does not see edits elsewhere). Activation
memory is uint8 (images, bytes), accumulators int32 (images, 2 * rows, columns), DRAM past the constants uint8 (images,
bytes). The static check has proved every address, so nothing is checked here.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Array = NDArray[Any]

GROUP = 16
BLOCK = 4  # pixels whose sums share one read of the weights
NOT_LOWERED = -1
MAC, MAX, SUM = 1, 2, 3  # sources, as in isa.toml


@njit(cache=True, parallel=True)
def conv(
    act: Array,
    acc: Array,
    weight: Array,
    entries: Array,
    unsigned: int,
    base: int,
    row_pitch: int,
    pixel_pitch: int,
    origin_y: int,
    origin_x: int,
    row0: int,
    stride_y: int,
    stride_x: int,
    in_h: int,
    in_w: int,
    tile_h: int,
    tile_w: int,
    acc_row: int,
    accumulate: int,
) -> None:
    """Convolve a tile of pixels.

    Args:
        act: activation memory.
        acc: accumulators, overwritten or added to from row `acc_row` on.
        weight: int16 (columns used, entries * 16), already lowered.
        entries: int64 (entries, 4): row and column offset of the tap, word of the group, s_act or NOT_LOWERED.
        origin_y, origin_x: input pixel of the first output's tap (0, 0).
        row0: input row at word `base`.
    """
    images, columns, depth = act.shape[0], weight.shape[0], weight.shape[1]
    pixels = tile_h * tile_w
    low, high = (0, 15) if unsigned else (-8, 7)
    for image in prange(images):
        gathered = np.zeros((BLOCK, depth), np.int16)
        for first in range(0, pixels, BLOCK):
            count = min(BLOCK, pixels - first)
            for p in range(count):
                y = origin_y + (first + p) // tile_w * stride_y
                x = origin_x + (first + p) % tile_w * stride_x
                for e in range(entries.shape[0]):
                    iy, ix = y + entries[e, 0], x + entries[e, 1]
                    at = e * GROUP
                    if iy < 0 or iy >= in_h or ix < 0 or ix >= in_w:
                        for c in range(GROUP):
                            gathered[p, at + c] = 0
                        continue
                    word = (base + (iy - row0) * row_pitch + ix * pixel_pitch + entries[e, 2]) * GROUP
                    shift = entries[e, 3]
                    if unsigned:
                        for c in range(GROUP):
                            gathered[p, at + c] = np.int16(act[image, word + c])
                    else:
                        for c in range(GROUP):
                            gathered[p, at + c] = np.int16(np.int8(act[image, word + c]))
                    if shift != NOT_LOWERED:
                        half = (1 << shift) >> 1
                        for c in range(GROUP):
                            code = (np.int32(gathered[p, at + c]) + half) >> shift
                            gathered[p, at + c] = np.int16(min(max(code, low), high) << shift)
            for c in range(columns):
                s0, s1, s2, s3 = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
                for k in range(depth):
                    w = np.int32(weight[c, k])
                    s0 = np.int32(s0 + np.int32(gathered[0, k]) * w)
                    s1 = np.int32(s1 + np.int32(gathered[1, k]) * w)
                    s2 = np.int32(s2 + np.int32(gathered[2, k]) * w)
                    s3 = np.int32(s3 + np.int32(gathered[3, k]) * w)
                row = acc_row + first
                if accumulate:
                    acc[image, row, c] += s0
                    if count > 1:
                        acc[image, row + 1, c] += s1
                    if count > 2:
                        acc[image, row + 2, c] += s2
                    if count > 3:
                        acc[image, row + 3, c] += s3
                else:
                    acc[image, row, c] = s0
                    if count > 1:
                        acc[image, row + 1, c] = s1
                    if count > 2:
                        acc[image, row + 2, c] = s2
                    if count > 3:
                        acc[image, row + 3, c] = s3
            if not accumulate:
                for p in range(count):
                    for c in range(columns, acc.shape[2]):
                        acc[image, acc_row + first + p, c] = 0


@njit(cache=True)
def _finish(
    act: Array,
    image: int,
    lane: int,
    total: Any,
    params: Array,
    residual: Any,
    leaky: int,
    wide: int,
    low: int,
    high: int,
    out_word: int,
    out_byte: int,
) -> None:
    """Requantize one sum and write it: numerics.requantize for one element."""
    value = np.int64(total) + params[0, lane]
    shift = params[2, lane]
    scaled = value * params[3, lane] if leaky and value < 0 else value * params[1, lane] + residual * params[3, lane]
    value = (scaled + (np.int64(1) << (shift - 1))) >> shift
    value = min(max(value, low), high)
    byte = out_byte + lane
    if wide:
        at = (out_word + 2 * (byte // GROUP)) * GROUP + byte % GROUP
        act[image, at] = np.uint8(value & 255)
        act[image, at + GROUP] = np.uint8((value >> 8) & 255)
    else:
        act[image, out_word * GROUP + byte] = np.uint8(value & 255)


@njit(cache=True)
def _byte(act: Array, image: int, at: int, unsigned: int) -> Any:
    """Read one value of a tensor of bytes."""
    value = np.int64(act[image, at])
    if not unsigned and value > 127:
        value -= 256
    return value


@njit(cache=True, parallel=True)
def vec_acc(act: Array, acc: Array, params: Array, geom: Array, tile: Array) -> None:
    """Requantize accumulator rows: see `vec_window` for the arguments."""
    tile_h, tile_w, lanes = tile[0], tile[1], tile[2]
    for image in prange(act.shape[0]):
        for i in range(tile_h):
            for j in range(tile_w):
                row = tile[3] + i * tile_w + j
                out_word = tile[4] + i * geom[0] + j * geom[1]
                res_word = tile[6] + i * geom[2] + j * geom[3]
                for lane in range(lanes):
                    residual = 0
                    if geom[4]:
                        residual = _byte(act, image, res_word * GROUP + tile[5] + lane, geom[5])
                    _finish(
                        act, image, lane, acc[image, row, lane], params, residual, geom[6], geom[7], geom[8], geom[9],
                        out_word, tile[5],
                    )  # fmt: skip


@njit(cache=True, parallel=True)
def vec_window(act: Array, params: Array, weight: Array, geom: Array, tile: Array, window: Array) -> None:
    """Reduce windows of the activation memory and requantize.

    Args:
        act: activation memory, read and written.
        params: int64 (4, lanes): bias, multiplier, shift, second multiplier.
        weight: int64 (taps, lanes) of a multiply-add.
        geom: output row and pixel pitch, residual row and pixel pitch, residual?, residual unsigned?, leaky?, wide?,
            clamp low, clamp high.
        tile: height, width, lanes, first source word or accumulator row, output word, first byte, residual word.
        window: source, kernel_h, kernel_w, stride_y, stride_x, dilation_y, dilation_x, in_h, in_w, row pitch, pixel
            pitch, source unsigned?, row0, input row and column of the first output's tap (0, 0).
    """
    source, kernel_h, kernel_w = window[0], window[1], window[2]
    for image in prange(act.shape[0]):
        for i in range(tile[0]):
            for j in range(tile[1]):
                out_word = tile[4] + i * geom[0] + j * geom[1]
                res_word = tile[6] + i * geom[2] + j * geom[3]
                y, x = window[13] + i * window[3], window[14] + j * window[4]
                for lane in range(tile[2]):
                    total: Any = np.int64(-(1 << 31)) if source == MAX else np.int64(0)
                    for ky in range(kernel_h):
                        iy = y + ky * window[5]
                        if iy < 0 or iy >= window[7]:
                            continue
                        for kx in range(kernel_w):
                            ix = x + kx * window[6]
                            if ix < 0 or ix >= window[8]:
                                continue
                            word = tile[3] + (iy - window[12]) * window[9] + ix * window[10]
                            value = _byte(act, image, word * GROUP + tile[5] + lane, window[11])
                            if source == MAX:
                                total = max(total, value)
                            elif source == MAC:
                                total += value * weight[ky * kernel_w + kx, lane]
                            else:
                                total += value
                    residual = 0
                    if geom[4]:
                        residual = _byte(act, image, res_word * GROUP + tile[5] + lane, geom[5])
                    _finish(
                        act, image, lane, total, params, residual, geom[6], geom[7], geom[8], geom[9], out_word, tile[5]
                    )


@njit(cache=True, parallel=True)
def load(act: Array, dram: Array, constants: Array, dram_addr: int, runs: Array, run: int, word: int) -> None:
    """Copy rows x cols runs of bytes to the activation memory.

    Args:
        runs: rows, cols, then row and column pitch in DRAM bytes, then in words.
        word: first word written.
    """
    for image in prange(act.shape[0]):
        for r in range(runs[0]):
            for c in range(runs[1]):
                source = dram_addr + r * runs[2] + c * runs[3]
                target = (word + r * runs[4] + c * runs[5]) * GROUP
                for b in range(run):
                    at = source + b - constants.size
                    act[image, target + b] = dram[image, at] if at >= 0 else constants[source + b]


@njit(cache=True, parallel=True)
def store(act: Array, dram: Array, dram_addr: int, runs: Array, run: int, word: int) -> None:
    """Copy rows x cols runs of bytes to DRAM; `dram_addr` counts from the end of the constants."""
    for image in prange(act.shape[0]):
        for r in range(runs[0]):
            for c in range(runs[1]):
                target = dram_addr + r * runs[2] + c * runs[3]
                source = (word + r * runs[4] + c * runs[5]) * GROUP
                for b in range(run):
                    dram[image, target + b] = act[image, source + b]


@njit(cache=True, parallel=True)
def fold(act: Array, dram: Array, dram_addr: int, window: Array, rows: Array, word: int, words: int) -> None:
    """Gather image windows into whole groups.

    Args:
        dram_addr: first byte of the image, from the end of the constants.
        window: in_h, in_w, channels, kernel_h, kernel_w, stride_y, stride_x, pad_top, pad_left.
        rows: first output row, output rows, output columns, row pitch, pixel pitch.
        word: first word written; each output pixel fills `words`.
    """
    in_h, in_w, channels, kernel_h, kernel_w = window[0], window[1], window[2], window[3], window[4]
    for image in prange(act.shape[0]):
        for i in range(rows[1]):
            for j in range(rows[2]):
                at = (word + i * rows[3] + j * rows[4]) * GROUP
                end = at + words * GROUP
                for ky in range(kernel_h):
                    y = (rows[0] + i) * window[5] - window[7] + ky
                    for kx in range(kernel_w):
                        x = j * window[6] - window[8] + kx
                        inside = 0 <= y < in_h and 0 <= x < in_w
                        for c in range(channels):
                            value = np.uint8(0)
                            if inside:
                                value = dram[image, dram_addr + (y * in_w + x) * channels + c]
                            act[image, at] = value
                            at += 1
                while at < end:
                    act[image, at] = 0
                    at += 1
