"""The innermost kernels as LLVM code, which LLVM translates for any processor; see `arguments`.

Numba has no vectors: what LLVM makes of the scalar loops of `loops` takes several times as long. The code is written
with parts of Numba that its documentation does not promise; `check` tells whether they are as they were.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from npu_isa.isa.ops import GROUP
from numba import config, njit, types
from numba.core import cgutils as numba_cgutils
from numba.core import codegen
from numba.extending import intrinsic

from npu_sim.fast.values.kernels.arguments import NARROW, WIDE, Copy, Dot, Fill, LookUp, Lower, Scale, Window, Write
from npu_sim.fast.values.tables import BYTE_MAX, OFFSET, PARAMS, QUAD, SIGNED, UNSIGNED, VECTOR, WHOLE
from npu_sim.numba_options import WITHOUT_REFERENCE_COUNTS

cgutils: Any = numba_cgutils  # without types

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
BYTES, WORDS, LONGS = (ir.VectorType(kind, VECTOR) for kind in (I8, I32, I64))


def multiplies_quads() -> bool:
    """Return whether the code is for a processor with AVX512-VNNI: vpdpbusd adds four products of bytes to a sum.

    That is what NUMBA_CPU_FEATURES lists, else the processor that Numba runs on.
    """
    listed: str | None = config.CPU_FEATURES  # type: ignore[attr-defined]
    features: str = codegen.get_host_cpu_features() if listed is None else listed  # type: ignore[no-untyped-call]
    return "+avx512vnni" in features.split(",")


def llvm_kernel(emit: Callable[..., None]) -> Any:
    """Return a kernel of a tuple of arrays and a record of int64.

    Args:
        emit: writes its LLVM code; takes the builder, pointers to the arrays' elements, and the record.
    """

    @intrinsic
    def kernel(_context: Any, arrays: Any, numbers: Any) -> tuple[Any, Callable[..., Any]]:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            values, integers = (cgutils.unpack_tuple(builder, argument) for argument in arguments)
            kinds = zip(arrays, values, strict=True)
            pointers = [cgutils.create_struct_proxy(kind)(context, builder, value).data for kind, value in kinds]
            emit(builder, pointers, numbers.instance_class(*integers))
            return context.get_dummy_value()

        return types.void(arrays, numbers), generate

    return kernel


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


def _copy(builder: Any, arrays: list[Any], n: Copy) -> None:
    to, source = builder.gep(arrays[0], [n.target]), builder.gep(arrays[1], [n.source])
    cgutils.raw_memcpy(builder, to, source, n.size, 1)


def _fill(builder: Any, arrays: list[Any], n: Fill) -> None:
    cgutils.memset(builder, builder.gep(arrays[0], [n.target]), n.size, builder.trunc(n.value, I8))


def emit_dot(shape: tuple[int, int], quads: bool, builder: Any, arrays: list[Any], n: Dot) -> None:
    """Compute the sums in registers; pixels beyond those wanted repeat the last one.

    Args:
        shape: pixels and vectors.
        quads: multiply by vpdpbusd; see `multiplies_quads`.
        builder, arrays, n: see `llvm_kernel`.
    """
    patch, pixels, weights, starts, acc = arrays
    add, mul = builder.add, builder.mul
    keep = _splat(builder, WORDS, builder.trunc(builder.neg(n.accumulate), I32))  # mask of the sums so far
    rows, bases, sums = [], [], []
    for p in range(shape[0]):
        pixel = builder.select(builder.icmp_signed("<", I64(p), n.pixels), I64(p), builder.sub(n.pixels, I64(1)))
        rows.append(add(n.row, mul(pixel, n.width)))
        bases.append(_load(builder, I64, pixels, add(n.first, pixel)))
        for v in range(shape[1]):
            old = builder.and_(_load(builder, WORDS, acc, add(rows[p], I64(v * VECTOR))), keep)
            begin = _load(builder, WORDS, starts, add(n.start, I64(v * VECTOR)))
            sums.append(cgutils.alloca_once_value(builder, add(begin, old)))
    next_weight = cgutils.alloca_once_value(builder, n.weight)
    vector_pitch = mul(mul(mul(n.tap_rows, n.tap_cols), n.run), I64(VECTOR))
    with cgutils.for_range(builder, n.tap_rows) as ty, cgutils.for_range(builder, n.tap_cols) as tx:
        tap = add(mul(ty.index, n.tap_row), mul(tx.index, n.tap_col))
        places = [add(base, tap) for base in bases]
        with cgutils.for_range_slice(builder, I64(0), n.run, I64(QUAD)) as (k, _):
            at = builder.load(next_weight)
            columns = [_load(builder, WORDS, weights, add(at, mul(vector_pitch, I64(v)))) for v in range(shape[1])]
            builder.store(add(at, I64(VECTOR * QUAD)), next_weight)
            for p, place in enumerate(places):
                act = _splat(builder, WORDS, _load(builder, I32, patch, add(place, k)))
                for v, column in enumerate(columns):
                    total = sums[p * shape[1] + v]
                    builder.store(_add_products(quads, builder, builder.load(total), act, column), total)
    for p in range(shape[0]):
        for v in range(shape[1]):
            _store(builder, acc, add(rows[p], I64(v * VECTOR)), builder.load(sums[p * shape[1] + v]))


def _add_products(quads: bool, builder: Any, total: Any, act: Any, weight: Any) -> Any:
    """Add to each 32-bit lane the products of its four unsigned bytes of `act` and signed bytes of `weight`."""
    if quads:  # declared as LLVM had it before version 22, which takes both
        name, kind = "llvm.x86.avx512.vpdpbusd.512", ir.FunctionType(WORDS, [WORDS, WORDS, WORDS])
        product = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.call(product, [total, act, weight])
    pairs, products = ir.VectorType(I16, 2 * VECTOR), ir.VectorType(I32, 2 * VECTOR)
    eight = ir.Constant(pairs, [8] * 2 * VECTOR)
    act, weight = builder.bitcast(act, pairs), builder.bitcast(weight, pairs)
    low = (
        builder.and_(act, ir.Constant(pairs, [BYTE_MAX] * 2 * VECTOR)),
        builder.ashr(builder.shl(weight, eight), eight),
    )
    high = builder.lshr(act, eight), builder.ashr(weight, eight)
    for a, w in (low, high):  # LLVM knows the pattern as multiply-add of pairs
        product = builder.mul(builder.sext(a, products), builder.sext(w, products))
        none = ir.Constant(products, ir.Undefined)
        for parity in (0, 1):
            lanes = ir.Constant(WORDS, list(range(parity, 2 * VECTOR, 2)))
            total = builder.add(total, builder.shuffle_vector(product, none, lanes))
    return total


def _load_bytes(builder: Any, kind: Any, array: Any, index: Any, offset: Any) -> Any:
    """Load bytes as wider integers: unsigned ones with offset 0, signed ones with offset 128."""
    flip, taken = _splat(builder, BYTES, builder.trunc(offset, I8)), _splat(builder, LONGS, offset)
    value = builder.zext(builder.xor(_load(builder, BYTES, array, index), flip), kind)
    return builder.sub(value, taken if kind == LONGS else builder.trunc(taken, kind))


def _window(largest: bool, builder: Any, arrays: list[Any], n: Window) -> None:
    act, weights, window = arrays
    add, mul = builder.add, builder.mul
    start = ir.Constant(WORDS, [-(1 << 31) if largest else 0] * VECTOR)
    with cgutils.for_range_slice(builder, I64(0), n.lanes, I64(VECTOR)) as (lane, _):
        total = cgutils.alloca_once_value(builder, start)
        builder.store(start, total)
        with cgutils.for_range(builder, n.tap_rows) as ty, cgutils.for_range(builder, n.tap_cols) as tx:
            at = add(add(n.source, lane), add(mul(ty.index, n.source_row), mul(tx.index, n.source_col)))
            value, before = _load_bytes(builder, WORDS, act, at, n.offset), builder.load(total)
            if largest:
                after = builder.select(builder.icmp_signed(">", value, before), value, before)
            else:
                at = add(add(n.weight, lane), add(mul(ty.index, n.weight_row), mul(tx.index, n.weight_col)))
                after = add(before, mul(value, _load(builder, WORDS, weights, at)))
            builder.store(after, total)
        _store(builder, window, add(n.target, lane), builder.load(total))


def _scale(residual: bool, leaky: bool, product: bool, builder: Any, arrays: list[Any], n: Scale) -> None:
    sums, params, act, window = arrays
    add, mul = builder.add, builder.mul
    low, high = _splat(builder, LONGS, n.low), _splat(builder, LONGS, n.high)
    with cgutils.for_range_slice(builder, I64(0), n.lanes, I64(VECTOR)) as (lane, _):
        rows = [_load(builder, LONGS, params, add(add(n.params, lane), mul(I64(k), n.lanes))) for k in range(PARAMS)]
        bias, multiplier, shift, second, start, leak = rows
        multiplier, second = (builder.sext(builder.trunc(m, WORDS), LONGS) for m in (multiplier, second))
        with cgutils.for_range(builder, n.pixels) as pixel:
            at = add(mul(pixel.index, n.width), lane)
            total = builder.sext(_load(builder, WORDS, sums, add(n.first, at)), LONGS)
            place = add(add(n.res, lane), mul(pixel.index, n.res_col))
            if product:
                total = mul(total, _load_bytes(builder, LONGS, act, place, n.res_offset))
            value = add(mul(total, multiplier), start)
            if leaky:
                below = builder.icmp_signed("<", add(total, bias), ir.Constant(LONGS, [0] * VECTOR))
                value = builder.select(below, add(mul(total, second), leak), value)
            if residual:
                value = add(value, mul(_load_bytes(builder, LONGS, act, place, n.res_offset), second))
            value = builder.ashr(value, shift)
            value = builder.select(builder.icmp_signed("<", value, low), low, value)
            value = builder.select(builder.icmp_signed(">", value, high), high, value)
            _store(builder, window, at, builder.trunc(value, WORDS))


def _look_up(builder: Any, arrays: list[Any], n: LookUp) -> None:
    window, tables = arrays
    add, mul, mask = builder.add, builder.mul, ir.Constant(WORDS, [BYTE_MAX] * VECTOR)
    with (
        cgutils.for_range(builder, n.pixels) as pixel,
        cgutils.for_range_slice(builder, I64(0), n.lanes, I64(VECTOR)) as (lane, _),
    ):
        at = add(mul(pixel.index, n.width), lane)
        value = builder.and_(_load(builder, WORDS, window, at), mask)
        for i in range(VECTOR):
            place = add(n.table, builder.zext(builder.extract_element(value, I32(i)), I64))
            found = builder.zext(_load(builder, I8, tables, place), I32)
            value = builder.insert_element(value, found, I32(i))
        _store(builder, window, at, value)


def _write(wide: bool, builder: Any, arrays: list[Any], n: Write) -> None:
    window, act = arrays
    add, mul = builder.add, builder.mul
    with (
        cgutils.for_range(builder, n.pixels) as pixel,
        cgutils.for_range_slice(builder, I64(0), n.lanes, I64(VECTOR)) as (lane, _),
    ):
        value = _load(builder, WORDS, window, add(mul(pixel.index, n.width), lane))
        to = add(add(n.out, mul(pixel.index, n.out_col)), mul(lane, I64(1 + wide)))
        _store(builder, act, to, builder.trunc(value, BYTES))
        if wide:
            high = builder.lshr(value, ir.Constant(WORDS, [8] * VECTOR))
            _store(builder, act, add(to, I64(GROUP)), builder.trunc(high, BYTES))


def _lower_dynamic(builder: Any, arrays: list[Any], n: Lower) -> None:
    act, patch, lowering = arrays
    add = builder.add
    signed = builder.icmp_unsigned("!=", n.flip, I64(0))
    offset = _splat(builder, BYTES, builder.trunc(n.flip, I8))
    signs = builder.ashr(offset, ir.Constant(BYTES, [7] * VECTOR))
    clips_end = add(n.clips, builder.udiv(n.span, I64(GROUP)))
    clip_at = cgutils.alloca_once_value(builder, n.clips)
    with cgutils.for_range_slice(builder, I64(0), n.size, I64(GROUP)) as (first, _):
        value, at = _load(builder, BYTES, act, add(n.source, first)), builder.load(clip_at)
        clip, after = builder.zext(_load(builder, I8, lowering, at), I32), add(at, I64(1))
        builder.store(builder.select(builder.icmp_unsigned("==", after, clips_end), n.clips, after), clip_at)
        negative = builder.ashr(value, ir.Constant(BYTES, [7] * VECTOR))
        magnitudes = builder.xor(value, builder.and_(negative, signs))
        half, mask, low, high = _lower_rules(builder, signed, _bit_length(builder, magnitudes), clip)
        value = builder.xor(value, offset)
        code = add(value, half)
        code = builder.select(builder.icmp_unsigned("<", code, value), ir.Constant(BYTES, [BYTE_MAX] * VECTOR), code)
        code = builder.and_(code, mask)
        code = builder.select(builder.icmp_unsigned("<", code, low), low, code)
        code = builder.select(builder.icmp_unsigned("<", high, code), high, code)
        _store(builder, patch, add(n.target, first), code)


def _bit_length(builder: Any, values: Any) -> Any:
    """Return the bit length of the OR of a group's bytes, I32."""
    bits = builder.bitcast(values, ir.IntType(8 * GROUP))
    for part in (64, 32, 16, 8):
        bits = builder.or_(bits, builder.lshr(bits, ir.Constant(bits.type, part)))
    return builder.sub(I32(32), builder.ctlz(builder.zext(builder.trunc(bits, I8), I32), ir.IntType(1)(0)))


