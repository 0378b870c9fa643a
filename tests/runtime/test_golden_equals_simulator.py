"""Every layer, every ratio, random networks on random machines: the simulator is the golden model, bit for bit."""

import re
from functools import partial

import numpy as np
import pytest
from npu_compiler.backend import make_plan
from npu_compiler.qgraph.ir import QConv
from npu_isa.errors import CompileError

from tests.equality import random_case, tiny_machine
from tests.qgraphs import random_qgraph


@pytest.mark.parametrize("seed", range(40))
def test_random_network(seed):
    found, _, text = random_case(seed)
    assert [c.difference for c in found] == [None] * len(found), text


TINY = range(1000, 1060)


def in_strips(seed, times=1):
    try:
        return random_case(seed, partial(tiny_machine, times=times))
    except CompileError as error:
        if times == 64 or not re.search("smallest strip.* of activation memory", error.message):
            raise
        return in_strips(seed, 2 * times)


@pytest.mark.parametrize("seed", TINY)
def test_random_network_in_strips(seed):
    """Machines so small that strips are cut in width, or by channels; twice as large while one tile does not fit."""
    found, _, text = in_strips(seed)
    assert [c.difference for c in found] == [None] * len(found), text


def test_tiny_machines_see_every_kind_of_strip():
    seen = set()
    for seed in TINY:
        rng = np.random.default_rng(seed)
        graph = random_qgraph(rng)
        try:
            plan = make_plan(graph, tiny_machine(rng))
        except CompileError:
            continue
        for n in plan.nodes:
            kind, out = "conv" if isinstance(n.node, QConv) else "window", graph.tensors[n.node.out]
            cut = {role for role in n.moved if any(len(s.x) < out.width for s in n.strips)}
            seen |= {("width", kind, role) for role in cut}
            seen |= {("width", kind, "fold")} if "src" in cut and n.node.src in plan.folds else set()
            seen |= {("channels", kind)} if any(len(s.columns) < n.tiling.columns for s in n.strips) else set()
            seen |= {("buffers", len(m.buffers)) for m in n.moved.values() if len(n.strips) > 1}
    widths = {("width", kind, role) for kind in ("conv", "window") for role in ("src", "residual", "out")}
    assert seen >= widths | {("width", "conv", "fold"), ("channels", "conv"), ("channels", "window")}
    assert seen >= {("buffers", 1), ("buffers", 2)}
