"""Messages show a wrong text as it may be printed: cut, and nothing in it that a terminal obeys or hides."""

import pytest
from npu_isa.asm.assemble import assemble
from npu_isa.errors import LINE, AsmError, NpuError, did_you_mean, printable, quoted


def test_error_is_printable_in_all_its_parts():
    error = NpuError("bad \x1b[31mred\nsecond\tline", "a\nb\u202e.onnx", "see \x07")
    assert str(error) == "a\\nb\\u202e.onnx: bad \\x1b[31mred\nsecond\tline\n  hint: see \\x07"
    assert (error.message, error.where) == ("bad \x1b[31mred\nsecond\tline", "a\nb\u202e.onnx")  # as they were given


def test_long_lines_are_cut():
    text = str(NpuError("x" * 100_000 + "\nshort"))
    assert text == "x" * LINE + "... (100,000 characters)\nshort"
    assert printable("größer → ok") == "größer → ok"
    assert quoted("w" * 100) == "'" + "w" * 59 + "... (102 characters)"
    assert did_you_mean("load" * 500_000, ["load"]) == ""


@pytest.mark.parametrize(
    "line",
    [
        "a" * 2_000_000,
        f"load memory={'a' * 2_000_000}",
        f"load {'a' * 2_000_000}=1",
        f"load memory=act pop={'a' * 2_000_000}",
        f'.layer "{"a" * 2_000_000}"',
        f'.machine "{"a" * 2_000_000}"',
        f".data {'a' * 2_000_000}",
        f'.define "x" kind="{"a" * 2_000_000}"',
    ],
    ids=lambda line: line[:12],
)
def test_assembly_errors_do_not_echo_a_long_word(line):
    with pytest.raises(AsmError) as error:
        assemble(line, "x.s")
    assert len(str(error.value)) < 1500


def test_assembly_errors_escape_what_reorders_a_line_and_the_caret_stays_below_the_spot():
    with pytest.raises(AsmError) as error:
        assemble('.note "\u202eabc\x1b" \u2066 wrong', "x.s")
    _, line, caret, *_ = str(error.value).split("\n")
    assert line == '.note "\\u202eabc\\x1b" \\u2066 wrong'
    assert line[caret.index("^") :] == "\\u2066 wrong"
