"""Numba kernels of the value simulator: `run` executes a program for one image after the other.

`tables` describes the arguments. The static check has proved every address, so nothing is checked here. Constants and
helpers stand in this file, sizes are arguments (Numba's cache does not see edits elsewhere). Inner loops index with
`U64(...)`: Numba leaves out its test for negative indices then, and LLVM can use vector instructions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, njit, types
from numba.core import cgutils as numba_codegen
from numba.extending import intrinsic
from numpy.typing import NDArray

from npu_sim.fast.tables import Memory, Program

Array = NDArray[Any]
cgutils: Any = numba_codegen  # without types
U64 = np.uint64

GROUP = 16
VECTOR = 16  # columns whose sums lie side by side in one vector
QUAD = 4  # channels added to each sum in one step
NARROW, WIDE = (16, 1), (8, 2)  # pixels x vectors of a block of sums; 16 vectors stay in registers
CONV, VEC, LOAD, STORE, FOLD = range(5)  # kinds of steps
ACC, MAC, MAX, SUM = range(4)  # sources of a vec, as in isa.toml


# -- dot products

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
SUMS = ir.VectorType(I32, VECTOR)


def _block_of_sums(shape: tuple[int, int]) -> Any:
    """Return a kernel `dot` that computes pixels x vectors of a convolution's sums in registers.

    dot(patch, pixel_at, weights, starts, acc, block, taps):
        patch, pixel_at, weights, starts, acc: as in `tables`; `acc` is written.
        block: first pixel, pixels wanted (the others repeat the last one), first weight, first start value, first sum
            written, sums between two pixels, accumulate?
        taps: tap_rows, tap_row, tap_cols, tap_col, run of the conv.

    Numba has no vectors, and what LLVM makes of scalar loops is a third as fast or less: so this is written as LLVM
    vectors, which LLVM translates for any processor.
    """
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return partial(_plain_sums, shape[1])

    @intrinsic
    def dot(
        _context: Any, patch: Any, pixel_at: Any, weights: Any, starts: Any, acc: Any, block: Any, taps: Any
    ) -> tuple[Any, Callable[..., Any]]:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = [
                cgutils.create_struct_proxy(kind)(context, builder, value).data
                for kind, value in zip(signature.args[:5], arguments[:5], strict=True)
            ]
            vnni = "+avx512vnni" in context.codegen().magic_tuple()[2]
            block, taps = (cgutils.unpack_tuple(builder, value) for value in arguments[5:])
            _emit_sums(builder, shape, arrays, block, taps, vnni)
            return context.get_dummy_value()

        return types.void(patch, pixel_at, weights, starts, acc, block, taps), generate

    return dot


def _plain_sums(
    vectors: int, patch: Array, pixel_at: Array, weights: Array, starts: Array, acc: Array, block: Any, taps: Any
) -> None:
    """Compute what `dot` computes where nothing is compiled."""
    first, count, weight, start, row, width, accumulate = (int(n) for n in block)
    tap_rows, tap_row, tap_cols, tap_col, run = (int(n) for n in taps)
    offsets = np.add.outer(np.add.outer(np.arange(tap_rows) * tap_row, np.arange(tap_cols) * tap_col), np.arange(run))
    act = patch[np.add.outer(pixel_at[first : first + count], offsets.ravel())].astype(np.int64)
    packed = weights[weight : weight + vectors * VECTOR * offsets.size].astype(np.int64)
    packed = packed.reshape(vectors, -1, VECTOR, QUAD).transpose(1, 3, 0, 2).reshape(offsets.size, vectors * VECTOR)
    at = np.add.outer(row + np.arange(count) * width, np.arange(vectors * VECTOR))
    acc[at] = act @ packed + starts[start : start + vectors * VECTOR] + (acc[at].astype(np.int64) if accumulate else 0)


def _emit_sums(
    builder: Any, shape: tuple[int, int], arrays: list[Any], block: list[Any], taps: list[Any], vnni: bool
) -> None:
    """Write the LLVM code of `dot`; `arrays` are pointers to the data of the arrays."""
    patch, pixel_at, weights, starts, acc = arrays
    first, count, weight, start, row, width, accumulate = block
    tap_rows, tap_row, tap_cols, tap_col, run = taps
    add, mul = builder.add, builder.mul
    keep = _splat(builder, builder.trunc(builder.neg(accumulate), I32))  # mask of the sums so far
    rows, bases, sums = [], [], []
    for p in range(shape[0]):
        pixel = builder.select(builder.icmp_signed("<", I64(p), count), I64(p), builder.sub(count, I64(1)))
        rows.append(add(row, mul(pixel, width)))
        bases.append(builder.load(builder.gep(pixel_at, [add(first, pixel)])))
        for v in range(shape[1]):
            old = builder.and_(_load(builder, SUMS, acc, add(rows[p], I64(v * VECTOR))), keep)
            begin = _load(builder, SUMS, starts, add(start, I64(v * VECTOR)))
            sums.append(cgutils.alloca_once_value(builder, add(begin, old)))
    next_weight = cgutils.alloca_once_value(builder, weight)
    vector_pitch = mul(mul(mul(tap_rows, tap_cols), run), I64(VECTOR))
    with cgutils.for_range(builder, tap_rows) as ty, cgutils.for_range(builder, tap_cols) as tx:
        tap = add(mul(ty.index, tap_row), mul(tx.index, tap_col))
        places = [add(base, tap) for base in bases]
        with cgutils.for_range_slice(builder, I64(0), run, I64(QUAD)) as (k, _):
            at = builder.load(next_weight)
            columns = [_load(builder, SUMS, weights, add(at, mul(vector_pitch, I64(v)))) for v in range(shape[1])]
            builder.store(add(at, I64(VECTOR * QUAD)), next_weight)
            for p, place in enumerate(places):
                act = _splat(builder, _load(builder, I32, patch, add(place, k)))
                for v, column in enumerate(columns):
                    total = sums[p * shape[1] + v]
                    builder.store(_add_products(builder, builder.load(total), act, column, vnni), total)
    for p in range(shape[0]):
        for v in range(shape[1]):
            to = builder.bitcast(builder.gep(acc, [add(rows[p], I64(v * VECTOR))]), SUMS.as_pointer())
            builder.store(builder.load(sums[p * shape[1] + v]), to).align = 1


def _load(builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Load a value of any type from an element of an array on."""
    value = builder.load(builder.bitcast(builder.gep(array, [index]), kind.as_pointer()))
    value.align = 1
    return value


