"""The value simulator against the naive machine on single operations, at the extremes of their fields."""

import numpy as np
import pytest
from npu_isa.file.binary import data_address
from npu_isa.isa.ops import Memory
from npu_sim.random_programs.draft import aside

from tests.bench_programs import BYTES, NO_PAD, ONE_TAP, WIDE, WORD, Bench, small_machine
from tests.bench_windows import ACT_WORDS, OUT, Window, one_of, random_window
from tests.value_models import assert_same_values, random_images

SEEDS = {2: 12, 4: 12, 8: 12, 16: 8, 32: 4, 48: 4, 80: 3}  # cases by columns
FEW = [pytest.param(columns, range(2), id=f"{columns}") for columns in SEEDS]
MORE = [
    pytest.param(columns, range(2, n), id=f"{columns}-more", marks=pytest.mark.slow) for columns, n in SEEDS.items()
]
EXTREMES = np.array([0, 1, 127, 128, 255], np.uint8)


def images_for(rng: np.random.Generator, p) -> np.ndarray:
    images = random_images(rng, p, 2)
    images[1] = rng.choice(EXTREMES, images.shape[1])
    return images


# -- conv


def put_conv(b: Bench, w: Window, half: int, row: int, weight_addr: int, places: tuple[int, int], accumulate=0) -> None:
    first, count = places
    at = {"act_base": w.base, "act_row0": w.row0, "acc_half": half, "acc_row": row, "weight_addr": weight_addr}
    b.put("conv", **at, **w.tile, accumulate=accumulate, group_first=first, group_count=count)


def put_groups(b: Bench, group: np.ndarray, shift: np.ndarray) -> None:
    for first in range(0, len(group), 16):
        part = [tuple(int(v) for v in np.resize(a[first : first + 16], 16)) for a in (group, shift)]
        b.put("groups", first=first, group=part[0], shift=part[1])


