"""The assembler: text to `Binary`. `syntax` has the language; a person may leave out all that has a default.

Lark reads the lines one by one, so every wrong line is reported, not only the first. The data blocks at the end are
hexadecimal and read without Lark: megabytes of constants take no time worth naming.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from npu_isa.asm.draft import Draft, Item, Statement, WrongError, unknown_name
from npu_isa.asm.syntax import DATA, DATA_BLOCKS, HEADS, grammar
from npu_isa.errors import AsmError, did_you_mean, printable, quoted
from npu_isa.file.binary import Binary
from npu_isa.file.manifest import FieldError, from_parts

MOST_FAULTS = 20  # reported at once
SHOWN = 60  # characters of a long line shown on either side of the spot
READABLE = {  # terminals as errors name them
    "INT": "a whole number",
    "FLOAT": "a number",
    "STRING": 'a text in "quotes"',
    "WORD": "a word",
    "NAME": "name=value",
    "NONE": "none",
    "EQUAL": "=",
    "PLUS": "+",
    "COMMA": ",",
    "LSQB": "[",
    "RSQB": "]",
    "$END": "the end of the line",
}
_WORD = re.compile(r"\.?\w+")
_HEX_LINE = re.compile(r"\s*([0-9a-fA-F]+\s*:)?[0-9a-fA-F\s]*(;|$)")
_NOT_HEX = re.compile(r"[^0-9a-fA-F\s]")


@cache
def _parser() -> Lark:
    return Lark(grammar(), parser="lalr", lexer="contextual", maybe_placeholders=False)


def assemble(text: str, where: str) -> Binary:
    """Return the binary that a text describes; `where` names the text in errors.

    The binary is checked as the loader of a file does, its instructions' operands one by one; what the program does
    is `check.check_binary`'s business. `location_of` has the line of each instruction, counted from 1.

    Raises:
        AsmError: naming file, line and column of every fault (the first 20), each with its line, a caret and a hint.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")]
    draft = Draft(where)
    faults: list[AsmError] = []
    for number, wrong in _read(lines, draft):
        faults.append(_fault(lines, where, number, wrong))
        if len(faults) == MOST_FAULTS:
            break
    if faults:
        raise _together(faults)
    try:
        return from_parts(*draft.parts())
    except FieldError as error:
        number, column = draft.place(error.field)
        hint = "see isa_spec/ISA.md, the assembly language"
        if number:
            raise _fault(lines, where, number, WrongError(column, error.message, hint)) from None
        raise AsmError(error.message, where, hint) from None


def _read(lines: list[str], draft: Draft) -> Iterator[tuple[int, WrongError]]:
    """Read every line into the draft; yield what is wrong with its number."""
    data: bytearray | None = None
    for number, line in enumerate(lines, 1):
        bare = line.lstrip()
        if not bare or bare[0] == ";":
            continue
        try:
            if bare.startswith(DATA):
                data = bytearray()  # takes the bytes of a block that is not known
                data = _data_block(line, number, draft)
            elif data is None:
                draft.add(_parse(line), number)
            else:
                _read_hex(line, data)
        except WrongError as wrong:
            yield number, wrong


# -- statements


def _parse(line: str) -> Statement:
    parser = _parser()
    try:
        tree = parser.parse(line)
    except UnexpectedInput as error:
        raise _unreadable(line, error) from None
    head, *rest = tree.children
    assert isinstance(head, Token)
    value, items = None, []
    for node in rest:
        if isinstance(node, Token):
            value = Item("", _value(node), _column(node), _column(node))
        else:
            name, given = node.children
            assert isinstance(name, Token)
            items.append(Item(str(name), _value(given), _column(name), _column(given)))
    return Statement(str(head), _column(head), value, tuple(items))


def _column(node: Token | Tree[Token]) -> int:
    """Return the column of a node, counted from 1; 0 for an empty list."""
    if isinstance(node, Tree):
        return next((column for child in node.children if (column := _column(child))), 0)
    return node.column or 0


