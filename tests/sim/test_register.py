"""The register-level machine against fast simulators and naive machine, and what it says of bad programs."""

from dataclasses import replace

import numpy as np
import pytest
from npu_isa.asm.assemble import assemble
from npu_isa.errors import ProgramError
from npu_isa.file.binary import data_address
from npu_isa.isa.codec import decode, encode
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import ENGINES
from npu_isa.machine.config import MachineConfig, load_machine
from npu_isa.machine.numerics import lower
from npu_runtime.session.compiling import compile_file
from npu_runtime.session.session import Session
from npu_runtime.verification.models import Workload
from npu_runtime.verification.randomly import random_case, workload
from npu_runtime.verification.verify import VerifyReport, verify
from npu_sim import counters
from npu_sim.activity import CAUSES
from npu_sim.random_programs.programs import scrambled
from npu_sim.register.machine import RegisterRun, run

from tests import hand_programs
from tests.demo import digits
from tests.naive_timing import Twin
from tests.register_models import (
    ALL,
    compare_case,
    crowded_conv,
    instruction,
    positions,
    two_tokens,
    windows_follow,
)
from tests.timing_models import causes_of

NPU16 = load_machine("npu16")
HALT = instruction("halt")


def agree(report: VerifyReport) -> None:
    assert report.difference is None, str(report.difference)


@pytest.mark.parametrize("seed", [102, 90, 27, 59, 5, 13])  # the last two are long
def test_small_random_programs(seed):
    agree(compare_case(seed))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 160, 16))
def test_random_programs(first):
    for seed in range(first, first + 16):
        agree(compare_case(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1006))
def test_programs_of_many_layers(seed):
    agree(compare_case(seed, layers=8))


def clocked(text: str, boundaries: tuple[int, ...] = (), **sizes: int) -> tuple[RegisterRun, Workload]:
    """Run a program in assembly on noise, and compare it with the fast simulators and the naive twin of time."""
    ops, machine = hand_programs.hand(text, sizes)
    said = " ".join(f"{k}={v}" for k, v in ({"dram_latency_cycles": 20} | sizes).items())
    code = decode(assemble(hand_programs.HEAD.format(sizes=said) + text, "hand.s").code)
    work = Workload(machine, code, np.zeros(0, np.uint8), 1 << 16, 0, ((0, 0),), computes=False)
    image = np.random.default_rng(0).integers(0, 256, (1, 1 << 15), np.uint8)
    agree(verify(work, [boundaries], ("fast", "register"), image))
    found = run(code, machine, work.constants, boundaries, work.dram_bytes, image[0], 0)
    twin = causes_of(Twin(ops, machine, boundaries).run())
    for name, row in zip(ENGINES, found.causes.tolist(), strict=True):
        assert {c: n for c, n in zip(CAUSES, row, strict=True) if n} == {c: n for c, n in twin[name].items() if n}
    return found, work


HAND = {
    "two convs": (hand_programs.TWO_CONVS, {}),
    "full token FIFO": (hand_programs.TOKEN_FULL, {"token_depth": 2}),
    "full queues": (hand_programs.TOKEN_FULL, {"token_depth": 2, "queue_depth": 2}),
    "blocks alternate": (hand_programs.ALTERNATION, {}),
    "ports": (hand_programs.PORTS, {}),
    "vecs follow": (hand_programs.VECS.format(third=""), {}),
    "fence": (hand_programs.VECS.format(third="fence=1"), {}),
    "latency of one cycle": (hand_programs.ALTERNATION, {"dram_latency_cycles": 1}),
}


@pytest.mark.parametrize("name", HAND)
def test_hand_made_cases(name):
    text, sizes = HAND[name]
    clocked(text, **sizes)


def test_of_tokens_that_come_together_the_first_engine_names_the_wait():
    work, vectors, image = two_tokens()
    agree(verify(work, vectors, ALL, image))
    found = run(work.instructions, work.machine, work.constants, (), work.dram_bytes, image[0], work.input_address)
    assert found.end[1] == found.end[3]  # vec and load
    row = dict(zip(CAUSES, found.causes[ENGINES.index("store")].tolist(), strict=True))
    assert row["token_load"] > 0
    assert row["token_vector"] == 0


