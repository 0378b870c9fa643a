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
from npu_isa.numerics import dynamic_shift, lower
from numba import config, njit, types
from numba.core import cgutils as numba_codegen
from numba.extending import intrinsic
from numpy.typing import NDArray

from npu_sim.fast.tables import Memory, Program

Array = NDArray[Any]
Record = Any  # a row of a table
cgutils: Any = numba_codegen  # without types
U64 = np.uint64

GROUP = 16
VECTOR = 16  # columns whose sums lie side by side in one vector
QUAD = 4  # channels added to each sum in one step
NARROW, WIDE = (16, 1), (8, 2)  # pixels x vectors of a block of sums; 16 vectors stay in registers
CONV, VEC, LOAD, STORE, FOLD = range(5)  # kinds of steps
ACC, MAC, MAX, SUM = range(4)  # sources of a vec, as in isa.toml
WHOLE = 255  # of a group that is not lowered, in place of the positions that it clips

# `_nrt=False`: nothing is allocated here; without it, counting references to arrays takes a third of the time
kernel: Any = njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]


# -- innermost kernels. Numba has no vectors, and what LLVM makes of scalar loops is a third as fast or less. So these
# are written as LLVM code, which LLVM translates for any processor.

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
BYTES, WORDS, LONGS = (ir.VectorType(kind, VECTOR) for kind in (I8, I32, I64))


def _llvm_kernel(emit: Callable[..., None], plain: Callable[..., None]) -> Any:
    """Return a kernel of two arguments: a tuple of arrays and a tuple of int64.

    Args:
        emit: writes its LLVM code; takes the target, the builder, pointers to the arrays' elements, and the integers.
        plain: does the same where nothing is compiled; takes the two tuples.
    """
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return plain

    @intrinsic
    def llvm_kernel(_context: Any, arrays: Any, numbers: Any) -> tuple[Any, Callable[..., Any]]:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            values, integers = (cgutils.unpack_tuple(builder, argument) for argument in arguments)
            kinds = zip(signature.args[0], values, strict=True)
            pointers = [cgutils.create_struct_proxy(kind)(context, builder, value).data for kind, value in kinds]
            emit(context.codegen().magic_tuple(), builder, pointers, integers)
            return context.get_dummy_value()

        return types.void(arrays, numbers), generate

    return llvm_kernel


