"""Operations of the value simulator: `run` executes a program for one image after the other.

`tables` describes the arguments. The static check has proved every address, so nothing is checked here. Inner loops
index with `U64(...)`: Numba leaves out its test for negative indices then, and LLVM can use vector instructions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from npu_isa.isa.ops import GROUP, Source
from numba import njit
from numpy.typing import NDArray

from npu_sim.fast.values.kernels import chosen
from npu_sim.fast.values.kernels.arguments import NARROW, WIDE, Copy, Dot, Fill, LookUp, Lower, Scale, Window, Write
from npu_sim.fast.values.tables import BYTE_MAX, VECTOR, Memory, Program
from npu_sim.kernel import kernel
from npu_sim.numba_options import WITHOUT_REFERENCE_COUNTS
from npu_sim.sources import depend_on, digest

Array = NDArray[Any]
Record = Any  # a row of a table
U64 = np.uint64

CONV, VEC, LOAD, STORE, FOLD = range(5)  # kinds of steps
ACC, MAX = int(Source.ACC), int(Source.MAX)


# -- matrix engine


@kernel
def _inside(first: int, step: int, count: int, limit: int) -> tuple[int, int]:
    """Return first and end of the positions first + k * step, k < count, that lie in 0..limit-1."""
    k, end = 0, count
    while k < end and first + k * step < 0:
        k += 1
    while k < end and first + (end - 1) * step >= limit:
        end -= 1
    return k, end


@kernel
def _gather(conv: Record, segments: Array, lowering: Array, act: Array, patch: Array) -> None:
    """Fill the patch of a conv; see `tables.CONV`."""
    first, pixel, flip = conv["patch"], conv["places"] * GROUP, conv["flip"]
    part_rows, part_row_step, in_h = conv["part_rows"], conv["part_row_step"], conv["in_h"]
    part_cols, part_col_step, in_w = conv["part_cols"], conv["part_col_step"], conv["in_w"]
    row, step = conv["col_parts"] * part_cols * pixel, part_col_step * conv["source_col"]
    if conv["padded"]:
        chosen.fill((patch,), Fill(target=first, size=conv["row_parts"] * part_rows * row, value=flip))
    for tx in range(conv["col_parts"]):
        x = conv["x"] + tx * conv["col_step"]
        col, col_end = _inside(x, part_col_step, part_cols, in_w)
        left = conv["source"] + x * conv["source_col"] + col * step
        to_left = first + (tx * part_cols + col) * pixel
        for s in range(conv["segment"], conv["segment"] + conv["segments"]):
            segment = segments[s]
            count, run, half, span = col_end - col, segment["run"], segment["lowering"], segment["span"]
            if step == run and pixel == run:  # pixels adjoin in both memories
                count, run = 1, run * count
            for ty in range(conv["row_parts"]):
                y = conv["y"] + ty * conv["row_step"]
                for r in range(part_rows):
                    iy = y + r * part_row_step
                    if iy < 0 or iy >= in_h:
                        continue
                    source = left + iy * conv["source_row"] + segment["source"]
                    target = to_left + (ty * part_rows + r) * row + segment["target"]
                    for _ in range(count):
                        if segment["dynamic"] and span:
                            places = Lower(source=source, target=target, size=run, flip=flip, clips=half, span=span)
                            chosen.lower_dynamic((act, patch, lowering), places)
                        else:
                            _lower_static(act, source, patch, target, run, flip, lowering, half, span)
                        source += step
                        target += pixel


@kernel
def _lower_static(
    act: Array, source: int, patch: Array, target: int, run: int, flip: int, lowering: Array, half: int, span: int
) -> None:
    """Copy `run` bytes to a patch, adding the offset of signed ones and lowering them; see `tables.SEGMENT`."""
    if span == 0:
        for c in range(run):
            patch[U64(target + c)] = act[U64(source + c)] ^ np.uint8(flip)
        return
    mask, low, high = half + span, half + 2 * span, half + 3 * span
    for part in range(0, run, span):
        for c in range(min(span, run - part)):
            value = np.uint8(act[U64(source + part + c)] ^ np.uint8(flip))
            code = np.uint8((np.int32(value) + np.int32(lowering[U64(half + c)])) & BYTE_MAX)
            code = np.uint8(BYTE_MAX) if code < value else code
            code = np.uint8(code & lowering[U64(mask + c)])
            code = max(code, lowering[U64(low + c)])
            patch[U64(target + part + c)] = min(code, lowering[U64(high + c)])


@kernel
def _conv(p: Program, conv: Record, m: Memory) -> None:
    """Compute the sums of a tile of pixels."""
    width = p.acc_width
    if conv["fresh"]:
        _gather(conv, p.segments, p.lowering, m.act, m.patch)
    tile_h, tile_w, vectors = conv["tile_h"], conv["tile_w"], conv["vectors"]
    pixels, next_x = tile_h * tile_w, conv["next_x"]
    for y in range(tile_h):
        at = conv["patch"] + y * conv["next_y"]
        for x in range(tile_w):
            m.pixels[U64(y * tile_w + x)] = at + x * next_x
    acc, accumulate = conv["acc"] * width, conv["accumulate"]
    column_weights = conv["tap_rows"] * conv["tap_cols"] * conv["run"]
    for c in range(0, vectors * VECTOR, WIDE[1] * VECTOR):
        block = NARROW[0] if vectors == 1 else WIDE[0]
        for k in range(0, pixels, block):
            dot = Dot(
                first=k,
                pixels=min(block, pixels - k),
                weight=conv["weight"] + c * column_weights,
                start=conv["start"] + c,
                row=acc + k * width + c,
                width=width,
                accumulate=accumulate,
                tap_rows=conv["tap_rows"],
                tap_row=conv["tap_row"],
                tap_cols=conv["tap_cols"],
                tap_col=conv["tap_col"],
                run=conv["run"],
            )
            if vectors == 1:
                chosen.dot_narrow((m.patch, m.pixels, p.weights, p.starts, m.acc), dot)
            else:
                chosen.dot_wide((m.patch, m.pixels, p.weights, p.starts, m.acc), dot)
    if not accumulate and vectors * VECTOR < width:
        for k in range(acc, acc + pixels * width, width):
            for c in range(vectors * VECTOR, width):
                m.acc[U64(k + c)] = 0


# -- vector engine


@kernel
def _reduce_row(p: Program, vec: Record, y: int, m: Memory) -> None:
    """Reduce the windows of row y of a vec to rows of `m.window`."""
    lanes, offset, kernel_w = vec["lanes"], vec["flip"], vec["kernel_w"]
    step, stride, in_w = vec["dilation_x"], vec["stride_x"], vec["in_w"]
    row, col = vec["dilation_y"] * vec["row"], vec["col"]
    top, left = vec["y"] + y * vec["stride_y"], vec["x"]
    first, end = _inside(top, vec["dilation_y"], vec["kernel_h"], vec["in_h"])
    source, weight = vec["base"] + top * vec["row"] + first * row, vec["taps"] + first * kernel_w * lanes
    rows = end - first
    for x in range(vec["tile_w"]):
        first, end = _inside(left, step, kernel_w, in_w)
        window = Window(
            lanes=lanes,
            offset=offset,
            target=x * p.acc_width,
            source=source + (left + first * step) * col,
            weight=weight + first * lanes,
            tap_rows=rows,
            source_row=row,
            weight_row=kernel_w * lanes,
            tap_cols=end - first,
            source_col=step * col,
            weight_col=lanes,
        )
        if vec["source"] == MAX:
            chosen.window_largest((m.act, p.taps, m.window), window)
        else:
            chosen.window_sum((m.act, p.taps, m.window), window)
        left += stride


@kernel
def _vec(p: Program, vec: Record, m: Memory) -> None:
    """Reduce windows, unless the source is the accumulators, requantize, look up and write: row by row.

    A row is read before it is written. That is the order of the machine, pixel by pixel, in other words: no pixel reads
    what an earlier one has written.
    """
    lanes, pixels, width = vec["lanes"], vec["tile_w"], p.acc_width
    from_acc = vec["source"] == ACC
    arrays = (m.acc if from_acc else m.window, p.params, m.act, m.window)
    for y in range(vec["tile_h"]):
        if not from_acc:
            _reduce_row(p, vec, y, m)
        row = Scale(
            lanes=lanes,
            pixels=pixels,
            first=(vec["base"] + y * pixels) * width if from_acc else 0,
            width=width,
            params=vec["params"],
            low=vec["low"],
            high=vec["high"],
            res=vec["res"] + y * vec["res_row"],
            res_col=vec["res_col"],
            res_offset=vec["res_flip"],
        )
        if vec["product"]:
            chosen.scale_product(arrays, row)
        elif vec["residual"] and vec["leaky"]:
            chosen.scale_residual_leaky(arrays, row)
        elif vec["residual"]:
            chosen.scale_residual(arrays, row)
        elif vec["leaky"]:
            chosen.scale_leaky(arrays, row)
        else:
            chosen.scale(arrays, row)
        if vec["table"] >= 0:
            bytes_ = LookUp(lanes=lanes, pixels=pixels, width=width, table=vec["table"])
            chosen.look_up((m.window, p.tables), bytes_)
        out = vec["out"] + y * vec["out_row"]
        places = Write(lanes=lanes, pixels=pixels, width=width, out=out, out_col=vec["out_col"])
        if lanes % VECTOR:
            _write_some(m.window, m.act, vec["wide"], places)
        elif vec["wide"]:
            chosen.write_wide((m.window, m.act), places)
        else:
            chosen.write_bytes((m.window, m.act), places)


@kernel
def _write_some(window: Array, act: Array, wide: int, n: Write) -> None:
    """Write a row of output pixels of fewer lanes than a vector."""
    for x in range(n.pixels):
        for lane in range(n.lanes):
            value, to = window[x * n.width + lane], n.out + x * n.out_col + lane
            act[to] = np.uint8(value & BYTE_MAX)
            if wide:
                act[to + GROUP] = np.uint8(value >> 8 & BYTE_MAX)


# -- transfers


@kernel
def _load_or_store(p: Program, t: Record, m: Memory, store: bool) -> None:
    """Copy rows of runs of bytes between DRAM and the activation memory."""
    constants, run = p.constants, t["run"]
    for r in range(t["rows"]):
        for c in range(t["cols"]):
            dram = t["dram"] + r * t["dram_row"] + c * t["dram_col"] - constants.size
            act = t["act"] + r * t["act_row"] + c * t["act_col"]
            if store:
                chosen.copy((m.dram, m.act), Copy(target=dram, source=act, size=run))
                continue
            constant = min(max(-dram, 0), run)
            chosen.copy((m.act, constants), Copy(target=act, source=dram + constants.size, size=constant))
            scratch = Copy(target=act + constant, source=dram + constant, size=run - constant)
            chosen.copy((m.act, m.dram), scratch)


@kernel
def _fold(p: Program, t: Record, m: Memory) -> None:
    """Gather image windows into whole groups."""
    act = m.act
    in_h, in_w, channels = t["in_h"], t["in_w"], t["channels"]
    image = t["dram"] - p.constants.size
    for r in range(t["rows"]):
        for c in range(t["cols"]):
            at = t["act"] + r * t["act_row"] + c * t["act_col"]
            chosen.fill((act,), Fill(target=at, size=t["words"], value=0))
            y, x = t["y"] + r * t["stride_y"], t["x"] + c * t["stride_x"]
            first, end = _inside(x, 1, t["kernel_w"], in_w)
            for ky in range(*_inside(y, 1, t["kernel_h"], in_h)):
                source = image + ((y + ky) * in_w + x + first) * channels
                target = at + (ky * t["kernel_w"] + first) * channels
                line = Copy(target=target, source=source, size=(end - first) * channels)
                chosen.copy((act, m.dram), line)


# -- the program


def compiled(sources: str, kernels: str) -> Callable[..., None]:
    """Return `run`, compiled and cached.

    Args:
        sources: digest of the package (npu_sim.sources).
        kernels: name of the set of kernels.
    """

    @njit(**WITHOUT_REFERENCE_COUNTS, nogil=True, cache=True)
    def run(
        p: Program, m: Memory, first: int, end: int, images: Array, input_at: int, outputs: Array, places: Array
    ) -> None:
        """Execute steps first..end-1 for each image.

        Args:
            p: the program.
            m: memories, used by one image after the other; they keep what the last one leaves.
            first, end: with first = 0 an image is put into DRAM before, with end = all its outputs are taken after.
            images: uint8 (N, input bytes).
            input_at: place of the input in `m.dram`.
            outputs: uint8 (N, output bytes), written.
            places: int64 (outputs, 2): place in `m.dram` and bytes of each output; they stand in `outputs` in order.
        """
        depend_on(sources)
        depend_on(kernels)
        for image in range(images.shape[0]):
            if first == 0:
                chosen.copy((m.dram, images[image]), Copy(target=input_at, source=0, size=images.shape[1]))
            for s in range(first, end):
                kind, row = p.steps[s]["kind"], p.steps[s]["row"]
                if kind == CONV:
                    _conv(p, p.convs[row], m)
                elif kind == VEC:
                    _vec(p, p.vecs[row], m)
                elif kind == FOLD:
                    _fold(p, p.folds[row], m)
                else:
                    _load_or_store(p, p.transfers[row], m, kind == STORE)
            if end == p.steps.size:
                at = 0
                for k in range(places.shape[0]):
                    source, size = places[k, 0], places[k, 1]
                    chosen.copy((outputs[image], m.dram), Copy(target=at, source=source, size=size))
                    at += size

    return run  # type: ignore[no-any-return]


run = compiled(digest("npu_sim.fast.values"), chosen.__name__)
