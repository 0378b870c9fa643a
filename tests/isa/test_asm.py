"""Assembly: round trips, a program by hand, and what wrong text is answered, word for word."""

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from npu_isa.asm.assemble import MOST_FAULTS, assemble
from npu_isa.asm.disasm import disassemble
from npu_isa.asm.syntax import CHANNEL, DIRECTIVES, NAMES, TOKENS, grammar
from npu_isa.check.program import check_binary
from npu_isa.errors import AsmError, NpuError
from npu_isa.file.binary import Binary, data_address
from npu_isa.file.container import from_bytes, to_bytes
from npu_isa.isa.codec import decode
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import SPECS
from npu_isa.machine.config import load_machine

from tests.binaries import any_binaries, same_binary, small_binary
from tests.mutations import alter_fields, alter_words
from tests.naive_machine import NaiveMachine

EXAMPLE = Path(__file__).parents[2] / "isa_spec" / "examples" / "conv_2x2.s"
TEXT = EXAMPLE.read_text(encoding="utf-8")


def round_trip(binary: Binary) -> str:
    """Disassemble and assemble; check that nothing is lost either way."""
    text = disassemble(binary)
    again = assemble(text, "x.s")
    assert same_binary(again, binary, location=False)
    assert disassemble(again) == text
    return text


@settings(max_examples=60)
@given(any_binaries())
def test_anything_that_the_container_takes(binary):
    round_trip(binary)


@pytest.mark.parametrize("seed", range(12))
def test_compiled_networks(seed):
    binary = small_binary(seed)
    text = round_trip(binary)
    again = assemble(text, "x.s")
    check_binary(again)
    assert to_bytes(replace(again, location_of=binary.location_of)) == to_bytes(binary)


def test_locations_are_the_lines_of_the_instructions():
    binary = small_binary(1)
    lines = disassemble(binary).split("\n")
    again = assemble("\n".join(lines), "x.s")
    assert [lines[at - 1].split()[0] for at in again.location_of] == [i.name for i in decode(again.code)]
    kept = from_bytes(to_bytes(again), "")
    assert np.array_equal(kept.location_of, again.location_of)


def test_text_of_a_small_program():
    """The comments name tiles, ranges and tensors; operands at their defaults are left out."""
    binary = assemble(
        TEXT.replace("; the image to", '.define "twice" onnx_nodes=["a", "b"]\n.layer "twice"\n.tile 0\n;'), ""
    )
    text = disassemble(binary)
    code = [line[:38] + "..." if re.match("[0-9a-f]+:", line) else line for line in text.split("\n")]
    assert "\n".join(code[code.index("") :]).strip() == EXPECTED.strip()


EXPECTED = """
.layer "twice"  ; twice from ONNX nodes a, b; no dial
.tile 0
  load   dram_addr=2048 run=64  ; dram 2048..2111 (input) -> act 0..3 (input, region 0)
  load   dram_addr=128 run=64 addr=4  ; dram 128..191 (constants) -> act 4..7 (constants, region 0)
  load   memory=param run=24 push=vector  ; dram 0..23 (constants) -> param 0..2
  load   memory=weight dram_addr=64 run=48 push=matrix  ; dram 64..111 (constants) -> weight 0..2
  geom   register=255 in_h=2 in_w=2 row_pitch=2
  groups
  conv   tile_h=2 tile_w=2 pop=load push=vector  ; y 0..1 x 0..1: act 0..3 (input, region 0) + weight 0..2 -> acc0 0..3
  vgeom  out_row_pitch=2 out_pixel_pitch=1 clamp_low=-128 clamp_high=127
  vec    tile_h=2 tile_w=2 out_base=4 lanes=2 pop=load+matrix push=store  ; y 0..1 x 0..1: acc0 0..3 + param 0..2 -> \
act 4..7 (twice, region 0)
  store  dram_addr=2112 run=64 addr=4 pop=vector  ; act 4..7 (twice, region 0) -> dram 2112..2175 (output)
  halt

.data constants
; parameters of twice, instruction 2
0000: 00000000fcffffff0200010002000100...
; weights of twice, instruction 3
0040: 00000000000000000000000000000000...
0080: 00000000000000000000000000000000...
"""


# -- by hand


def test_program_by_hand_computes_what_it_says():
    binary = assemble(TEXT, "conv_2x2.s")
    ops = check_binary(binary)
    image = np.random.default_rng(0).integers(-40, 40, (4, 16))
    machine = NaiveMachine(binary.machine, binary.constants.tobytes(), binary.dram_bytes)
    machine.dram[binary.input.address : binary.input.address + 64] = image.astype(np.int8).tobytes()
    machine.run(ops, ())
    out = np.frombuffer(machine.dram, np.int8)[binary.outputs[0].address :].reshape(4, 16).tolist()
    clamp = [min(max(v, -128), 127) for v in range(-512, 512)]
    assert out == [[int(p[0] + p[1]), clamp[512 + 3 * int(p[2]) - 4], *[0] * 14] for p in image]


