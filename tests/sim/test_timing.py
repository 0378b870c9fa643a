"""The timing simulator: cases worked out by hand, and the naive twin on random programs, machines and boundaries.

Hand-worked times are (accept, start, issue end, end) of each instruction, counted from the first dispatch, for which
all wait alike; letters in the drawings: w weights, p pixels of a pass, . waiting, digits parameter rows, ~ pipeline or
DRAM latency. The page is isa_spec/MICROARCHITECTURE.md.
"""

import numpy as np
import pytest
from npu_isa.errors import ProgramError
from npu_isa.isa.codec import decode
from npu_isa.isa.ops import Op
from npu_isa.isa.resolve import resolve
from npu_isa.machine.footprint import footprints, regions
from npu_sim.fast.time.model import Timing, TimingModel, simulate
from npu_sim.random_programs.machines import random_machine
from npu_sim.random_programs.programs import random_program

from tests.binaries import small_binary
from tests.hand_programs import ALTERNATION, PORTS, TOKEN_FULL, TWO_CONVS, VECS, hand
from tests.naive_machine import NaiveMachine
from tests.naive_timing import DeadlockError, Twin
from tests.timing_models import causes_of, compare, random_case

SPLIT = ("stream_cycles", "bank_cycles", "short_cycles")  # of a conv


def timed(text: str, boundaries: tuple[int, ...] = (), **sizes: int) -> Timing:
    """Time a program written in assembly; the twin has to agree."""
    ops, machine = hand(text, sizes)
    assert compare(ops, machine, boundaries).difference is None
    return simulate(ops, machine, boundaries)


def dispatches(timing: Timing) -> list[int]:
    return (timing.dispatch - timing.dispatch[0]).tolist()


def moments(timing: Timing) -> list[tuple[int, ...]]:
    table = np.stack([timing.accept, timing.start, timing.issue_end, timing.end], axis=1) - timing.dispatch[0]
    return [tuple(row) for row in table.tolist()]


def test_conv_vec_store_on_two_by_two():
    """One 1x1 conv of 16 channels on 2 rows: 8 passes of 4 pixels, each as long as weight load and shadow: 10.

    cycle    3 5         15                75  79       88  91  95      102 106          126
    matrix   wwpppp......pppp......  ...   pppp~~~~~~~~~                                      pipeline 2+2+1+1+3
    vector                                              012pppp~~~~~~~~
    store                                                                dddd~~~~~~~~~~~~      one burst of 64 bytes
    """
    timing = timed(
        """
          geom   in_h=2 in_w=2 row_pitch=2
          groups
          conv   tile_h=2 tile_w=2 push=vector
          vgeom  source=acc out_row_pitch=2 out_pixel_pitch=1
          vec    tile_h=2 tile_w=2 lanes=2 pop=matrix push=store
          store  dram_addr=0x400 run=64 pop=vector
          halt
        """,
        array_rows=2,
        array_cols=2,
    )
    assert dispatches(timing) == [0, 1, 2, 3, 4, 5]
    conv, vec, store = (3, 5, 79, 88), (5, 88, 95, 102), (6, 102, 106, 126)
    assert moments(timing) == [(1, 1, 2, 2), (2, 2, 3, 3), conv, (4, 4, 5, 5), vec, store]
    assert timing.activity["passes"].tolist() == [0, 0, 8, 0, 0, 0]
    assert timing.total_cycles == 36 + 126


def test_two_convs_on_four_by_four():
    """The second tile's weights wait until the first one's last pass has left the shadow, 8 cycles after its start.

    In 4 bits, 8 channels a pass: two passes 12 cycles apart (4 of weight load and 8), pipeline 2 + 4 + 1 + 3 + 3:
    cycle    3   7           19  23  27  31          43  47
    first    wwwwpppp........pppp~~~~~~~~~~~~~ 36
    second                    A......wwwwpppp........pppp~~~~~~~~~~~~~ 60      accepted at 20, weights at 19 + 8
    """
    four = timed(TWO_CONVS, (1,), array_rows=4, array_cols=4)
    assert moments(four)[2:] == [(3, 7, 23, 36), (20, 31, 47, 60)]
    eight = timed(TWO_CONVS, (0,), array_rows=4, array_cols=4)  # 4 passes at 7, 19, 31, 43; then at 55, 67, 79, 91
    assert moments(eight)[2:] == [(3, 7, 47, 60), (44, 55, 95, 108)]