def _lower_rules(builder: Any, signed: Any, length: Any, clip: Any) -> list[Any]:
    """Return half, mask, low and high of a group as in `tables.Program.lowering`, in every byte of a vector."""
    select, sub, shl = builder.select, builder.sub, builder.shl
    bits, least, most = (select(signed, I32(a), I32(b)) for a, b in zip(SIGNED, UNSIGNED, strict=True))
    zero = select(signed, I32(OFFSET), I32(0))
    shift = sub(length, builder.add(bits, clip))
    shift = select(builder.icmp_signed("<", shift, I32(0)), I32(0), shift)
    whole = builder.icmp_unsigned("==", clip, I32(WHOLE))
    low = select(whole, I32(0), builder.add(zero, shl(least, shift)))
    high = select(whole, I32(BYTE_MAX), builder.add(zero, shl(most, shift)))
    half, mask = builder.lshr(shl(I32(1), shift), I32(1)), shl(I32(-1), shift)
    return [_splat(builder, BYTES, builder.trunc(number, I8)) for number in (half, mask, low, high)]


copy, fill, lower_dynamic = llvm_kernel(_copy), llvm_kernel(_fill), llvm_kernel(_lower_dynamic)
dot_narrow, dot_wide = (llvm_kernel(partial(emit_dot, shape, multiplies_quads())) for shape in (NARROW, WIDE))
window_sum, window_largest = (llvm_kernel(partial(_window, largest)) for largest in (False, True))
scale, scale_leaky, scale_residual, scale_residual_leaky = (
    llvm_kernel(partial(_scale, residual, leaky, False)) for residual in (False, True) for leaky in (False, True)
)
scale_product, look_up = llvm_kernel(partial(_scale, False, False, True)), llvm_kernel(_look_up)
write_bytes, write_wide = (llvm_kernel(partial(_write, wide)) for wide in (False, True))