def _splat(builder: Any, value: Any) -> Any:
    none = ir.Constant(SUMS, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(none, value, I32(0)), none, ir.Constant(SUMS, [0] * VECTOR))


def _add_products(builder: Any, total: Any, act: Any, weight: Any, vnni: bool) -> Any:
    """Add to each 32-bit lane the products of its four unsigned bytes of `act` and signed bytes of `weight`."""
    if vnni:
        quads = ir.VectorType(I8, VECTOR * QUAD)
        kind = ir.FunctionType(SUMS, [SUMS, quads, quads])
        product = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        return builder.call(product, [total, builder.bitcast(act, quads), builder.bitcast(weight, quads)])
    pairs, products = ir.VectorType(I16, 2 * VECTOR), ir.VectorType(I32, 2 * VECTOR)
    eight = ir.Constant(pairs, [8] * 2 * VECTOR)
    act, weight = builder.bitcast(act, pairs), builder.bitcast(weight, pairs)
    low = builder.and_(act, ir.Constant(pairs, [255] * 2 * VECTOR)), builder.ashr(builder.shl(weight, eight), eight)
    high = builder.lshr(act, eight), builder.ashr(weight, eight)
    for a, w in (low, high):  # LLVM knows the pattern as multiply-add of pairs
        product = builder.mul(builder.sext(a, products), builder.sext(w, products))
        none = ir.Constant(products, ir.Undefined)
        even, odd = (
            builder.shuffle_vector(product, none, ir.Constant(SUMS, list(range(i, 2 * VECTOR, 2)))) for i in (0, 1)
        )
        total = builder.add(total, builder.add(even, odd))
    return total


_dot_narrow = _block_of_sums(NARROW)
_dot_wide = _block_of_sums(WIDE)


# -- matrix engine


