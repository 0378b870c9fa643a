"""A lane of the vector engine in SystemVerilog against the shared arithmetic; faults planted in it are shown."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from npu_isa.machine.numerics import MAX_MULTIPLIER, look_up, requantize
from npu_sim.rtl.build import CACHE, compile_model, sources

from tests.rtl_models import missing_tools

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())]

HERE = Path(__file__).parent
PARTS = [f for f in sources() if f.stem in ("npu_pkg", "vector_lane", "lane_table")]
SLOT = ("param_write", "table_write", "row", "word", "sum_write", "residual", "go")
SLOT += ("product", "leaky", "adds", "look_up", "low", "high")
CORNERS = (-(1 << 31), -(1 << 31) + 1, -1, 0, 1, (1 << 31) - 1)
MULTIPLIERS = (-MAX_MULTIPLIER, -1, 0, 1, MAX_MULTIPLIER)


def extreme(rng, corners, low, high):
    """Return a number of a range, often one of its corners."""
    return int(rng.choice(corners)) if rng.random() < 0.5 else int(rng.integers(low, high + 1))


def lane_slots(rng, blocks):
    """Return slots, a row of numbers each, and what the lane has to make of them by npu_isa.machine.numerics.

    Each block reads its parameters right behind the last value of the one before; some are a new table.
    """
    slots, expected, table = [], [], np.zeros(256, np.uint8)

    def put(**values):
        slots.append([values.get(name, 0) for name in SLOT])

    for block in range(blocks):
        if block % 8 == 0:
            table = rng.integers(0, 256, 256, dtype=np.uint8)
            for row, word in enumerate(table.view("<u4").tolist()):
                put(table_write=1, row=row, word=word)
        bias, shift = extreme(rng, CORNERS, CORNERS[0], CORNERS[-1]), extreme(rng, (1, 47), 1, 47)
        mult, second = (extreme(rng, MULTIPLIERS, MULTIPLIERS[0], MULTIPLIERS[-1]) for _ in range(2))
        for i, word in enumerate((bias, mult & 0xFFFF | shift << 16, second & 0xFFFF)):
            put(param_write=1 << i, word=word & 0xFFFFFFFF)
        kind = str(rng.choice(["plain", "leaky", "residual", "product"]))
        limits = [(-128, 127), (0, 255), (-7, 100), (-32768, 32767)][int(rng.integers(4))]
        looks = int(limits[1] < 256 and rng.random() < 0.5)
        for _ in range(int(rng.integers(1, 6))):
            acc, res = extreme(rng, CORNERS, CORNERS[0], CORNERS[-1]), extreme(rng, (-128, 255), -128, 255)
            acc = extreme(rng, (-128, 0, 255), -128, 255) if kind == "product" or rng.random() < 0.3 else acc
            flags = {"low": limits[0], "high": limits[1], "look_up": looks, "go": 1, "residual": res}
            flags |= {"leaky": int(kind == "leaky"), "adds": int(kind == "residual"), "product": int(kind == "product")}
            if kind == "product":
                put(sum_write=1, word=acc & 0xFFFFFFFF)
                put(**flags)
            else:
                put(sum_write=1, word=acc & 0xFFFFFFFF, **flags)
            more = {} if kind in ("plain", "leaky") else {"residual": np.int64(res)}
            more |= {kind: True} if kind in ("leaky", "product") else {}
            scale = (np.int64(v) for v in (bias, mult, shift))
            value = requantize(np.int64(acc), *scale, *limits, mult2=np.int64(second), **more)
            value = look_up(value, table, unsigned=True) if looks else value
            expected.append(int(value) & 0xFFFF)
            if rng.random() < 0.2:
                put()
    return slots, expected


def results(files: Sequence[Path], slots: list[list[int]], argument: str = "") -> list[int]:
    """Return what comes out of the lane made of these files."""
    made = compile_model([*files, HERE / "rtl_lane.sv"], "rtl_lane", HERE / "rtl_lane.cpp", {}, ["-Wall"], CACHE)
    text = "\n".join(" ".join(map(str, slot)) for slot in slots)
    done = subprocess.run([str(made), argument], input=text, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_a_lane_does_the_shared_arithmetic():
    """Bias, both multipliers, residual, product, rounding, clamp and table of random and extreme numbers, gapless."""
    slots, expected = lane_slots(np.random.default_rng(0), 4000)
    assert results(PARTS, slots) == expected


FAULTS = {
    "a product of unsigned bytes": ("vector_lane", "sum[8:0]", "{1'b0, sum[7:0]}"),
    "a row is biased": ("vector_lane", "raw[2]", "1'b0"),
    "leaky looks at the sum without bias": ("vector_lane", "biased < 0", "sum < 0"),
    "the residual comes a stage early": ("vector_lane", "(res3)", "(res2)"),
    "the shift does not travel": ("vector_lane", "shift3;", "shift;"),
    "nothing is rounded": ("vector_lane", "50'sd1", "50'sd0"),
    "clamped to 8 bits of the limit": ("vector_lane", "32'(high_5)", "32'(high_5[7:0])"),
    "a table by signed bytes": ("lane_table", "value[7:0]", "value[7:0] ^ 8'h80"),
    "rows of a table fall on the first": ("lane_table", "32'(row)", "32'd0"),
    "everything is looked up": ("lane_table", "look_up ?", "1'b1 ?"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> list[Path]:
    """The sources with all faults, each switched on by an argument."""
    text = {f.stem: f.read_text(encoding="utf-8") for f in PARTS}
    for number, (file, right, wrong) in enumerate(FAULTS.values()):
        end = right[-2:] if right[-2:] == " ?" else right[-1:] if right[-1:] == ";" else ""
        right, wrong = right.removesuffix(end), wrong.removesuffix(end)
        assert text[file].count(right + end) == 1, (file, right)
        text[file] = text[file].replace(right + end, f'($test$plusargs("fault{number:02}") ? {wrong} : {right}){end}')
    folder = tmp_path_factory.mktemp("lane")
    for name, content in text.items():
        (folder / f"{name}.sv").write_text(content, encoding="utf-8")
    return [folder / f.name for f in PARTS]


@pytest.mark.parametrize("name", ["none", *FAULTS])
def test_a_fault_in_the_lane_is_shown(faulty, name):
    slots, expected = lane_slots(np.random.default_rng(1), 400)
    argument = "" if name == "none" else f"+fault{[*FAULTS].index(name):02}"
    assert (results(faulty, slots, argument) == expected) == (name == "none")
