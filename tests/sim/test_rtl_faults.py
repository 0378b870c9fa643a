"""Faults planted in the RTL: each must show as a difference on a few random programs.

The sources are copied with every fault in them, each switched on by an argument of the compiled simulator.
"""

from dataclasses import replace
from functools import cache

import pytest
from npu_isa.isa.ops import Conv
from npu_sim.fast.time.model import simulate
from npu_sim.random_programs.machines import RTL_SIZES, with_sizes
from npu_sim.random_programs.programs import RandomProgram
from npu_sim.rtl.build import build, sources
from npu_sim.rtl.compare import Agreement, compare
from npu_sim.rtl.run import run

from tests.bench_programs import positions_bench, small_machine
from tests.rtl_models import missing_tools, naive_memories, random_case, token_case

ARRAY = RTL_SIZES[4]  # three segments, three banks
PROGRAMS = 20  # the last two are about positions

FAULTS = {  # file, expression, wrong expression
    "shadow weights are overwritten a cycle too early": (
        *("matrix_control", "npu_pkg::SHADOW_FREE_CYCLES - 1", "npu_pkg::SHADOW_FREE_CYCLES - 2"),
    ),
    "extraction does not round": ("lower4", "(5'd1 << s) >> 1", "5'd0"),
    "s_wgt is not shifted": ("segment", "4'(tag_i.s_act) + 4'(s_wgt)", "4'(tag_i.s_act)"),
    "unsigned activations are signed": ("multiplier", "act[7] & ~is_unsigned", "act[7]"),
    "shadow weights are used before the swap": ("pe", "lane_i.flags.swap ? shadow : active", "shadow"),
    "a position is that of one byte fewer": (
        "act_position",
        "magnitudes | (group[c] ^ {8{group[c][7] & ~is_unsigned}})",
        "c == 15 ? magnitudes : magnitudes | (group[c] ^ {8{group[c][7] & ~is_unsigned}})",
    ),
    "nothing is clipped": ("act_position", "asked > clip ? asked - clip : '0", "asked"),
    "positions of signed values are those of unsigned ones": (
        *("act_position", "is_unsigned ? magnitudes[7:4] : magnitudes[6:3]", "magnitudes[7:4]"),
    ),
    "static positions are found too": ("act_path", "is_dynamic_qq ? asked : s_act_qq", "asked"),
    "a token given while one is taken is lost": ("token_inbox", "17'(given[e])", "take ? 17'd0 : 17'(given[e])"),
    "the end comes a cycle too early": ("matrix_engine", "trace_last[COLS-1]", "trace_last[COLS-2]"),
    "a word that is read twice takes two turns": ("pass_planner", "!again[j]", "1'b1"),
    "words of a pixel are not kept": ("act_path", "(arrives_q)", "1'b1"),
    "column 0 of the image is padding": ("pixel_stream", "x >= 0", "x > 0"),
    "accumulate overwrites": ("matrix_engine", "!pass_first || conv.accumulate", "!pass_first"),
    "ports of the last taps' region are not taken": ("region_mask", "28'(taps) * 28'(dilation)", "28'd0"),
    "taps never run fastest": ("entry_walker", "geom.tap_fastest || last_place", "last_place"),
    "the boundary is not cut to the places covered": ("matrix_control", "below < conv.group_count", "1'b1"),
    "room counts in the cycle of the pop": (
        "completion_queue",
        "room_left[e] == '0",
        "(room_left[e] | 17'(taken[e])) == '0",
    ),
    "accepts while an end waits for room": ("matrix_control", "!end_blocked", "1'b1"),
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The sources with all faults."""
    text = {f.stem: f.read_text(encoding="utf-8") for f in sources()}
    for number, (file, right, wrong) in enumerate(FAULTS.values()):
        assert text[file].count(right) == 1, (file, right)
        text[file] = text[file].replace(right, f'($test$plusargs("fault{number:02}") ? ({wrong}) : ({right}))')
    made = tmp_path_factory.mktemp("faults")
    for name, content in text.items():
        (made / f"{name}.sv").write_text(content, encoding="utf-8")
    return made


@cache
def expected(seed):
    """A program, its times, its memories."""
    if seed >= PROGRAMS - 2:
        p, images = positions_bench(with_sizes(small_machine(), ARRAY), seed % 2)
        boundaries, image = p.legal[0][-1:], images[0]
    else:
        p, boundaries, image = (token_case if seed % 3 == 2 else random_case)(seed, ARRAY)
    return p, boundaries, simulate(p.ops, p.machine, boundaries), *naive_memories(p, boundaries, image)


def run_with(folder, seed: int, argument: str) -> Agreement:
    """Run a program on the copied sources, with an argument for their simulator."""
    p, boundaries, timing, writes, sums = expected(seed)
    simulator = build(p.machine, [folder / f.name for f in sources()])
    script = folder / f"run{argument}"
    script.write_text(f"#!/bin/sh\nexec {simulator} {argument}\n")
    script.chmod(0o755)
    rtl = run(p.instructions, p.machine, timing, writes, boundaries, simulator=script)
    return compare(rtl, p.ops, p.machine, timing, sums, boundaries)


def extractions(p: RandomProgram) -> set[int]:
    return {op.geom.dynamic for op in p.ops if isinstance(op, Conv)}


def test_no_fault(folder):
    """Switched off, none of the planted text changes anything."""
    assert [run_with(folder, seed, "").difference for seed in range(PROGRAMS)] == [None] * PROGRAMS


@pytest.mark.parametrize("name", FAULTS)
def test_fault(folder, name):
    argument = f"+fault{[*FAULTS].index(name):02}"
    found = next((s for s in range(PROGRAMS) if run_with(folder, s, argument).difference), None)
    assert found is not None


def test_an_engine_without_the_register_for_positions():
    """Programs of static convs, on the RTL of a machine that does not have it."""
    seeds = [s for s in range(PROGRAMS) if s % 3 < 2 and extractions(expected(s)[0]) == {0}]
    assert seeds
    for seed in seeds:
        p, boundaries, timing, writes, sums = expected(seed)
        simulator = build(replace(p.machine, dynamic_extraction=False))
        rtl = run(p.instructions, p.machine, timing, writes, boundaries, simulator=simulator)
        assert compare(rtl, p.ops, p.machine, timing, sums, boundaries).difference is not None