@njit(**WITHOUT_REFERENCE_COUNTS, cache=True)
def _tried(patch: Any, pixels: Any, weights: Any, starts: Any, acc: Any) -> None:
    fill((patch,), Fill(target=0, size=VECTOR, value=3))
    copy((patch, patch), Copy(target=VECTOR, source=0, size=VECTOR))
    window = Window(
        lanes=VECTOR, offset=0, target=0, source=0, weight=0, tap_rows=1, source_row=0, weight_row=0, tap_cols=2,
        source_col=VECTOR, weight_col=0,
    )  # fmt: skip
    window_sum((patch, starts, acc), window)
    dot = Dot(
        first=0, pixels=1, weight=0, start=0, row=0, width=VECTOR, accumulate=1, tap_rows=1, tap_row=0, tap_cols=1,
        tap_col=0, run=QUAD,
    )  # fmt: skip
    dot_narrow((patch, pixels, weights, starts, acc), dot)


def check() -> None:
    """Compile kernels that use all that is needed of Numba and LLVM, and run them; compiled ones are cached.

    Raises:
        Exception: something is missing or does something else.
    """
    acc = np.zeros(VECTOR, np.int32)
    weights, starts = np.full(VECTOR * QUAD, -7, np.int8), np.full(VECTOR, 5, np.int32)
    _tried(np.zeros(2 * VECTOR, np.uint8), np.zeros(1, np.int64), weights, starts, acc)
    if (acc != 2 * 3 * 5 + 5 - QUAD * 3 * 7).any():
        raise RuntimeError("Numba makes something else of the LLVM code of the value simulator")