def test_defaults_of_what_a_person_leaves_out():
    text = ".input height=2 width=3 channels=5\n.output height=1 width=2 channels=32\n halt\n.data constants\n000f: 00"
    binary = assemble(text, "folder/tiny.s")
    assert binary.model == "tiny"
    assert binary.machine == load_machine("npu32")
    info, out = binary.input, binary.outputs[0]
    assert (info.address, info.bytes, out.address, out.bytes, binary.dram_bytes) == (2048, 30, 2078, 64, 2142)
    assert (info.name, info.signed, info.scale, info.pixel_scale) == ("input", True, 1.0, 1.0)
    assert (info.mean, info.std, info.resize, info.crop) == ((0.0,) * 5, (1.0,) * 5, (), ())
    assert info.table.tolist() == [list(range(256))] * 5
    assert (out.name, out.bits, out.signed, out.scale) == ("output", 8, True, 1.0)
    assert (out.channel_map, out.shape) == (tuple(range(32)), (32, 1, 2))
    assert (binary.layers, binary.dial, binary.dial_macs, binary.notes) == ((), (), 0, ())
    assert [int(a[0]) for a in (binary.layer_of, binary.tile_of, binary.channel_of, binary.location_of)] == [
        -1,
        -1,
        -1,
        3,
    ]
    assert binary.constants.tolist() == [0] * 16
    single = assemble(text.replace("height=1 width=2", "height=1 width=1 channel_map=[0, 1" + ", -1" * 30 + "]"), "")
    assert single.outputs[0].shape == (2,)


def test_layers_tiles_and_dial_by_hand():
    text = """
.input height=1 width=1 channels=1
.output height=1 width=1 channels=16
.machine clock_hz=5
.define "a" register=0 groups=2 boundaries=[0, 2]
.define "b" kind=window onnx_nodes=["n;1", "\\"q\\""] out="t"
.step register=0 boundary=2 low_macs=70
.note "one ; no comment"
.layer "b"
.tile 4
  groups channel=0x20 pop=load+store group=[3, 0x2] push=vector  ; a comment
.tile none
  groups
.layer 0
  groups
.layer none
  halt
"""
    binary = assemble(text, "x.s")
    a, b = binary.layers
    assert (a.name, a.onnx_nodes, a.kind, a.register, a.boundaries, a.macs, a.out) == (
        "a",
        (),
        "conv",
        0,
        (0, 2),
        0,
        "a",
    )
    assert (b.name, b.onnx_nodes, b.kind, b.register, b.out) == ("b", ("n;1", '"q"'), "window", -1, "t")
    assert (binary.dial[0].boundary, binary.dial_macs, binary.notes) == (2, 70, ("one ; no comment",))
    assert (binary.machine.name, binary.machine.clock_hz) == ("custom", 5.0)
    assert binary.layer_of.tolist() == [1, 1, 0, -1]
    assert binary.tile_of.tolist() == [4, -1, -1, -1]
    assert binary.channel_of.tolist() == [32, -1, -1, -1]
    operands = {"first": 0, "group": (3, 2) + (0,) * 14, "shift": (0,) * 16}
    assert decode(binary.code)[0] == Instruction("groups", operands, pop=0b1001, push=0b0100)


def test_windows_line_ends_and_tabs():
    assert same_binary(assemble(TEXT.replace("\n", "\r\n").replace("  load", "\tload"), ""), assemble(TEXT, ""))


def test_layers_of_one_name_are_told_apart_by_number():
    head = ".input height=1 width=1 channels=1\n.output height=1 width=1 channels=16\n"
    text = head + '.define "twin"\n.define "twin"\n.layer 1\n halt\n'
    binary = assemble(text, "")
    assert ".layer 1  ; twin" in round_trip(binary)
    with pytest.raises(AsmError, match="several layers are called 'twin'"):
        assemble(text.replace(".layer 1", '.layer "twin"'), "")


@pytest.mark.parametrize("damage", [alter_fields, alter_words])
def test_damaged_programs_can_still_be_shown(damage):
    """Whatever the container takes and decodes is shown, even if the check would refuse it."""
    shown = 0
    for seed in range(40):
        try:
            binary = from_bytes(damage(to_bytes(small_binary(seed % 4)), np.random.default_rng(seed)), "")
            decode(binary.code)
        except NpuError:
            continue
        round_trip(binary)
        shown += 1
    assert shown > 10


def test_program_that_cannot_be_followed_is_shown_without_comments():
    text = TEXT.replace("  groups\n", "")  # a conv of places that nothing fills
    shown = round_trip(assemble(text, ""))
    assert "  conv   tile_h=2 tile_w=2 pop=load push=vector\n" in shown