def _load(builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Load a value of any type from an element of an array on."""
    value = builder.load(builder.bitcast(builder.gep(array, [index]), kind.as_pointer()))
    value.align = 1
    return value


def _store(builder: Any, array: Any, index: Any, value: Any) -> None:
    builder.store(value, builder.bitcast(builder.gep(array, [index]), value.type.as_pointer())).align = 1


def _splat(builder: Any, kind: Any, value: Any) -> Any:
    """Return a vector that holds `value` in every lane."""
    none, zeros = ir.Constant(kind, ir.Undefined), ir.Constant(WORDS, [0] * VECTOR)
    return builder.shuffle_vector(builder.insert_element(none, value, I32(0)), none, zeros)


def _emit_copy(_target: Any, builder: Any, arrays: list[Any], numbers: list[Any]) -> None:
    """Copy bytes; arrays: target, source; numbers: first byte of the target, of the source, bytes."""
    to, source = (builder.gep(array, [index]) for array, index in zip(arrays, numbers, strict=False))
    cgutils.raw_memcpy(builder, to, source, numbers[2], 1)


def _plain_copy(arrays: Any, numbers: Any) -> None:
    (to, source), (first, start, count) = arrays, map(int, numbers)
    to[first : first + count] = source[start : start + count]


def _emit_fill(_target: Any, builder: Any, arrays: list[Any], numbers: list[Any]) -> None:
    """Fill bytes; arrays: target; numbers: first byte, bytes, value."""
    first, count, value = numbers
    cgutils.memset(builder, builder.gep(arrays[0], [first]), count, builder.trunc(value, I8))


def _plain_fill(arrays: Any, numbers: Any) -> None:
    first, count, value = map(int, numbers)
    arrays[0][first : first + count] = value


def _emit_dot(shape: tuple[int, int], target: Any, builder: Any, arrays: list[Any], numbers: list[Any]) -> None:
    """Compute pixels x vectors of a convolution's sums in registers.

    Args:
        shape: pixels and vectors.
        arrays: patch, pixels, weights, starts, acc as in `tables`; acc is written.
        numbers: first pixel, pixels wanted (the others repeat the last one), first weight, first start value, first sum
            written, sums between two pixels, accumulate?, then tap_rows, tap_row, tap_cols, tap_col, run of the conv.
    """
    patch, pixels, weights, starts, acc = arrays
    first, count, weight, start, row, width, accumulate, tap_rows, tap_row, tap_cols, tap_col, run = numbers
    add, mul = builder.add, builder.mul
    keep = _splat(builder, WORDS, builder.trunc(builder.neg(accumulate), I32))  # mask of the sums so far
    rows, bases, sums = [], [], []
    for p in range(shape[0]):
        pixel = builder.select(builder.icmp_signed("<", I64(p), count), I64(p), builder.sub(count, I64(1)))
        rows.append(add(row, mul(pixel, width)))
        bases.append(_load(builder, I64, pixels, add(first, pixel)))
        for v in range(shape[1]):
            old = builder.and_(_load(builder, WORDS, acc, add(rows[p], I64(v * VECTOR))), keep)
            begin = _load(builder, WORDS, starts, add(start, I64(v * VECTOR)))
            sums.append(cgutils.alloca_once_value(builder, add(begin, old)))
    next_weight = cgutils.alloca_once_value(builder, weight)
    vector_pitch = mul(mul(mul(tap_rows, tap_cols), run), I64(VECTOR))
    with cgutils.for_range(builder, tap_rows) as ty, cgutils.for_range(builder, tap_cols) as tx:
        tap = add(mul(ty.index, tap_row), mul(tx.index, tap_col))
        places = [add(base, tap) for base in bases]
        with cgutils.for_range_slice(builder, I64(0), run, I64(QUAD)) as (k, _):
            at = builder.load(next_weight)
            columns = [_load(builder, WORDS, weights, add(at, mul(vector_pitch, I64(v)))) for v in range(shape[1])]
            builder.store(add(at, I64(VECTOR * QUAD)), next_weight)
            for p, place in enumerate(places):
                act = _splat(builder, WORDS, _load(builder, I32, patch, add(place, k)))
                for v, column in enumerate(columns):
                    total = sums[p * shape[1] + v]
                    builder.store(_add_products(target, builder, builder.load(total), act, column), total)
    for p in range(shape[0]):
        for v in range(shape[1]):
            _store(builder, acc, add(rows[p], I64(v * VECTOR)), builder.load(sums[p * shape[1] + v]))


def _add_products(target: Any, builder: Any, total: Any, act: Any, weight: Any) -> Any:
    """Add to each 32-bit lane the products of its four unsigned bytes of `act` and signed bytes of `weight`."""
    if "+avx512vnni" in target[2]:
        quads = ir.VectorType(I8, VECTOR * QUAD)
        kind = ir.FunctionType(WORDS, [WORDS, quads, quads])
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
        for parity in (0, 1):
            lanes = ir.Constant(WORDS, list(range(parity, 2 * VECTOR, 2)))
            total = builder.add(total, builder.shuffle_vector(product, none, lanes))
    return total


def _plain_dot(vectors: int, arrays: Any, numbers: Any) -> None:
    patch, pixels, weights, starts, acc = arrays
    first, count, weight, start, row, width, accumulate, tap_rows, tap_row, tap_cols, tap_col, run = map(int, numbers)
    offsets = np.add.outer(np.add.outer(np.arange(tap_rows) * tap_row, np.arange(tap_cols) * tap_col), np.arange(run))
    act = patch[np.add.outer(pixels[first : first + count], offsets.ravel())].astype(np.int64)
    packed = weights[weight : weight + vectors * VECTOR * offsets.size].astype(np.int64)
    packed = packed.reshape(vectors, -1, VECTOR, QUAD).transpose(1, 3, 0, 2).reshape(offsets.size, vectors * VECTOR)
    at = np.add.outer(row + np.arange(count) * width, np.arange(vectors * VECTOR))
    acc[at] = act @ packed + starts[start : start + vectors * VECTOR] + (acc[at].astype(np.int64) if accumulate else 0)


def _load_bytes(builder: Any, kind: Any, array: Any, index: Any, offset: Any) -> Any:
    """Load bytes as wider integers: unsigned ones with offset 0, signed ones with offset 128."""
    flip, taken = _splat(builder, BYTES, builder.trunc(offset, I8)), _splat(builder, LONGS, offset)
    value = builder.zext(builder.xor(_load(builder, BYTES, array, index), flip), kind)
    return builder.sub(value, taken if kind == LONGS else builder.trunc(taken, kind))


def _emit_window(largest: bool, _target: Any, builder: Any, arrays: list[Any], numbers: list[Any]) -> None:
    """Reduce the taps of one pixel, lane by lane, to their largest or weighted sum.

    Args:
        largest: the largest.
        arrays: act, taps, window as in `tables`; window is written, in whole vectors.
        numbers: lanes, offset of signed inputs, first element written, byte of the first tap, its first weight, tap
            rows, bytes between two of them, weights between them, tap columns, and the same for them.
    """
    act, weights, window = arrays
    lanes, offset, to, first, weight, tap_rows, row, weight_row, tap_cols, col, weight_col = numbers
    add, mul = builder.add, builder.mul
    start = ir.Constant(WORDS, [-(1 << 31) if largest else 0] * VECTOR)
    with cgutils.for_range_slice(builder, I64(0), lanes, I64(VECTOR)) as (lane, _):
        total = cgutils.alloca_once(builder, WORDS)
        builder.store(start, total)
        with cgutils.for_range(builder, tap_rows) as ty, cgutils.for_range(builder, tap_cols) as tx:
            at = add(add(first, lane), add(mul(ty.index, row), mul(tx.index, col)))
            value, before = _load_bytes(builder, WORDS, act, at, offset), builder.load(total)
            if largest:
                after = builder.select(builder.icmp_signed(">", value, before), value, before)
            else:
                at = add(add(weight, lane), add(mul(ty.index, weight_row), mul(tx.index, weight_col)))
                after = add(before, mul(value, _load(builder, WORDS, weights, at)))
            builder.store(after, total)
        _store(builder, window, add(to, lane), builder.load(total))


def _plain_window(largest: bool, arrays: Any, numbers: Any) -> None:
    act, weights, window = arrays
    lanes, offset, to, first, weight, tap_rows, row, weight_row, tap_cols, col, weight_col = map(int, numbers)

    def taps(start: int, pitch_y: int, pitch_x: int) -> Array:
        grid = np.add.outer(np.arange(tap_rows) * pitch_y, np.arange(tap_cols) * pitch_x)
        found: Array = np.add.outer(start + grid.ravel(), np.arange(lanes))
        return found

    values = (act[taps(first, row, col)].astype(np.int64) ^ offset) - offset
    if largest:
        window[to : to + lanes] = values.max(axis=0)
    else:
        window[to : to + lanes] = (values * weights[taps(weight, weight_row, weight_col)]).sum(axis=0)


def _emit_scale(residual: bool, leaky: bool, _target: Any, builder: Any, arrays: list[Any], numbers: list[Any]) -> None:
    """Requantize a row of output pixels; the values are left in `window`.

    Args:
        residual: add a residual; leaky: take the second multiplier below zero.
        arrays: acc or window, params, act, window as in `tables`.
        numbers: lanes, pixels, first sum, sums between two pixels, first parameter, least and largest value, byte of
            the first residual, bytes between two of them, offset of signed ones.
    """
    sums, params, act, window = arrays
    lanes, pixels, first, width, row, low, high, res, res_col, offset = numbers
    add, mul = builder.add, builder.mul
    low, high = _splat(builder, LONGS, low), _splat(builder, LONGS, high)
    with cgutils.for_range_slice(builder, I64(0), lanes, I64(VECTOR)) as (lane, _):
        rows = [_load(builder, LONGS, params, add(add(row, lane), mul(I64(k), lanes))) for k in range(6)]
        bias, multiplier, shift, second, start, leak = rows
        multiplier, second = (builder.sext(builder.trunc(m, WORDS), LONGS) for m in (multiplier, second))
        with cgutils.for_range(builder, pixels) as pixel:
            at = add(mul(pixel.index, width), lane)
            total = builder.sext(_load(builder, WORDS, sums, add(first, at)), LONGS)
            value = add(mul(total, multiplier), start)
            if leaky:
                below = builder.icmp_signed("<", add(total, bias), ir.Constant(LONGS, [0] * VECTOR))
                value = builder.select(below, add(mul(total, second), leak), value)
            if residual:
                place = add(add(res, lane), mul(pixel.index, res_col))
                value = add(value, mul(_load_bytes(builder, LONGS, act, place, offset), second))
            value = builder.ashr(value, shift)
            value = builder.select(builder.icmp_signed("<", value, low), low, value)
            value = builder.select(builder.icmp_signed(">", value, high), high, value)
            _store(builder, window, at, builder.trunc(value, WORDS))


def _plain_scale(residual: bool, leaky: bool, arrays: Any, numbers: Any) -> None:
    sums, params, act, window = arrays
    lanes, pixels, first, width, row, low, high, res, res_col, offset = map(int, numbers)
    bias, multiplier, shift, second, start, leak = params[row : row + 6 * lanes].reshape(6, lanes)
    at = np.add.outer(np.arange(pixels) * width, np.arange(lanes))
    total = sums[first + at].astype(np.int64)
    value = total * multiplier + start
    if leaky:
        value = np.where(total + bias < 0, total * second + leak, value)
    if residual:
        place = np.add.outer(res + np.arange(pixels) * res_col, np.arange(lanes))
        value += ((act[place].astype(np.int64) ^ offset) - offset) * second
    window[at] = np.clip(value >> shift, low, high)


def _emit_write(wide: bool, _target: Any, builder: Any, arrays: list[Any], numbers: list[Any]) -> None:
    """Write a row of output pixels from `window` to `act`.

    Args:
        wide: as a word of low bytes and a word of high bytes per group.
        arrays: window, act.
        numbers: lanes, in whole vectors, pixels, values between two pixels, byte of the first pixel, bytes between two.
    """
    window, act = arrays
    lanes, pixels, width, out, out_col = numbers
    add, mul = builder.add, builder.mul
    with (
        cgutils.for_range(builder, pixels) as pixel,
        cgutils.for_range_slice(builder, I64(0), lanes, I64(VECTOR)) as (lane, _),
    ):
        value = _load(builder, WORDS, window, add(mul(pixel.index, width), lane))
        to = add(add(out, mul(pixel.index, out_col)), mul(lane, I64(1 + wide)))
        _store(builder, act, to, builder.trunc(value, BYTES))
        if wide:
            high = builder.lshr(value, ir.Constant(WORDS, [8] * VECTOR))
            _store(builder, act, add(to, I64(GROUP)), builder.trunc(high, BYTES))


def _plain_write(wide: bool, arrays: Any, numbers: Any) -> None:
    window, act = arrays
    lanes, pixels, width, out, out_col = map(int, numbers)
    lane = np.arange(lanes)
    values = window[np.add.outer(np.arange(pixels) * width, lane)]
    to = np.add.outer(out + np.arange(pixels) * out_col, lane + wide * (lane // GROUP) * GROUP)
    act[to] = values & 255
    if wide:
        act[to + GROUP] = values >> 8 & 255


def _emit_lower_dynamic(_target: Any, builder: Any, arrays: list[Any], numbers: list[Any]) -> None:
    """Copy bytes as `_lower` does, each group at the position that its values ask for (numerics.dynamic_shift).

    Args:
        arrays: act, patch, lowering as in `tables`.
        numbers: first byte of the source, of the target, bytes, offset of signed ones, first clip, 16 x clips.
    """
    act, patch, lowering = arrays
    source, target, count, flip, clips, span = numbers
    add, sub, select, less = builder.add, builder.sub, builder.select, partial(builder.icmp_unsigned, "<")
    byte, half_word = builder.trunc(flip, I8), builder.trunc(flip, I32)
    signed = builder.icmp_unsigned("!=", flip, I64(0))
    signs, offset = _splat(builder, BYTES, builder.ashr(byte, I8(7))), _splat(builder, BYTES, byte)
    kept, below, above = (select(signed, I32(a), I32(b)) for a, b in ((3, 4), (8, 0), (7, 15)))
    clips_end = add(clips, builder.lshr(span, I64(4)))
    clip_at = cgutils.alloca_once_value(builder, clips)
    with cgutils.for_range_slice(builder, I64(0), count, I64(GROUP)) as (first, _):
        value, at = _load(builder, BYTES, act, add(source, first)), builder.load(clip_at)
        clip = builder.zext(_load(builder, I8, lowering, at), I32)
        after = add(at, I64(1))
        builder.store(select(builder.icmp_unsigned("==", after, clips_end), clips, after), clip_at)
        negative = builder.ashr(value, ir.Constant(BYTES, [7] * VECTOR))
        bits = builder.bitcast(builder.xor(value, builder.and_(negative, signs)), ir.IntType(8 * GROUP))
        for part in (64, 32, 16, 8):
            bits = builder.or_(bits, builder.lshr(bits, ir.Constant(bits.type, part)))
        length = sub(I32(32), builder.ctlz(builder.zext(builder.trunc(bits, I8), I32), ir.IntType(1)(0)))
        shift = sub(length, add(kept, clip))
        shift = select(builder.icmp_signed("<", shift, I32(0)), I32(0), shift)
        whole = builder.icmp_unsigned("==", clip, I32(WHOLE))
        low = select(whole, I32(0), sub(half_word, builder.shl(below, shift)))
        high = select(whole, I32(255), add(half_word, builder.shl(above, shift)))
        half, mask = builder.lshr(builder.shl(I32(1), shift), I32(1)), builder.shl(I32(-1), shift)
        low, high, half, mask = (_splat(builder, BYTES, builder.trunc(x, I8)) for x in (low, high, half, mask))
        value = builder.xor(value, offset)
        code = add(value, half)
        code = select(less(code, value), ir.Constant(BYTES, [255] * VECTOR), code)
        code = builder.and_(code, mask)
        code = select(less(code, low), low, code)
        _store(builder, patch, add(target, first), select(less(high, code), high, code))


def _plain_lower_dynamic(arrays: Any, numbers: Any) -> None:
    act, patch, lowering = arrays
    source, target, count, flip, clips, span = map(int, numbers)
    value = act[source : source + count].reshape(-1, GROUP)
    values = (value.view(np.int8) if flip else value).astype(np.int64)
    clip = np.resize(lowering[clips : clips + span // GROUP], len(values))
    shift = dynamic_shift(values, unsigned=not flip, clip=clip.astype(np.int64))
    lowered = lower(values, shift[:, None], unsigned=not flip)
    made = np.where(clip[:, None] == WHOLE, values, lowered) + flip
    patch[target : target + count] = made.ravel()


_lower_dynamic = _llvm_kernel(_emit_lower_dynamic, _plain_lower_dynamic)
_copy, _fill = _llvm_kernel(_emit_copy, _plain_copy), _llvm_kernel(_emit_fill, _plain_fill)
_dot_narrow, _dot_wide = (
    _llvm_kernel(partial(_emit_dot, shape), partial(_plain_dot, shape[1])) for shape in (NARROW, WIDE)
)
_window_sum, _window_largest = (
    _llvm_kernel(partial(_emit_window, largest), partial(_plain_window, largest)) for largest in (False, True)
)
_scale, _scale_leaky, _scale_residual, _scale_residual_leaky = (
    _llvm_kernel(partial(_emit_scale, residual, leaky), partial(_plain_scale, residual, leaky))
    for residual in (False, True)
    for leaky in (False, True)
)
_write_bytes, _write_wide = (
    _llvm_kernel(partial(_emit_write, wide), partial(_plain_write, wide)) for wide in (False, True)
)


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
        _fill((patch,), (first, conv["row_parts"] * part_rows * row, flip))
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
                            _lower_dynamic((act, patch, lowering), (source, target, run, flip, half, span))
                        else:
                            _lower(act, source, patch, target, run, flip, lowering, half, span)
                        source += step
                        target += pixel


@kernel
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
    taps = (conv["tap_rows"], conv["tap_row"], conv["tap_cols"], conv["tap_col"], conv["run"])
    weight, start, accumulate = conv["weight"], conv["start"], conv["accumulate"]
    acc = conv["acc"] * width
    arrays = (m.patch, m.pixels, p.weights, p.starts, m.acc)
    if vectors == 1:
        for k in range(0, pixels, NARROW[0]):
            block = (k, min(NARROW[0], pixels - k), weight, start, acc + k * width, width, accumulate)
            _dot_narrow(arrays, block + taps)
    else:
        for c in range(0, vectors * VECTOR, 2 * VECTOR):
            column = weight + c * taps[0] * taps[2] * taps[4]
            for k in range(0, pixels, WIDE[0]):
                block = (k, min(WIDE[0], pixels - k), column, start + c, acc + k * width + c, width, accumulate)
                _dot_wide(arrays, block + taps)
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
    largest, rows, arrays = vec["source"] == MAX, end - first, (m.act, p.taps, m.window)
    for x in range(vec["tile_w"]):
        first, end = _inside(left, step, kernel_w, in_w)
        taps = (source + (left + first * step) * col, weight + first * lanes, rows, row, kernel_w * lanes, end - first)
        numbers = (lanes, offset, x * p.acc_width, *taps, step * col, lanes)
        if largest:
            _window_largest(arrays, numbers)
        else:
            _window_sum(arrays, numbers)
        left += stride


@kernel
def _vec(p: Program, vec: Record, m: Memory) -> None:
    """Reduce windows, unless the source is the accumulators, requantize and write: row by row.

    A row is read before it is written. That is the order of the machine, pixel by pixel, in other words: no pixel reads
    what an earlier one has written.
    """
    width = p.acc_width
    lanes, pixels, residual, leaky = vec["lanes"], vec["tile_w"], vec["residual"], vec["leaky"]
    from_acc = vec["source"] == ACC
    arrays = (m.acc if from_acc else m.window, p.params, m.act, m.window)
    for y in range(vec["tile_h"]):
        first = (vec["base"] + y * pixels) * width if from_acc else 0
        if not from_acc:
            _reduce_row(p, vec, y, m)
        res, out = vec["res"] + y * vec["res_row"], vec["out"] + y * vec["out_row"]
        row = (lanes, pixels, first, width, vec["params"], vec["low"], vec["high"])
        numbers = row + (res, vec["res_col"], vec["res_flip"])  # noqa: RUF005  (Numba fails at a star here)
        if residual and leaky:
            _scale_residual_leaky(arrays, numbers)
        elif residual:
            _scale_residual(arrays, numbers)
        elif leaky:
            _scale_leaky(arrays, numbers)
        else:
            _scale(arrays, numbers)
        places = (lanes, pixels, width, out, vec["out_col"])
        if lanes % VECTOR:
            _write_some(m.window, m.act, vec["wide"], places)
        elif vec["wide"]:
            _write_wide((m.window, m.act), places)
        else:
            _write_bytes((m.window, m.act), places)


@kernel
def _write_some(window: Array, act: Array, wide: int, places: tuple[int, int, int, int, int]) -> None:
    """Write rows of fewer lanes than a vector; see `_emit_write`."""
    lanes, pixels, width, out, out_col = places
    for x in range(pixels):
        for lane in range(lanes):
            value, to = window[x * width + lane], out + x * out_col + lane
            act[to] = np.uint8(value & 255)
            if wide:
                act[to + GROUP] = np.uint8(value >> 8 & 255)


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
                _copy((m.dram, m.act), (dram, act, run))
                continue
            constant = min(max(-dram, 0), run)
            _copy((m.act, constants), (act, dram + constants.size, constant))
            _copy((m.act, m.dram), (act + constant, dram + constant, run - constant))


@kernel
def _fold(p: Program, t: Record, m: Memory) -> None:
    """Gather image windows into whole groups."""
    act = m.act
    in_h, in_w, channels = t["in_h"], t["in_w"], t["channels"]
    image = t["dram"] - p.constants.size
    for r in range(t["rows"]):
        for c in range(t["cols"]):
            at = t["act"] + r * t["act_row"] + c * t["act_col"]
            _fill((act,), (at, t["words"], 0))
            y, x = t["y"] + r * t["stride_y"], t["x"] + c * t["stride_x"]
            first, end = _inside(x, 1, t["kernel_w"], in_w)
            for ky in range(*_inside(y, 1, t["kernel_h"], in_h)):
                source = image + ((y + ky) * in_w + x + first) * channels
                target = at + (ky * t["kernel_w"] + first) * channels
                _copy((act, m.dram), (target, source, (end - first) * channels))


# -- the program


@kernel
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
            _copy((m.dram, images[image]), (input_at, 0, images.shape[1]))
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
            _copy((outputs[image], m.dram), (0, output_at, outputs.shape[1]))
