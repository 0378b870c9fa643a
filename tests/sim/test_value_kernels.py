"""The dot product kernels against sums written out; patches; the order of reads and writes within a vec."""

from functools import partial

import numpy as np
import pytest
from npu_isa.isa.ops import Conv, Vec
from npu_sim.fast.values import simd
from npu_sim.fast.values.encode import Encoder
from numba import config, njit

from tests.bench_programs import BYTES, NO_PAD, ONE_TAP, WORD, Bench, small_machine
from tests.value_models import assert_same_values, random_images

VECTOR = simd.VECTOR
SHAPES = {"narrow": simd.NARROW, "wide": simd.WIDE}
OUT = 256  # words: sources below, outputs above


# -- dot products


def this_processor(shape):
    return compiled({simd.NARROW: simd.dot_narrow, simd.WIDE: simd.dot_wide}[shape])


def any_other_processor(shape):
    """As LLVM translates it where no instruction multiplies and adds quads of bytes."""
    emit = partial(simd._emit_dot, shape)
    return compiled(simd._llvm_kernel(lambda _target, *rest: emit(("", "", ""), *rest), interpreted(shape)))


def interpreted(shape):
    return partial(simd._plain_dot, shape[1])


def compiled(kernel):
    return kernel if config.DISABLE_JIT else njit(lambda arrays, numbers: kernel(arrays, numbers))


