"""The register-level machine against the fast simulators and the naive machine on random programs."""

from dataclasses import replace

import numpy as np
from npu_isa.file.binary import data_address
from npu_isa.isa.ops import Engine, Memory
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import BY_NAME
from npu_isa.machine.config import load_machine
from npu_runtime.verification.models import MODELS, Model, Observation, Workload
from npu_runtime.verification.randomly import verify_case, workload
from npu_runtime.verification.verify import VerifyReport

from tests.bench_programs import positions_bench, small_machine
from tests.naive_machine import NaiveMachine


def instruction(name: str, pop: int = 0, push: int = 0, **operands: int | tuple[int, ...]) -> Instruction:
    """Return an instruction; operands that are not given have their defaults."""
    rest = {o.name: (o.default,) * o.repeat if o.repeat else o.default for o in BY_NAME[name].operands}
    assert operands.keys() <= rest.keys(), operands
    return Instruction(name, {**rest, **operands}, pop, push)


ALL: dict[str, Model] = {}  # every model of a whole program, filled below


def naive(work: Workload, boundaries: tuple[int, ...], image: np.ndarray) -> Observation:
    """Run the naive machine: it knows values, of every memory."""
    machine = NaiveMachine(work.machine, work.constants.tobytes(), work.dram_bytes)
    machine.dram[work.input_address : work.input_address + image.size] = image.tobytes()
    machine.run(work.ops, boundaries)
    dram, act, weight, param = (
        np.frombuffer(bytes(m), np.uint8) for m in (machine.dram, machine.act, machine.weights, machine.params)
    )
    output = work.output_bytes(dram)
    memories = {"act": act, "weight": weight, "param": param, "dram": dram[work.data_address :], "output": output}
    return Observation(memories={**memories, "acc": np.array(machine.acc, np.int64).astype(np.int32)})


ALL |= {"fast": MODELS["fast"], "register": MODELS["register"], "naive": naive}


def compare_case(seed: int, layers: int = 2) -> VerifyReport:
    """Compare all models on one random program, then the times of the program with its tokens scrambled."""
    return verify_case(seed, ALL, layers=layers)


# -- programs for what random ones seldom meet

Made = tuple[Workload, list[tuple[int, ...]], np.ndarray]


def crowded_conv(batch: int = 32, pixels: int = 2, dynamic: bool = False) -> Made:
    """Return a conv of four taps and two places whose words all lie in one bank: four cycles per pixel in 4-bit form.

    `batch` rows of weights are written in one cycle; with `dynamic` positions are found.
    """
    sizes = {"array_rows": 32, "weight_rows_per_cycle": batch, "acc_rows": 16, "dynamic_extraction": dynamic}
    machine = replace(load_machine("npu16"), **sizes).check()
    rng = np.random.default_rng(pixels)
    positions = rng.integers(0, 5, (2, 32), np.uint8)
    weights = rng.integers(0, 256, 2 * 4 * 16 * 16, np.uint8)
    block = np.concatenate([(positions[:, :16] | positions[:, 16:] << 4).reshape(-1), weights])
    constants = np.concatenate([block, np.zeros(4096 - block.size, np.uint8)])
    code = (
        instruction("load", memory=Memory.WEIGHT, run=block.size),
        instruction("load", push=1 << Engine.MATRIX, dram_addr=5120, run=16 * 4 * (pixels + 3)),
        instruction("geom", kernel_w=4, in_w=pixels + 3, pixel_pitch=4, tap_fastest=1, dynamic=int(dynamic)),
        instruction("groups", group=(0, 1, *[0] * 14), shift=(1, 2, *[0] * 14)),
        instruction("conv", pop=1 << Engine.LOAD, tile_w=pixels, group_count=2),
        instruction("halt"),
    )
    image = rng.integers(0, 256, (1, 1024), np.uint8)
    return Workload(machine, code, constants, 1 << 14, 5120, ((5120, 5120),)), [(2,)], image


