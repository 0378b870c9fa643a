"""The machine description: every rule, every kind of wrong file, and the shipped machines."""

import hashlib
import json
from dataclasses import field, fields, make_dataclass, replace

import pytest
from npu_isa.errors import MachineError
from npu_isa.machine.config import SHIPPED, MachineConfig, load_machine, machine_from_dict

BASE = load_machine("npu32")
BROKEN = [
    ({"name": ""}, "name is empty or not printable"),
    ({"name": "a\nb"}, "name is empty or not printable"),
    ({"clock_hz": 0.0}, "clock_hz = 0.0: must be above 0 and below 1e15"),
    ({"clock_hz": float("nan")}, "clock_hz = nan: must be above 0 and below 1e15"),
    ({"clock_hz": 1e15}, "clock_hz = 1000000000000000.0: must be above 0 and below 1e15"),
    ({"acc_rows": 0}, "acc_rows = 0: must be positive"),
    ({"dram_bytes": -1}, "dram_bytes = -1: must be positive"),
    ({"array_rows": 12}, "array_rows = 12: must be 2, 4 or a multiple of 8"),
    ({"array_rows": 1032, "act_banks": 256}, "array_rows = 1032: at most 1024"),
    ({"array_cols": 24, "param_memory_bytes": 96}, "array_cols = 24: must be 2, 4, 8 or a multiple of 16"),
    ({"array_cols": 528, "act_banks": 64, "param_memory_bytes": 2112}, "array_cols = 528: at most 512"),
    ({"weight_rows_per_cycle": 3}, "weight_rows_per_cycle = 3: must divide array_rows = 32"),
    ({"act_banks": 2, "dram_bytes_per_cycle": 32}, "act_banks = 2: a pass reads 4 words per cycle (array_rows / 8)"),
    (
        {"array_cols": 144, "param_memory_bytes": 576},
        "act_banks = 8: the vector engine writes 9 words per cycle",
    ),
    (
        {"dram_bytes_per_cycle": 256, "dram_burst_bytes": 256},
        "act_banks = 8: 128 bytes per cycle cannot take dram_bytes_per_cycle = 256",
    ),
    ({"act_region_bytes": 200}, "act_region_bytes = 200: must be a multiple of act_banks x 16 = 128"),
    ({"act_region_bytes": 1 << 27}, "act_region_bytes = 134217728: four regions exceed 2^24 words"),
    ({"weight_memory_bytes": 24}, "weight_memory_bytes = 24: must be a multiple of 16, at most 2^28"),
    ({"weight_memory_bytes": 1 << 29}, "weight_memory_bytes = 536870912: must be a multiple of 16, at most 2^28"),
    ({"param_memory_bytes": 64}, "param_memory_bytes = 64: must be a multiple of 4 x array_cols = 128"),
    ({"param_memory_bytes": 128 * 65537}, "at most 65536 rows"),
    ({"acc_rows": 65537}, "acc_rows = 65537: at most 65536 (field acc_row of conv)"),
    ({"dram_burst_bytes": 32}, "dram_burst_bytes = 32: must be a multiple of dram_bytes_per_cycle = 64"),
    ({"dram_burst_bytes": 192}, "dram_burst_bytes = 192: must divide the arbitration block of 1024 bytes"),
    ({"dram_bytes": (1 << 32) + 1}, "dram_bytes = 4294967297: at most 2^32 (field dram_addr)"),
    ({"vector_taps": 256}, "vector_taps = 256: must be in 1..255"),
    ({"dram_latency_cycles": 1 << 21}, "dram_latency_cycles = 2097152: must be in 1..1048576"),
    ({"instruction_words": 1 << 25}, "instruction_words = 33554432: must be in 64..16777216"),
    ({"instruction_words": 80}, "instruction_words = 80: the fetch buffer holds whole blocks of 32 instructions"),
    ({"instruction_words": 32}, "instruction_words = 32: must be in 64..16777216"),
    ({"queue_depth": 1}, "queue_depth = 1: must be in 2..65536"),
    ({"token_depth": 65537}, "token_depth = 65537: must be in 2..65536"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=lambda x: "-".join(x) if isinstance(x, dict) else "")
def test_rule(change, message):
    found = replace(BASE, **change).problems()
    assert len(found) == 1
    assert message in found[0]


def test_every_broken_rule_is_reported_at_once():
    machine = replace(BASE, array_rows=12, weight_rows_per_cycle=5, dram_burst_bytes=48, queue_depth=1)
    with pytest.raises(MachineError) as error:
        machine.check("edge.toml")
    assert str(error.value) == (
        "edge.toml: 5 rule(s) of the machine broken:\n"
        "  - array_rows = 12: must be 2, 4 or a multiple of 8\n"
        "  - weight_rows_per_cycle = 5: must divide array_rows = 12\n"
        "  - dram_burst_bytes = 48: must be a multiple of dram_bytes_per_cycle = 64\n"
        "  - dram_burst_bytes = 48: must divide the arbitration block of 1024 bytes\n"
        "  - queue_depth = 1: must be in 2..65536\n"
        "  hint: see `npu hardware show npu32` for a consistent description"
    )


def test_wrong_keys_are_reported_together():
    data = BASE.to_dict() | {"array_rows": "32", "act_banks": True, "clock_hz": None, "name": 5}
    data["dynamic_extraction"] = 1
    data["qeue_depth"] = data.pop("queue_depth")
    data["colour"] = "red"
    with pytest.raises(MachineError) as error:
        machine_from_dict(data, "edge.toml")
    assert str(error.value) == (
        "edge.toml: 8 problem(s):\n"
        "  - unknown key 'qeue_depth', did you mean 'queue_depth'?\n"
        "  - unknown key 'colour'\n"
        "  - name = 5: must be a text\n"
        "  - array_rows = '32': must be a whole number\n"
        "  - dynamic_extraction = 1: must be true or false\n"
        "  - act_banks = True: must be a whole number\n"
        "  - missing key 'queue_depth'\n"
        "  - clock_hz = None: must be a number\n"
        "  hint: see `npu hardware show npu32` for every key"
    )


def test_clock_may_be_a_whole_number_of_any_size():
    assert machine_from_dict(BASE.to_dict() | {"clock_hz": 5}, "").clock_hz == 5.0
    with pytest.raises(MachineError, match="clock_hz = inf"):
        machine_from_dict(BASE.to_dict() | {"clock_hz": 10**400}, "")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_machines_are_consistent(name):
    machine = load_machine(name)
    assert machine.problems() == []
    assert machine.name == name
    assert machine_from_dict(machine.to_dict(), "") == machine


def test_derived_sizes():
    # 4 regions of 256 KiB in words of 16 bytes; 64 KiB of parameters in rows of 4 bytes x 32 lanes; 32 columns: 2 words
    assert (BASE.act_words, BASE.region_words, BASE.weight_words) == (65536, 16384, 16384)
    assert (BASE.param_rows, BASE.tile_groups) == (512, 2)
    assert replace(BASE, array_cols=4).tile_groups == 1


def test_hash_ignores_name_and_clock_alone():
    assert replace(BASE, name="other", clock_hz=2e9).hash() == BASE.hash()
    for name in (f.name for f in fields(MachineConfig)):
        if name not in ("name", "clock_hz"):
            assert replace(BASE, **{name: getattr(BASE, name) + 1}).hash() != BASE.hash()


def test_a_key_that_comes_later_with_a_default_changes_nothing_for_what_is_there():
    data = BASE.to_dict()
    del data["dynamic_extraction"]
    assert machine_from_dict(data, "") == BASE
    body = {k: v for k, v in data.items() if k not in ("name", "clock_hz")}
    assert BASE.hash() == hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    more = [("colour", int, field(default=3, kw_only=True))]
    later = make_dataclass("Later", more, bases=(MachineConfig,), frozen=True)
    assert later(**BASE.to_dict()).hash() == BASE.hash()
    assert later(**BASE.to_dict(), colour=4).hash() != BASE.hash()


def test_file(tmp_path):
    path = tmp_path / "edge.toml"
    lines = [f"{k} = {json.dumps(v)}" for k, v in replace(BASE, name="edge", acc_rows=256).to_dict().items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert load_machine(path) == replace(BASE, name="edge", acc_rows=256)


def test_file_that_names_a_base(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text('base = "npu16"\nname = "edge"\ndynamic_extraction = true\n', encoding="utf-8")
    assert load_machine(path) == replace(load_machine("npu16"), name="edge", dynamic_extraction=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "npu23"\nname = "edge"', "base = 'npu23': no shipped machine\n  hint: did you mean 'npu32'?"),
        ('base = 32\nname = "edge"', "base = 32: no shipped machine\n  hint: there are npu16, npu32, npu128"),
        (
            'base = "npu32"',
            "1 problem(s):\n  - missing key 'name'\n  hint: see `npu hardware show npu32` for every key",
        ),
        ('base = "npu32"\nname = "e"\nacc_row = 1', "unknown key 'acc_row', did you mean 'acc_rows'?"),
    ],
)
def test_files_with_a_wrong_base(tmp_path, text, message):
    path = tmp_path / "edge.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MachineError) as error:
        load_machine(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("npu23", None, "cannot read the machine description: No such file or directory"),
        ("edge.toml", b"\xff\xfe", "cannot read the machine description: not UTF-8 text"),
        ("edge.toml", b"array_rows = ", "not valid TOML"),
        ("edge.toml", b"array_rows = " + b"[" * 3000, "not valid TOML"),
        ("edge.toml", b"array_rows = " + b"1" * 5000, "not valid TOML"),
    ],
)
def test_unreadable_file(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MachineError) as error:
        load_machine(name)
    assert error.value.where == name
    assert message in error.value.message
    assert ("did you mean 'npu32'?" in error.value.hint) == (name == "npu23")