def test_the_last_words_of_a_window_are_read_by_its_own_plan():
    """The vec behind it, whose words share no banks, begins in the cycle in which they are read."""
    work, vectors, image = windows_follow()
    agree(verify(work, vectors, ALL, image))
    found = run(work.instructions, work.machine, work.constants, (), work.dram_bytes, image[0], work.input_address)
    assert found.start[4] == found.issue_end[3]
    assert found.issue_end[3] - found.start[3] == 3 + 4 * 2  # parameter rows, then two cycles a pixel
    assert found.issue_end[4] - found.start[4] == 3 + 4


@pytest.mark.parametrize("pixels", [1, 2, 9])
@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("dynamic", [False, True])
def test_shadow_weights_are_taken_before_the_next_ones_come(batch, pixels, dynamic):
    """Four cycles per pixel, up to 32 rows written at once: the swap may not wait for the first pixel."""
    work, _, image = crowded_conv(batch, pixels, dynamic)
    for boundary in range(3):
        agree(verify(work, [(boundary,)], ALL, image))
    found = run(work.instructions, work.machine, work.constants, (2,), work.dram_bytes, image[0], work.input_address)
    row = dict(zip(CAUSES, found.causes[ENGINES.index("matrix")].tolist(), strict=True))
    assert (row["stream"], row["bank"]) == (2 * pixels, 2 * 3 * pixels)
    assert found.memories["acc"].any()


@pytest.mark.parametrize("unsigned", [0, 1])
@pytest.mark.parametrize("rows", [2, 4, 8, 24])
def test_positions_that_depend_on_single_bytes(rows, unsigned):
    work, vectors, image = positions(rows, unsigned)
    agree(verify(work, vectors, ALL, image))


@pytest.mark.slow
@pytest.mark.parametrize("boundary", [0, 8])
def test_long_streams_through_a_wide_array(boundary):
    """Thousands of pixels without a gap: longer than the buffers in which registers move."""
    groups, taps, pixels, cols = 8, 9, 480, 64
    sizes = {"array_rows": 64, "array_cols": cols, "weight_memory_bytes": 1 << 17, "acc_rows": pixels, "act_banks": 16}
    machine = replace(NPU16, **sizes, act_region_bytes=1 << 16).check()
    rng = np.random.default_rng(boundary)
    positions = rng.integers(0, 5, (groups, cols))
    weights = rng.integers(-128, 128, (groups, taps, 16, cols))
    packed = (positions[:, ::2] | positions[:, 1::2] << 4).astype(np.uint8)
    constants = np.concatenate([packed.reshape(-1), weights.astype(np.int8).view(np.uint8).reshape(-1)])
    image = rng.integers(0, 256, (pixels + taps - 1, groups, 16), np.uint8)
    shifts = rng.integers(0, 5, groups)
    code = (
        instruction("load", memory=1, run=constants.size),
        instruction("load", push=2, dram_addr=data_address(constants.size, 6), run=image.size),
        instruction("geom", kernel_w=taps, in_w=len(image), pixel_pitch=groups, unsigned=1),
        instruction("groups", group=(*range(groups), *[0] * 8), shift=(*shifts.tolist(), *[0] * 8)),
        instruction("conv", pop=1, tile_w=pixels, group_count=groups),
        HALT,
    )
    at = data_address(constants.size, len(code))
    found = run(code, machine, constants, (boundary,), at + image.size, image, at)
    acts = image.astype(np.int64)
    if boundary:
        acts = lower(acts, shifts[:, None], unsigned=True)
        weights = lower(weights, positions[:, None, None], unsigned=False)
    want = sum(np.einsum("pgi,gic->pc", acts[t : t + pixels], weights[:, t]) for t in range(taps))
    np.testing.assert_array_equal(found.memories["acc"][0], want)
    assert found.causes[ENGINES.index("matrix"), CAUSES.index("stream")] > 4096


def test_no_program_makes_both_engines_read_one_half():
    """A half has one read port: the check refuses programs that might need two, so none is made."""
    for seed in range(40):
        p, vectors, image = random_case(seed)
        found = run(p.instructions, p.machine, p.constants, vectors[0], p.dram_bytes, image[0], p.input_range[0])
        assert found.double_reads == 0, seed


