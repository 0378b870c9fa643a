"""Each rule of the static check: a program that breaks it is refused in these words, and its twin passes."""

from dataclasses import replace

import numpy as np
import pytest
from npu_isa.check.program import check_binary, check_program
from npu_isa.errors import NpuError, ProgramError
from npu_isa.file.binary import Binary, DialStep, InputInfo, LayerInfo, OutputInfo
from npu_isa.isa.codec import encode
from npu_isa.isa.ops import Engine
from npu_isa.isa.program import Instruction
from npu_isa.isa.resolve import resolve
from npu_isa.machine.config import MachineConfig
from npu_sim.fast.time.model import simulate
from npu_sim.fast.values.run import Values
from npu_sim.random_programs.tokens import with_tokens
from npu_sim.register.machine import run

MACHINE = MachineConfig(
    name="tiny",
    array_rows=8,
    array_cols=16,
    weight_rows_per_cycle=1,
    dynamic_extraction=False,
    act_region_bytes=1024,  # 64 words, 256 in all
    act_banks=2,
    weight_memory_bytes=1024,  # 64 words
    param_memory_bytes=512,  # 8 rows
    acc_rows=16,
    vector_taps=3,
    dram_bytes=4096,
    dram_bytes_per_cycle=16,
    dram_latency_cycles=10,
    dram_burst_bytes=32,
    instruction_words=64,
    queue_depth=2,
    token_depth=2,
    clock_hz=1e9,
).check()
# constants: 3 bias rows | multiplier row | second multiplier row | weights of 2 places, 1 x 1; then up to 32 words
BIAS, STATIC, WEIGHTS, CONSTANTS_BYTES = 0, 192, 320, 320 + 34 * 16
CODE, INPUT, OUTPUT, DRAM_BYTES = 1024, 2048, 2048 + 128, 2048 + 192
ARGUMENTS = {
    "constants_bytes": CONSTANTS_BYTES,
    "dram_bytes": DRAM_BYTES,
    "input_range": (INPUT, OUTPUT),
    "output_ranges": ((OUTPUT, DRAM_BYTES),),
    "registers": 1,
    "legal": {0: (0, 1, 2)},
}
ONES = dict.fromkeys(("kernel_h", "kernel_w", "stride_y", "stride_x", "dilation_y", "dilation_x"), 1)
LOAD = {"memory": 0, "rows": 1, "cols": 1, "dram_row_pitch": 0, "dram_col_pitch": 0, "row_pitch": 0, "col_pitch": 0}
LOAD |= {"indexed": 0, "register": 0, "table_pitch": 0, "table_entries": 0}
# places in the program below
IMAGE, BIASES, SCALES, BLOCK, GEOM, GROUPS, CONV, VGEOM, VEC, STORE, HALT = range(11)


