"""The RTL against the fast simulator's times and the naive machine's memories, on random programs."""

from dataclasses import replace
from itertools import permutations

import numpy as np
from npu_isa.isa.ops import Conv, Engine, Memory, Op, Source
from npu_isa.isa.resolve import resolve
from npu_isa.machine.footprint import footprint
from npu_sim.fast.time.model import simulate
from npu_sim.random_programs.machines import random_machine, with_sizes
from npu_sim.random_programs.programs import RandomProgram, random_program
from npu_sim.random_programs.tokens import one_more
from npu_sim.rtl.build import RtlError, find_toolchain
from npu_sim.rtl.compare import Agreement, compare
from npu_sim.rtl.run import RtlRun, run
from npu_sim.rtl.stimulus import Written

from tests.bench_programs import NO_PAD, ONE_TAP, Bench
from tests.naive_machine import NaiveMachine

WORD = 16


def missing_tools() -> str:
    """Return why the RTL cannot be run here, "" if it can."""
    try:
        find_toolchain()
    except RtlError as error:
        return str(error)
    return ""


def random_case(seed: int, sizes: dict[str, int]) -> tuple[RandomProgram, tuple[int, ...], np.ndarray]:
    """Return a random program on a machine of the given sizes, boundaries and an image."""
    rng = np.random.default_rng(seed)
    program = random_program(rng, with_sizes(random_machine(rng), sizes))
    image = program.images(rng, 1)[0]
    if rng.random() < 0.3:
        image = rng.choice(np.array([0, 127, 128, 255], np.uint8), image.size)
    return program, program.boundaries(rng), image


def token_case(seed: int, sizes: dict[str, int]) -> tuple[RandomProgram, tuple[int, ...], np.ndarray]:
    """Return a program of tiny instructions with as many random tokens as the FIFOs hold: FIFOs and queues fill up.

    Nothing is computed (weights and activations are zero), so its races do not matter.
    """
    rng = np.random.default_rng(seed)
    machine = with_sizes(random_machine(rng), sizes)
    bench = Bench(machine)
    params = bench.params(bias=0, mult=1, shift=1, second=0)
    window = {"kernel_h": 3, "kernel_w": 3, "in_h": 3, "in_w": 3}  # slow: the matrix engine runs ahead of it
    bench.vgeom(Source.SUM, **window)
    row = {"row_pitch": 0, "pixel_pitch": 1, "register": 255, "unsigned": 0, "tap_fastest": 0, "dynamic": 0}
    bench.put("geom", **(ONE_TAP | NO_PAD | row))
    bench.put("groups", first=0, group=(0,) * 16, shift=(0,) * 16)
    zero = dict.fromkeys(("act_base", "act_row0", "out_y", "out_x", "acc_half", "acc_row", "weight_addr"), 0)
    strides = dict.fromkeys(("dram_row_pitch", "dram_col_pitch", "row_pitch", "col_pitch"), 0)
    last = machine.act_words - WORD  # in another region than the convs' input
    for _ in range(80):
        match rng.choice(["setup", "conv", "vgeom", "vec", "load", "store"], p=[0.35, 0.25, 0.05, 0.2, 0.1, 0.05]):
            case "setup":
                bench.put("groups", first=0, group=(0,) * 16, shift=(0,) * 16)
            case "conv":
                tile = {"tile_h": 1, "tile_w": int(rng.integers(1, 5)), "accumulate": 0}
                bench.put("conv", **(zero | tile | {"group_first": 0, "group_count": int(rng.integers(1, 3))}))
            case "vgeom":
                bench.vgeom(Source.SUM, **window)
            case "vec":
                bench.vec(param_addr=params, src_base=last, out_base=last, tile_w=int(rng.choice([1, 14])))
            case "load":
                bench.load(Memory.PARAM, 0, 4 * machine.array_cols, machine.param_rows - 1)
            case "store":
                bench.put("store", dram_addr=1 << 15, rows=1, cols=1, run=WORD, addr=last, **strides)
    bench.put("halt")
    ops, pop, push = resolve(bench.body)[:-1], [0] * len(bench.body), [0] * len(bench.body)
    for giver, taker in permutations(range(4), 2):
        edges: list[tuple[int, int]] = []
        for _ in range(200 if giver == Engine.MATRIX else 3):
            edges = one_more(edges, ops, giver, taker, machine, rng)
        for given, taken in edges:
            push[given] |= 1 << taker
            pop[taken] |= 1 << giver
    code = tuple(replace(ins, pop=pop[i], push=push[i]) for i, ins in enumerate(bench.body))
    constants = np.frombuffer(bytes(bench.constants), np.uint8)
    where = (len(constants), len(constants))
    program = RandomProgram(machine, code, constants, 1 << 16, where, where, 0, {})
    return program, (), np.zeros(0, np.uint8)


def naive_memories(
    p: RandomProgram, boundaries: tuple[int, ...], image: np.ndarray
) -> tuple[dict[int, list[Written]], dict[int, np.ndarray]]:
    """Return what the naive machine's other engines write per instruction, and the sums that each conv leaves."""
    machine = NaiveMachine(p.machine, p.constants.tobytes(), p.dram_bytes)
    machine.dram[p.input_range[0] : p.input_range[1]] = image.tobytes()
    writes: dict[int, list[Written]] = {}
    sums: dict[int, np.ndarray] = {}

    def observe(op: Op, m: NaiveMachine) -> None:
        if isinstance(op, Conv):
            rows = m.acc[op.acc_half][op.acc_row : op.acc_row + op.pixels]
            sums[op.index] = np.array(rows, np.int64).astype(np.int32)
        for a in footprint(op, p.machine):
            memory = {Memory.ACT: m.act, Memory.WEIGHT: m.weights}.get(a.memory)
            if a.write and memory is not None:
                data = np.frombuffer(bytes(memory[a.first * WORD : a.end * WORD]), np.uint8)
                writes.setdefault(op.index, []).append(Written(a.memory, a.first, data))

    machine.run(p.ops, boundaries, observe)
    return writes, sums


def run_case(p: RandomProgram, boundaries: tuple[int, ...], image: np.ndarray, **how) -> tuple[RtlRun, Agreement]:
    """Run a program on the RTL and compare everything; `how` as in `npu_sim.rtl.run.run`."""
    timing = simulate(p.ops, p.machine, boundaries)
    writes, sums = naive_memories(p, boundaries, image)
    rtl = run(p.instructions, p.machine, timing, writes, boundaries, **how)
    return rtl, compare(rtl, p.ops, p.machine, timing, sums, boundaries)
