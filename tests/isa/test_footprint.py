"""Columns of a program against their twins that look at one operation after the other."""

import numpy as np
import pytest
from npu_isa.isa.codec import decode, encode
from npu_isa.isa.program import Program
from npu_isa.isa.resolve import Ops, resolve
from npu_isa.machine.footprint import footprints, regions
from npu_sim.random_programs.machines import random_machine
from npu_sim.random_programs.programs import random_program

from tests import naive_footprint as naive


@pytest.mark.parametrize("seed", range(30))
def test_columns_are_what_their_rows_say(seed):
    rng = np.random.default_rng(seed)
    p = random_program(rng, random_machine(rng), 3)
    program = Program.of(p.instructions)
    assert list(program) == list(p.instructions) == list(decode(encode(program)))
    ops = resolve(program)
    again = Ops.of(list(ops))
    for name in ("kind", "row", "engine", "pop", "push", "conv", "vec", "load", "fold", "store"):
        assert np.array_equal(getattr(ops, name), getattr(again, name)), name
    assert again.layouts == ops.layouts
    assert [ops[i] for i in range(len(ops))] == [Ops.of(ops)[i] for i in range(len(ops))] == list(again)
    touched = footprints(ops, p.machine)
    reads, writes = regions(touched, p.machine)
    for op in ops:
        assert touched.of(op.index) == naive.footprint(op, p.machine), op
        assert (reads[op.index], writes[op.index]) == naive.regions(op, p.machine), op