def program() -> list[Instruction]:
    """A 1x1 conv of a 2 x 2 image of 2 groups, without tokens."""
    vgeom = {"source": 0, **ONES, "pad_top": 0, "pad_left": 0, "in_h": 2, "in_w": 2, "row_pitch": 4, "pixel_pitch": 2}
    vgeom |= {"out_row_pitch": 2, "out_pixel_pitch": 1, "res_row_pitch": 0, "res_pixel_pitch": 0}
    vgeom |= {"src_unsigned": 0, "residual": 0, "res_unsigned": 0, "leaky": 0, "wide": 0, "product": 0, "table": 0}
    tile = {"out_y": 0, "out_x": 0, "tile_h": 2, "tile_w": 2, "acc_half": 0}
    geom = {"register": 0, **ONES, "pad_top": 0, "pad_left": 0, "in_h": 2, "in_w": 2, "row_pitch": 4, "pixel_pitch": 2}
    table = {"indexed": 1, "register": 0, "table_pitch": 64, "table_entries": 3}
    return [
        Instruction("load", LOAD | {"dram_addr": INPUT, "run": 128, "addr": 0}),
        Instruction("load", LOAD | {"memory": 2, "dram_addr": BIAS, "run": 64, "addr": 0} | table),
        Instruction("load", LOAD | {"memory": 2, "dram_addr": STATIC, "run": 128, "addr": 1}),
        Instruction("load", LOAD | {"memory": 1, "dram_addr": WEIGHTS, "run": 34 * 16, "addr": 0}),
        Instruction("geom", geom | {"unsigned": 0, "tap_fastest": 0, "dynamic": 0}),
        Instruction("groups", {"first": 0, "group": (1, 0, *(0,) * 14), "shift": (2, 4, *(0,) * 14)}),
        Instruction(
            "conv",
            tile
            | {"act_base": 0, "act_row0": 0, "acc_row": 3, "accumulate": 0, "weight_addr": 0}
            | {"group_first": 0, "group_count": 2},
        ),
        Instruction("vgeom", vgeom | {"clamp_low": -128, "clamp_high": 127}),
        Instruction(
            "vec",
            tile
            | {"src_base": 3, "src_row0": 0, "out_base": 16, "out_byte": 0, "res_base": 0, "param_addr": 0}
            | {"lanes": 16, "fence": 0},
        ),
        Instruction(
            "store",
            {"dram_addr": OUTPUT, "rows": 1, "cols": 1, "run": 64, "dram_row_pitch": 0, "dram_col_pitch": 0}
            | {"addr": 16, "row_pitch": 0, "col_pitch": 0},
        ),
        Instruction("halt", {}),
    ]


def constants(shift: int = 20, multiplier: int = 32767, position: int = 4) -> np.ndarray:
    data = np.zeros(CONSTANTS_BYTES, np.uint8)
    rows = data[:WEIGHTS].view("<u4").reshape(-1, 16)
    rows[3] = 5 | 1 << 16
    rows[3, 7] = multiplier | shift << 16
    data[WEIGHTS + 16 : WEIGHTS + 32] = position << 4  # place 1, odd columns
    return data


def check(code, machine: MachineConfig = MACHINE, **arguments) -> None:
    check_program(resolve(code), machine, **(ARGUMENTS | {"constants": constants()} | arguments))


def change(code, place: int, **operands) -> list[Instruction]:
    changed = list(code)
    changed[place] = replace(changed[place], operands={**changed[place].operands, **operands})
    return changed


def test_the_twin_of_every_faulty_program_passes():
    check(with_tokens(program(), MACHINE))


