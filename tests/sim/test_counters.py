"""Counters: every cycle of every engine by cause, against the twin that watches each cycle, and by hand."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_isa.isa.ops import Conv, Engine
from npu_sim.activity import ACTIVITY, CAUSES
from npu_sim.counters import (
    EngineRow,
    MatrixUse,
    engine_rows,
    ideal_cycles,
    layer_cycles,
    matrix_use,
    spent,
    trace_events,
)
from npu_sim.fast.time.model import Timing, simulate

from tests.bench_programs import small_machine
from tests.hand_programs import PORTS, TOKEN_FULL, hand
from tests.naive_timing import FRONT, NAMES, Twin
from tests.timing_models import Case, causes_of, random_case

SEEDS = range(0, 60, 2)


def split(row: EngineRow) -> dict[str, int]:
    return {cause: n for cause, n in zip(CAUSES, row.cycles, strict=True) if n}


def timed(case: Case) -> tuple[Timing, tuple[EngineRow, ...]]:
    timing = simulate(case.ops, case.machine, case.boundaries[-1])
    return timing, engine_rows(timing, case.ops, spent(timing, case.ops))


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_are_what_the_twin_saw(seed):
    case = random_case(seed)
    twin = Twin(case.ops, case.machine, case.boundaries[-1]).run()
    timing, rows = timed(case)
    assert timing.fetch_bytes == twin.bus_cycles[FRONT] * case.machine.dram_bytes_per_cycle
    assert timing.total_dram_bytes == sum(twin.bus_cycles.values()) * case.machine.dram_bytes_per_cycle
    assert [row.engine for row in rows] == [NAMES[e] for e in Engine]
    for engine, row in zip(Engine, rows, strict=True):
        assert split(row) == causes_of(twin)[NAMES[engine]]
        assert row.total_cycles == sum(row.cycles) == twin.total_cycles
        assert row.instructions == sum(op.engine == engine for op in case.ops[:-1])
        assert row.dram_bytes == twin.bus_cycles[engine] * case.machine.dram_bytes_per_cycle


def test_a_full_fifo_by_hand():
    """The times stand in test_timing.py: 32, behind 23 of the program's 11 words (22 bursts, latency 1)."""
    ops, machine = hand(TOKEN_FULL, {"token_depth": 2, "dram_latency_cycles": 1, "dram_burst_bytes": 16})
    timing = simulate(ops, machine, ())
    load, matrix, vector, store = engine_rows(timing, ops, spent(timing, ops))
    assert split(load) == {"fetch": 23, "queue": 1, "busy": 5, "token_full": 23, "idle": 3}
    assert split(matrix) == {"idle": 55}
    assert split(vector) == {"fetch": 23, "queue": 6, "setup": 1, "busy": 13, "idle": 12}
    assert split(store) == {"fetch": 23, "queue": 8, "token_vector": 19, "busy": 3, "dram": 1, "idle": 1}
    assert (load.dram_bytes, store.dram_bytes) == (80, 48)


def test_ports_by_hand():
    """The times stand in test_timing.py: 66, behind 36 of the program's 8 words (4 bursts, latency 20)."""
    ops, machine = hand(PORTS, {})
    timing = simulate(ops, machine, ())
    load, matrix, vector, store = engine_rows(timing, ops, spent(timing, ops))
    assert split(load) == {"fetch": 36, "queue": 7, "port": 25, "busy": 4, "idle": 30}
    assert split(matrix) == {"fetch": 36, "queue": 3, "setup": 2, "weights": 16, "port": 11, "stream": 4, "idle": 30}
    assert split(vector) == {"fetch": 36, "queue": 1, "setup": 1, "busy": 23, "idle": 41}
    assert split(store) == {"fetch": 36, "queue": 6, "port": 30, "busy": 4, "idle": 26}


def test_waits_for_words_by_hand():
    """The times stand in test_timing.py: 101 words through a buffer of 64, which wait for 84 + 32 + 32 cycles.

    The last geom before a wait has worked when it begins; the last vgeom works in its first cycle.
    """
    ops, machine = hand("geom\nvgeom\n" * 50 + "halt", {"instruction_words": 64})
    timing = simulate(ops, machine, ())
    _, matrix, vector, _ = engine_rows(timing, ops, spent(timing, ops))
    assert timing.total_cycles == 249
    assert split(matrix) == {"fetch": 84 + 32 + 32, "queue": 50, "setup": 50, "idle": 1}
    assert split(vector) == {"fetch": 84 + 31 + 31, "queue": 53, "setup": 50}


def test_a_row_that_does_not_add_up_cannot_be_made():
    good = (5, *[0] * (len(CAUSES) - 1))
    EngineRow("load", 5, good, 1, 0)
    with pytest.raises(AssertionError):
        EngineRow("load", 6, good, 1, 0)
    with pytest.raises(AssertionError):
        EngineRow("load", 4, (5, -1, *good[2:]), 1, 0)