def positions(rows: int, unsigned: int) -> Made:
    """Return the program whose positions depend on single bytes, on an array of `rows` rows and 4 columns."""
    p, image = positions_bench(small_machine(4, array_rows=rows, dynamic_extraction=True), unsigned)
    return workload(p), [(b,) for b in p.legal[0]], image


def two_tokens() -> Made:
    """Return a program whose store waits for a vec and a load that end in the same cycle."""
    to_store, pixels = 1 << Engine.STORE, 6
    code = (
        instruction("load", push=1 << Engine.VECTOR, memory=Memory.PARAM, run=64 * 3),
        instruction("load", push=to_store, dram_addr=2048, run=256, addr=6144),
        instruction("vgeom", source=3, in_w=pixels, pixel_pitch=1, out_pixel_pitch=1, clamp_high=255),
        instruction("vec", pop=1 << Engine.LOAD, push=to_store, tile_w=pixels, out_base=4096, lanes=16),
        instruction("store", pop=1 << Engine.LOAD | 1 << Engine.VECTOR, dram_addr=2304, addr=6144, run=16),
        instruction("halt"),
    )
    constants = np.tile(np.array([0, 1 | 1 << 16, 0], "<u4")[:, None], 16).view(np.uint8).reshape(-1)
    image = np.arange(256, dtype=np.uint8)[None]
    return Workload(load_machine("npu16"), code, constants, 4096, 2048, ((2304, 2320),)), [()], image


def windows_follow() -> Made:
    """Return a vec of two words a tap, whose second and third tap share banks, and right behind it one of one word.

    Each reads its words in cycles of its own: the first words of those taps in the second one, then in the first.
    """
    sizes = {"array_cols": 32, "act_banks": 4, "vector_taps": 3}
    machine = replace(load_machine("npu16"), **sizes).check()
    pixels, pitch, loaded = 6, 5, 1 << Engine.LOAD
    code = (
        instruction("load", memory=Memory.PARAM, run=128 * 3),
        instruction("load", push=1 << Engine.VECTOR, dram_addr=2048, run=16 * pitch * pixels),
        instruction(
            "vgeom", source=3, kernel_w=3, in_w=pixels, pixel_pitch=pitch, out_pixel_pitch=2, src_unsigned=1,
            clamp_high=255,
        ),
        instruction("vec", pop=loaded, tile_w=pixels - 2, out_base=4096, lanes=32),
        instruction("vec", push=1 << Engine.STORE, tile_w=pixels - 2, out_base=4160, lanes=16),
        instruction("store", pop=1 << Engine.VECTOR, dram_addr=4096, addr=4096, run=16 * 2 * (pixels - 2)),
        instruction("halt"),
    )  # fmt: skip
    constants = np.tile(np.array([0, 1 | 2 << 16, 0], "<u4")[:, None], 32).view(np.uint8).reshape(-1)
    image = np.random.default_rng(0).integers(0, 256, (1, 16 * pitch * pixels), np.uint8)
    return Workload(machine, code, constants, 8192, 2048, ((4096, 4096 + 32 * (pixels - 2)),)), [()], image


def long_code() -> Made:
    """Return a program of setups that are dispatched faster than fetched, beside transfers that fill the bus.

    Those behind the store's end wait until the buffer is full.
    """
    kib, base = 1024, data_address(0, 145)
    setups = (instruction("geom"), instruction("vgeom")) * 70
    code = (
        instruction("load", dram_addr=base, run=3 * kib),
        instruction("store", dram_addr=base + 8 * kib, addr=2048, run=4 * kib, push=1 << Engine.VECTOR),
        *setups[:20],
        instruction("vgeom", pop=1 << Engine.STORE),
        *setups[20:],
        instruction("halt"),
    )
    machine = replace(load_machine("npu16"), dram_latency_cycles=7, instruction_words=64).check()
    image = np.arange(8 * kib, dtype=np.uint64).astype(np.uint8)[None]
    nothing = np.zeros(0, np.uint8)
    return Workload(machine, code, nothing, base + 12 * kib, base, ((base + 8 * kib, base + 12 * kib),)), [()], image