# -- rules 2, 3 and 6: (place, operands, message)
WINDOW = {"kernel_h": 2, "kernel_w": 2, "source": 2}
OPERAND_FAULTS = [
    (CONV, {"acc_row": 13}, "accumulator rows 13..16: a half has 16 rows"),
    (GEOM, {"register": 1}, "register = 1 of its geom: the program uses 1 boundary registers"),
    (VEC, {"lanes": 8}, "lanes = 8: must be a multiple of 16"),
    (VEC, {"lanes": 32}, "lanes = 32: the machine has 16"),
    (VEC, {"out_byte": 4}, "out_byte = 4: must be 0 on an array of 16 columns"),
    (VGEOM, {"residual": 1, "leaky": 1}, "residual and leaky share the second multiplier"),
    (VGEOM, {"kernel_w": 2}, "window 1 x 2: accumulators have 1 x 1"),
    (VGEOM, {"product": 1, "source": 3}, "product without residual"),
    (VGEOM, {"product": 1, "source": 3, "leaky": 1, "residual": 1}, "product and leaky exclude each other"),
    (VGEOM, {"product": 1, "residual": 1}, "product of source acc: its first operand is a window sum"),
    (VGEOM, {"product": 1, "residual": 1, "source": 1}, "product of source mac: its first operand is a window sum"),
    (VGEOM, {"product": 1, "residual": 1, "source": 2}, "product of source max: its first operand is a window sum"),
    (VGEOM, {"product": 1, "residual": 1, "source": 3, "kernel_h": 2}, "product of a window 2 x 1: its first operand"),
    (VGEOM, {"table": 1}, "looks up a table that nothing has loaded"),
    (VGEOM, {"table": 1, "wide": 1}, "table and wide exclude each other: what is looked up is a byte"),
    (VGEOM, {"clamp_low": 5, "clamp_high": 4}, "clamp 5..4 is empty"),
    (VGEOM, {"clamp_low": -1, "clamp_high": 128}, "clamp -1..128: a byte holds -128..127 or 0..255"),
    (VGEOM, WINDOW | {"source": 2, "pad_top": 3}, "the window of output row 0 lies outside the image"),
    (VGEOM, WINDOW | {"source": 2, "in_w": 1}, "the window of output column 1 lies outside the image"),
    (IMAGE, {"run": 120}, "run = 120: must be a multiple of 16 bytes"),
    (SCALES, {"run": 112}, "run = 112: must be a multiple of 64 bytes"),
    (BIASES, {"memory": 0}, "only loads of parameters may be indexed"),
    (BIASES, {"register": 1}, "register = 1: the program uses 1 boundary registers"),
    (BIASES, {"table_entries": 2}, "table of 2 entries: register 0 may be 2"),
    (
        SCALES,
        {"dram_addr": INPUT - 64},
        f"bytes {INPUT - 64}..{INPUT + 63}: weights and parameters come from the const",
    ),
    (STORE, {"run": 60}, "run = 60: must be a multiple of 16 bytes"),
    (CONV, {"group_count": 1}, "boundary 2: its convs cover 1 groups"),
    (IMAGE, {"addr": 249}, "writes activation words 249..256: the memory has 256"),
    (CONV, {"act_row0": 1}, "reads activation words -4..3: the memory has 256"),
    (CONV, {"weight_addr": 31}, "reads weight words 31..64: the memory has 64"),
    (VEC, {"param_addr": 6}, "reads parameter rows 6..8: the memory has 8"),
    (VEC, {"src_base": 13}, "reads accumulator rows of half 0 13..16: the memory has 16"),
    (VGEOM, {"out_row_pitch": 65535}, "writes activation words 16..65552: the memory has 256"),
    (IMAGE, {"dram_addr": DRAM_BYTES - 127}, f"..{DRAM_BYTES}: the memory has {DRAM_BYTES}"),
    (STORE, {"dram_addr": CONSTANTS_BYTES - 1}, "writes the constants"),
    (STORE, {"dram_addr": INPUT - 64}, f"the program and what is before it end at {INPUT}"),
    (STORE, {"dram_addr": CONSTANTS_BYTES}, f"the program and what is before it end at {INPUT}"),
    (IMAGE, {"dram_addr": CODE}, f"reads DRAM byte at {CODE}, which nothing has written"),
    (IMAGE, {"dram_addr": INPUT - 1}, f"reads DRAM byte at {INPUT - 1}, which nothing has written"),
    (STORE, {"dram_addr": INPUT + 65}, "writes the input"),
    (VGEOM, {"out_pixel_pitch": 0}, "writes a place twice"),
    (IMAGE, {"rows": 2, "row_pitch": 7}, "writes a place twice"),
    (STORE, {"cols": 2, "run": 32, "dram_col_pitch": 31}, "writes a place twice"),
    (IMAGE, {"run": 112}, "reads activation word at 7, which nothing has written"),
    (BLOCK, {"run": 33 * 16}, "reads weight word at 33, which nothing has written"),
    (SCALES, {"run": 64}, "reads parameter row at 2, which nothing has written"),
    (VEC, {"acc_half": 1}, "reads accumulator row of half 1 at 3, which nothing has written"),
    (VEC, {"src_base": 4}, "reads accumulator row of half 0 at 7, which nothing has written"),
    (CONV, {"accumulate": 1}, "reads accumulator row of half 0 at 3, which nothing has written"),
    (STORE, {"addr": 17}, "reads activation word at 20, which nothing has written"),
    (IMAGE, {"dram_addr": INPUT + 1}, f"reads DRAM byte at {OUTPUT}, which nothing has written"),
    (STORE, {"run": 48}, f"DRAM byte {OUTPUT + 48} is never written"),
]