def test_bank_conflict():
    """Three taps one above the other, 4 words apart on 4 banks; two of them share a 4-bit pass: 2 cycles a pixel.

    16 pixels: weights at 3, first pass 19..50 (16 x 2), second 51..66, end + 2 + 8 + 2 + 15 + 3.
    """
    text = "geom register=0 kernel_h=3 in_h=18 row_pitch=4\ngroups\nconv tile_h=16\nhalt"
    timing = timed(text, (1,))
    assert moments(timing)[2] == (3, 19, 67, 97)
    assert timing.activity[list(SPLIT)][2].item() == (32, 16, 0)


def test_shorter_streams_than_weight_loads():
    """The same with one pixel: passes start 16 + 8 cycles apart, of which the first issues for 2."""
    timing = timed("geom register=0 kernel_h=3 in_h=3 row_pitch=4\ngroups\nconv\nhalt", (1,))
    assert moments(timing)[2] == (3, 19, 44, 74)
    assert timing.activity[list(SPLIT)][2].item() == (2, 1, 22)


def test_a_full_fifo_holds_up_an_engine():
    """Two tokens fit. The third load has done its work at 5 and ends at 28, after the store's pop at 27.

    cycle    1 2 3 4 5                     27 28 29 30 31
    load 2       d ~ . . . . . . . . . . .  .  E
    load 3         d ~ . . . . . . . . . .  .  E               has been accepted before; ends after load 2
    load 4                                     d  ~            accepted at 28; the bus is its own, store went last
    vec              from 7: 3 + 10 cycles, + 7 = 27
    store 0                                d   ~
    store 1                                    .  d  ~
    """
    timing = timed(TOKEN_FULL, token_depth=2, dram_latency_cycles=1, dram_burst_bytes=16)
    loads = [(1, 1, 2, 3), (2, 2, 3, 4), (3, 3, 4, 28), (4, 4, 5, 28), (28, 28, 29, 30)]
    stores = [(8, 27, 28, 29), (28, 28, 30, 31), (30, 30, 31, 32)]
    assert moments(timing) == [*loads, (6, 6, 7, 7), (7, 7, 20, 27), *stores]


def test_dram_alternates_between_load_and_store():
    """47 and 32 bursts of 64 bytes, 4 cycles each, in blocks of at most 1024 bytes: 64, 64, 60 and 64, 64 cycles.

    cycle    1       65      129     193     257     317     337
    load     LLLLLLLL        LLLLLLLL        LLLLLLLL~~~~~~~~
    store     .......SSSSSSSS        SSSSSSSS~~~~~~~~ 277
    """
    assert moments(timed(ALTERNATION)) == [(1, 1, 317, 337), (2, 2, 257, 277)]


def test_load_goes_first_at_the_beginning():
    """Tokens of the vec's end at 13 start both, whichever stands first in the program."""
    vec = "vgeom source=acc out_pixel_pitch=1\nvec lanes=16 push=load+store\n"
    load, store = "load run=64 pop=vector\n", "store dram_addr=0x400 addr=2048 run=64 pop=vector\n"
    assert moments(timed(vec + load + store + "halt"))[2:] == [(3, 13, 17, 37), (4, 13, 21, 41)]
    assert moments(timed(vec + store + load + "halt"))[2:] == [(3, 13, 21, 41), (4, 13, 17, 37)]


def test_port_conflicts():
    """The vec reads region 0 and writes region 1 until 32. Then conv goes before store, and the load gets region 1.

    cycle    2           25      32  36  40
    vec      012pp...pppp~~~~~~~~
    conv        w x 16, ready at 21  pppp~~~...                    then 2 + 8 + 2 + 15 + 3
    store                                dddd~~~
    load                             dddd~~~
    """
    timing = timed(PORTS)
    vec, conv = (2, 2, 25, 32), (5, 32, 36, 66)
    assert moments(timing)[1] == vec
    assert moments(timing)[4:] == [conv, (6, 36, 40, 60), (7, 32, 36, 56)]