def _value(node: Token | Tree[Token]) -> Any:
    """Return a value: int, float, text, list, or a tuple of bare words."""
    if isinstance(node, Tree):
        return [_value(c) for c in node.children] if node.data == "list" else tuple(map(str, node.children))
    match node.type:
        case "INT":
            return int(node, 16 if "x" in node else 10)
        case "FLOAT":
            return float(node)
        case "STRING":
            try:
                return json.loads(node)
            except json.JSONDecodeError as error:
                raise WrongError(_column(node) + error.pos, "not a text", "texts are written as in JSON") from None
        case _:  # a bare word
            return (str(node),)


def _unreadable(line: str, error: UnexpectedInput) -> WrongError:
    """Say what is wrong at the spot where the parser stopped."""
    end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    column = len(line.rstrip()) + 1 if end else error.column
    allowed = error.allowed if isinstance(error, UnexpectedCharacters) else getattr(error, "expected", None)
    expected = set(allowed or ())
    found = _WORD.match(line, column - 1)
    word = found[0] if found else ""
    if "MNEMONIC" in expected and _HEX_LINE.match(line):
        return WrongError(column, "bytes outside a block of data", f"put {DATA} {DATA_BLOCKS[-1]} before")
    if word and "MNEMONIC" in expected:
        kind = "directive" if word.startswith(".") else "instruction"
        hint = did_you_mean(word, HEADS) or f"there are {', '.join(HEADS)}"
        return WrongError(column, f"unknown {kind} {quoted(word)}", hint)
    if word and "NAME" in expected:
        head = _WORD.search(line)
        assert head is not None
        return unknown_name(column, head[0], word)
    wanted = sorted(READABLE[t] for t in expected if t in READABLE)
    return WrongError(column, "cannot read this", f"expected: {' or '.join(wanted)}" if wanted else "")


# -- data blocks


def _data_block(line: str, number: int, draft: Draft) -> bytearray:
    words = line.partition(";")[0].split()
    if words[0] != DATA or len(words) != 2 or words[1] not in DATA_BLOCKS:
        near = did_you_mean(words[-1], DATA_BLOCKS)
        raise WrongError(
            line.index(words[-1]) + 1, "unknown block of data", near or f"write {DATA} {' or '.join(DATA_BLOCKS)}"
        )
    return draft.block(words[1], number)


def _read_hex(line: str, data: bytearray) -> None:
    """Append the bytes of a line `address: hex`; the address may be left out, or lie ahead: zeros fill the gap."""
    body = line.partition(";")[0]
    address, colon, digits = body.rpartition(":")
    try:
        if colon:
            at = int(address, 16)
            if at < len(data):
                hint = f"the block has {len(data):#x} bytes already"
                raise WrongError(1 + len(address) - len(address.lstrip()), f"address {at:#x} lies behind", hint)
            data.extend(bytes(at - len(data)))
        data += bytes.fromhex(digits)
    except ValueError:
        wrong = _NOT_HEX.search(body.replace(":", " ", 1)) if colon else _NOT_HEX.search(body)
        column = wrong.start() + 1 if wrong else len(body.rstrip()) + 1
        raise WrongError(
            column, "not hexadecimal bytes", f"after the first {DATA} only lines such as 0040: 00ff12 are read"
        ) from None


# -- faults


def _fault(lines: list[str], where: str, number: int, wrong: WrongError) -> AsmError:
    """Return the error with file, line and column, the line itself and a caret under the spot."""
    line, column = lines[number - 1], wrong.column
    first = max(0, column - 1 - SHOWN)
    before, after = printable(line[first : column - 1]), printable(line[column - 1 : column - 1 + SHOWN])
    pad = "".join("\t" if c == "\t" else " " for c in before)
    return AsmError(f"{wrong.message}\n{before}{after}\n{pad}^", f"{where}:{number}:{column}", wrong.hint)


def _together(faults: list[AsmError]) -> AsmError:
    first, *others = faults
    if not others:
        return first
    text = "\n".join([str(AsmError(first.message, hint=first.hint)), *map(str, others)])
    return AsmError(text, first.where)
