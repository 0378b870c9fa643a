"""Durations against closed forms worked out on paper, for arrays of 2x2, 4x4 and 32x32 and for transfers."""

from dataclasses import replace

import pytest
from npu_isa.isa.ops import Conv, Fold, Geom, Load, Source, Store, Vec, VGeom
from npu_isa.isa.tables import TIMING
from npu_isa.machine import timing
from npu_isa.machine.config import MachineConfig, load_machine

NPU32 = load_machine("npu32")


def machine(rows: int, cols: int, **changes: int) -> MachineConfig:
    """npu32 with another array, a bank for every word of a pass, and enough parameter rows."""
    sizes = {"array_rows": rows, "array_cols": cols, "act_banks": 8, "param_memory_bytes": 4 * cols * 64}
    return replace(NPU32, **(sizes | changes)).check()


def conv(kernel: int, groups: int, *, pixel_pitch: int = 1, row_pitch: int = 64, **changes: int) -> Conv:
    """A conv of 4 x 4 pixels over groups 0, 1, ..."""
    geom = {"register": 0, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1, "pad_top": 0, "pad_left": 0}
    geom |= {"in_h": 9, "in_w": 9, "row_pitch": row_pitch, "pixel_pitch": pixel_pitch, "unsigned": 0, "tap_fastest": 0}
    geom |= {"dynamic": 0}
    tile = {"act_base": 0, "act_row0": 0, "out_y": 0, "out_x": 0, "tile_h": 4, "tile_w": 4, "acc_half": 0}
    tile |= {"acc_row": 0, "accumulate": 0, "weight_addr": 0, "group_first": 0, "group_count": groups}
    return Conv(
        index=0,
        pop=0,
        push=0,
        geom=Geom(kernel_h=kernel, kernel_w=kernel, **geom),
        groups=tuple(range(groups)),
        shifts=(0,) * groups,
        **(tile | changes),
    )


# Passes of one column tile. A pass takes R rows: in 8-bit form R channels, in 4-bit form 2R channels of one tap; a
# group has 16 channels.
#   2x2:   8-bit: 16 / 2 = 8 passes for each tap and group; 4-bit: 16 / 4 = 4
#   4x4:   8-bit: 16 / 4 = 4; 4-bit: 16 / 8 = 2
#   32x32: a pass holds 4 entries: 2 groups in 8-bit form (half-groups), 4 groups in 4-bit form, taps and groups mixed
PASSES = [
    # rows, kernel, groups, boundary: 4-bit + 8-bit passes
    (2, 1, 1, 0, 0 + 8),
    (2, 1, 1, 1, 4 + 0),
    (2, 3, 2, 1, 9 * 4 + 9 * 8),
    (4, 1, 1, 0, 0 + 4),
    (4, 1, 1, 1, 2 + 0),
    (4, 3, 3, 2, 2 * 9 * 2 + 9 * 4),
    (32, 1, 1, 0, 1),  # half a pass full
    (32, 1, 4, 0, 0 + 2),
    (32, 1, 4, 4, 1 + 0),
    (32, 1, 4, 1, 1 + 2),  # one group alone in a 4-bit pass, three groups in two 8-bit passes
    (32, 3, 2, 0, 0 + 9),  # 18 (tap, group) pairs, 2 to a pass
    (32, 3, 2, 1, 3 + 5),  # ceil(9 / 4) and ceil(9 / 2)
    (32, 3, 2, 2, 5 + 0),  # ceil(18 / 4)
]


@pytest.mark.parametrize(("rows", "kernel", "groups", "boundary", "passes"), PASSES)
def test_number_of_passes(rows, kernel, groups, boundary, passes):
    factors = timing.conv_passes(conv(kernel, groups), boundary, machine(rows, max(rows, 2), act_banks=64))
    assert len(factors) == passes