def test_vecs_follow_each_other_and_a_fence_waits_for_the_end():
    """3 parameter rows and 10 pixels each: 13 cycles apart; the fence adds the 7 of the pipeline."""
    assert moments(timed(VECS.format(third="")))[1:5] == [
        (2, 2, 15, 22),
        (15, 15, 28, 35),
        (28, 28, 41, 48),
        (41, 41, 54, 61),
    ]
    assert moments(timed(VECS.format(third="fence=1")))[3:5] == [(35, 35, 48, 55), (48, 48, 61, 68)]


def test_a_full_queue_stops_the_front_end():
    """Two places: the fourth vec is dispatched at 16, one cycle after the second one left; and the load behind it."""
    timing = timed(VECS.format(third=""), queue_depth=2)
    assert dispatches(timing) == [0, 1, 2, 3, 16, 17]
    assert moments(timing)[5][0] == 18


def test_what_a_setup_gives_waits_for_the_vec_before_it():
    """The second vgeom works at 15, when the vec has issued; its token comes with the vec's end at 22."""
    timing = timed(
        """
          vgeom  source=acc out_pixel_pitch=1
          vec    tile_w=10 lanes=16
          vgeom  source=acc out_pixel_pitch=1 push=store
          vec    tile_w=10 lanes=16 out_base=10
          store  dram_addr=0x400 addr=2048 run=64 pop=vector
          halt
        """
    )
    assert moments(timing)[1:] == [(2, 2, 15, 22), (15, 15, 16, 22), (16, 16, 29, 36), (5, 22, 26, 46)]


def test_tables_and_vecs_follow_each_other_without_a_wait():
    """Two columns of 16: a table is 4 rows, a cycle each; its end is 7 behind. Only the fence waits for an end.

    cycle    2   6           19   23           36      43  47
    table    tttt~~~~~~~
    vec          012pp...pppp~~~~~~~
    table                    tttt~~~~~~~
    vec                          012pp...pppp~~~~~~~
    table                                            tttt~~~~~~~   the vec behind it has a fence: 47 + 7
    """
    timing = timed(
        """
          vgeom  source=acc out_pixel_pitch=1 table=1
          table
          vec    tile_w=10 lanes=16
          table  param_addr=4
          vec    tile_w=10 lanes=16 out_base=10
          table
          vec    lanes=16 out_base=20 fence=1
          halt
        """
    )
    ends = [(2, 2, 6, 13), (6, 6, 19, 26), (19, 19, 23, 30), (23, 23, 36, 43), (36, 36, 40, 47), (47, 47, 51, 58)]
    assert moments(timing)[1:] == ends


def test_fold_makes_a_pixel_per_cycle():
    """192 bytes are three bursts, 12 cycles; 8 x 8 pixels take 64. Outside the image nothing is moved."""
    text = "fold in_h=8 in_w=8 channels=3 rows=8 cols=8 row_pitch=8 {more}\nhalt"
    assert moments(timed(text.format(more=""))) == [(1, 1, 65, 85)]
    padding = timed(text.format(more="pad_top=100"))
    assert moments(padding) == [(1, 1, 65, 85)]
    assert [timed(text.format(more="")).dram_bytes[0], padding.dram_bytes[0]] == [192, 0]


def test_a_pixel_of_a_fold_waits_for_its_window():
    """Columns of 8 x 1: pixel p meets byte 3 (57 + p) - 1, the first in bus cycle 10 from T on; 8 pixels from there."""
    assert moments(timed("fold in_h=8 in_w=8 channels=3 kernel_h=8 rows=1 cols=8\nhalt")) == [(1, 1, 19, 39)]
    # windows one behind the other that each need a whole row, 24 bytes: bus cycles 1, 2, 4, 5, 7, 8, 10, 11
    assert moments(timed("fold in_h=8 in_w=8 channels=3 kernel_w=8 rows=8 cols=1\nhalt")) == [(1, 1, 13, 33)]


