"""The sets of innermost kernels against each other and sums written out; patches; the order within a vec."""

import re
from functools import partial

import numpy as np
import pytest
from npu_isa.isa.ops import Conv, Vec
from npu_sim.fast.values import kernels
from npu_sim.fast.values.encode import Encoder
from npu_sim.fast.values.kernels import arguments, loops, plain
from npu_sim.fast.values.tables import VECTOR, WHOLE
from npu_sim.numba_options import INTERNALS
from numba import config, njit, typeof

from tests.bench_programs import BYTES, NO_PAD, ONE_TAP, WORD, Bench, small_machine
from tests.value_models import assert_same_values, random_images

SHAPES = {"narrow": arguments.NARROW, "wide": arguments.WIDE}
OUT = 256  # words: sources below, outputs above


# -- the sets of kernels


def llvm_set():
    """The vector code; skip where it is not to be used."""
    if config.DISABLE_JIT:
        pytest.skip("nothing is compiled (NUMBA_DISABLE_JIT)")
    if not INTERNALS:
        pytest.skip("Numba's internals are not to be used (NPU_NUMBA_INTERNALS)")
    return pytest.importorskip("npu_sim.fast.values.kernels.llvm")


def compiled(kernel):
    return njit(lambda arrays, numbers: kernel(arrays, numbers))


def llvm_kernel(name):
    return compiled(getattr(llvm_set(), name))


def test_this_numba_has_what_the_fastest_kernels_need():
    llvm = llvm_set()
    llvm.check()
    assert kernels.chosen is llvm


def test_loops_take_over_where_numba_is_another_one(monkeypatch):
    def another():
        raise AttributeError("module 'numba.core.cgutils' has no attribute 'for_range'")

    monkeypatch.setattr(llvm_set(), "check", another)
    with pytest.warns(RuntimeWarning, match=r"several times slower with Numba .* no attribute 'for_range'"):
        assert kernels.choose() is loops