@pytest.mark.parametrize(("place", "operands", "message"), OPERAND_FAULTS, ids=[m[:60] for _, _, m in OPERAND_FAULTS])
def test_a_faulty_operand_is_refused(place, operands, message):
    code = with_tokens(change(program(), place, **operands), MACHINE)
    with pytest.raises(ProgramError) as caught:
        check(code)
    assert message in caught.value.message
    assert caught.value.where in ("output", "boundary register 0") or caught.value.where.startswith("instruction ")


def test_dynamic_extraction_needs_a_machine_that_has_it():
    static = with_tokens(program(), MACHINE)
    code = with_tokens(change(program(), GEOM, dynamic=1), MACHINE)
    check(code, replace(MACHINE, dynamic_extraction=True))
    check(static, replace(MACHINE, dynamic_extraction=True))
    with pytest.raises(ProgramError) as error:
        check(code)
    assert str(error.value) == (
        "instruction 6 (conv): dynamic = 1 of its geom: the machine tiny has no dynamic extraction\n"
        "  hint: set dynamic_extraction = true in the machine, or quantize with --extract static"
    )
    ops, data = resolve(code), constants()
    with pytest.raises(ProgramError, match="the machine tiny has no dynamic extraction"):
        simulate(ops, MACHINE, (2,))
    with pytest.raises(ProgramError, match="the machine tiny has no dynamic extraction"):
        Values(ops, MACHINE, data, (2,), DRAM_BYTES)
    with pytest.raises(ProgramError, match="the machine tiny has no dynamic extraction"):
        run(code, MACHINE, data, (2,), DRAM_BYTES, np.zeros(128, np.uint8), INPUT)


def test_the_place_is_the_instruction_with_its_mnemonic():
    with pytest.raises(ProgramError) as caught:
        check(with_tokens(change(program(), VEC, lanes=32), MACHINE))
    assert caught.value.where == "instruction 8 (vec)"


def test_a_program_may_be_longer_than_the_fetch_buffer():
    code = with_tokens([*[program()[GEOM]] * 200, *program()], MACHINE)
    with pytest.raises(ProgramError, match=f"must lie between the program, which ends at {CODE + 7 * 1024}"):
        check(code)
    machine = replace(MACHINE, dram_bytes=1 << 16)
    longer = [change_address(i, 6 * 1024) for i in code]
    moved = {"input_range": tuple(a + 6 * 1024 for a in ARGUMENTS["input_range"])}
    moved |= {"output_ranges": (tuple(a + 6 * 1024 for a in ARGUMENTS["output_ranges"][0]),)}
    check(longer, machine, **moved, dram_bytes=DRAM_BYTES + 6 * 1024)


def change_address(i: Instruction, by: int) -> Instruction:
    """Move an access to what lies behind the program."""
    address = i.operands.get("dram_addr", 0)
    return replace(i, operands=i.operands | {"dram_addr": address + by}) if address >= INPUT else i


def test_a_fold_reads_beyond_the_constants():
    image = {"dram_addr": INPUT, "in_h": 2, "in_w": 4, "channels": 16, "kernel_h": 1, "kernel_w": 1, "stride_y": 1}
    image |= {"stride_x": 1, "pad_top": 0, "pad_left": 0, "out_y": 0, "rows": 2, "cols": 4, "addr": 0, "row_pitch": 4}
    code = program()
    code[IMAGE] = Instruction("fold", image | {"pixel_pitch": 1})
    check(with_tokens(code, MACHINE))
    with pytest.raises(ProgramError) as caught:
        check(with_tokens(change(code, IMAGE, dram_addr=CONSTANTS_BYTES - 1), MACHINE))
    assert str(caught.value).startswith(
        f"instruction 0 (fold): reads DRAM bytes {CONSTANTS_BYTES - 1}..{CONSTANTS_BYTES + 126}: "
    )
    assert f"no image lies in the constants, bytes 0..{CONSTANTS_BYTES - 1}" in caught.value.message