def test_runs_are_widened_to_bursts():
    """Of 64 bytes: 16 bytes across a border, rows that follow each other, rows with a gap."""
    cases = {
        "dram_addr=56 run=16": 2,
        "rows=8 run=16 row_pitch=1 dram_row_pitch=16": 2,
        "rows=4 cols=2 run=16 col_pitch=1 row_pitch=2 dram_col_pitch=16 dram_row_pitch=32": 2,
        "rows=4 cols=2 run=16 col_pitch=1 row_pitch=2 dram_col_pitch=16 dram_row_pitch=48": 5,
        "rows=2 cols=2 run=16 col_pitch=1 row_pitch=2 dram_col_pitch=17 dram_row_pitch=33": 5,
    }
    for operands, bursts in cases.items():
        timing = timed(f"load {operands}\nhalt")
        assert moments(timing) == [(1, 1, 1 + 4 * bursts, 21 + 4 * bursts)], operands
        assert timing.dram_bytes.tolist() == [64 * bursts]


def test_an_indexed_load_depends_on_its_boundary():
    text = "load memory=param run=64 indexed=1 register=1 table_pitch=8 table_entries=9\nhalt"
    assert [int(timed(text, (0, b)).dram_bytes[0]) for b in (0, 1, 8)] == [64, 128, 64]


def test_nothing_but_halt():
    """Its word is one burst, 4 cycles, and comes 20 later."""
    timing = timed("halt")
    assert timing.total_cycles == 4 + 20
    assert timing.table.shape[0] == 0


SETUPS = "geom\nvgeom\n"