@pytest.mark.slow
def test_demo_network_at_five_ratios():
    """Every time, counter and value of the compiled demo, the output equal to the golden model's too."""
    compiled = compile_file(digits.MODEL_FILE, digits.TRAIN_FILE)
    session = Session(compiled.binary)
    with np.load(digits.TEST_FILE) as archive:
        images = session.prepare(archive["images"][:2]).reshape(2, -1)
    vectors = [compiled.binary.boundaries_at(ratio) for ratio in (0, 25, 50, 75, 100)]
    report = verify(compiled.binary, vectors, ("golden", "fast", "register"), images, compiled.quantized)
    agree(report)
    assert report.runs == 10
    cycles = {}
    for vector in vectors:
        found = run_binary(session, vector, images[0])
        cycles[vector] = found.total_cycles
        assert found.double_reads == 0
    assert len(set(cycles.values())) == 5
    assert cycles == {vector: session.timing(vector).total_cycles for vector in vectors}


def run_binary(session: Session, boundaries: tuple[int, ...], image: np.ndarray) -> RegisterRun:
    b = session.binary
    return run(b.code, b.machine, b.constants, boundaries, b.dram_bytes, image, b.input.address)


# -- programs that do not end


def wrong(code: tuple[Instruction, ...], machine: MachineConfig = NPU16, most_cycles: int = 10_000) -> str:
    """Return what is said of a program that does not end."""
    with pytest.raises(ProgramError) as caught:
        run(code, machine, np.zeros(0, np.uint8), (), 4096, np.zeros(0, np.uint8), 0, most_cycles)
    return str(caught.value)


def test_a_token_that_nobody_gives():
    text = wrong((instruction("vgeom"), instruction("load", pop=4, run=16), HALT))
    assert "instruction 1 (load): deadlock: nothing can go on at cycle" in text
    assert "load engine waits for tokens" in text


def test_a_conv_that_waits_for_the_vector_engine():
    text = wrong((instruction("geom"), instruction("groups"), instruction("conv", pop=4), HALT))
    assert "instruction 2 (conv)" in text
    assert "waits for vector tokens" in text


def test_tokens_that_nobody_takes():
    pushes = tuple(instruction("vgeom", push=1) for _ in range(3))
    text = wrong((*pushes, HALT), replace(NPU16, token_depth=2))
    assert "instruction 2 (vgeom)" in text
    assert "waits for room in a token FIFO" in text


def test_a_queue_that_is_never_emptied():
    loads = tuple(instruction("load", pop=4, run=16) for _ in range(4))
    text = wrong((*loads, HALT), replace(NPU16, queue_depth=2))
    assert "instruction 0 (load)" in text


def test_no_halt():
    assert "ends without a halt" in wrong((instruction("vgeom"), instruction("vgeom")))


def test_too_long():
    text = wrong((instruction("vgeom"), instruction("vec", tile_w=16, out_base=2048), HALT), most_cycles=83)
    assert "instruction 1 (vec): the program does not end at cycle 83" in text
    text = wrong((HALT,), most_cycles=15)
    assert "instruction 0 (halt): the program does not end at cycle 15: the front end waits for its words" in text


def test_code_words_and_instructions_are_the_same_program():
    p, vectors, image = random_case(3)
    both = [
        run(code, p.machine, p.constants, vectors[0], p.dram_bytes, image[0], p.input_range[0])
        for code in (p.instructions, encode(p.instructions))
    ]
    assert both[0].total_cycles == both[1].total_cycles
    assert all(np.array_equal(both[0].memories[name], both[1].memories[name]) for name in both[0].memories)


def test_causes_are_those_of_the_counters():
    assert CAUSES == counters.CAUSES


@pytest.mark.slow
def test_scrambled_programs_wait_for_full_fifos_and_queues():
    """The comparison sees every cause of waiting."""
    seen = np.zeros((len(ENGINES), len(CAUSES)), np.int64)
    for seed in range(24):
        p, vectors, image = random_case(seed)
        for q in (p, scrambled(p, np.random.default_rng(seed))):
            work = workload(q)
            seen += ALL["register"](work, vectors[0], image[0]).causes
    missing = {cause for cause, count in zip(CAUSES, seen.sum(axis=0), strict=True) if not count}
    assert not missing