def test_a_layer_without_dial_names_register_255():
    code = change(change(program(), GEOM, register=255), BIASES, indexed=0)
    check(with_tokens(code, MACHINE), registers=0, legal={})


# -- rule 1
@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (program()[:-1], {}, "does not end in halt"),
        ([], {}, "does not end in halt"),
        ([Instruction("halt", {}), *program()], {}, "halt before the end"),
        (program(), {"dram_bytes": 5000}, "5000 bytes of DRAM used, the machine has 4096"),
        (program(), {"input_range": (INPUT - 1, OUTPUT)}, "must lie between the program, which ends at 2048, and the"),
        (program(), {"output_ranges": ((OUTPUT - 1, DRAM_BYTES),)}, "overlaps the input"),
        (program(), {"registers": 256}, "256 boundary registers used, 255 exist"),
        (program(), {"legal": {1: (0,)}}, "not one of the 1 registers"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_misshapen_program_is_refused(code, arguments, message):
    with pytest.raises(ProgramError, match=message):
        check(code, **arguments)


# -- rule 4


def tokens(code, place: int, pop: int = 0, push: int = 0) -> list[Instruction]:
    changed = list(code)
    changed[place] = replace(changed[place], pop=changed[place].pop ^ pop, push=changed[place].push ^ push)
    return changed


def bit(engine: Engine) -> int:
    return 1 << engine


def refusal(code, machine: MachineConfig = MACHINE, **arguments) -> ProgramError:
    with pytest.raises(ProgramError) as caught:
        check(code, machine, **arguments)
    return caught.value


def test_tokens_of_the_wrong_engine():
    code = with_tokens(program(), MACHINE)
    assert "token of its own engine (vector)" in refusal(tokens(code, VEC, pop=bit(Engine.VECTOR))).message
    assert "of no engine" in refusal(tokens(code, VEC, pop=16)).message
    assert "halt takes and gives no tokens" in refusal(tokens(code, HALT, pop=1)).message


def test_a_token_that_never_comes_is_a_deadlock():
    code = tokens(with_tokens(program(), MACHINE), IMAGE, pop=bit(Engine.STORE))
    error = refusal(code)
    assert error.where == "instruction 0 (load)"
    behind = "is not dispatched: the front end waits with instruction 3 for the queue of load"
    assert error.message == (
        "deadlock: load: instruction 0 (load) waits for a token of store; "
        f"matrix: instruction 4 (geom) {behind}; vector: instruction 7 (vgeom) {behind}; "
        f"store: instruction 9 (store) {behind}"
    )


def test_a_token_that_is_never_taken():
    error = refusal(tokens(with_tokens(program(), MACHINE), CONV, push=bit(Engine.STORE)))
    assert error.where == "instruction 6 (conv)"
    assert "from matrix to store is never taken" in error.message


def test_more_tokens_than_the_fifo_holds():
    """Three loads give a token each before the store, behind the queue, can take one."""
    code = list(with_tokens(program(), MACHINE))
    stores = [replace(code[STORE], pop=bit(Engine.LOAD), push=0)] * 3
    for place in (IMAGE, BIASES, SCALES):
        code = tokens(code, place, push=bit(Engine.STORE))
    code = [*code[: STORE + 1], *stores, code[HALT]]
    assert "load: instruction 2 (load) waits for room for its token to store" in refusal(code).message
    check(code, replace(MACHINE, token_depth=3))


def test_a_queue_too_short_for_tokens_against_program_order():
    """The first load waits for a geom that the front end cannot reach: five loads fill the queue before it."""
    code = list(with_tokens(program(), MACHINE))
    code[BLOCK : BLOCK + 1] = [replace(code[IMAGE], pop=0, push=0)] * 2 + [code[BLOCK]]
    code = tokens(tokens(code, IMAGE, pop=bit(Engine.MATRIX)), GEOM + 2, push=bit(Engine.LOAD))
    assert "the front end waits with instruction 3 for the queue of load" in refusal(code).message
    check(code, replace(MACHINE, queue_depth=5))


# -- rule 5


@pytest.mark.parametrize(
    ("giver", "taker", "message"),
    [
        (BLOCK, CONV, "reads activation words 0..7 while instruction 0 (load) may still write 0..7"),
        (CONV, VEC, "reads accumulator rows of half 0 0..15 while instruction 6 (conv) may still write 0..15"),
        (VEC, STORE, "reads activation words 16..19 while instruction 8 (vec) may still write 16..19"),
    ],
)
def test_a_conflict_without_token_is_a_race(giver, taker, message):
    code = with_tokens(program(), MACHINE)
    ops = resolve(code)
    code = tokens(code, giver, push=bit(ops[taker].engine))
    code = tokens(code, taker, pop=bit(ops[giver].engine))
    error = refusal(code)
    assert error.where.startswith(f"instruction {taker} ")
    assert error.message == f"race: {message}"


def test_conv_and_vec_on_other_rows_of_one_half_race():
    """A half has one read port: the second conv, on rows that the vec does not read, waits for it all the same."""
    code = program()
    code.insert(VEC + 1, change(code, CONV, acc_row=8)[CONV])
    other = with_tokens(change(code, VEC + 1, acc_half=1), MACHINE)
    assert not other[VEC].push >> Engine.MATRIX & 1
    check(other)
    whole = with_tokens(code, MACHINE)
    check(whole)
    apart = tokens(tokens(whole, VEC, push=bit(Engine.MATRIX)), VEC + 1, pop=bit(Engine.VECTOR))
    error = refusal(apart)
    assert error.where == "instruction 9 (conv)"
    assert "half 0 0..15 while instruction 8 (vec) may still read 0..15" in error.message
    assert error.hint.startswith("a half serves one engine at a time: vector must give a token to matrix")


def test_a_setup_gives_its_token_before_the_conv_ahead_of_it_ends():
    code = program()
    code.insert(VGEOM, code[GEOM])  # matrix: conv, geom
    code = list(with_tokens(code, MACHINE))
    moved = tokens(tokens(code, CONV, push=bit(Engine.VECTOR)), CONV + 1, push=bit(Engine.VECTOR))
    check(code)
    assert "race" in refusal(moved).message


def test_a_vec_that_reads_what_the_vec_before_wrote_needs_a_fence():
    code = program()
    window = change(code, VGEOM, source=2, row_pitch=2, pixel_pitch=1, out_row_pitch=2)[VGEOM]
    code[VEC + 1 : VEC + 1] = [window, change(code, VEC, src_base=16, out_base=32)[VEC]]
    fenced = with_tokens(code, MACHINE)
    check(fenced)
    assert fenced[VEC + 2].operands["fence"] == 1
    error = refusal(change(fenced, VEC + 2, fence=0))
    assert error.where == "instruction 10 (vec)"
    assert (
        "reads activation words 16..19 while instruction 8 (vec), still in the pipeline, writes 16..19" in error.message
    )


def test_a_conv_that_accumulates_close_behind_another():
    """Tiles of 7 rows on an array whose pass interval is 16: only the last two rows of the first are too close."""
    code = change(change(program(), GEOM, in_h=4, in_w=2), CONV, tile_h=7, tile_w=1, acc_row=0, act_row0=0)
    second = change(code, CONV, acc_row=0, accumulate=1)[CONV]
    for row, ok in ((0, True), (4, True), (5, False), (6, False)):
        more = [*code]
        fill = change(code, CONV, acc_row=9, acc_half=0)[CONV]
        first = change(code, CONV, tile_h=7)[CONV]
        again = replace(second, operands={**second.operands, "acc_row": row})
        more[CONV : CONV + 1] = [fill, replace(fill, operands={**fill.operands, "acc_row": 7}), first, again]
        more = with_tokens(change(more, GEOM, in_h=2, in_w=2), MACHINE)
        if ok:
            check(more)
        else:
            error = refusal(more)
            assert error.where == "instruction 9 (conv)"
            assert "while instruction 8 (conv) is still writing rows up to 6" in error.message


# -- rule 3, one operation by itself


def test_a_residual_add_in_place_passes_and_a_shifted_one_does_not():
    """The image's first group of each pixel is words 0, 2, 4, 6; the output goes onto it, or one pixel further."""
    pitches = {"res_row_pitch": 4, "res_pixel_pitch": 2, "out_row_pitch": 4, "out_pixel_pitch": 2}
    code = change(program(), VGEOM, residual=1, **pitches)
    code = change(code, STORE, addr=0, cols=4, run=16, dram_col_pitch=16, col_pitch=2)
    check(with_tokens(change(code, VEC, res_base=0, out_base=0), MACHINE))
    shifted = with_tokens(change(code, VEC, res_base=0, out_base=2), MACHINE)
    assert "reads words that its own earlier pixels write" in refusal(shifted).message


def test_a_residual_that_nothing_has_written():
    code = change(program(), VGEOM, residual=1, res_row_pitch=2, res_pixel_pitch=1)
    check(with_tokens(change(code, VEC, res_base=4), MACHINE))
    error = refusal(with_tokens(change(code, VEC, res_base=5), MACHINE))
    assert error.message == "reads activation word at 8, which nothing has written"


# -- rule 6, constants


def test_constants_that_the_arithmetic_does_not_allow():
    code = with_tokens(program(), MACHINE)
    for shift in (1, 47):
        check(code, constants=constants(shift=shift))
    for shift in (0, 48):
        assert f"a shift of {shift}, 1..47" in refusal(code, constants=constants(shift=shift)).message
    check(code, constants=constants(multiplier=0x8001))
    said = refusal(code, constants=constants(multiplier=0x8000)).message
    assert said == "its parameter block has a multiplier of -32768, -32767..32767 is possible"
    error = refusal(code, constants=constants(position=5))
    assert error.where == "instruction 6 (conv)"
    assert "s_wgt of 5" in error.message


def test_multipliers_may_not_depend_on_a_boundary():
    code = with_tokens(change(program(), BIASES, run=128, table_pitch=64, table_entries=3), MACHINE)
    check(code)  # overwritten by the load after it
    code = with_tokens(change(program(), SCALES, indexed=1, table_entries=3), MACHINE)
    assert "its multipliers come from an indexed load" in refusal(code).message


# -- the table of the vector engine

TABLE = Instruction("table", {"param_addr": 3})
ZEROS = Instruction("load", LOAD | {"memory": 2, "dram_addr": WEIGHTS, "run": 256, "addr": 3})


def looking_up(*before_vgeom: Instruction, before_store: tuple[Instruction, ...] = (), **operands: int):
    """The program whose vec looks its bytes up, with more instructions before its vgeom, its store and their tokens."""
    code = change(program(), VGEOM, table=1, **operands)
    return with_tokens([*code[:VGEOM], *before_vgeom, *code[VGEOM:STORE], *before_store, *code[STORE:]], MACHINE)


def test_a_table_is_loaded_before_it_is_used():
    check(looking_up(ZEROS, TABLE))
    check(looking_up(ZEROS, TABLE, TABLE))
    error = refusal(looking_up(before_store=(ZEROS, TABLE)))
    assert (error.where, error.hint) == ("instruction 8 (vec)", "put a table instruction before it")
    assert error.message == "looks up a table that nothing has loaded"


def test_rows_of_a_table_are_in_the_memory_written_static_and_waited_for():
    assert "reads parameter row at 3, which nothing has written" in refusal(looking_up(TABLE)).message
    beyond = replace(TABLE, operands={"param_addr": 5})
    error = refusal(looking_up(ZEROS, beyond))
    assert (error.where, error.message) == ("instruction 8 (table)", "reads parameter rows 5..8: the memory has 8")
    chosen = {"indexed": 1, "register": 0, "table_pitch": 64, "table_entries": 3}
    dialled = replace(ZEROS, operands={**ZEROS.operands, **chosen})
    assert "its table comes from an indexed load" in refusal(looking_up(dialled, TABLE)).message
    late = [replace(i, pop=0) if i.name == "table" else i for i in looking_up(ZEROS, TABLE)]
    late = [replace(i, push=i.push & ~(1 << Engine.VECTOR)) if i.operands == ZEROS.operands else i for i in late]
    error = refusal(late)
    assert error.message.startswith("race: reads parameter rows 3..6 while instruction 7 (load) may still write 3..6")


def test_the_second_multiplier_of_a_product_is_not_looked_at():
    """Nothing multiplies by it."""
    sides = {"source": 3, "residual": 1, "kernel_h": 1, "in_h": 2, "row_pitch": 4, "pixel_pitch": 2}
    data = constants()
    data[:WEIGHTS].view("<u4").reshape(-1, 16)[4] = 0x8000
    place = {"src_base": 0, "res_base": 0}
    code = change(change(program(), VGEOM, **sides, product=1, res_row_pitch=4, res_pixel_pitch=2), VEC, **place)
    check(with_tokens(code, MACHINE), constants=data)
    code = change(code, VGEOM, product=0)
    assert "a multiplier of -32768" in refusal(with_tokens(code, MACHINE), constants=data).message


# -- binaries


def binary(code) -> Binary:
    n = len(code)
    layer = LayerInfo(
        name="Conv_0", onnx_nodes=("Conv_0",), kind="conv", register=0, groups=2, boundaries=(0, 1, 2), macs=1, out="y"
    )
    image = {"name": "x", "address": INPUT, "height": 2, "width": 2, "channels": 32, "signed": False, "scale": 1.0}
    result = {"name": "y", "address": OUTPUT, "height": 2, "width": 2, "channels": 16, "bits": 8, "signed": True}
    none = np.full(n, -1, np.int32)
    return Binary(
        model="m",
        machine=MACHINE,
        code=encode(code),
        constants=constants(),
        dram_bytes=DRAM_BYTES,
        input=InputInfo(
            **image, pixel_scale=1.0, mean=(0.0,), std=(1.0,), resize=(), crop=(), table=np.zeros((32, 256), np.uint8)
        ),
        outputs=(OutputInfo(**result, scale=1.0, channel_map=tuple(range(16)), shape=(16, 2, 2)),),
        layers=(layer,),
        dial=(),
        dial_macs=1,
        layer_of=np.zeros(n, np.int32),
        tile_of=none,
        channel_of=none,
        location_of=none,
    )


def test_a_binary_is_checked_and_errors_name_the_layer():
    good = with_tokens(program(), MACHINE)
    assert list(check_binary(binary(good))) == list(resolve(good))
    for code, message in (
        (change(good, VEC, lanes=32), "lanes = 32"),
        (change(good, CONV, group_count=3, group_first=15), "place 16 is not set"),
        (change(good, GROUPS, first=1), "first = 1: must be a multiple of 16"),
    ):
        with pytest.raises(NpuError, match=message) as caught:
            check_binary(binary(code))
        assert caught.value.where.endswith(", layer Conv_0")


@pytest.mark.parametrize(("register", "boundary", "ok"), [(0, 2, True), (0, 3, False), (1, 1, False)])
def test_the_dial_stays_within_the_legal_boundaries(register, boundary, ok):
    good = binary(with_tokens(program(), MACHINE))
    dialled = replace(good, dial=(DialStep(register=register, boundary=boundary, low_macs=1),))
    if ok:
        check_binary(dialled)
    else:
        with pytest.raises(ProgramError, match="is not legal"):
            check_binary(dialled)