def dot_sums(shape, arrays, n):
    """What `arguments.Dot` describes, in Python integers: {element of acc: sum}."""
    patch, pixels, weights, starts, acc = (a.tolist() for a in arrays)
    taps = [ty * n.tap_row + tx * n.tap_col for ty in range(n.tap_rows) for tx in range(n.tap_cols)]
    places = [tap + k for tap in taps for k in range(n.run)]
    found = {}
    for p in range(n.pixels):
        for column in range(shape[1] * VECTOR):
            vector, lane = divmod(column, VECTOR)
            at = n.row + p * n.width + column
            total = starts[n.start + column] + (acc[at] if n.accumulate else 0)
            for i, place in enumerate(places):
                quad, channel = divmod(i, 4)
                w = weights[n.weight + ((vector * len(places) // 4 + quad) * VECTOR + lane) * 4 + channel]
                total += patch[pixels[n.first + p] + place] * w
            found[at] = total
    return found


def vnni(name):
    llvm = llvm_set()
    if not llvm.multiplies_quads():
        pytest.skip("this processor, or the one that NUMBA_CPU_FEATURES describes, has no AVX512-VNNI")
    return compiled(llvm.llvm_kernel(partial(llvm.emit_dot, SHAPES[name.removeprefix("dot_")], True)))


def pairs(name):
    """As LLVM translates it where no instruction multiplies and adds quads of bytes."""
    llvm = llvm_set()
    return compiled(llvm.llvm_kernel(partial(llvm.emit_dot, SHAPES[name.removeprefix("dot_")], False)))


def looped(name):
    return getattr(loops, name)


def interpreted(name):
    return getattr(plain, name)


@pytest.mark.parametrize("made", [vnni, pairs, looped, interpreted])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_dot(shape, made):
    kernel, shape, rng = made(f"dot_{shape}"), SHAPES[shape], np.random.default_rng(1)
    for case in range(12):
        patch = rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), 4096)
        weights = rng.integers(-128, 128, shape[1] * VECTOR * 1000, np.int8)
        acc = rng.integers(-(10**6), 10**6, 64 * (shape[0] + 2)).astype(np.int32)
        starts = rng.integers(-(10**6), 10**6, 80).astype(np.int32)
        count = int(rng.integers(1, shape[0] + 1))
        arrays = (patch, rng.integers(0, 2000, 3 + count), weights, starts, acc)
        numbers = arguments.Dot(
            first=3, pixels=count, weight=64 * int(rng.integers(3)), start=int(rng.integers(40)), row=64, width=48,
            accumulate=case % 2, tap_rows=int(rng.integers(1, 4)), tap_row=int(rng.integers(0, 300)),
            tap_cols=int(rng.integers(1, 4)), tap_col=int(rng.integers(0, 300)), run=16 * int(rng.integers(1, 4)),
        )  # fmt: skip
        want, others = dot_sums(shape, arrays, numbers), acc.copy()
        kernel(arrays, numbers)
        assert {at: int(acc[at]) for at in want} == want
        others[list(want)] = acc[list(want)]
        np.testing.assert_array_equal(acc, others)  # nothing else is written


@pytest.mark.parametrize(("made", "instruction"), [(vnni, "vpdpbusd"), (pairs, "vpmaddwd|vpdpwssd")])
def test_products_of_bytes_take_one_instruction(made, instruction):
    """What makes the vector code fast, on a processor that has it."""
    if not (config.DISABLE_JIT or llvm_set().multiplies_quads()):
        pytest.skip("no AVX512-VNNI: the code is for another processor")
    kernel = made("dot_wide")
    arrays = tuple(np.zeros(1, dtype) for dtype in (np.uint8, np.int64, np.int8, np.int32, np.int32))
    kernel.compile((typeof(arrays), typeof(arguments.Dot(*range(12)))))
    assert re.search(rf"\b({instruction})\b", "".join(kernel.inspect_asm().values()))


def window_case(rng, name, whole):
    lanes = VECTOR * int(rng.integers(1, 4)) - (0 if whole else int(rng.integers(1, VECTOR)))
    n = arguments.Window(
        lanes=lanes, offset=int(rng.choice([0, 128])), target=48, source=int(rng.integers(50)),
        weight=int(rng.integers(50)), tap_rows=int(rng.integers(1, 4)), source_row=int(rng.integers(400)),
        weight_row=int(rng.integers(200)), tap_cols=int(rng.integers(1, 4)), source_col=int(rng.integers(100)),
        weight_col=int(rng.integers(60)),
    )  # fmt: skip
    arrays = rng.integers(0, 256, 2000).astype(np.uint8), rng.integers(-128, 128, 2000).astype(np.int32)
    return (*arrays, rng.integers(-9, 9, 200).astype(np.int32)), n, [48 + np.arange(lanes)]


def scale_case(rng, name, whole):
    lanes = VECTOR * int(rng.integers(1, 3)) - (0 if whole else int(rng.integers(1, VECTOR)))
    n = arguments.Scale(
        lanes=lanes, pixels=int(rng.integers(1, 5)), first=int(rng.integers(40)), width=48, params=int(rng.integers(9)),
        low=int(rng.integers(-200, 0)), high=int(rng.integers(1, 300)), res=int(rng.integers(50)),
        res_col=int(rng.integers(60)), res_offset=int(rng.choice([0, 128])),
    )  # fmt: skip
    scales = rng.integers(-(1 << 15) + 1, 1 << 15, (6, lanes))
    scales[0], scales[2] = rng.integers(-(1 << 20), 1 << 20, lanes), rng.integers(1, 40, lanes)
    scales[4:] = rng.integers(-(1 << 40), 1 << 40, (2, lanes))
    params = np.concatenate([np.zeros(n.params, np.int64), scales.ravel(), np.zeros(VECTOR, np.int64)])
    sums = rng.integers(-(1 << 24), 1 << 24, 400).astype(np.int32) >> (16 if name == "scale_product" else 0)
    arrays = (sums, params, rng.integers(0, 256, 500).astype(np.uint8), np.zeros(400, np.int32))
    return arrays, n, [p * 48 + np.arange(lanes) for p in range(n.pixels)]


def look_up_case(rng, name, whole):
    lanes = VECTOR * int(rng.integers(1, 3)) - (0 if whole else int(rng.integers(1, VECTOR)))
    n = arguments.LookUp(lanes=lanes, pixels=int(rng.integers(1, 5)), width=48, table=256 * int(rng.integers(3)))
    arrays = rng.integers(-128, 256, 400).astype(np.int32), rng.integers(0, 256, 768).astype(np.uint8)
    return arrays, n, [p * 48 + np.arange(lanes) for p in range(n.pixels)]


def write_case(rng, name, whole):
    lanes = VECTOR * int(rng.integers(1, 4))
    n = arguments.Write(lanes=lanes, pixels=int(rng.integers(1, 5)), width=48, out=int(rng.integers(50)), out_col=112)
    arrays = rng.integers(-(1 << 15), 1 << 15, 400).astype(np.int32), rng.integers(0, 256, 700).astype(np.uint8)
    return arrays, n, [np.arange(700)]


def lower_case(rng, name, whole):
    groups, clips = int(rng.integers(1, 9)), rng.choice([0, 1, 2, 3, 4, WHOLE], 20).astype(np.uint8)
    act = (rng.integers(-128, 128, (64, WORD)) >> rng.integers(0, 8, (64, 1))).astype(np.uint8).ravel()
    n = arguments.Lower(
        source=int(rng.integers(50)), target=int(rng.integers(50)), size=WORD * groups,
        flip=int(rng.choice([0, 128])), clips=int(rng.integers(9)), span=WORD * int(rng.integers(1, 9)),
    )  # fmt: skip
    return (act, np.zeros(300, np.uint8), clips), n, [np.arange(300)]


def copy_case(rng, name, whole):
    n = arguments.Copy(target=int(rng.integers(50)), source=int(rng.integers(50)), size=int(rng.integers(50)))
    return (np.zeros(200, np.uint8), rng.integers(0, 256, 200).astype(np.uint8)), n, [np.arange(200)]


def fill_case(rng, name, whole):
    n = arguments.Fill(target=int(rng.integers(50)), size=int(rng.integers(50)), value=int(rng.integers(256)))
    return (np.full(200, 7, np.uint8),), n, [np.arange(200)]


CASES = {  # and which array is written
    "copy": (copy_case, 0), "fill": (fill_case, 0), "window_sum": (window_case, 2), "window_largest": (window_case, 2),
    "scale": (scale_case, 3), "scale_leaky": (scale_case, 3), "scale_residual": (scale_case, 3),
    "scale_residual_leaky": (scale_case, 3), "scale_product": (scale_case, 3), "look_up": (look_up_case, 0),
    "write_bytes": (write_case, 1), "write_wide": (write_case, 1), "lower_dynamic": (lower_case, 1),
}  # fmt: skip


@pytest.mark.parametrize("made", [llvm_kernel, looped])
@pytest.mark.parametrize("name", list(CASES))
def test_sets_agree(name, made):
    """With the kernels in NumPy; those are compared with the naive machine where nothing is compiled."""
    kernel, (case, written), rng = made(name), CASES[name], np.random.default_rng(2)
    changed = False
    for i in range(40):
        arrays, numbers, wanted = case(rng, name, whole=i % 2 == 0)
        want = [a.copy() for a in arrays]
        interpreted(name)(tuple(want), numbers)
        before = [a.copy() for a in arrays]
        kernel(arrays, numbers)
        for at in wanted:
            np.testing.assert_array_equal(arrays[written][at], want[written][at])
        changed |= (arrays[written] != before[written]).any()
        before[written] = arrays[written]
        for got, kept in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(got, kept)
    assert changed


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
