"""The comparison can fail: faults planted in the register-level machine, each shown by one program.

The machine's sources are copied with one line changed and run uncompiled; a fault is found if some time, counter or
value differs from the fast simulators' or the naive machine's, or if the program does not end.
"""

import numpy as np
import pytest
from npu_isa.errors import ProgramError
from npu_isa.machine import timing as rules
from npu_runtime.verification.models import MODELS, Model
from npu_runtime.verification.randomly import random_case, workload
from npu_runtime.verification.verify import Difference, verify
from npu_sim.random_programs.programs import scrambled

from tests.planted import ENGINE_RULES
from tests.register_faults import DIRECTED, Fault, machine_with
from tests.register_models import ALL

pytestmark = pytest.mark.slow
OTHERS = {"fast": MODELS["fast"], "naive": ALL["naive"]}


def shown(model: Model, by: int | str) -> Difference | str | None:
    """Return how a program shows a fault: the difference, or the error with which it ends or does not."""
    try:
        if isinstance(by, str):
            work, vectors, image = DIRECTED[by]()
            return verify(work, vectors, {**OTHERS, "machine": model}, image).difference
        p, vectors, image = random_case(by)
        found = verify(workload(p), vectors, {**OTHERS, "machine": model}, image).difference
        if found is None:
            timed = workload(scrambled(p, np.random.default_rng(by)), computes=False)
            found = verify(timed, vectors[:1], {"fast": MODELS["fast"], "machine": model}, image).difference
    except (ProgramError, IndexError, ValueError) as error:
        return str(error)
    return found