def dot_sums(shape, arrays, numbers):
    """What `simd._emit_dot` describes, in Python integers: {element of acc: sum}."""
    patch, pixels, weights, starts, acc = (a.tolist() for a in arrays)
    first, count, weight, start, row, width, accumulate, tap_rows, tap_row, tap_cols, tap_col, run = numbers
    places = [ty * tap_row + tx * tap_col + k for ty in range(tap_rows) for tx in range(tap_cols) for k in range(run)]
    found = {}
    for p in range(count):
        for column in range(shape[1] * VECTOR):
            vector, lane = divmod(column, VECTOR)
            at = row + p * width + column
            total = starts[start + column] + (acc[at] if accumulate else 0)
            for n, place in enumerate(places):
                quad, channel = divmod(n, 4)
                w = weights[weight + ((vector * len(places) // 4 + quad) * VECTOR + lane) * 4 + channel]
                total += patch[pixels[first + p] + place] * w
            found[at] = total
    return found


@pytest.mark.parametrize("made", [this_processor, any_other_processor, interpreted])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_dot(shape, made):
    shape, rng = SHAPES[shape], np.random.default_rng(1)
    kernel = made(shape)
    for case in range(12):
        tap_rows, tap_cols, run = int(rng.integers(1, 4)), int(rng.integers(1, 4)), 16 * int(rng.integers(1, 4))
        count = int(rng.integers(1, shape[0] + 1))
        patch = rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), 4096)
        weights = rng.integers(-128, 128, shape[1] * VECTOR * 1000, np.int8)
        acc = rng.integers(-(10**6), 10**6, 64 * (shape[0] + 2)).astype(np.int32)
        starts = rng.integers(-(10**6), 10**6, 80).astype(np.int32)
        arrays = (patch, rng.integers(0, 2000, 3 + count), weights, starts, acc)
        numbers = (3, count, 64 * int(rng.integers(3)), int(rng.integers(40)), 64, 48, case % 2)
        numbers += (tap_rows, int(rng.integers(0, 300)), tap_cols, int(rng.integers(0, 300)), run)
        want, others = dot_sums(shape, arrays, numbers), acc.copy()
        kernel(arrays, numbers)
        assert {at: int(acc[at]) for at in want} == want
        others[list(want)] = acc[list(want)]
        np.testing.assert_array_equal(acc, others)  # nothing else is written


# -- patches


def put_conv(b: Bench, columns: int, **operands) -> None:
    """One output pixel, the first group of word 0, to `acc_row`."""
    rng = np.random.default_rng(len(b.body))
    at = b.weights(np.zeros((1, columns), int), rng.integers(-9, 9, (1, 1, WORD, columns)))
    zero = dict.fromkeys(("act_base", "act_row0", "out_y", "out_x", "acc_half", "acc_row", "accumulate"), 0)
    tile = {"tile_h": 1, "tile_w": 1, "weight_addr": at, "group_first": 0, "group_count": 1}
    b.put("conv", **(zero | tile | operands))


def put_geometry(b: Bench, **operands) -> None:
    whole = {"register": 255, "unsigned": 1, "tap_fastest": 0, "dynamic": 0, "row_pitch": 0, "pixel_pitch": 1}
    b.put("geom", **(whole | ONE_TAP | NO_PAD | operands))
    b.put("groups", first=0, group=(0,) * 16, shift=(0,) * 16)


def encoded(b: Bench):
    """The program's encoder and the kernels' table of its convs."""
    p = b.program()
    encoder = Encoder(p.ops, p.machine, p.constants)
    assert sum(isinstance(op, Conv) for op in encoder.ops) == len(encoder.program(()).convs)
    return p, encoder, encoder.program(()).convs


def test_a_patch_is_gathered_again_when_its_input_has_changed():
    """Three convs on the same pixel; a vec writes to it before the third."""
    b = Bench(small_machine(16, 2 * OUT))
    put_geometry(b)
    put_conv(b, 16, acc_row=0)
    put_conv(b, 16, acc_row=1)
    param = b.params(3, 1, 4, 0)
    b.vgeom(**(BYTES | {"clamp_low": 0, "clamp_high": 255}))
    b.vec(src_base=0, out_base=0, param_addr=param)
    put_conv(b, 16, acc_row=2)
    for row in (1, 2):
        b.vec(src_base=row, out_base=OUT + row, param_addr=param)
    p, _, convs = encoded(b)
    assert convs["fresh"].tolist() == [1, 0, 1]
    assert_same_values(p, (), random_images(np.random.default_rng(0), p, 2))


def test_a_patch_does_not_grow_with_stride_and_dilation():
    """Two outputs of 5 x 1 taps, 255 rows apart, one of them inside the image."""
    b = Bench(small_machine(16, 2 * OUT))
    far = {"kernel_h": 5, "dilation_y": 250, "stride_y": 255, "pad_top": 500, "in_h": 3, "row_pitch": 2}
    put_geometry(b, **far)
    b.put("groups", first=0, group=(1,) * 16, shift=(0,) * 16)
    at = b.weights(np.zeros((1, 16), int), np.random.default_rng(0).integers(-9, 9, (1, 5, WORD, 16)))
    put_conv(b, 16, tile_h=2, weight_addr=at)
    b.vgeom(**BYTES)
    b.vec(tile_w=2, out_base=OUT, param_addr=b.params(0, 1, 3, 0))
    p, encoder, _ = encoded(b)
    assert encoder.patch_bytes == 2 * 5 * WORD
    assert_same_values(p, (), random_images(np.random.default_rng(0), p, 2))


# -- order within a vec


@pytest.mark.parametrize("distance", [-1, 0, 1])
def test_a_residual_is_read_before_its_pixel_is_written(distance):
    """Pixels of three groups; the residual lies a word before, at and a word after the output."""
    b = Bench(small_machine(48, 2 * OUT))
    put_geometry(b)
    put_conv(b, 48)
    b.vgeom(residual=1, **BYTES)
    b.vec(out_base=OUT, res_base=OUT + distance, param_addr=b.params(40, 1, 1, 2))
    p = b.program()
    assert any(isinstance(op, Vec) and op.lanes == 48 for op in p.ops)
    assert_same_values(p, (), random_images(np.random.default_rng(0), p, 2))


def test_a_residual_that_later_pixels_overwrite():
    """The residual of each pixel is where the next pixel's output goes."""
    b = Bench(small_machine(32, 2 * OUT))
    put_geometry(b, in_w=4, pixel_pitch=2)
    put_conv(b, 32, tile_w=4)
    b.vgeom(residual=1, out_pixel_pitch=2, res_pixel_pitch=2, **BYTES)
    b.vec(tile_w=4, out_base=OUT, res_base=OUT + 2, param_addr=b.params(40, 1, 1, 2))
    p = b.program()
    assert_same_values(p, (), random_images(np.random.default_rng(0), p, 2))
