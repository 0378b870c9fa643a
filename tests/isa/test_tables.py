"""The table of the instruction set: its loader, and that the code knows the same names."""

import copy
import importlib.util
import sys
import tomllib
from dataclasses import fields

import pytest
from npu_isa.isa import ops, tables
from npu_isa.isa.tables import BY_NAME, ENGINES, RAW, TIMING, docs, read_specs
from npu_isa.machine import numerics
from npu_isa.machine.config import SEGMENT_ROWS, WORD_BYTES


def broken() -> dict:
    """A table with one fault of every kind."""
    raw = copy.deepcopy(RAW)
    halt, geom, groups, conv, vgeom, vec, _, load, fold, store = raw["instruction"]
    halt["comment"] = "x"
    geom["operands"][0]["bits"] = [15, 8]  # in the header
    geom["operands"][1]["wide"] = 1
    groups["operands"][1]["repeat"] = 32  # group: over shift
    groups["engine"] = "matrx"
    conv["opcode"] = groups["opcode"]
    conv["operands"][0]["bits"] = [16, 39]
    vgeom["name"] = "vec"
    vgeom["operands"][0]["names"] = ["acc", "mac"]
    vec["operands"][0]["name"] = "out_y"
    load["operands"][1]["bits"] = [257, 226]
    fold["operands"][1]["min"] = 4096
    store["opcode"] = 256
    return raw


def test_every_contradiction_is_reported_at_once():
    with pytest.raises(ValueError, match="contradicts itself") as error:
        read_specs(broken())
    assert str(error.value).splitlines()[1:] == [
        "  - halt: unknown key(s) comment",
        "  - geom.register: bit 8 belongs to the header",
        "  - geom.kernel_h: unknown key(s) wide",
        "  - groups: unknown engine 'matrx'",
        "  - groups.group: bits 24..279 are outside the word",
        "  - groups.shift: bit 152 belongs to group",
        "  - conv.act_base: bits [16, 39] must be [high, low]",
        "  - vec.source: 2 names for the values 0..3",
        "  - vec.out_y: named twice",
        "  - load.dram_addr: bits 226..257 are outside the word",
        "  - fold.in_h: 4096..4095 does not fit 12 bits",
        "  - store: opcode 256 does not fit 8 bits",
        "  - conv: opcode 0x11 belongs to groups",
        "  - vec: two instructions have this name",
    ]


def test_table_itself_is_consistent():
    assert read_specs(RAW) == tables.SPECS


@pytest.mark.parametrize(
    "kind", [ops.Geom, ops.VGeom, ops.Conv, ops.Vec, ops.Table, ops.Load, ops.Fold, ops.Store], ids=lambda k: k.__name__
)
def test_operations_have_the_operands_of_the_table(kind):
    state = {"index", "pop", "push", "geom", "groups", "shifts"}
    names = [f.name for f in fields(kind) if f.name not in state]
    assert names == [o.name for o in BY_NAME[kind.__name__.lower()].operands]


def test_codes_have_the_names_of_the_table():
    def names(instruction: str, operand: str) -> list[str]:
        return list(next(o.names for o in BY_NAME[instruction].operands if o.name == operand))

    assert [s.name.lower() for s in ops.Source] == names("vgeom", "source")
    assert [m.name.lower() for m in ops.Memory][:3] == names("load", "memory")
    assert [e.name.lower() for e in ops.Engine] == list(ENGINES)


def test_constants_stated_in_code_are_those_of_the_table():
    assert RAW["group_channels"] == ops.GROUP == WORD_BYTES
    assert RAW["segment_rows"] == SEGMENT_ROWS == TIMING["segment_cycles"]
    assert max(o.most for o in BY_NAME["groups"].operands if o.name == "shift") == numerics.MAX_SHIFT_LOWER


def test_everything_is_explained():
    assert [s.name for s in tables.SPECS if not s.summary] == []
    assert [f"{s.name}.{o.name}" for s in tables.SPECS for o in s.operands if not o.doc] == []
    assert docs("timing").keys() == TIMING.keys()
    assert docs("header").keys() == RAW["header"].keys()
    plain = {name for name, value in RAW.items() if isinstance(value, int)}
    assert docs().keys() == plain


def hash_of_table(monkeypatch, change) -> str:
    """The ISA hash that the loader computes after a change of the table."""
    original = tomllib.loads

    def changed(text: str) -> dict:
        data = original(text)
        change(data)
        return data

    monkeypatch.setattr(tomllib, "loads", changed)
    spec = importlib.util.spec_from_file_location("changed_tables", tables.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "changed_tables", module)
    spec.loader.exec_module(module)
    return module.ISA_HASH


def explain_differently(data: dict) -> None:
    data["instruction"][4]["summary"] = data["instruction"][4]["operands"][0]["doc"] = "other words"
    data["instruction"][4]["operands"][0]["names"] = ["a", "b", "c", "d"]
    data["timing"]["setup_cycles"]["doc"] = data["header"]["pop"]["doc"] = "other words"


def slower(data: dict) -> None:
    data["timing"]["setup_cycles"]["value"] = 2


def narrower(data: dict) -> None:
    data["instruction"][4]["operands"][1]["max"] = 7


def test_hash_follows_the_meaning_not_the_words(monkeypatch):
    assert hash_of_table(monkeypatch, explain_differently) == tables.ISA_HASH
    assert hash_of_table(monkeypatch, slower) != tables.ISA_HASH
    assert hash_of_table(monkeypatch, narrower) != tables.ISA_HASH