def test_megabytes_of_constants():
    held = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    binary = assemble(TEXT, "")
    by = data_address(held.size, len(binary.code)) - binary.input.address
    moved = [replace(p, address=p.address + by) for p in (binary.input, binary.outputs[0])]
    binary = replace(binary, constants=held, dram_bytes=binary.dram_bytes + by, input=moved[0], outputs=(moved[1],))
    round_trip(binary)


# -- the language and the table


def test_grammar_knows_the_table_and_nothing_else():
    text = grammar()
    for spec in SPECS:
        assert spec.name in text
        assert NAMES[spec.name] == (*(o.name for o in spec.operands), *TOKENS, CHANNEL)
        assert not {o.name for o in spec.operands} & {*TOKENS, CHANNEL}
    instruction_fields = {f.name for f in fields(Instruction)}
    assert set(TOKENS) <= instruction_fields
    assert not {f".{s.name}" for s in SPECS} & {f".{name}" for name in DIRECTIVES}


# -- wrong text


def broken(old: str, new: str) -> str:
    """What the example with one change is answered."""
    assert old in TEXT
    with pytest.raises(AsmError) as error:
        assemble(TEXT.replace(old, new, 1), "x.s")
    return str(error.value)


def messages() -> list[tuple[str, str, str]]:
    """(part of the example, what stands there instead, answer) of each block of asm_messages.txt."""
    text = (Path(__file__).parent / "asm_messages.txt").read_text(encoding="utf-8")
    found = []
    for block in text.split("\n\n")[1:]:
        lines = block.strip("\n").split("\n")
        old, new = ("\n".join(line[2:] for line in lines if line.startswith(mark)) for mark in ("-|", "+|"))
        found.append((old, new, "\n".join(line for line in lines if line[:2] not in ("-|", "+|"))))
    return found


@pytest.mark.parametrize(("old", "new", "answer"), messages(), ids=[m[1].strip()[:30] for m in messages()])
def test_message(old, new, answer):
    assert broken(old, new) == answer


def test_every_wrong_line_is_reported():
    text = TEXT.replace("  groups\n", "  group\n").replace("tile_h=2 tile_w=2 pop=load push", "acc_half=2 push")
    with pytest.raises(AsmError) as error:
        assemble(text.replace("  halt", "  hlat"), "x.s")
    assert error.value.where == "x.s:19:3"
    assert str(error.value) == (
        "x.s:19:3: unknown instruction 'group'\n  group\n  ^\n  hint: did you mean 'groups'?\n"
        "x.s:20:19: acc_half = 2 is outside 0..1\n  conv   acc_half=2 push=vector\n                  ^\n"
        "  hint: accumulator half\n"
        "x.s:26:3: unknown instruction 'hlat'\n  hlat\n  ^\n  hint: did you mean 'halt'?"
    )


def test_a_file_of_something_else_is_not_answered_line_by_line():
    with pytest.raises(AsmError) as error:
        assemble("int main() { return 0; }\n" * 1000, "main.c")
    assert str(error.value).count("unknown instruction 'int'") == MOST_FAULTS


def test_bytes_without_a_block():
    with pytest.raises(AsmError, match="bytes outside a block of data"):
        assemble("0000: 00ff\n", "x.s")


def test_long_lines_are_cut_around_the_spot():
    with pytest.raises(AsmError) as error:
        assemble(f"conv act_base={'1 ' * 50}x\n", "x.s")
    _, shown, caret, *_ = str(error.value).split("\n")
    assert shown[caret.index("^")] == "1"
    assert len(shown) <= 121


def test_empty_text():
    with pytest.raises(AsmError, match="no instructions: a program has a halt at least"):
        assemble("", "x.s")


@pytest.mark.parametrize(
    "text",
    ["\x00", "\ufeffhalt", '.note "', "halt \x0c", "conv act_base=" + "[" * 5000 + "]" * 5000, ".note " + "9" * 9999],
)
def test_strange_text_is_an_error_of_the_user(text):
    with pytest.raises(AsmError):
        assemble(text, "x.s")


def test_damaged_text_is_an_error_or_another_program():
    texts = [TEXT, disassemble(small_binary(0))[:5000]]
    answers = set()
    for seed in range(120):
        rng = np.random.default_rng(seed)
        text = list(texts[seed % 2])
        for at in rng.integers(len(text) - 40, size=3):
            match int(rng.integers(3)):
                case 0:
                    text[at] = str(rng.choice(list('"\\[]=+,;.:09afx \t-_\0\n')))
                case 1:
                    del text[at : at + int(rng.integers(1, 30))]
                case _:
                    text[at:at] = text[at + 9 : at + 29]
        try:
            assemble("".join(text), "x.s")
            answers.add("program")
        except AsmError:
            answers.add("error")
    assert answers == {"program", "error"}
