"""What the random programs cover: a comparison over programs that lack a variant says nothing about it."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from npu_isa.isa.ops import Conv, Engine, Setup, Table, Vec
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import BY_NAME, ENGINES, Operand
from npu_sim.fast.values.encode import Encoder
from npu_sim.random_programs.machines import random_machine
from npu_sim.random_programs.programs import RandomProgram, random_program

from tests.value_models import random_images, simulated

SEEDS = 150
PLACES = ("addr", "base", "pitch", "run", "lanes")  # operands whose least value says nothing special


@pytest.fixture(scope="module")
def programs() -> list[RandomProgram]:
    made = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        made.append(random_program(rng, random_machine(rng), 2))
    return made


def values_of(instructions: list[Instruction]) -> dict[tuple[str, str], set[int]]:
    """Return the values that each operand of each instruction has."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for ins in instructions:
        for name, value in ins.operands.items():
            found[ins.name, name].update(value if isinstance(value, tuple) else (value,))
    return found


def lacking(operand: Operand, values: set[int]) -> str | None:
    """Return what the values of an operand lack, if anything."""
    if operand.most - operand.least < 8:
        missing = set(range(operand.least, operand.most + 1)) - values
        return f"values {missing}" if missing else None
    if operand.signed:
        return None if min(values) < 0 < max(values) else "a sign"
    if operand.least not in values and not operand.name.endswith(PLACES):
        return f"the least value, {operand.least}"
    return "different values" if len(values) < 2 else None


def test_every_operand_of_every_instruction_varies(programs):
    found = values_of([i for p in programs for i in p.instructions])
    for name, spec in BY_NAME.items():
        for operand in spec.operands:
            lack = lacking(operand, found[name, operand.name])
            assert lack is None, f"{name} {operand.name} lacks {lack}"


def test_every_instruction_takes_from_and_gives_to_every_other_engine(programs):
    for name, spec in BY_NAME.items():
        others = [e for e, engine in enumerate(ENGINES) if engine != spec.engine]
        for mask in ("pop", "push") if spec.operands else ():
            seen = {getattr(i, mask) for p in programs for i in p.instructions if i.name == name}
            for e in others:
                assert {value >> e & 1 for value in seen} == {0, 1}, f"{name} {mask} {ENGINES[e]}"


def test_boundaries_cut_convs_everywhere(programs):
    """None, some and all places of a conv in 4 bits; convs wholly below or above a boundary inside the layer."""
    seen = set()
    for p in programs:
        for op in p.ops:
            if isinstance(op, Conv):
                for b in p.legal.get(op.geom.register, (0,)):
                    low = op.low_places(b)
                    seen.add(("none" if low == 0 else "all" if low == op.group_count else "some", op.group_first > 0))
    assert seen == {(part, later) for part in ("none", "some", "all") for later in (False, True)}


def test_dynamic_extraction_meets_every_form_and_clip(programs):
    """Signed and unsigned, every clip below a boundary, every form of array; static convs on machines that have it."""
    seen, arrays = set(), set()
    for p in programs:
        for op in p.ops:
            if isinstance(op, Conv) and p.machine.dynamic_extraction:
                arrays.add((min(p.machine.array_rows, 8), op.geom.dynamic))
                low = op.low_places(max(p.legal.get(op.geom.register, (0,))))
                seen |= {(op.geom.unsigned, clip) for clip in op.shifts[: low * op.geom.dynamic]}
    assert seen == {(unsigned, clip) for unsigned in (0, 1) for clip in range(5)}
    assert arrays == {(rows, dynamic) for rows in (2, 4, 8) for dynamic in (0, 1)}
    assert {p.machine.dynamic_extraction for p in programs} == {False, True}


def vecs_of(programs) -> list[Vec]:
    return [op for p in programs for op in p.ops if isinstance(op, Vec)]


def test_residuals_and_products_of_every_sign_are_broadcast_too(programs):
    """Over all pixels and not; of products every sign of both operands; a product through a table, and in 16 bits."""
    found = {
        (g.product, g.res_unsigned, g.res_row_pitch == 0 == g.res_pixel_pitch)
        for g in (op.geom for op in vecs_of(programs))
        if g.residual
    }
    assert found == {(p, sign, wide) for p in (0, 1) for sign in (0, 1) for wide in (False, True)}
    products = [op.geom for op in vecs_of(programs) if op.geom.product]
    assert {(g.src_unsigned, g.res_unsigned) for g in products} == {(a, b) for a in (0, 1) for b in (0, 1)}
    assert {(g.table, g.wide) for g in products} == {(0, 0), (1, 0), (0, 1)}
    assert {(g.res_row_pitch > 0, g.res_pixel_pitch > 0) for g in products} >= {(True, True), (False, False)}


def test_tables_meet_every_source_and_stand_right_behind_and_before_vecs(programs):
    """A table that follows a vec which looks up, without a fence; tables of one and of many rows."""
    seen, around, columns = set(), set(), set()
    for p in programs:
        vector = [op for op in p.ops[:-1] if op.engine == Engine.VECTOR and not isinstance(op, Setup)]
        seen |= {(op.geom.source, op.geom.clamp_low < 0) for op in vector if isinstance(op, Vec) and op.geom.table}
        columns |= {p.machine.array_cols for op in vector if isinstance(op, Table)}
        for a, b in pairwise(vector):
            if isinstance(b, Table):
                around.add("behind" if isinstance(a, Vec) and a.geom.table else "else")
            elif isinstance(a, Table) and b.geom.table:
                around.add("before")
    assert seen == {(source, signed) for source in range(4) for signed in (False, True)}
    assert around >= {"behind", "before"}
    assert columns >= {4, 8, 16, 32, 48}


def test_multipliers_of_both_signs_are_used(programs):
    seen = set()
    for p in programs:
        made = Encoder(p.ops, p.machine, p.constants).program((0,) * p.registers)
        for vec in made.vecs:
            lanes, at = vec["lanes"], vec["params"]
            first, second = (made.params[at + row * lanes : at + (row + 1) * lanes] for row in (1, 3))
            seen |= {("first", int(sign)) for sign in np.sign(first)}
            used = "leaky" if vec["leaky"] else "residual" if vec["residual"] and not vec["product"] else "none"
            seen |= {(used, int(sign)) for sign in np.sign(second)}
    assert seen >= {(used, sign) for used in ("first", "leaky", "residual") for sign in (-1, 0, 1)}


@pytest.mark.slow
def test_values_depend_on_the_image_and_lie_inside_the_clamps(programs):
    """A comparison of saturated or constant values would not see a wrong sum."""
    total = inside = varying = 0
    for seed, p in enumerate(programs[:80]):
        rng = np.random.default_rng(seed)
        for index, v in simulated(p, p.boundaries(rng), random_images(rng, p, 3)).vecs:
            g = p.ops[index].geom
            total += v[0].size
            inside += int(((g.clamp_low < v[0]) & (v[0] < g.clamp_high)).sum())
            varying += int((v != v[0]).any(axis=0).sum())
    assert inside > 0.4 * total
    assert varying > 0.25 * total
