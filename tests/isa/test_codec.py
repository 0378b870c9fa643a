"""Instruction words: round trips, and words written by hand."""

import numpy as np
import pytest
from hypothesis import given
from npu_isa.errors import ProgramError
from npu_isa.isa.codec import decode, encode
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import BY_NAME

from tests.binaries import instructions


@given(instructions())
def test_round_trip(instruction):
    assert tuple(decode(encode([instruction]))) == (instruction,)


def operands(name: str, **given: int | tuple[int, ...]) -> dict[str, int | tuple[int, ...]]:
    defaults = {o.name: (o.default,) * o.repeat if o.repeat else o.default for o in BY_NAME[name].operands}
    assert given.keys() <= defaults.keys()
    return defaults | given


WRITTEN_BY_HAND = [
    # opcode 01, nothing else
    (Instruction("halt", {}), "01" + "00" * 31),
    # opcode 11; byte 1: pop load = bit 0 of the low half, push vector = bit 2 of the high half: 41; byte 2: first = 10;
    # bytes 3..18: the groups; from bit 152 (byte 19) on three bits a shift: 4 | 3 << 3 | 2 << 6 | 1 << 9 = 668 = 029c
    (
        Instruction(
            "groups",
            {"first": 16, "group": tuple(range(0xA0, 0xB0)), "shift": (4, 3, 2, 1) + (0,) * 12},
            pop=0b0001,
            push=0b0100,
        ),
        "11 41 10 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 9c02" + "00" * 11,
    ),
    # opcode 20; byte 1: pop matrix 2, push matrix is not legal, push store 8: 82
    # bit 16: source 2, bit 18: kernel_h 3 << 2: 2 + 12 = 0e; bit 26 is bit 2 of byte 3: kernel_w 3 << 2 = 0c
    # bit 34 (byte 4, bit 2): stride_y 2 << 2 = 08; bit 42 likewise stride_x: 08
    # byte 6: dilation_y 1 << 2 at bit 50, dilation_x 1 << 6 at bit 54: 44
    # pad_top -1 is thirteen ones in bits 58..70: fc in byte 7, 7f in byte 8; pad_left 1 at bit 71 makes byte 8 ff
    # in_h 9 at bit 84 (byte 10, bit 4): 90; in_w 10 at bit 96 (byte 12): 0a
    # clamp_low -128 = ff80 at bit 197 (byte 24, bit 5): ff80 << 5 = 1ff000: 00 f0 1f in bytes 24..26
    # clamp_high 127 at bit 213 (byte 26, bit 5): 7f << 5 = 0fe0: byte 26 is 1f | e0 = ff, byte 27 is 0f
    (
        Instruction(
            "vgeom",
            operands(
                "vgeom",
                **{
                    "source": 2,
                    "kernel_h": 3,
                    "kernel_w": 3,
                    "stride_y": 2,
                    "stride_x": 2,
                    "pad_top": -1,
                    "pad_left": 1,
                },
                **{"in_h": 9, "in_w": 10, "clamp_low": -128, "clamp_high": 127},
            ),
            pop=0b0010,
            push=0b1000,
        ),
        "20 82 0e 0c 08 08 44 fc ff 00 90 00 0a" + "00" * 11 + "00 f0 ff 0f" + "00" * 4,
    ),
    # opcode 40; byte 1: pop vector = 4; bytes 2..5: dram_addr; rows 5 at bit 48, cols 3 at bit 60: 5 | 3 << 12 = 3005
    # run 32 at bit 72 (byte 9): 20; dram_row_pitch 64 at bit 94 (byte 11, bit 6): 64 << 6 = 1000: byte 12 is 10
    # dram_col_pitch 32 at bit 118 (byte 14, bit 6): 32 << 6 = 0800: byte 15 is 08
    # addr 6 at bit 134 (byte 16, bit 6): 6 << 6 = 0180; row_pitch 7 at bit 158 (byte 19, bit 6): 7 << 6 = 01c0
    # col_pitch 2 at bit 174 (byte 21, bit 6): 80
    (
        Instruction(
            "store",
            operands(
                "store",
                **{
                    "dram_addr": 0x11223344,
                    "rows": 5,
                    "cols": 3,
                    "run": 32,
                    "dram_row_pitch": 64,
                    "dram_col_pitch": 32,
                },
                **{"addr": 6, "row_pitch": 7, "col_pitch": 2},
            ),
            pop=0b0100,
        ),
        "40 04 44332211 053000 20 00 00 10 00 00 08 8001 00 c001 80" + "00" * 10,
    ),
]


@pytest.mark.parametrize(("instruction", "word"), WRITTEN_BY_HAND, ids=lambda x: getattr(x, "name", ""))
def test_words_written_by_hand(instruction, word):
    assert encode([instruction]).tobytes().hex() == bytes.fromhex(word).hex()
    assert tuple(decode(np.frombuffer(bytes.fromhex(word), np.uint8).reshape(1, 32))) == (instruction,)


def word(*changes: tuple[int, int], opcode: int = 0x11) -> np.ndarray:
    """A groups word with bytes changed, behind a halt."""
    code = np.zeros((2, 32), np.uint8)
    code[0, 0], code[1, 0] = 1, opcode
    for at, value in changes:
        code[1, at] = value
    return code


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (word(opcode=0x99), "instruction 1: unknown opcode 0x99\n  hint: see isa_spec/ISA.md"),
        (word((31, 0x80)), "instruction 1 (groups): bit 255 belongs to no field and is set\n  hint: clear it"),
        (word((19, 5)), "instruction 1 (groups): shift = 5 is outside 0..4\n  hint: see isa_spec/ISA.md"),
        (word((1, 0x02)), "instruction 1 (groups): an engine gives itself no tokens\n  hint: see isa_spec/ISA.md"),
        (word((1, 0x20)), "instruction 1 (groups): an engine gives itself no tokens\n  hint: see isa_spec/ISA.md"),
        (
            word((1, 1), opcode=1),
            "instruction 1 (halt): tokens belong to the four engines\n  hint: see isa_spec/ISA.md",
        ),
        (word(opcode=0x12), "instruction 1 (conv): tile_h = 0 is outside 1..65535\n  hint: see isa_spec/ISA.md"),
    ],
)
def test_words_that_are_no_instruction(code, message):
    with pytest.raises(ProgramError) as error:
        decode(code)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 256}, "first = 256 is outside 0..255"),
        ({"first": -1}, "first = -1 is outside 0..255"),
        ({"group": (0,) * 15}, "group has 15 values, needs 16"),
        ({"shift": (0,) * 15 + (5,)}, "shift = 5 is outside 0..4"),
    ],
)
def test_operands_that_do_not_fit_are_not_encoded(change, message):
    with pytest.raises(ProgramError) as error:
        encode([Instruction("halt", {}), Instruction("groups", operands("groups") | change)])
    assert str(error.value) == f"instruction 1 (groups): {message}\n  hint: see isa_spec/ISA.md"
