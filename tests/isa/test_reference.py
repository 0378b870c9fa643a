"""The reference page is what the tables say, and says something about everything."""

from dataclasses import fields

import pytest
from npu_isa.asm.reference import HASHES, PAGE, attribute_docs, page, write
from npu_isa.asm.syntax import DIRECTIVES
from npu_isa.errors import NpuError
from npu_isa.file.binary import Binary, DialStep, InputInfo, LayerInfo, OutputInfo
from npu_isa.file.manifest import to_parts
from npu_isa.isa.tables import SPECS, TIMING
from npu_isa.machine.config import MachineConfig

from tests.binaries import small_binary


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m npu_isa.asm.reference"


def test_page_names_everything():
    text = page()
    for spec in SPECS:
        assert f"### {spec.name}\n\nOpcode {spec.opcode:#04x}, engine {spec.engine}." in text
        part = text.partition(f"### {spec.name}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
        assert [line.split("`")[1] for line in part.splitlines() if line.startswith("| `")] == [
            o.name for o in spec.operands
        ]
    arrays, manifest = to_parts(small_binary(0))
    parts = [*manifest["machine"], *manifest["input"], *manifest["outputs"][0], *manifest["layers"][0]]
    for name in (*TIMING, *arrays, *manifest, *parts):
        assert f"| `{name}` |" in text
    for name in DIRECTIVES:
        assert f"| `.{name}" in text


def test_rows_of_the_tables_worked_out_by_hand():
    text = page()
    assert "| `tile_w` | 104:93 | 1..4095 | output columns of the tile |" in text
    assert "| `fence` | 183 | 0..1 | 1: start only when" in text
    assert "| `shift` | 154:152, 16 times: element i is 3i higher | 0..4 | s_act of the place; dynamic:" in text
    assert "| `memory` | 17:16 | 0 act, 1 weight, 2 param |" in text
    assert "| `pad_left` | 83:71 | -4096..4095 |" in text
    assert "| `clock_hz` | 500000000.0 | 1000000000.0 | 1000000000.0 |" in text


@pytest.mark.parametrize("kind", [MachineConfig, Binary, InputInfo, OutputInfo, LayerInfo, DialStep])
def test_every_attribute_is_explained(kind):
    assert set(attribute_docs(kind)) == {f.name for f in fields(kind)}
    assert all(attribute_docs(kind).values())
    assert HASHES.keys() == to_parts(small_binary(0))[1].keys() - attribute_docs(Binary).keys()


def test_page_is_written_whole(tmp_path, monkeypatch):
    write(tmp_path / "ISA.md")
    assert (tmp_path / "ISA.md").read_text(encoding="utf-8") == page()
    monkeypatch.setattr("npu_isa.asm.reference.EXAMPLE", tmp_path / "none.s")
    with pytest.raises(NpuError, match="belongs to the source tree"):
        write(tmp_path / "other.md")
    assert not (tmp_path / "other.md").exists()
