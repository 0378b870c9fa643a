"""Innermost kernels of the value simulator, as LLVM code that LLVM translates for any processor.

Numba has no vectors, and what LLVM makes of scalar loops is a third as fast or less. Each kernel takes a tuple of
arrays (`tables` describes them) and a tuple of int64, and has a twin in NumPy for where nothing is compiled. The static
check has proved every address, so nothing is checked here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from npu_isa.machine.numerics import dynamic_shift, lower
from numba import config, types
from numba.core import cgutils as numba_codegen
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]
cgutils: Any = numba_codegen  # without types

GROUP = 16
VECTOR = 16  # columns whose sums lie side by side in one vector
QUAD = 4  # channels added to each sum in one step
NARROW, WIDE = (16, 1), (8, 2)  # pixels x vectors of a block of sums; 16 vectors stay in registers
WHOLE = 255  # of a group that is not lowered, in place of the positions that it clips

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
    """Copy bytes as `kernels._lower_static` does, each group at the position that its values ask for.

    The position is that of `numerics.dynamic_shift`.

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


lower_dynamic = _llvm_kernel(_emit_lower_dynamic, _plain_lower_dynamic)
copy, fill = _llvm_kernel(_emit_copy, _plain_copy), _llvm_kernel(_emit_fill, _plain_fill)
dot_narrow, dot_wide = (
    _llvm_kernel(partial(_emit_dot, shape), partial(_plain_dot, shape[1])) for shape in (NARROW, WIDE)
)
window_sum, window_largest = (
    _llvm_kernel(partial(_emit_window, largest), partial(_plain_window, largest)) for largest in (False, True)
)
scale, scale_leaky, scale_residual, scale_residual_leaky = (
    _llvm_kernel(partial(_emit_scale, residual, leaky), partial(_plain_scale, residual, leaky))
    for residual in (False, True)
    for leaky in (False, True)
)
write_bytes, write_wide = (
    _llvm_kernel(partial(_emit_write, wide), partial(_plain_write, wide)) for wide in (False, True)
)