@pytest.mark.parametrize(("words", "cycles"), [(2, 4), (3, 8), (11, 24), (31, 64), (32, 64), (33, 64)])
def test_the_front_end_waits_for_the_first_block(words, cycles):
    """Words of 32 bytes in bursts of 64, 4 cycles each, at most 32 words; then the latency of 20."""
    timing = timed("geom\n" * (words - 1) + "halt")
    assert timing.dispatch[0] == cycles + 20
    assert timing.fetch_bytes == -(-32 * words // 64) * 64


def test_the_halt_needs_its_word():
    """The 33rd, alone in its block: a burst. Of 64 bytes it is there at 88, before the last geom has ended, at 117."""
    assert timed("geom\n" * 32 + "halt").total_cycles == 84 + 33
    assert timed("geom\n" * 32 + "halt", dram_burst_bytes=1024).total_cycles == 64 + 64 + 20


def test_fetch_through_two_blocks():
    """101 words through a buffer of 64; a block is 64 cycles on the bus, then 20: longer than its 32 dispatches.

    cycle    0       64      128     192 204
    bus      00000000111111112222222233                        blocks; the third has room at 116, the fourth at 180
    there              84      148     212 224                 from then on its words can be dispatched
    dispatch           84..115 148..179 212..243 244..247
    """
    timing = timed(SETUPS * 50 + "halt", instruction_words=64)
    assert timing.code_there.tolist() == [84, 148, 212, 224]
    assert timing.dispatch.tolist() == [*range(84, 116), *range(148, 180), *range(212, 248)]
    assert timing.fetch_waits.tolist() == [[0, 84], [116, 148], [180, 212], [244, 244]]
    assert timing.fetch_bytes == 3 * 1024 + 192


def test_fetch_waits_for_room_in_the_buffer():
    """The same on a bus of 64 bytes, 16 cycles a block: two blocks fit, the third is asked for behind word 31.

    cycle    0  16  32      68  84      100 103
    bus      00001111       22222       33
    there      36  52               104   123
    dispatch   36.......67, 68.......99 104..135, 136..139
    """
    sizes = {"dram_bytes_per_cycle": 64, "act_banks": 4, "instruction_words": 64}
    timing = timed(SETUPS * 50 + "halt", **sizes)
    assert timing.code_there.tolist() == [36, 52, 104, 123]
    assert timing.dispatch.tolist() == [*range(36, 100), *range(104, 140)]
    larger = timed(SETUPS * 50 + "halt", **(sizes | {"instruction_words": 96}))
    assert larger.dispatch.tolist() == [*range(36, 136)]


def test_the_bus_serves_load_store_and_fetch_in_turn():
    """3 blocks each of 64 cycles; the program's first two are on the bus before, its last has 5 words, 12 cycles.

    cycle    0   64  128 192 256 320 384 448 460 524 588
    bus      000011112222                                      the first two blocks of the program; then all three ask
                     LLLLSSSS2222LLLLSSSS33 LLLLSSSS
    """
    code = "load run=3072\nstore dram_addr=0x4000 addr=2048 run=3072\n" + SETUPS * 49 + "halt"
    timing = timed(code, instruction_words=64)
    assert timing.code_there.tolist() == [84, 148, 320 + 20, 460 + 20]
    assert timing.start[:2].tolist() == [85, 86]
    assert timing.issue_end[:2].tolist() == [524, 588]


def test_a_deadlock_is_named():
    ops, machine = hand("load run=16 pop=store\nstore dram_addr=0x400 run=16 pop=load\nhalt\n", {})
    with pytest.raises(ProgramError, match="deadlock"):
        simulate(ops, machine, ())
    with pytest.raises(DeadlockError):
        Twin(ops, machine, ()).run()


SEEDS = range(120)


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_to_the_twin(seed):
    case = random_case(seed)
    for boundaries in case.boundaries:
        assert compare(case.ops, case.machine, boundaries).difference is None


@pytest.mark.parametrize("seed", range(6))
def test_compiled_networks_equal_to_the_twin(seed):
    binary = small_binary(seed)
    ops = resolve(decode(binary.code))
    for ratio in (0, 50, 100):
        assert compare(ops, binary.machine, binary.boundaries_at(ratio)).difference is None


@pytest.mark.parametrize("seed", range(3))
def test_one_model_serves_all_boundaries(seed):
    case = random_case(seed)
    model = TimingModel(case.ops, case.machine)
    for boundaries in [*case.boundaries, *case.boundaries[::-1]]:
        fresh = simulate(case.ops, case.machine, boundaries)
        np.testing.assert_array_equal(model.simulate(boundaries).table, fresh.table)


@pytest.mark.slow
def test_the_programs_meet_every_cause_of_waiting():
    """On each engine all that can hold it up; a comparison without them says nothing about them."""
    seen: set[tuple[str, str]] = set()
    for seed in SEEDS:
        case = random_case(seed)
        found = causes_of(Twin(case.ops, case.machine, case.boundaries[-1]).run())
        seen |= {(engine, cause) for engine, causes in found.items() for cause in causes}
    for engine in ("load", "matrix", "vector", "store"):
        tokens = {f"token_{e}" for e in ("load", "matrix", "vector", "store") if e != engine}
        missing = {"port", "fetch", "queue", "idle"} | tokens
        missing |= {"matrix": {"stream", "bank", "weights", "setup"}, "vector": {"busy", "drain", "setup"}}.get(
            engine, {"busy", "dram"}
        )
        missing -= {cause for e, cause in seen if e == engine}
        assert not missing, (engine, missing)
    assert {("load", "token_full"), ("vector", "token_full")} <= seen


# -- ports


class Watched(bytearray):
    """Memory that remembers which words were read and written."""

    read: set[int]
    written: set[int]

    def __getitem__(self, place):
        self.read |= words_of(place)
        return super().__getitem__(place)

    def __setitem__(self, place, value):
        self.written |= words_of(place)
        super().__setitem__(place, value)


def words_of(place: int | slice) -> set[int]:
    first, end = (place.start, place.stop) if isinstance(place, slice) else (place, place + 1)
    return set(range(first // 16, (end - 1) // 16 + 1))


@pytest.mark.parametrize("seed", range(20))
def test_an_operation_takes_the_ports_of_what_it_touches(seed):
    """Every region that the naive machine reads or writes in, and hardly any other."""
    rng = np.random.default_rng(seed)
    p = random_program(rng, random_machine(rng), 2)
    machine = NaiveMachine(p.machine, p.constants.tobytes(), p.dram_bytes)
    act = machine.act = Watched(machine.act)
    act.read, act.written = set(), set()
    more = []
    masks = np.stack(regions(footprints(p.ops, p.machine), p.machine), axis=1).tolist()

    def observe(op: Op, _: NaiveMachine) -> None:
        for mask, touched in zip(masks[op.index], (act.read, act.written), strict=True):
            needed = sum(1 << r for r in {word // p.machine.region_words for word in touched})
            assert mask & needed == needed, op
            more.append(mask != needed)
        act.read, act.written = set(), set()

    machine.run(p.ops[:-1], p.boundaries(rng), observe)
    assert sum(more) <= len(more) // 10  # ranges have gaps, and a stride may skip the edge of an image