MATRIX, VECTOR = (
    f"            if front.may_decide({name.upper()}, r, changed):\n"
    f"                news |= {name}.decide(t, r, f{more})\n"
    for name, more in (("matrix", ", m.matrix"), ("vector", ""))
)
FAULTS = {
    "the shadow weights are free a cycle early": Fault(
        "matrix",
        'ld["shadow_wait"] = r["sizes"]["shadow_free"]',
        'ld["shadow_wait"] = r["sizes"]["shadow_free"] - 1',
        102,
    ),
    "the last rows of a tile are not waited for": Fault(
        "matrix",
        'if ld["batch"] * sz["weight_rows"] == sz["rows"]:',
        'if (ld["batch"] + 1) * sz["weight_rows"] >= sz["rows"]:',
        102,
    ),
    "words of one bank in one cycle": Fault("matrix", "step += 1", "step += 0", 78),
    "equal words are read twice": Fault("matrix", 'if other["offset"] == entry["offset"]:', "if False:", 59),
    "half-groups before whole groups": Fault("matrix", 'ld["four"] = 1 if ld["low"] > 0 else 0', 'ld["four"] = 0', 102),
    "the boundary is off by one": Fault("matrix", '- conv["group_first"]\n', '- conv["group_first"] + 1\n', 90),
    "the padding test is off by one": Fault("matrix", '0 <= x < g["in_w"]', '0 <= x <= g["in_w"]', 324),
    "the first pass always overwrites": Fault(
        "matrix", 'stream["first"] and not conv["accumulate"]', 'stream["first"]', 7
    ),
    "the swap waits for the first pixel to be complete": Fault(
        "matrix", 'if stream["fresh"]:', 'if stream["fresh"] and stream["step"] + 1 == stream["steps"]:', "crowded conv"
    ),
    "the wrong half of the accumulators": Fault("matrix", 'conv["acc_half"] * r["sizes"]["acc_rows"]', "0", 90),
    "codes are cut off, not rounded": Fault("power", "value + (1 << s >> 1) >> s", "value >> s", 160),
    "s_wgt is not added to the shift": Fault("array", "np.int32(s_act[x] + s_wgt[x])", "np.int32(s_act[x])", 160),
    "s_act arrives a column late": Fault(
        "array", "move_right(pe.s_act, head - 1, s,", "move_right(pe.s_act, head, s,", 160
    ),
    "a register more before the accumulators": Fault(
        "array",
        "control = pe.skew_control[(t + 1 + rows + len(segments)) & mask]",
        "control = pe.skew_control[(t + 2 + rows + len(segments)) & mask]",
        102,
    ),
    "odd weights are not sign-extended": Fault(
        "array", "weight[1, x] = bits >> 4", "weight[1, x] = bits >> 4 & 15", 160
    ),
    "a segment's skew is forgotten": Fault("array", "c = reached - i - k", "c = reached - i", 7),
    "an empty entry keeps its part": Fault("matrix", 'entry["owner"] = entry["part"] = 0', 'entry["owner"] = 0', 156),
    "a position is that of one byte fewer": Fault(
        "array", "magnitudes |= ", "magnitudes |= 0 if b == 0 else ", "positions"
    ),
    "a magnitude is -x": Fault("array", "255 - word[b] if", "256 - int(word[b]) if", "positions"),
    "nothing is clipped": Fault("array", ' - segments[k]["shift"], 0)', ", 0)", "positions"),
    "static positions are found too": Fault("array", 'if pixel["dynamic"]:', "if True:", 186),
    "positions take no time": Fault("array", 'finds = r["sizes"]["finds"]\n', "finds = 0\n", 112),
    "the swap does not wait for positions": Fault("array", '(t - 1 - r["sizes"]["finds"])', "(t - 1)", 36),
    "the weights do not wait for positions": Fault("matrix", "mx.fetch[read - 1, w]", "mx.fetch[0, w]", 162),
    "a token is dropped": Fault(
        "front",
        'r["tokens"][e, taker] += push >> taker & 1',
        'r["tokens"][e, taker] += push >> taker & 1 & (taker < 3)',
        102,
    ),
    "a token FIFO is one deeper": Fault(
        "front",
        'r["tokens"][e, taker] >= r["sizes"]["token_depth"]',
        'r["tokens"][e, taker] > r["sizes"]["token_depth"]',
        78,
    ),
    "a queue is one deeper": Fault(
        "front", '["count"] < r["sizes"]["queue_depth"]', '["count"] <= r["sizes"]["queue_depth"] - 2', 102
    ),
    "fences are ignored": Fault("front", 'and f.program[op]["fence"] and engine["count"] > 0', "and False", 102),
    "a write port keeps nobody out": Fault(
        "front", 'r["ports"][e, 1, region] += writes >> region & 1', 'r["ports"][e, 1, region] += 0', 102
    ),
    "the last of several tokens is named": Fault(
        "front", 'if r["missing"][e] >> giver & 1:', 'if r["missing"][e] >> giver == 1:', "two tokens"
    ),
    "one parameter row too few": Fault(
        "vector", 'reg["params"] = r["sizes"]["param_rows"]', 'reg["params"] = r["sizes"]["param_rows"] - 1', 102
    ),
    "the last words of a window are read by the next plan": Fault(
        "clock", "vector.decide(t, r, f)", "vector.decide(t, r, f); vector.plan_window(r, m.vector)", "windows follow"
    ),
    "the shift does not travel with the product": Fault(
        "vector", "shift = lanes[SHIFT4, c]", "shift = lanes[SHIFT, c]", 102
    ),
    "a residual arrives a cycle early": Fault(
        "vector", "lanes[RES3, c] * lanes[MULT2, c]", "lanes[RES2, c] * lanes[MULT2, c]", 70
    ),
    "leaky looks at the sum without bias": Fault("vector", "lanes[BIASED, c] < 0", "lanes[SUM1, c] < 0", 90),
    "multipliers are not sign-extended": Fault("vector", "signed16(word & 0xFFFF), word", "word & 0xFFFF, word", 102),
    "second multipliers are not sign-extended": Fault(
        "vector", "lanes[MULT2, c] = signed16(word & 0xFFFF)", "lanes[MULT2, c] = word & 0xFFFF", 102
    ),
    "a product ignores the residual's sign": Fault(
        "vector", "lanes[SUM1, c] * lanes[RES1, c]", "lanes[SUM1, c] * (lanes[RES1, c] & 255)", 186
    ),
    "the residual of a product is added too": Fault(
        "vector", '1 if g["residual"] and not g["product"] else 0', 'g["residual"]', 156
    ),
    "a table is looked up from its middle on": Fault("vector", "value & 255]", "value + 128 & 255]", 102),
    "a byte is looked up before it is clamped": Fault(
        "vector",
        'lanes[CLAMPED, c] = min(max(value, control["low"]), control["high_limit"])',
        'lanes[CLAMPED, c] = value if control["table"] else min(max(value, control["low"]), control["high_limit"])',
        102,
    ),
    "rows of a table fall on the first": Fault("vector", '(control["row"] - 1) * lanes.shape[1] + c', "c", 102),
    "bytes of a table's words are backwards": Fault("vector", ">> 8 * b & 255", ">> 8 * (3 - b) & 255", 102),
    "lane 0 alone has the table": Fault("vector", "v.table[copy, at + b]", "v.table[0, at + b]", 102),
    "a row of the table is biased": Fault(
        "vector",
        'pass_row(control, lanes, BIASED, SUM1)\n    if control["go"]',
        'if control["go"] or control["row"]',
        102,
    ),
    "a table's last row is not issued": Fault(
        "vector", 'if reg["param"] == reg["params"]:', 'if reg["param"] + 1 >= reg["params"]:', 102
    ),
    "a table waits for the pipeline to be empty": Fault(
        "front",
        'if f.program[op]["kind"] == VEC and f.program[op]["fence"] and engine["count"] > 0',
        'if (f.program[op]["kind"] == TABLE or f.program[op]["fence"]) and engine["count"] > 0',
        102,
    ),
    "high bytes to the low word": Fault("vector", "+ high) * GROUP", ") * GROUP", 90),
    "the load always goes first": Fault("dma", 'u = (bus["last"] + turn) % CLIENTS', "u = turn - 1", 102),
    "the fetch goes before the store": Fault(
        "dma", 'u = (bus["last"] + turn) % CLIENTS', 'u = (bus["last"] + 2 * turn) % CLIENTS', "long code"
    ),
    "the fetch buffer is a word larger": Fault(
        "fetch", '<= sizes["buffer_words"]', '<= sizes["buffer_words"] + 1', "long code"
    ),
    "words are there with a block's first beat": Fault("fetch", 'if beat["last"]:', "if True:", "long code"),
    "the last block of the program is a whole one": Fault(
        "fetch", 'min(sizes["fetch_words"], len(f.program) - fetch["asked"])', 'sizes["fetch_words"]', 102
    ),
    "the program is fetched from address 0": Fault("power", '["fetch"]["base"] = at', '["fetch"]["base"] = 0', 102),
    "the decoder knows no signs": Fault("fetch", "if signed and value", "if False and value", 102),
    "waits for words are not told from full queues": Fault(
        "front", 'r["causes"][e, FETCH] += r["starved"]', 'r["causes"][e, QUEUE] += r["starved"]', 102
    ),
    "the halt needs no word": Fault("clock", "if word and front.at_halt", "if front.at_halt", 102),
    "blocks are one burst longer": Fault(
        "dma",
        '// r["sizes"]["burst_bytes"]\n            return',
        '// r["sizes"]["burst_bytes"] + 1\n            return',
        59,
    ),
    "runs without a gap are not joined": Fault(
        "dma", 'if d["cols"] == 1 or o["dram_col_pitch"] == d["run"]:', "if False:", 102
    ),
    "the table of a bias is not indexed": Fault("dma", 'if o["kind"] == LOAD_OP and o["indexed"]:', "if False:", 102),
    "a fold counts a pixel too many": Fault(
        "dma", 'd["pixels"] = o["rows"] * o["cols"]', 'd["pixels"] = o["rows"] * o["cols"] + 1', 102
    ),
    "a fold does not wait for its bytes": Fault(
        "dma", 'pixel % o["cols"]) <= d["moved"]', 'pixel % o["cols"]) <= d["moved"] + 4', 6
    ),
    "the vector engine goes before the matrix engine": Fault("clock", MATRIX + VECTOR, VECTOR + MATRIX, 70),
}


def test_the_copy_without_a_fault_agrees(tmp_path):
    with machine_with(None, tmp_path, "machine_as_it_is") as model:
        for by in sorted({fault.by for fault in FAULTS.values()}, key=str):
            assert shown(model, by) is None, by


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_shown(name, tmp_path):
    fault = FAULTS[name]
    with machine_with(fault, tmp_path, f"machine_{list(FAULTS).index(name)}") as model:
        assert shown(model, fault.by) is not None


@pytest.mark.parametrize("rule", ENGINE_RULES)
def test_a_fault_in_a_rule_of_the_fast_simulator_is_shown(monkeypatch, rule):
    right = getattr(rules, rule)
    monkeypatch.setattr(rules, rule, lambda *args: ENGINE_RULES[rule](right(*args)))
    seeds = (102, 78)
    found = []
    for seed in seeds:
        p, vectors, image = random_case(seed)
        found.append(verify(workload(p), vectors, ("fast", "register"), image).difference)
    assert any(found)
