"""isa_spec/PIPELINES.md: its tables, drawings and sums are what the simulators do; its closed forms hold."""

from dataclasses import replace

import numpy as np
import pytest
from npu_isa.isa.ops import Engine
from npu_isa.machine.config import load_machine
from npu_runtime.verification.models import MOMENTS, Workload
from npu_runtime.verification.verify import compare

from tests import pipelines_page
from tests.pipelines_page import BLOCK, PAGE
from tests.register_models import ALL, crowded_conv, instruction

TEXT = PAGE.read_text(encoding="utf-8")


def test_blocks_of_the_page():
    """`python -m tests.pipelines_page` rewrites them."""
    for kind, words, body in BLOCK.findall(TEXT):
        assert body == pipelines_page.computed(kind, words.split(), body), f"{kind} {words}"


def test_the_page_has_blocks_of_each_kind():
    kinds = [kind for kind, _, _ in BLOCK.findall(TEXT)]
    assert {kind: kinds.count(kind) for kind in ("times", "rule", "wave")} == {"times": 5, "rule": 6, "wave": 8}
    assert TEXT.count("```") == 2 * len(kinds)


def test_a_wrong_sum_is_noticed():
    rule = "end[6] = issue_end[6] + 2 + 2 + 1 + 1 + 3 = 246"
    assert pipelines_page.wrong_rules("conv_2x2", 0, rule) == []
    assert pipelines_page.wrong_rules("conv_2x2", 0, rule.replace("246", "247")) == [rule.replace("246", "247")]
    assert pipelines_page.wrong_rules("conv_2x2", 0, rule.replace("+ 3", "+ 4")) == [rule.replace("+ 3", "+ 4")]


def duration(work: Workload, boundary: int, image: np.ndarray) -> int:
    """Return the cycles of the program's last conv from its first weights to its end, as all models see it."""
    seen = {name: model(work, (boundary,), image) for name, model in ALL.items() if name != "naive"}
    assert compare(work, seen, (boundary,)).difference is None
    times = seen["register"].times[-1]
    return int(times[MOMENTS.index("end")] - times[MOMENTS.index("accept")])


def lonely_conv(rows: int, cols: int, batch: int, pixels: int) -> tuple[Workload, np.ndarray]:
    """Return a conv of one group and one tap whose operands have long been there."""
    sizes = {"array_rows": rows, "array_cols": cols, "weight_rows_per_cycle": batch, "acc_rows": 64, "act_banks": 4}
    machine = replace(load_machine("npu16"), **sizes).check()
    block = 16 * -(-cols // 32) + 16 * cols
    code = (
        instruction("load", memory=1, run=block),
        instruction("load", dram_addr=2048, run=16 * pixels, push=1 << Engine.MATRIX),
        instruction("geom", in_w=pixels, pixel_pitch=1, pop=1 << Engine.LOAD),
        instruction("groups"),
        instruction("conv", tile_w=pixels),
        instruction("halt"),
    )
    rng = np.random.default_rng(rows)
    constants = np.concatenate([np.zeros(1024 - 16 * cols, np.uint8), rng.integers(0, 256, 16 * cols, np.uint8)])
    return Workload(machine, code, constants, 4096, 2048, ((2048, 2048),)), rng.integers(0, 256, 16 * pixels, np.uint8)


def closed_form(rows: int, cols: int, load: int, pass_cycles: list[int]) -> int:
    """Section 10: `load` cycles of weight load, `pass_cycles` pixels x bank factor of each pass."""
    waits = sum(max(cycles, load + 8) for cycles in pass_cycles[:-1])
    return load + waits + pass_cycles[-1] + 2 + min(8, rows) + max(1, rows // 8) + (cols - 1) + 3


SHAPES = [(2, 2, 1), (2, 8, 2), (4, 4, 1), (4, 16, 4), (8, 4, 1), (8, 16, 1), (8, 16, 8), (16, 16, 2), (32, 32, 1)]


@pytest.mark.parametrize(("rows", "cols", "batch"), SHAPES)
@pytest.mark.parametrize("pixels", [1, 9, 17, 40])
@pytest.mark.parametrize("boundary", [0, 1])
def test_closed_form_of_a_conv_alone(rows, cols, batch, pixels, boundary):
    work, image = lonely_conv(rows, cols, batch, pixels)
    passes = max(1, 16 // rows // (1 + boundary))
    want = closed_form(rows, cols, rows // batch, [pixels] * passes)
    assert duration(work, boundary, image) == want


@pytest.mark.parametrize(("batch", "pixels"), [(1, 3), (8, 3), (32, 5)])
def test_closed_form_with_bank_conflicts(batch, pixels):
    work, _, image = crowded_conv(batch, pixels)
    arrived = instruction("vgeom", pop=1 << Engine.LOAD, push=1 << Engine.MATRIX)
    code = list(work.instructions)
    code[1] = replace(code[1], push=1 << Engine.VECTOR)
    code[2] = replace(code[2], pop=1 << Engine.VECTOR)
    code[4] = replace(code[4], pop=0)
    work = replace(work, instructions=(*code[:2], arrived, *code[2:]))
    assert duration(work, 2, image[0]) == closed_form(32, 16, 32 // batch, [4 * pixels] * 2)


def literature(rows: int, cols: int, pixels: int, depth: int, width: int) -> int:
    """Cycles of a weight-stationary product as classic simulators count them (e.g. SCALE-Sim)."""
    return -(-depth // rows) * -(-width // cols) * (2 * rows + cols + pixels - 2) - 1


@pytest.mark.parametrize(("rows", "cols"), [(2, 2), (4, 4), (4, 16), (8, 8), (8, 16)])
@pytest.mark.parametrize("pixels", [1, 9, 17, 40])
def test_against_the_literature(rows, cols, pixels):
    """The terms of section 10: one segment, one row of weights per cycle, 16 input channels."""
    work, image = lonely_conv(rows, cols, 1, pixels)
    folds = 16 // rows
    single = 2 * rows + cols + pixels - 2
    in_front, behind, counting = 3, 4, 1
    assert literature(rows, cols, pixels, rows, cols) + in_front + behind + counting == single + 7
    ours = duration(work, 0, image)
    assert ours == single + in_front + behind + (folds - 1) * max(pixels, rows + 8)
    saved = (folds - 1) * (single - max(pixels, rows + 8))
    assert ours == literature(rows, cols, pixels, 16, cols) + in_front + behind + counting - saved
