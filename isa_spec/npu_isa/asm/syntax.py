"""The assembly language: directives, words and the Lark grammar, made from the tables.

One statement a line, `;` starts a comment. `asm` reads the text, `disasm` writes it; isa_spec/ISA.md describes it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

from npu_isa.file.binary import DialStep, HostNode, HostOutput, InputInfo, LayerInfo, OutputInfo
from npu_isa.isa.tables import RAW, SPECS
from npu_isa.machine.config import MachineConfig

DATA = ".data"
DATA_BLOCKS = ("table", "onnx", "constants")
NONE = "none"
CHANNEL = "channel"
TOKENS = tuple(name for name in RAW["header"] if name != "opcode")


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive.

    Attributes:
        value: terminals that may stand behind its name, "" for none; optional if it ends in "?".
        keys: names that may be given as key=value.
        doc: for people.
    """

    value: str
    keys: tuple[str, ...]
    doc: str


def _keys(kind: type, *without: str) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.name not in without)


DIRECTIVES = {
    "model": Directive("STRING", (), "name of the network; default: the name of the file"),
    "machine": Directive(
        "STRING?",
        _keys(MachineConfig),
        "the machine: a shipped one to start from (npu32 if nothing is said), and its keys; may be given in parts",
    ),
    "input": Directive(
        "",
        _keys(InputInfo, "table"),
        "the image. height, width and channels are needed; it lies behind the program, signed, unscaled, pixels as "
        "they are, if nothing else is said; may be given in parts",
    ),
    "output": Directive(
        "",
        _keys(OutputInfo),
        "the result. height, width and channels (whole groups) are needed; it lies behind the input, 8 bits, signed, "
        "unscaled, every channel in its place, if nothing else is said; may be given in parts. A second `name` begins "
        "another result, behind the one before",
    ),
    "dram": Directive("INT", (), "bytes of DRAM in use; default: up to the end of input and outputs"),
    "define": Directive(
        "STRING",
        _keys(LayerInfo, "name"),
        "a layer, numbered from 0 on; default: kind conv, no register, boundaries [0], its output named after it",
    ),
    "dial": Directive("INT", (), "multiply-accumulates that are 100 %; default: those of the last step"),
    "step": Directive("", _keys(DialStep), "the next step of the dial; all keys are needed"),
    "note": Directive("STRING", (), "a remark that the binary keeps"),
    "host": Directive("INT", (), "the host runs the end of the model, with so many multiply-accumulates; see below"),
    "hostnode": Directive("STRING", _keys(HostNode, "name"), "a node that the host runs; all keys are needed"),
    "result": Directive("STRING", _keys(HostOutput, "name"), "an output of the whole model; no shape if it varies"),
    "layer": Directive("(STRING | INT | NONE)", (), "what follows belongs to this layer (name or number), to no tile"),
    "tile": Directive("(INT | NONE)", (), "what follows belongs to this tile of the layer"),
}
# what may be given as name=value behind the first word of a line
NAMES: dict[str, tuple[str, ...]] = {
    **{spec.name: (*(o.name for o in spec.operands), *TOKENS, CHANNEL) for spec in SPECS},
    **{f".{name}": directive.keys for name, directive in DIRECTIVES.items()},
}
HEADS = (*NAMES, DATA)  # first words of lines

_FIXED = r"""
item: NAME "=" value
?value: scalar | list
?scalar: INT | FLOAT | STRING | words
words: WORD ("+" WORD)*
list: "[" [scalar ("," scalar)*] "]"
INT.2: /-?(?:0x[0-9a-fA-F]{1,64}|[0-9]{1,64})(?![\w.])/
FLOAT: /-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![\w.])/
STRING: /"(?:[^"\\]|\\.)*"/
WORD: /[A-Za-z_]\w*/
%ignore /[ \t]+/
%ignore /;.*/
"""


def _either(words: Iterable[str]) -> str:
    return f"/(?:{'|'.join(map(re.escape, sorted(set(words))))})(?!\\w)/"


def grammar() -> str:
    """Return the Lark grammar of one line: a rule for each directive, one for all instructions."""
    rules = [f"?start: instruction | {' | '.join(f'd_{name}' for name in DIRECTIVES)}", "instruction: MNEMONIC item*"]
    for name, d in DIRECTIVES.items():
        rules.append(f"d_{name}: D_{name.upper()} {d.value} {'item*' if d.keys else ''}")
    terminals = {
        "MNEMONIC": [spec.name for spec in SPECS],
        "NAME": [name for names in NAMES.values() for name in names],
        "NONE": [NONE],
        **{f"D_{name.upper()}": [f".{name}"] for name in DIRECTIVES},
    }
    return "\n".join([*rules, *(f"{name}: {_either(words)}" for name, words in terminals.items()), _FIXED])