def test_boundary_counts_from_the_first_place_of_the_layer():
    # places 2..5 of the order: at boundary 3 one of them is below, at 9 all four, at 1 none
    op = conv(1, 4, group_first=2)
    assert [len(timing.conv_passes(op, b, NPU32)) for b in (0, 1, 2, 3, 6, 9)] == [2, 2, 2, 3, 1, 1]


def test_bank_conflicts_of_a_pass():
    # 32 rows read 4 words a cycle from 8 banks. 3x3 over one group, 4-bit: taps at 0 1 2 | row + 0 1 2 | 2 row + 0 1 2,
    # four to a pass. A row pitch of 3 gives offsets 0 1 2 3 | 4 5 6 7 | 8: no conflict. A pitch of 8 gives 0 1 2 8 (8
    # falls on bank 0 again: 2 cycles) | 9 10 16 17 (banks 1 2 0 1: 2) | 18.
    assert timing.conv_passes(conv(3, 1, row_pitch=3), 1, NPU32) == (1, 1, 1)
    assert timing.conv_passes(conv(3, 1, row_pitch=8), 1, NPU32) == (2, 2, 1)
    # 8-bit form: a half-group an entry; both halves of a group share one word: 0 1 | 2 8 | 9 10 | 16 17 | 18
    assert timing.conv_passes(conv(3, 1, row_pitch=8), 0, NPU32) == (1, 1, 1, 1, 1)
    # all four words of a 4-bit pass on one bank
    assert timing.conv_passes(conv(2, 1, row_pitch=8, pixel_pitch=16), 1, NPU32) == (4,)


def test_tap_order_changes_what_shares_a_pass():
    # two groups, 1x2 ... 2x2 taps at 0 1 8 9 (row pitch 8): groups fastest: (0 0+1) (1 1+1) | (8 9) (9 10): words
    # 0 1 1 2 | 8 9 9 10; taps fastest: 0 1 8 9 | 1 2 9 10: banks 0 1 0 1 and 1 2 1 2
    op = conv(2, 2, row_pitch=8)
    fast = replace(op, geom=replace(op.geom, tap_fastest=1))
    assert timing.conv_passes(op, 2, NPU32) == (1, 1)
    assert timing.conv_passes(fast, 2, NPU32) == (2, 2)