# -- layers


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(1, 99)), min_size=1, max_size=12))
def test_layers_own_what_they_move_the_finish_line_by(ends):
    """Cycle c belongs to the first layer that ends after it; what follows every layer's end, to the last layer."""
    timing = only_ends([end for _, end in ends])
    own = layer_cycles(timing, np.array([layer for layer, _ in ends], np.int32), 5)
    expected = [0] * 5
    for cycle in range(timing.total_cycles):
        open_layers = [layer for layer in range(5) if any(at == layer and end > cycle for at, end in ends)]
        expected[open_layers[0] if open_layers else 4] += 1
    assert own.tolist() == expected


def only_ends(ends: list[int]) -> Timing:
    table = simulate(*hand("load run=16\nhalt", {}), ()).table.repeat(len(ends), axis=0)
    timing = Timing(max(ends), 0, np.zeros(1, np.int64), table, np.zeros(len(ends), ACTIVITY), 64)
    timing.end[:] = ends
    return timing


@pytest.mark.parametrize("seed", SEEDS)
def test_layers_sum_to_the_total(seed):
    case = random_case(seed)
    timing, _ = timed(case)
    rng = np.random.default_rng(seed)
    for layers in (1, 4):
        layer_of = rng.integers(-1, layers, len(case.ops)).astype(np.int32)
        assert layer_cycles(timing, layer_of, layers).sum() == timing.total_cycles


# -- the array


def test_a_full_pass_by_hand():
    """16 channels on 16 rows and columns, 4 pixels in 8 bits: every PE useful in 4 of 102 cycles."""
    ops, machine = hand(PORTS, {})
    timing = simulate(ops, machine, ())
    row = engine_rows(timing, ops, spent(timing, ops))[Engine.MATRIX]
    use = matrix_use(machine, row, macs8=4 * 16 * 16, macs4=0)
    pes = 2 * 16 * 16
    assert use == MatrixUse(4 * pes, 0, 0, 16 * pes, 82 * pes, 102 * pes)
    assert use.utilization_percent == pytest.approx(100 * 4 / 102)
    assert ideal_cycles(machine, 4 * 16 * 16, 0) == 4
    half = matrix_use(machine, row, macs8=0, macs4=4 * 16 * 16)
    assert (half.useful, half.padding) == (2 * pes, 2 * pes)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_array_is_never_more_useful_than_it_streams(seed):
    """All multiplications of the convs, zeros of padding included, fit into the cycles that stream."""
    case = random_case(seed)
    timing, rows = timed(case)
    macs = [0, 0]
    for op in case.ops:
        if isinstance(op, Conv):
            register, boundaries = op.geom.register, case.boundaries[-1]
            low = op.low_places(boundaries[register] if register < len(boundaries) else 0)
            of_place = op.pixels * op.taps * 16 * case.machine.array_cols
            macs[0] += (op.group_count - low) * of_place
            macs[1] += low * of_place
    use = matrix_use(case.machine, rows[Engine.MATRIX], *macs)
    pes = 2 * case.machine.array_rows * case.machine.array_cols
    assert use.total == pes * timing.total_cycles
    assert use.useful + use.padding == pes * split(rows[Engine.MATRIX]).get("stream", 0)


def test_more_useful_work_than_cycles_is_a_bug():
    row = EngineRow("matrix", 1, (1, *[0] * (len(CAUSES) - 1)), 1, 0)
    machine = small_machine(16)
    matrix_use(machine, row, macs8=8 * 16, macs4=0)
    with pytest.raises(AssertionError):
        matrix_use(machine, row, macs8=8 * 16 + 1, macs4=0)


# -- the timeline


@pytest.mark.parametrize("seed", SEEDS)
def test_trace_events_of_a_track_never_overlap(seed):
    case = random_case(seed)
    timing, rows = timed(case)
    found = json.loads(json.dumps(trace_events(timing, case.ops, [f"op {i}" for i in range(len(case.ops))])))
    names = {e["tid"]: e["args"]["name"] for e in found if e["ph"] == "M"}
    for engine, row in zip(Engine, rows, strict=True):
        assert names[int(engine)] == row.engine
        slices = sorted((e["ts"], e["ts"] + e["dur"]) for e in found if e["ph"] == "X" and e["tid"] == engine)
        assert all(a[1] <= b[0] for a, b in pairwise(slices))
        assert all(0 <= first < end <= timing.total_cycles for first, end in slices)
        working = {c: n for c, n in split(row).items() if c in ("stream", "bank", "busy", "dram")}
        short = int(timing.activity["short_cycles"][[op.index for op in case.ops[:-1] if op.engine == engine]].sum())
        assert sum(end - first for first, end in slices) == sum(working.values()) + short
