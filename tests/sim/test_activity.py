"""The activity of instructions against counting it out, one pixel, tap and word after the other."""

import numpy as np
import pytest
from npu_isa.isa.ops import Conv, Fold, Load, Memory, Source, Store, Table, Vec
from npu_sim.activity import ACTIVITY
from npu_sim.fast.time.model import TimingModel
from npu_sim.random_programs.machines import random_machine
from npu_sim.random_programs.programs import random_program

from tests import naive_durations as durations


def conv_counts(op: Conv, boundary: int, machine) -> dict[str, int]:
    """Each pass lists its entries; each pixel goes through every pass."""
    g, rows = op.geom, machine.array_rows
    found = dict.fromkeys(("macs8", "macs4", "act_reads", "acc_reads", "acc_writes", "passes"), 0)
    adds = op.accumulate
    for form in (4, 8):
        places = [p for p in range(op.group_count) if (op.group_first + p < boundary) == (form == 4)]
        taps = [(ky, kx) for ky in range(g.kernel_h) for kx in range(g.kernel_w)]
        pairs = [(t, p) for p in places for t in taps] if g.tap_fastest else [(t, p) for t in taps for p in places]
        channels = 2 * rows if form == 4 else rows  # of a pass
        part = min(channels, 16 if form == 4 else 8)  # that stand in one segment
        entries = [
            ky * g.dilation_y * g.row_pitch + kx * g.dilation_x * g.pixel_pitch + op.groups[p]
            for (ky, kx), p in pairs
            for _ in range(16 // part)
        ]
        for words in durations.chunks(entries, channels // part):
            found["passes"] += 1
            found[f"macs{form}"] += op.pixels * machine.array_cols * channels
            found["act_reads"] += op.pixels * len(set(words))
            found["acc_reads"] += op.pixels * adds
            found["acc_writes"] += op.pixels
            adds = 1
    positions = -(-machine.array_cols // 32)
    found["weight_reads"] = op.group_count * (positions + op.taps * machine.array_cols)
    return found


def vec_counts(op: Vec) -> dict[str, int]:
    found = dict.fromkeys(("act_reads", "act_writes", "acc_reads", "table_reads"), 0)
    g = op.geom
    for _ in range(op.pixels):
        found["acc_reads"] += g.source == Source.ACC
        found["act_reads"] += op.words * (0 if g.source == Source.ACC else g.kernel_h * g.kernel_w)
        found["act_reads"] += op.words * g.residual
        found["act_writes"] += op.words * (2 if g.wide else 1)
        found["table_reads"] += op.lanes if g.table else 0
    found["param_reads"] = 3 + (-(-g.kernel_h * g.kernel_w // 4) if g.source == Source.MAC else 0)
    return found


def transfer_counts(op: Load | Fold | Store, boundary: int, machine) -> dict[str, int]:
    runs = op.rows * op.cols
    blocks = durations.blocks(op, boundary, machine)
    found = {"dram_bursts": sum(blocks) * machine.dram_bytes_per_cycle // machine.dram_burst_bytes}
    if isinstance(op, Fold):
        return found | {"act_writes": runs * op.words}
    if isinstance(op, Store):
        return found | {"act_reads": runs * (op.run // 16)}
    unit = 4 * machine.array_cols if op.memory == Memory.PARAM else 16
    name = {Memory.ACT: "act", Memory.WEIGHT: "weight", Memory.PARAM: "param"}[Memory(op.memory)]
    return found | {f"{name}_writes": runs * (op.run // unit)}


@pytest.mark.parametrize("seed", range(25))
def test_activity_as_counted_out(seed):
    rng = np.random.default_rng(seed)
    p = random_program(rng, random_machine(rng), 3)
    model = TimingModel(p.ops, p.machine)
    for boundaries in ((0,) * p.registers, p.boundaries(rng)):
        table = model.simulate(boundaries).activity
        for op in p.ops[:-1]:
            register = op.geom.register if isinstance(op, Conv) else getattr(op, "register", 255)
            boundary = boundaries[register] if register < len(boundaries) else 0
            match op:
                case Conv():
                    want = conv_counts(op, boundary, p.machine)
                    want |= {n: int(table[n][op.index]) for n in ("stream_cycles", "bank_cycles", "short_cycles")}
                    pes = p.machine.array_rows * p.machine.array_cols
                    assert 2 * want["macs8"] + want["macs4"] == 2 * pes * want["stream_cycles"]
                case Vec():
                    want = vec_counts(op)
                case Table():
                    want = dict.fromkeys(("param_reads", "table_writes"), durations.table_cycles(p.machine))
                case Load() | Fold() | Store():
                    want = transfer_counts(op, boundary, p.machine)
                case _:
                    want = {}
            expected = dict.fromkeys(ACTIVITY.names, 0) | want
            assert dict(zip(ACTIVITY.names, table[op.index].item(), strict=True)) == expected, op