@njit(cache=True, nogil=True)
def _gather(convs: Array, i: int, segments: Array, lowering: Array, act: Array, patch: Array) -> None:
    """Fill the patch of a conv; see `tables.CONV`."""
    cols, flip = convs["cols"][i], convs["flip"][i]
    first, pixel = convs["patch"][i], convs["places"][i] * GROUP
    row_first, row_end = convs["row_first"][i], convs["row_end"][i]
    col_first, col_end = convs["col_first"][i], convs["col_end"][i]
    if row_first > 0 or col_first > 0 or row_end < convs["rows"][i] or col_end < cols:
        for b in range(convs["rows"][i] * cols * pixel):
            patch[U64(first + b)] = flip
    step = convs["source_col"][i]
    for s in range(convs["segment"][i], convs["segment"][i] + convs["segments"][i]):
        count, run = col_end - col_first, segments["run"][s]
        if step == run and pixel == run:  # pixels adjoin in both memories
            count, run = 1, run * count
        for y in range(row_first, row_end):
            source = convs["source"][i] + y * convs["source_row"][i] + col_first * step + segments["source"][s]
            target = first + (y * cols + col_first) * pixel + segments["target"][s]
            for _ in range(count):
                _lower(act, source, patch, target, run, flip, lowering, segments["lowering"][s], segments["span"][s])
                source += step
                target += pixel