def put_accumulators_out(b: Bench, half: int, row: int, pixels: int) -> None:
    """Write accumulator rows as 16-bit values: their low bits, and sums up to 2^24 as a whole."""
    words, columns = 2 * max(1, b.machine.array_cols // WORD), b.machine.array_cols
    b.vgeom(**(WIDE | {"out_pixel_pitch": words}))
    lanes = {"lanes": columns, "tile_w": pixels, "src_base": row, "acc_half": half}
    b.vec(out_base=OUT, param_addr=b.params(0, 1, 1, 0), **lanes)
    b.vec(out_base=OUT + pixels * words, param_addr=b.params(0, 1, 9, 0), **lanes)


def zero_columns(rng: np.random.Generator, weight: np.ndarray) -> None:
    """Clear some columns: the last ones, one in the middle, or all."""
    columns = weight.shape[-1]
    match int(rng.integers(4)):
        case 0:
            weight[..., int(rng.integers(0, columns)) :] = 0
        case 1:
            weight[..., int(rng.integers(0, columns))] = 0
        case 2:
            weight[...] = 0


def conv_bench(rng: np.random.Generator, columns: int) -> Bench:
    """Return a bench with a conv of random extremes on used accumulators, perhaps followed by one that adds to it."""
    b = Bench(small_machine(columns, ACT_WORDS, dynamic_extraction=True))
    words = one_of(rng, 1, 3, 256)
    w = random_window(rng, words, 300, 1 << 15, 65535, 255)
    count = one_of(rng, *[n for n in (1, 2, 17, 256) if n * w.taps <= 400])
    group, shift = rng.integers(0, words, count), rng.integers(0, 5, count)
    group[0] = words - 1
    b.legal[0] = tuple(sorted({0, int(rng.integers(count + 1)), count}))
    flags = {"unsigned": int(rng.integers(2)), "tap_fastest": int(rng.integers(2)), "dynamic": int(aside(rng) < 0.5)}
    b.put("geom", register=0, **flags, **w.geometry)
    put_groups(b, group, shift)
    span = one_of(rng, 1, 3, 128)
    weight = rng.integers(-span, span, (count, w.taps, WORD, columns))
    if rng.random() < 0.4:
        zero_columns(rng, weight)
    half, row = int(rng.integers(2)), int(rng.integers(0, b.machine.acc_rows - w.pixels + 1))
    dirt = b.weights(np.zeros((1, columns), int), np.full((1, w.taps, WORD, columns), 77))
    put_conv(b, w, half, row, dirt, (0, 1))
    at = b.weights(rng.integers(0, 5, (count, columns)), weight)
    put_conv(b, w, half, row, at, (0, count))
    if rng.random() < 0.5 and count > 1:
        tail = b.weights(rng.integers(0, 5, (1, columns)), weight[-1:])
        put_conv(b, w, half, row, tail, (count - 1, 1), accumulate=1)
    put_accumulators_out(b, half, row, w.pixels)
    return b


@pytest.mark.parametrize(("columns", "seeds"), FEW + MORE)
def test_conv(columns, seeds):
    seen = set()
    for seed in seeds:
        rng = np.random.default_rng((seed, columns))
        p = conv_bench(rng, columns).program()
        images = images_for(rng, p)
        for boundary in p.legal[0]:
            seen.add(assert_same_values(p, (boundary,), images).dram.tobytes())
    assert len(seen) > len(seeds)


OVERWRITE = {
    "load": lambda b, at: b.load(Memory.ACT, 10_000, WORD, at),
    "fold": lambda b, at: b.put(
        "fold", dram_addr=10_000, in_h=2, in_w=2, channels=3, kernel_h=2, kernel_w=2, stride_y=1, stride_x=1, pad_top=0,
        pad_left=0, out_y=0, rows=1, cols=1, addr=at, row_pitch=1, pixel_pitch=1,
    ),
    "vec": lambda b, at: (b.vgeom(), b.vec(out_base=at, param_addr=b.params(7, 1, 3, 0))),
}  # fmt: skip


@pytest.mark.parametrize("by", OVERWRITE)
@pytest.mark.parametrize("word", [20, 26, 31])
def test_the_same_conv_after_its_input_has_changed(by, word):
    """One word of 3 x 4 pixels is overwritten between two equal convs: the first word, one between, the last."""
    b = Bench(small_machine(16, ACT_WORDS))
    size = ONE_TAP | NO_PAD | {"kernel_h": 3, "kernel_w": 4, "in_h": 3, "in_w": 4, "row_pitch": 4, "pixel_pitch": 1}
    b.put("geom", register=255, unsigned=1, tap_fastest=0, dynamic=0, **size)
    put_groups(b, np.zeros(1, int), np.zeros(1, int))
    at = b.weights(np.zeros((1, 16), int), np.random.default_rng(0).integers(-20, 20, (1, 12, WORD, 16)))
    w = Window({}, {"out_y": 0, "out_x": 0, "tile_h": 1, "tile_w": 1}, 20, 0)
    for half in (0, 1):
        put_conv(b, w, half, 0, at, (0, 1))
        if half == 0:
            OVERWRITE[by](b, word)
    for half in (0, 1):
        b.vgeom(**WIDE)
        b.vec(acc_half=half, out_base=OUT + 2 * half, param_addr=b.params(0, 1, 3, 0))
    p = b.program()
    vecs = assert_same_values(p, (), images_for(np.random.default_rng(1), p)).vecs
    assert (vecs[-1][1] != vecs[-2][1]).any()


def constant_image(p, value: int) -> np.ndarray:
    return np.full((1, p.input_range[1] - p.input_range[0]), value, np.uint8)


def piled_up(weight: int, times: int, bias: int, finishes: list[dict[str, int]]) -> Bench:
    """Return a bench that adds `times` x 256 groups x 16 channels of one product, and finishes the sum in many ways.

    Lane c shifts by c (lane 0 by 1) and has one of the five multipliers and one of the seven second ones.
    """
    b = Bench(small_machine(48, ACT_WORDS))
    b.put("geom", register=255, unsigned=1, tap_fastest=0, dynamic=0, row_pitch=0, pixel_pitch=1, **ONE_TAP, **NO_PAD)
    put_groups(b, np.arange(256), np.zeros(256, int))
    at = b.weights(np.zeros((256, 48), int), np.full((256, 1, WORD, 48), weight))
    w = Window({}, {"out_y": 0, "out_x": 0, "tile_h": 1, "tile_w": 1}, 0, 0)
    for i in range(times):
        put_conv(b, w, 1, 5, at, (0, 256), accumulate=int(i > 0))
    second = np.resize([32767, 0, 1, 20000, -32767, -1, -20000], 48)
    mult = np.resize([32767, 1, -32767, 16384, 32766], 48)
    param = b.params(bias, mult, np.clip(np.arange(48), 1, 47), second)
    for i, finish in enumerate(finishes):
        b.vgeom(**finish)
        b.vec(src_base=5, acc_half=1, out_base=OUT + 6 * i, param_addr=param)
    return b


BIASES = [0, (1 << 31) - 1, -(1 << 31), -2_139_095_040, 2_139_095_040]
FINISHES = [
    WIDE,
    BYTES,
    WIDE | {"leaky": 1},
    WIDE | {"residual": 1, "res_unsigned": 1},
    WIDE | {"residual": 1, "res_unsigned": 0},
    BYTES | {"clamp_low": 0, "clamp_high": 255, "residual": 1, "res_unsigned": 1},
    BYTES | {"clamp_low": 0, "clamp_high": 0},
    BYTES | {"clamp_low": 100, "clamp_high": 200},
    WIDE | {"clamp_low": 32767},
]


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("weight", [-128, 127])
def test_largest_sums_at_every_shift(weight, bias):
    """16 x 4096 products of 255 x -128: -2,139,095,040, near the end of int32; every shift from 1 to 47 in a lane."""
    p = piled_up(weight, 16, bias, FINISHES).program()
    assert_same_values(p, (), constant_image(p, 255))


@pytest.mark.filterwarnings("ignore:overflow encountered")  # of kernels that are interpreted
def test_sums_wrap_at_32_bits():
    """The compiler proves that this does not happen; a program written by hand has a defined result all the same."""
    p = piled_up(-128, 17, 0, [WIDE]).program()
    image = constant_image(p, 255)
    written = assert_same_values(p, (), image)
    exact = -17 * 4096 * 255 * 128
    assert exact < -(1 << 31)
    lane = 16  # multiplier 1, shift 16
    assert written.vecs[-1][1][0, 0, 0, lane] == (exact + (1 << 32) + (1 << 15)) >> 16


# -- vec


@pytest.mark.parametrize(("columns", "seeds"), FEW + MORE)
@pytest.mark.parametrize("source", [1, 2, 3], ids=["mac", "max", "sum"])
def test_windows(columns, seeds, source):
    for seed in seeds:
        rng = np.random.default_rng((seed, columns, source))
        p = window_bench(rng, columns, source).program()
        assert_same_values(p, (), images_for(rng, p))


def window_bench(rng: np.random.Generator, columns: int, source: int) -> Bench:
    """Return a bench with one vec over windows of random extremes."""
    b = Bench(small_machine(columns, ACT_WORDS))
    lanes = columns if columns <= WORD else WORD * int(rng.integers(1, columns // WORD + 1))
    byte = columns * int(rng.integers(WORD // columns)) if columns < WORD else 0
    words = -(-(byte + lanes) // WORD)
    while True:
        w = random_window(rng, words, 300, 1 << 12, 4095, 15)
        if source != 2 or met_everywhere(w):
            break
    wide = int(rng.integers(2))
    residual = int(rng.integers(2))
    pitch = words * (1 + wide) + int(rng.integers(3))
    out = {"out_pixel_pitch": pitch, "out_row_pitch": pitch * w.tile["tile_w"] + int(rng.integers(3))}
    res = {"res_pixel_pitch": int(rng.integers(0, 40)), "res_row_pitch": int(rng.integers(0, 40))}
    flags = {name: int(rng.integers(2)) for name in ("src_unsigned", "res_unsigned")}
    leaky = int(not residual and rng.random() < 0.5)
    clamp = WIDE if wide else one_of(rng, BYTES, {"clamp_low": 0, "clamp_high": 255, "wide": 0})
    b.vgeom(source, **w.geometry, **out, **res, **flags, residual=residual, leaky=leaky, **clamp)
    bits = 7 + (w.taps.bit_length() if source == 3 else 0) + (10 if source == 1 else 0)
    shift = rng.integers(1, 20, columns)
    mult = np.minimum(rng.integers(1, 2 << np.clip(shift + (14 if wide else 6) - bits, 0, 14)), 32767)
    taps = rng.integers(-128, 128, (w.taps, columns)) if source == 1 else None
    bias = rng.integers(-(1 << bits), 1 << bits, columns)
    param = b.params(bias, mult, shift, rng.integers(0, 1 << np.minimum(shift, 15)), taps)
    place = {"src_base": w.base, "src_row0": w.row0, "param_addr": param, "out_byte": byte, "lanes": lanes}
    b.vec(**w.tile, **place, out_base=OUT + int(rng.integers(9)), res_base=int(rng.integers(OUT - 400)))
    return b


def met_everywhere(w: Window) -> bool:
    """Whether every output has a tap inside the image."""
    g, t = w.geometry, w.tile
    axes = [("y", "h", "pad_top"), ("x", "w", "pad_left")]
    return all(
        any(0 <= o * g[f"stride_{a}"] - g[pad] + k * g[f"dilation_{a}"] < g[f"in_{s}"] for k in range(g[f"kernel_{s}"]))
        for a, s, pad in axes
        for o in range(t[f"out_{a}"], t[f"out_{a}"] + t[f"tile_{s}"])
    )


@pytest.mark.parametrize("columns", [2, 16, 48])
@pytest.mark.parametrize("source", [1, 3])
def test_a_residual_and_a_window_in_place(columns, source):
    """A pixel's reads come before its write."""
    b = Bench(small_machine(columns, ACT_WORDS))
    words = max(1, columns // WORD)
    size = {"in_h": 3, "in_w": 5, "row_pitch": 5 * words, "pixel_pitch": words}
    pitches = {"out_row_pitch": 5 * words, "out_pixel_pitch": words, "res_row_pitch": 5 * words}
    window = ONE_TAP | NO_PAD | size | pitches | {"res_pixel_pitch": words, "residual": 1}
    b.vgeom(source, **window, src_unsigned=1, **BYTES)
    taps = np.arange(columns)[None] - 24 if source == 1 else None
    param = b.params(np.arange(columns) - 9, 3, 4, 5, taps)
    b.vec(tile_h=3, tile_w=5, src_base=40, res_base=40, out_base=40, param_addr=param)
    p = b.program()
    assert_same_values(p, (), images_for(np.random.default_rng(columns), p))


@pytest.mark.parametrize("columns", [2, 16, 48])
@pytest.mark.parametrize("src_unsigned", [0, 1])
@pytest.mark.parametrize("res_unsigned", [0, 1])
@pytest.mark.parametrize("pitches", [{}, {"res_row_pitch": 0}, {"res_row_pitch": 0, "res_pixel_pitch": 0}], ids=str)
def test_products_of_extreme_bytes(columns, src_unsigned, res_unsigned, pitches):
    """With one residual pixel for each, for a column, for all; as bytes, through a table and in 16 bits."""
    b = Bench(small_machine(columns, ACT_WORDS))
    words, rng = max(1, columns // WORD), np.random.default_rng(columns)
    size = {"in_h": 3, "in_w": 5, "row_pitch": 5 * words, "pixel_pitch": words, "res_row_pitch": 5 * words}
    size |= {"res_pixel_pitch": words, "src_unsigned": src_unsigned, "res_unsigned": res_unsigned} | pitches
    param = b.params(
        np.arange(columns) * 99 - 500,
        np.resize([1, -1, 32767, -32767, 77], columns),
        np.resize([8, 1, 23, 24, 14], columns),
        0,
    )
    b.table(rng.integers(0, 256, 256))
    kinds = (BYTES, BYTES | {"clamp_low": 0, "clamp_high": 255, "table": 1}, BYTES | {"table": 1}, WIDE)
    for i, kind in enumerate(kinds):
        pitch = words * (1 + kind["wide"])
        out = {"out_row_pitch": 5 * pitch, "out_pixel_pitch": pitch, "residual": 1, "product": 1}
        b.vgeom(3, **(ONE_TAP | NO_PAD | size | out | kind))
        b.vec(tile_h=3, tile_w=5, src_base=40, res_base=150, out_base=OUT + 45 * i, param_addr=param)
    p = b.program()
    assert_same_values(p, (), images_for(np.random.default_rng(columns), p))


@pytest.mark.parametrize("columns", [2, 4, 16, 48, 128])
def test_a_vec_has_the_table_before_it(columns):
    """Of three; the last one is not used, the second one twice."""
    b = Bench(small_machine(columns, ACT_WORDS))
    words, rng = max(1, columns // WORD), np.random.default_rng(columns)
    param = b.params(0, 1, 1, 0)
    b.vgeom(3, **(ONE_TAP | NO_PAD | {"in_w": 9, "pixel_pitch": words, "out_pixel_pitch": words, "table": 1} | BYTES))
    for i, loads in enumerate((True, True, False)):
        if loads:
            b.table(rng.permutation(256))
        b.vec(tile_w=9, src_base=i, out_base=OUT + 80 * i, param_addr=param)
    b.table(rng.permutation(256))
    p = b.program()
    assert_same_values(p, (), images_for(rng, p))


def test_window_sums_of_65025_taps():
    """255 x 255 taps of 255 x -128, from one word that all of them read."""
    b = Bench(small_machine(16, ACT_WORDS, param_memory_bytes=4 * 16 * 16384))
    sides = {"kernel_h": 255, "kernel_w": 255, "in_h": 255, "in_w": 255, "row_pitch": 0, "pixel_pitch": 0}
    b.vgeom(1, **(ONE_TAP | NO_PAD | sides | WIDE), src_unsigned=1)
    taps = np.full((255 * 255, 16), -128)
    b.vec(out_base=OUT, param_addr=b.params(0, 1, 17, 0, taps))
    p = b.program()
    written = assert_same_values(p, (), constant_image(p, 255))
    assert written.vecs[0][1][0, 0, 0, 0] == (-255 * 255 * 255 * 128 + (1 << 16)) >> 17


# -- transfers


@pytest.mark.parametrize("seed", range(30))
def test_fold(seed):
    rng = np.random.default_rng(seed)
    b = Bench(small_machine(16, ACT_WORDS))
    kh, kw = one_of(rng, 1, 2, 3, 255), one_of(rng, 1, 2, 3)
    channels = one_of(rng, *[c for c in (1, 3, 4, 16, 1000, 4095) if kh * kw * c <= 5000])
    words = -(-kh * kw * channels // WORD)
    rows, cols = (int(rng.integers(1, 4)), int(rng.integers(1, 4))) if words < 50 else (1, 1)
    in_h, in_w = one_of(rng, *[(h, w) for h, w in ((1, 1), (4, 5), (1, 4095), (4095, 1)) if h * w * channels <= 16000])
    stride, out_y = one_of(rng, 1, 2, 255), one_of(rng, 0, 7, 4095)
    target = int(rng.integers(in_h))
    pad_top = min(max(out_y * stride + int(rng.integers(kh)) - target, -4096), 4095)
    pitch = words + int(rng.integers(3))
    size = {"in_h": in_h, "in_w": in_w, "channels": channels, "kernel_h": kh, "kernel_w": kw}
    place = {"stride_y": stride, "stride_x": one_of(rng, 1, 2, 255), "pad_top": pad_top}
    place |= {"pad_left": one_of(rng, -4096, -1, 0, 2, 4095), "out_y": out_y, "rows": rows, "cols": cols}
    image = data_address(len(b.constants), 4) + int(rng.integers(384))
    b.put("fold", dram_addr=image, **size, **place, addr=OUT, row_pitch=cols * pitch, pixel_pitch=pitch)
    p = b.program()
    assert_same_values(p, (), images_for(rng, p))


def test_load_reads_constants_and_image_alike():
    """Rows that end the constants and begin the image; runs that overlap; columns before rows."""
    b = Bench(small_machine(16, ACT_WORDS))
    b.constants += bytes(range(1, 101))
    image = data_address(100, 7)
    b.load(Memory.ACT, 84, 16, 600, rows=2, dram_row_pitch=image - 84, row_pitch=1)
    b.load(Memory.ACT, 0, 32, 700, rows=3, cols=4, dram_row_pitch=7, dram_col_pitch=1, row_pitch=2, col_pitch=6)
    b.load(Memory.ACT, image, 16, 800, rows=2, cols=3, dram_row_pitch=8000, dram_col_pitch=0, row_pitch=3, col_pitch=1)
    b.load(Memory.ACT, 84, 16, 900, rows=4, cols=1, dram_row_pitch=0, dram_col_pitch=65535, row_pitch=30)
    p = b.program()
    images = images_for(np.random.default_rng(0), p)
    words = assert_same_values(p, (), images).dram[0, -ACT_WORDS * WORD :].reshape(-1, WORD)
    assert words[600:602].ravel().tolist() == [*range(85, 101), *images[0, :16]]


def test_store_with_pitches():
    """Runs that touch each other, gaps, columns before rows, and the longest pitches that DRAM has room for."""
    b = Bench(small_machine(16, ACT_WORDS), dram_spare_bytes=200_000)
    first = data_address(0, 6) + ACT_WORDS * WORD
    shapes = [(3, 2, 16, 48, 16, 9, 4), (2, 3, 32, 32, 65535, 0, 1), (2, 2, 48, 16_000, 4_000, 65, 200)]
    at = first
    for rows, cols, run, row_pitch, col_pitch, act_row, act_col in shapes:
        pitches = {"dram_row_pitch": row_pitch, "dram_col_pitch": col_pitch, "row_pitch": act_row, "col_pitch": act_col}
        b.put("store", dram_addr=at, rows=rows, cols=cols, run=run, addr=17, **pitches)
        at += 1001
    p = b.program()
    assert_same_values(p, (), images_for(np.random.default_rng(0), p))


def test_weights_and_parameters_loaded_in_pieces():
    """Rows and columns of runs, and a later load over part of a block that an earlier conv has used."""
    b = Bench(small_machine(8, ACT_WORDS))
    rng = np.random.default_rng(1)
    w = Window({}, {"out_y": 0, "out_x": 0, "tile_h": 1, "tile_w": 2}, 0, 0)
    size = ONE_TAP | NO_PAD | {"in_w": 2}
    b.put("geom", register=255, unsigned=0, tap_fastest=0, dynamic=0, row_pitch=0, pixel_pitch=3, **size)
    put_groups(b, np.arange(2), np.zeros(2, int))
    at = b.weights(np.zeros((2, 8), int), rng.integers(-9, 9, (2, 1, WORD, 8)))
    put_conv(b, w, 0, 0, at, (0, 2))
    put_accumulators_out(b, 0, 0, 2)
    other = rng.integers(-9, 9, 64).astype(np.int8).tobytes()
    source = len(b.constants)
    b.constants += other
    pitches = {"dram_row_pitch": 16, "dram_col_pitch": 32, "row_pitch": 1, "col_pitch": 4}
    b.load(Memory.WEIGHT, source, 16, at + 4, rows=2, cols=2, **pitches)
    put_conv(b, w, 1, 0, at, (0, 2))
    b.vec(acc_half=1, tile_w=2, lanes=8, src_base=0, out_base=OUT + 100, param_addr=b.params(3, 1, 1, 0))
    p = b.program()
    images = images_for(rng, p)
    vecs = assert_same_values(p, (), images).vecs
    assert (vecs[0][1] != vecs[-1][1]).any()


# -- what the tests above reach

REACHED = {
    "geom": {"kernel_h": 255, "kernel_w": 255, "stride_y": 255, "stride_x": 255, "dilation_y": 255, "dilation_x": 255}
    | {"in_h": 65535, "in_w": 65535, "pad_top": 20000, "pad_left": 20000},
    "groups": {"group": 255, "shift": 4},
    "conv": {"act_row0": 20000, "out_y": 4000, "out_x": 4000, "group_count": 17},
    "vgeom": {"kernel_h": 255, "kernel_w": 255, "stride_y": 255, "stride_x": 255, "dilation_y": 15, "dilation_x": 15}
    | {"in_h": 4095, "in_w": 4095, "pad_top": 4000, "pad_left": 4000},
    "vec": {"src_row0": 4000, "out_y": 4000, "out_x": 4000, "out_byte": 14, "lanes": 48},
}


def test_the_extremes_are_reached():
    most: dict[tuple[str, str], int] = {}
    for columns, count in SEEDS.items():
        for seed in range(count):
            benches = [conv_bench(np.random.default_rng((seed, columns)), columns)]
            benches += [window_bench(np.random.default_rng((seed, columns, s)), columns, s) for s in (1, 2, 3)]
            for ins in (i for b in benches for i in b.body):
                for name, value in ins.operands.items():
                    high = max(value) if isinstance(value, tuple) else value
                    most[ins.name, name] = max(most.get((ins.name, name), high), high)
    for name, operands in REACHED.items():
        for operand, value in operands.items():
            assert most[name, operand] >= value, f"{name} {operand}: {most[name, operand]}"