@pytest.mark.parametrize(
    ("rows", "per_cycle", "pixels", "factor", "interval"),
    [
        (2, 1, 1, 1, 8 + 2),  # two rows of weights, the shadow free 8 cycles after the first pixel
        (4, 1, 10, 1, 8 + 4),
        (4, 1, 13, 1, 13),
        (32, 1, 39, 1, 40),
        (32, 1, 41, 1, 41),
        (32, 4, 10, 1, 8 + 32 // 4),
        (32, 1, 30, 2, 60),  # every pixel takes two cycles
    ],
)
def test_interval_of_passes(rows, per_cycle, pixels, factor, interval):
    made = machine(rows, 16, weight_rows_per_cycle=per_cycle)
    assert timing.weight_load_cycles(made) == rows // per_cycle
    assert timing.pass_interval(pixels, factor, made) == interval


@pytest.mark.parametrize(
    ("rows", "cols", "latency"),
    [
        # read and extract 2, rows of the segment, one register per segment, skew of the last column, accumulate 3
        (2, 2, 2 + 2 + 1 + 1 + 3),
        (4, 4, 2 + 4 + 1 + 3 + 3),
        (8, 16, 2 + 8 + 1 + 15 + 3),
        (32, 32, 2 + 8 + 4 + 31 + 3),
    ],
)
def test_latency_of_the_array(rows, cols, latency):
    assert timing.array_latency(machine(rows, cols)) == latency
    assert timing.array_latency(machine(rows, cols, dynamic_extraction=True)) == latency + 1


@pytest.mark.parametrize(("cols", "rows"), [(2, 32), (4, 16), (16, 4), (32, 2), (48, 2), (64, 1), (128, 1)])
def test_rows_of_a_table(cols, rows):
    """256 bytes in rows of 4 bytes a column."""
    assert timing.table_issue_cycles(machine(8, cols)) == rows


def vec(source: Source, kernel: int = 1, *, lanes: int = 16, **changes: int) -> Vec:
    """A vec of 5 x 3 pixels."""
    geom = {"kernel_h": kernel, "kernel_w": kernel, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1}
    geom |= {"pad_top": 0, "pad_left": 0, "in_h": 9, "in_w": 9, "row_pitch": 64, "pixel_pitch": 2, "out_row_pitch": 64}
    geom |= {"out_pixel_pitch": 2, "res_row_pitch": 64, "res_pixel_pitch": 2, "src_unsigned": 0, "residual": 0}
    geom |= {"res_unsigned": 0, "leaky": 0, "wide": 0, "clamp_low": 0, "clamp_high": 255, "product": 0, "table": 0}
    tile = {"src_base": 0, "src_row0": 0, "acc_half": 0, "out_y": 0, "out_x": 0, "tile_h": 5, "tile_w": 3}
    tile |= {"out_base": 0, "out_byte": 0, "res_base": 0, "param_addr": 0, "lanes": lanes, "fence": 0}
    return Vec(index=0, pop=0, push=0, geom=VGeom(source=source, **(geom | changes)), **tile)


@pytest.mark.parametrize(
    ("op", "cycles"),
    [
        # 3 parameter rows, then 15 pixels
        (vec(Source.ACC), 3 + 15),
        (vec(Source.ACC, residual=1), 3 + 15),  # the residual has a read port of its own beside the accumulators
        (vec(Source.ACC, wide=1), 3 + 15 * 2),  # two words a pixel to write
        # 3x3, three taps a cycle: three steps a pixel; words 0 2 4 of a row are on different banks of 8
        (vec(Source.MAX, 3), 3 + 15 * 3),
        (vec(Source.SUM, 3, residual=1), 3 + 15 * 4),
        (vec(Source.SUM, 3, residual=1, wide=1), 3 + 15 * 5),
        # a product has the slots of a residual sum; a lookup takes none
        (vec(Source.SUM, residual=1, product=1), 3 + 15 * 2),
        (vec(Source.SUM, residual=1, product=1, table=1), 3 + 15 * 2),
        # 9 weight taps fill ceil(9 / 4) = 3 more parameter rows
        (vec(Source.MAC, 3), 3 + 3 + 15 * 3),
        # 5x5: five rows of ceil(5 / 3) = 2 steps
        (vec(Source.MAX, 5), 3 + 15 * 10),
        # pixel pitch 8: the three taps of a step fall on one bank
        (vec(Source.MAX, 3, pixel_pitch=8), 3 + 15 * 3 * 3),
        # 32 lanes are two words; taps 0 2 4 and their neighbours 1 3 5: six banks, no conflict
        (vec(Source.MAX, 3, lanes=32), 3 + 15 * 3),
        # dilation 2: words 0 4 8: 0 and 8 share a bank
        (vec(Source.MAX, 3, dilation_x=2), 3 + 15 * 3 * 2),
    ],
)
def test_vector_cycles(op, cycles):
    assert timing.vec_issue_cycles(op, NPU32) == cycles


def load(**given: int) -> Load:
    zeros = {"memory": 0, "dram_addr": 0, "rows": 1, "cols": 1, "run": 16, "dram_row_pitch": 0, "dram_col_pitch": 0}
    zeros |= {"addr": 0, "row_pitch": 0, "col_pitch": 0, "indexed": 0, "register": 0, "table_pitch": 0}
    return Load(index=0, pop=0, push=0, **(zeros | {"table_entries": 0} | given))


@pytest.mark.parametrize(
    ("op", "bursts"),
    [
        # bursts of 64 bytes, counted from aligned addresses
        (load(run=64), 1),
        (load(run=16, dram_addr=48), 1),
        (load(run=32, dram_addr=48), 2),
        (load(run=128, dram_addr=16), 3),
        (load(rows=4, run=16, dram_row_pitch=64), 4),
        (load(rows=4, run=16, dram_row_pitch=16), 1),  # no gaps: one run of 64 bytes
        (load(rows=2, cols=4, run=16, dram_col_pitch=16, dram_row_pitch=64), 2),
        (load(rows=2, cols=4, run=16, dram_col_pitch=16, dram_row_pitch=80), 3),  # 0..63; 80..143 touches two
        (load(rows=2, cols=3, run=16, dram_col_pitch=256, dram_row_pitch=1024), 6),
    ],
)
def test_bursts_of_a_load(op, bursts):
    assert timing.transfer(op, 0, NPU32) == timing.Transfer(bursts)


def test_bursts_of_an_indexed_load_follow_the_boundary():
    op = load(memory=2, run=128, dram_addr=0, indexed=1, table_pitch=160)
    # 0..127: 2 bursts; 160..287 touches 128..319: 3; 320..447: 2
    assert [timing.transfer(op, b, NPU32).bursts for b in (0, 1, 2)] == [2, 3, 2]


def fold(**given: int) -> Fold:
    one = {"dram_addr": 0, "in_h": 10, "in_w": 32, "channels": 3, "kernel_h": 3, "kernel_w": 3, "stride_y": 1}
    one |= {"stride_x": 1, "pad_top": 1, "pad_left": 1, "out_y": 0, "rows": 4, "cols": 32, "addr": 0, "row_pitch": 64}
    return Fold(index=0, pop=0, push=0, **(one | {"pixel_pitch": 2} | given))


def test_fold():
    # output rows 0..3 of a padded 3x3 read image rows 0..4: 5 x 96 bytes = 480: 8 bursts; one pixel a cycle: 128.
    # The first one meets byte (32 + 2) x 3 - 1 = 101, in the second bus cycle of 64 bytes: 1 + 128 from the grant on
    assert timing.transfer(fold(), 0, NPU32) == timing.Transfer(8, 128, (129,))
    # rows 7..10 read 6..9: 576..959: bytes 576 = 9 x 64 .. 960 = 15 x 64: 6 bursts; the first window ends with byte
    # (2 x 32 + 2) x 3 - 1 = 197 of them, in the fourth bus cycle
    assert timing.transfer(fold(out_y=7), 0, NPU32) == timing.Transfer(6, 128, (131,))
    # two blocks: 21 rows of 96 bytes; the second block begins with byte 1024 = 10 x 96 + 64 and ends with row 20. First
    # to meet it: row 10 up to pixel 21, so output row 9 from x = 20 on, with 640 - 9 x 32 - 20 = 332 pixels to come
    two = timing.transfer(fold(in_h=40, rows=20), 0, NPU32)
    assert two == timing.Transfer(32, 640, (641, 332))
    # all in the padding: nothing to fetch, still a pixel a cycle
    assert timing.transfer(fold(out_y=12), 0, NPU32) == timing.Transfer(0, 128)


def test_store_counts_as_a_load():
    fields = {"rows": 3, "cols": 1, "run": 48, "dram_row_pitch": 100, "dram_col_pitch": 0}
    op = Store(index=0, pop=0, push=0, dram_addr=30, addr=0, row_pitch=3, col_pitch=0, **fields)
    # 30..77: 2; 130..177: 1 (128..191); 230..277: 2
    assert timing.transfer(op, 0, NPU32).bursts == 5


def test_blocks_and_the_bus():
    # 1024-byte blocks of 64-byte bursts; 64 bytes a cycle
    assert (timing.block_bursts(NPU32), timing.burst_cycles(NPU32)) == (16, 1)
    slow = replace(NPU32, dram_bytes_per_cycle=16, dram_burst_bytes=128)
    assert (timing.block_bursts(slow), timing.burst_cycles(slow)) == (8, 8)
    assert TIMING["dma_block_bytes"] == 1024
