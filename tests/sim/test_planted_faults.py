"""The comparisons can fail: faults planted in the simulators, each of which some random program must show.

Timing: constants of the table, rules, masks and machine, and lines of the event loop. Values: every operand that a
simulator might misread, as a program that differs from the one the naive machine runs.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from npu_isa.isa.ops import Conv, Fold, Load, Op, Store, Table, Vec
from npu_isa.isa.tables import TIMING
from npu_isa.machine import blocks
from npu_isa.machine import timing as rules
from npu_sim import counters
from npu_sim.fast.time import model as fast
from npu_sim.fast.values import constants
from npu_sim.random_programs.machines import random_machine
from npu_sim.random_programs.programs import random_program

from tests import naive_machine
from tests.bench_programs import positions_bench, small_machine
from tests.naive_timing import Twin
from tests.planted import ENGINE_RULES, copy_of
from tests.timing_models import Case, difference, random_case
from tests.value_models import assert_same_values, naive, random_images, simulated

SEEDS = range(60)

# -- timing


@cache
def twin_of(seed: int) -> tuple[Case, tuple[int, ...], Twin]:
    case = random_case(seed)
    boundaries = case.boundaries[-1]
    return case, boundaries, Twin(case.ops, case.machine, boundaries).run()


def timing_shows(change: Callable[[Case], Case] = lambda case: case, simulator=fast) -> bool:
    """Whether a simulator as it is now, on a case as changed, differs from the twin on some seed."""
    for seed in SEEDS:
        case, boundaries, twin = twin_of(seed)
        other = change(case)
        if difference(twin, simulator.simulate(other.ops, other.machine, boundaries), case.ops) is not None:
            return True
    return False


def test_nothing_planted_nothing_shown():
    assert not timing_shows()


CONSTANTS = (
    *("dispatch_cycles", "setup_cycles", "shadow_free_cycles", "act_read_cycles", "acc_write_cycles"),
    *("find_position_cycles", "vector_pipeline_cycles", "param_rows"),
)


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("by", [-1, 1])
def test_a_constant_off_by_one(monkeypatch, constant, by):
    monkeypatch.setitem(TIMING, constant, TIMING[constant] + by)
    assert timing_shows()


def test_smaller_blocks_of_the_arbitration(monkeypatch):
    monkeypatch.setitem(TIMING, "dma_block_bytes", TIMING["dma_block_bytes"] // 2)
    monkeypatch.setattr(rules, "block_bursts", lambda m: max(512 // m.dram_burst_bytes, 1))
    assert timing_shows()


RULES = {
    **ENGINE_RULES,
    "burst_cycles": lambda found: found + 1,
    "transfer": lambda found: replace(found, bursts=found.bursts + 1),
    "fetch_bursts": lambda found: (*found[:-1], found[0] + 1),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_wrong_duration(monkeypatch, rule):
    right = getattr(rules, rule)
    monkeypatch.setattr(rules, rule, lambda *args: RULES[rule](right(*args)))
    assert timing_shows()


@pytest.mark.parametrize("wrong", [{"least_cycles": 0}, {"tails": ()}], ids=str)
def test_a_fold_faster_than_a_pixel_per_cycle(monkeypatch, wrong):
    right = rules.transfer
    monkeypatch.setattr(rules, "transfer", lambda *args: replace(right(*args), **wrong))
    assert timing_shows()


MASKS = {
    "no read ports": lambda reads, writes: (0 * reads, writes),
    "no write ports": lambda reads, writes: (reads, 0 * writes),
    "the lowest region alone": lambda reads, writes: (reads & -reads, writes & -writes),
    "reads take write ports": lambda reads, writes: (reads, reads | writes),
}


@pytest.mark.parametrize("mask", MASKS)
def test_wrong_ports(monkeypatch, mask):
    right = fast.regions
    monkeypatch.setattr(fast, "regions", lambda touched, machine: MASKS[mask](*right(touched, machine)))
    assert timing_shows()


def without_a_token(case: Case) -> Case:
    """Drop the last token that the load engine gives to the matrix engine, on both sides."""
    gives = [op.index for op in case.ops if op.push & 2 and op.engine == 0]
    takes = [op.index for op in case.ops if op.pop & 1 and op.engine == 1]
    if not gives:
        return case
    ops = list(case.ops)
    ops[gives[-1]] = replace(ops[gives[-1]], push=ops[gives[-1]].push & ~2)
    ops[takes[-1]] = replace(ops[takes[-1]], pop=ops[takes[-1]].pop & ~1)
    return replace(case, ops=tuple(ops))


def with_machine(**more: int) -> Callable[[Case], Case]:
    """Return a change of the machine by some numbers."""
    return lambda case: replace(
        case, machine=replace(case.machine, **{k: getattr(case.machine, k) + v for k, v in more.items()})
    )


def without_dynamic_extraction(case: Case) -> Case:
    """Let the simulator have a machine that finds no positions."""
    ops = (replace(op, geom=replace(op.geom, dynamic=0)) if isinstance(op, Conv) else op for op in case.ops)
    return replace(case, ops=tuple(ops), machine=replace(case.machine, dynamic_extraction=False))


CHANGES = {
    "a dropped token": without_a_token,
    "no register for positions": without_dynamic_extraction,
    "a deeper queue": with_machine(queue_depth=1),
    "a larger fetch buffer": with_machine(instruction_words=32),
    "deeper token FIFOs": with_machine(token_depth=1),
    "a longer DRAM latency": with_machine(dram_latency_cycles=1),
    "fences ignored": lambda case: replace(
        case, ops=tuple(replace(op, fence=0) if isinstance(op, Vec) else op for op in case.ops)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_program_or_machine(change):
    assert timing_shows(CHANGES[change])


LINES = {
    "vector before matrix": ("loop", "MATRIX if turn == 0 else (VECTOR", "VECTOR if turn == 0 else (MATRIX"),
    "store before vector": ("loop", "(VECTOR if turn == 1 else (STORE", "(STORE if turn == 1 else (VECTOR"),
    "the bus prefers loads": ("bus", '(bus["served"] + turn) % CLIENTS', "turn - 1"),
    "fetch before store": ("bus", '(bus["served"] + turn) % CLIENTS', '(bus["served"] + 2 * turn) % CLIENTS'),
    "streams overlap": ("loop", 'max(weights_at + sizes["weight_load"], stream["end_at"])', "m.times[op, READY]"),
    "shadow overwritten": ("loop", 'max(now, stream["last_at"] + sizes["shadow_free"])', "now"),
    "accepted at the stream's end": ("loop", '= stream["last_at"] + 1', '= stream["end_at"]'),
    "conv ports until the end": ("loop", 'ports.hold(op, stream["end_at"]', "ports.hold(op, m.times[op, WORK_END]"),
    "a place is free at once": ("queues", ", ACCEPT] + 1)", ", ACCEPT])"),
    "own ports block": ("ports", ' and m.ops[s["holder"][side, r], ENGINE] != e:', ":"),
    "FIFOs never full": ("queues", 'and s["room"][e, f] == 0:', "and False:"),
    "accepts while it waits for room": ("queues", "if m.times[before, WORK_END] <= now:", "if False:"),
    "the token that came first": (
        "queues",
        '["missing"] = absent',
        '["missing"] |= absent * (s["queue"][e]["missing"] == 0)',
    ),
    "waits for DRAM not counted": ("bus", '+= now - c["asked_at"]', "+= 0"),
    "the buffer has room at once": ("bus", "m.times[leaves - 1, DISPATCH] + 1", "m.times[leaves - 1, DISPATCH]"),
    "code without latency": ("bus", '] = bus["free_at"] + s["sizes"]["dram_latency"]', '] = bus["free_at"]'),
    "words are not waited for": ("queues", 'max(front["last_at"] + 1, m.there[block])', 'front["last_at"] + 1'),
}


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line_of_the_event_loop(tmp_path, line):
    name = f"time_{list(LINES).index(line)}"
    with copy_of("npu_sim.fast.time", tmp_path, name, LINES[line]):
        assert timing_shows(simulator=importlib.import_module(f"{name}.model"))


def test_the_copy_of_the_event_loop_without_a_fault_shows_nothing(tmp_path):
    with copy_of("npu_sim.fast.time", tmp_path, "time_as_it_is", None):
        assert not timing_shows(simulator=importlib.import_module("time_as_it_is.model"))


def test_waits_for_words_that_are_not_told_from_full_queues(monkeypatch):
    monkeypatch.setattr(counters.FetchWaits, "between", lambda waits, first, end: 0)
    assert timing_shows()


# -- values


def flip(name: str, of: type[Op], **when: int) -> Callable[[Op], Op]:
    """Return a change of a flag of some operations or of their geometry."""
    return plus(name, of, lambda v: 1 - v, **when)


def plus(name: str, of: type[Op], change: Callable[[int], int], **when: int) -> Callable[[Op], Op]:
    """Return a change of an operand of some operations or of their geometry, where others have the values of `when`."""

    def apply(op: Op) -> Op:
        if not isinstance(op, of):
            return op
        geom = getattr(op, "geom", op)
        if any(getattr(geom, k) != v for k, v in when.items()):
            return op
        holder = op if hasattr(op, name) else geom
        changed = replace(holder, **{name: change(getattr(holder, name))})
        return changed if holder is op else replace(op, geom=changed)

    return apply


def more(value: int) -> int:
    return value + 1


def less(value: int) -> int:
    return value - 1


FAULTS = {
    "conv unsigned": flip("unsigned", Conv),
    "conv pad_top": plus("pad_top", Conv, more),
    "conv pad_left": plus("pad_left", Conv, less),
    "conv stride_x": plus("stride_x", Conv, more),
    "conv dilation_y": plus("dilation_y", Conv, more),
    "conv out_x": plus("out_x", Conv, more),
    "conv boundary": plus("group_first", Conv, more),
    "conv s_act": plus("shifts", Conv, lambda s: tuple((v + 1) % 5 for v in s)),
    "conv clips": plus("shifts", Conv, lambda s: (0,) * len(s), dynamic=1),
    "conv dynamic": plus("dynamic", Conv, lambda v: 0),
    "conv accumulate": plus("accumulate", Conv, lambda v: 0),
    "conv group order": plus("groups", Conv, lambda g: g[::-1]),
    "vec src_unsigned": flip("src_unsigned", Vec),
    "vec residual": plus("residual", Vec, lambda v: 0),
    "vec res_unsigned": flip("res_unsigned", Vec),
    "vec leaky": plus("leaky", Vec, lambda v: 0),
    "vec product": plus("product", Vec, lambda v: 0),
    "vec table": plus("table", Vec, lambda v: 0),
    "table param_addr": plus("param_addr", Table, lambda v: max(v - 1, 0)),
    "vec maximum as sum": plus("source", Vec, lambda v: 3, source=2),
    "vec multiply-add as sum": plus("source", Vec, lambda v: 3, source=1),
    "vec clamp_low": plus("clamp_low", Vec, more),
    "vec clamp_high": plus("clamp_high", Vec, less),
    "vec pad_left": plus("pad_left", Vec, less),
    "vec stride_y": plus("stride_y", Vec, more),
    "vec dilation_x": plus("dilation_x", Vec, more),
    "vec param_addr": plus("param_addr", Vec, lambda v: max(v - 1, 0)),
    "fold pad_top": plus("pad_top", Fold, less),
    "fold stride_x": plus("stride_x", Fold, more),
    "fold kernel_w": plus("kernel_w", Fold, lambda v: max(v - 1, 1)),
    "fold out_y": plus("out_y", Fold, more),
    "load dram_addr": plus("dram_addr", Load, more, memory=0),
    "load dram_col_pitch": plus("dram_col_pitch", Load, more, memory=0),
    "load table": plus("indexed", Load, lambda v: 0),
    "store addr": plus("addr", Store, lambda v: max(v - 1, 0)),
    "store dram_addr": plus("dram_addr", Store, less),
}


@cache
def naive_of(seed: int):
    rng = np.random.default_rng(seed)
    p = random_program(rng, random_machine(rng), 2)
    images, boundaries = random_images(rng, p, 2), p.boundaries(rng)
    return p, boundaries, images, naive(p, boundaries, images)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_misread_operand(fault):
    for seed in range(40):
        p, boundaries, images, want = naive_of(seed)
        ops = tuple(FAULTS[fault](op) for op in p.ops)
        if ops != p.ops and simulated(p, boundaries, images, ops).dram.tobytes() != want.dram.tobytes():
            return
    pytest.fail("no program shows it")


NUMBERS = {  # what the value simulator makes of what it reads: module, function, what is wrong about what it returns
    "multipliers have no sign": (blocks, "_multiplier", lambda found: found & 0xFFFF),
    "words of a table backwards": (
        constants.ParamMemory,
        "table",
        lambda found: found.reshape(64, 4)[::-1].reshape(-1),
    ),
    "bytes of a table's words backwards": (
        constants.ParamMemory,
        "table",
        lambda found: found.reshape(64, 4)[:, ::-1].reshape(-1),
    ),
    "a table by signed bytes": (constants.ParamMemory, "table", lambda found: np.roll(found, 128)),
    "one table for all": (constants.ParamMemory, "table", lambda found: FIRST.setdefault("table", found)),
}
FIRST: dict[str, np.ndarray] = {}


@pytest.mark.parametrize("fault", NUMBERS)
def test_a_misread_constant(monkeypatch, fault):
    of, name, change = NUMBERS[fault]
    right = getattr(of, name)
    monkeypatch.setattr(of, name, lambda *given: change(right(*given)))
    for seed in range(40):
        p, boundaries, images, want = naive_of(seed)
        FIRST.clear()
        if simulated(p, boundaries, images).dram.tobytes() != want.dram.tobytes():
            return
    pytest.fail("no program shows it")


POSITIONS = {
    "one value fewer": lambda right, values, clip, unsigned: right(values[:-1], clip, unsigned),
    "nothing clipped": lambda right, values, clip, unsigned: right(values, 0, unsigned),
    "-x for the magnitude of x": lambda right, values, clip, unsigned: right(
        [min(abs(v), 127 + 128 * unsigned) for v in values], clip, unsigned
    ),
}


@pytest.mark.parametrize("fault", POSITIONS)
def test_a_wrong_position(monkeypatch, fault):
    """Planted in the naive machine."""
    right, shown = naive_machine.position, False
    for unsigned in (0, 1):
        p, image = positions_bench(small_machine(2, dynamic_extraction=True), unsigned)
        want = assert_same_values(p, (10,), image)
        with monkeypatch.context() as planted:
            planted.setattr(naive_machine, "position", lambda *given: POSITIONS[fault](right, *given))
            shown |= naive(p, (10,), image).dram.tobytes() != want.dram.tobytes()
    assert shown