@njit(cache=True, nogil=True)
def _lower(
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
            code = np.uint8((np.int32(value) + np.int32(lowering[U64(half + c)])) & 255)
            code = np.uint8(255) if code < value else code
            code = np.uint8(code & lowering[U64(mask + c)])
            code = max(code, lowering[U64(low + c)])
            patch[U64(target + part + c)] = min(code, lowering[U64(high + c)])


@njit(cache=True, nogil=True)
def _conv(p: Program, i: int, m: Memory) -> None:
    """Compute the sums of a tile of pixels."""
    convs, width = p.convs, p.acc_width
    if convs["fresh"][i]:
        _gather(convs, i, p.segments, p.lowering, m.act, m.patch)
    tile_h, tile_w, vectors = convs["tile_h"][i], convs["tile_w"][i], convs["vectors"][i]
    pixels, next_x = tile_h * tile_w, convs["next_x"][i]
    for y in range(tile_h):
        at = convs["patch"][i] + y * convs["next_y"][i]
        for x in range(tile_w):
            m.pixels[U64(y * tile_w + x)] = at + x * next_x
    taps = (convs["tap_rows"][i], convs["tap_row"][i], convs["tap_cols"][i], convs["tap_col"][i], convs["run"][i])
    weight, start, accumulate = convs["weight"][i], convs["start"][i], convs["accumulate"][i]
    acc = convs["acc"][i] * width
    if vectors == 1:
        for k in range(0, pixels, 16):
            block = (k, min(16, pixels - k), weight, start, acc + k * width, width, accumulate)
            _dot_narrow(m.patch, m.pixels, p.weights, p.starts, m.acc, block, taps)
    else:
        for c in range(0, vectors * VECTOR, 2 * VECTOR):
            column = weight + c * taps[0] * taps[2] * taps[4]
            for k in range(0, pixels, 8):
                block = (k, min(8, pixels - k), column, start + c, acc + k * width + c, width, accumulate)
                _dot_wide(m.patch, m.pixels, p.weights, p.starts, m.acc, block, taps)
    if not accumulate and vectors * VECTOR < width:
        for k in range(acc, acc + pixels * width, width):
            for c in range(vectors * VECTOR, width):
                m.acc[U64(k + c)] = 0


# -- vector engine


@njit(cache=True, nogil=True)
def _reduce(vecs: Array, i: int, y: int, x: int, act: Array, taps: Array, window: Array) -> None:
    """Reduce the window of output (y, x) of a vec to one int32 per lane."""
    source, lanes, kernel_w = vecs["source"][i], vecs["lanes"][i], vecs["kernel_w"][i]
    top, left = vecs["y"][i] + y * vecs["stride_y"][i], vecs["x"][i] + x * vecs["stride_x"][i]
    flip, offset = np.uint8(vecs["flip"][i]), vecs["flip"][i]
    for lane in range(lanes):
        window[lane] = -(1 << 31) if source == MAX else 0
    for ky in range(vecs["kernel_h"][i]):
        iy = top + ky * vecs["dilation_y"][i]
        if iy < 0 or iy >= vecs["in_h"][i]:
            continue
        for kx in range(kernel_w):
            ix = left + kx * vecs["dilation_x"][i]
            if ix < 0 or ix >= vecs["in_w"][i]:
                continue
            at = vecs["base"][i] + iy * vecs["row"][i] + ix * vecs["col"][i]
            tap = vecs["taps"][i] + (ky * kernel_w + kx) * lanes
            if source == MAX:
                for lane in range(lanes):
                    window[lane] = max(np.int64(window[lane]), np.int64(act[U64(at + lane)] ^ flip) - offset)
            elif source == MAC:
                for lane in range(lanes):
                    value = np.int64(act[U64(at + lane)] ^ flip) - offset
                    window[lane] = np.int32(np.int64(window[lane]) + value * np.int64(taps[U64(tap + lane)]))
            else:
                for lane in range(lanes):
                    window[lane] = np.int32(np.int64(window[lane]) + np.int64(act[U64(at + lane)] ^ flip) - offset)


@njit(cache=True, nogil=True)
def _scale(
    sums: Array, at: int, params: Array, first: int, lanes: int, act: Array, out: int, low: int, high: int
) -> None:
    """Requantize a pixel: (sum * multiplier + offset) >> shift, clamped."""
    multiplier, shift, offset = first + lanes, first + 2 * lanes, first + 4 * lanes
    for lane in range(lanes):
        value = np.int64(sums[U64(at + lane)]) * np.int64(np.int32(params[U64(multiplier + lane)]))
        value = (value + params[U64(offset + lane)]) >> params[U64(shift + lane)]
        act[U64(out + lane)] = np.uint8(min(max(value, low), high) & 255)


@njit(cache=True, nogil=True)
def _scale_with_residual(
    sums: Array, at: int, params: Array, first: int, lanes: int, act: Array, out: int, low: int, high: int, res: int,
    flip: int,
) -> None:  # fmt: skip
    """Requantize a pixel and its residual with one rounding."""
    multiplier, shift, second, offset = first + lanes, first + 2 * lanes, first + 3 * lanes, first + 4 * lanes
    for lane in range(lanes):
        value = np.int64(sums[U64(at + lane)]) * np.int64(np.int32(params[U64(multiplier + lane)]))
        residual = np.int64(act[U64(res + lane)] ^ np.uint8(flip)) - flip
        value += residual * np.int64(np.int32(params[U64(second + lane)]))
        value = (value + params[U64(offset + lane)]) >> params[U64(shift + lane)]
        act[U64(out + lane)] = np.uint8(min(max(value, low), high) & 255)


@njit(cache=True, nogil=True)
def _scale_any(vecs: Array, i: int, sums: Array, at: int, params: Array, act: Array, out: int, res: int) -> None:
    """Requantize a pixel with everything that a vec can do."""
    lanes, bias, flip = vecs["lanes"][i], vecs["params"][i], vecs["res_flip"][i]
    multiplier, shift, second = bias + lanes, bias + 2 * lanes, bias + 3 * lanes
    for lane in range(lanes):
        value = np.int64(sums[at + lane]) + params[bias + lane]
        value *= params[second + lane] if vecs["leaky"][i] and value < 0 else params[multiplier + lane]
        if vecs["residual"][i]:
            value += (np.int64(act[res + lane] ^ np.uint8(flip)) - flip) * params[second + lane]
        value = (value + (np.int64(1) << (params[shift + lane] - 1))) >> params[shift + lane]
        value = min(max(value, vecs["low"][i]), vecs["high"][i])
        if vecs["wide"][i]:
            low_byte = out + 2 * lane - lane % GROUP
            act[low_byte] = np.uint8(value & 255)
            act[low_byte + GROUP] = np.uint8(value >> 8 & 255)
        else:
            act[out + lane] = np.uint8(value & 255)


@njit(cache=True, nogil=True)
def _vec(p: Program, i: int, m: Memory) -> None:
    """Reduce windows, unless the source is the accumulators, and requantize."""
    vecs, params, act = p.vecs, p.params, m.act
    first, lanes, low, high = vecs["params"][i], vecs["lanes"][i], vecs["low"][i], vecs["high"][i]
    from_acc, residual, flip = vecs["source"][i] == ACC, vecs["residual"][i], vecs["res_flip"][i]
    special = vecs["leaky"][i] or vecs["wide"][i]
    sums, at = (m.acc, vecs["base"][i] * p.acc_width) if from_acc else (m.window, 0)
    out_col, res_col = vecs["out_col"][i], vecs["res_col"][i]
    for y in range(vecs["tile_h"][i]):
        out = vecs["out"][i] + y * vecs["out_row"][i]
        res = vecs["res"][i] + y * vecs["res_row"][i]
        for x in range(vecs["tile_w"][i]):
            if not from_acc:
                _reduce(vecs, i, y, x, act, p.taps, m.window)
            if special:
                _scale_any(vecs, i, sums, at, params, act, out, res)
            elif residual:
                _scale_with_residual(sums, at, params, first, lanes, act, out, low, high, res, flip)
            else:
                _scale(sums, at, params, first, lanes, act, out, low, high)
            out += out_col
            res += res_col
            if from_acc:
                at += p.acc_width


# -- transfers


@njit(cache=True, nogil=True)
def _copy(to: Array, first: int, source: Array, start: int, count: int) -> None:
    for b in range(count):
        to[U64(first + b)] = source[U64(start + b)]


@njit(cache=True, nogil=True)
def _load_or_store(p: Program, i: int, m: Memory, store: bool) -> None:
    """Copy rows of runs of bytes between DRAM and the activation memory."""
    t, constants = p.transfers, p.constants
    run = t["run"][i]
    for r in range(t["rows"][i]):
        for c in range(t["cols"][i]):
            dram = t["dram"][i] + r * t["dram_row"][i] + c * t["dram_col"][i] - constants.size
            act = t["act"][i] + r * t["act_row"][i] + c * t["act_col"][i]
            if store:
                _copy(m.dram, dram, m.act, act, run)
                continue
            constant = min(max(-dram, 0), run)
            _copy(m.act, act, constants, dram + constants.size, constant)
            _copy(m.act, act + constant, m.dram, dram + constant, run - constant)


@njit(cache=True, nogil=True)
def _fold(p: Program, i: int, m: Memory) -> None:
    """Gather image windows into whole groups."""
    t, act = p.folds, m.act
    in_h, in_w, channels = t["in_h"][i], t["in_w"][i], t["channels"][i]
    image = t["dram"][i] - p.constants.size
    for r in range(t["rows"][i]):
        for c in range(t["cols"][i]):
            at = t["act"][i] + r * t["act_row"][i] + c * t["act_col"][i]
            for b in range(t["words"][i]):
                act[U64(at + b)] = 0
            y, x = t["y"][i] + r * t["stride_y"][i], t["x"][i] + c * t["stride_x"][i]
            first, end = max(0, -x), min(t["kernel_w"][i], in_w - x)
            for ky in range(max(0, -y), min(t["kernel_h"][i], in_h - y)):
                source = image + ((y + ky) * in_w + x + first) * channels
                target = at + (ky * t["kernel_w"][i] + first) * channels
                _copy(act, target, m.dram, source, (end - first) * channels)


# -- the program


@njit(cache=True, nogil=True)
def run(
    p: Program, m: Memory, first: int, end: int, images: Array, input_at: int, outputs: Array, output_at: int
) -> None:
    """Execute steps first..end-1 for each image.

    Args:
        p: the program.
        m: memories, used by one image after the other; they keep what the last one leaves.
        first, end: with first = 0 an image is put into DRAM before, with end = all its output is taken after.
        images: uint8 (N, input bytes).
        input_at, output_at: place of input and output in `m.dram`.
        outputs: uint8 (N, output bytes), written.
    """
    for image in range(images.shape[0]):
        if first == 0:
            _copy(m.dram, input_at, images[image], 0, images.shape[1])
        for s in range(first, end):
            kind, i = p.steps["kind"][s], p.steps["row"][s]
            if kind == CONV:
                _conv(p, i, m)
            elif kind == VEC:
                _vec(p, i, m)
            elif kind == FOLD:
                _fold(p, i, m)
            else:
                _load_or_store(p, i, m, kind == STORE)
        if end == p.steps.size:
            _copy(outputs[image], 0, m.dram, output_at, outputs.shape[1])
