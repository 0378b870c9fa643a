"""Fitted bias rows: the running 4-bit network has the 8-bit network's means, and what may not change does not."""

from dataclasses import replace

import numpy as np
import pytest
from npu_compiler.lowering.fit import RATIOS, fit_bias_rows, walk_of_all_groups
from npu_compiler.qgraph import npuq
from npu_compiler.qgraph.fast_eval import Evaluator, mode_at

from tests.qgraphs import random_images, random_qgraph


def means(graph, images, boundaries):
    """Return the mean sum with bias of each layer with a dial, as the network runs."""
    at = dict(zip((n.name for n in graph.lowerable), boundaries, strict=True))
    found = {}

    def choose(node, mean):
        mode = mode_at(node, at.get(node.name, 0))
        if node.name in at:
            found[node.name] = mean(mode) + (node.epilogue.bias if mode is None else mode.bias)
        return mode

    Evaluator(graph).walk(images, choose)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_means_at_100_percent_are_those_of_the_8_bit_network(seed):
    rng = np.random.default_rng(seed)
    graph = next(g for g in iter(lambda: random_qgraph(rng), None) if g.lowerable)
    images = random_images(rng, graph, 6)
    fitted = fit_bias_rows(graph, images)
    whole = [graph.tensors[n.src].groups for n in graph.lowerable]
    wanted, before, after = (
        means(g, images, b) for g, b in ((graph, [0] * len(whole)), (graph, whole), (fitted, whole))
    )
    assert walk_of_all_groups(graph, 100) == tuple(whole)
    sooner = [walk_of_all_groups(graph, ratio) for ratio in RATIOS[:-1]]  # a row met twice repairs both on average
    for name, *at in zip(wanted, whole, *sooner, strict=True):
        if at[0] not in at[1:]:
            assert np.abs(after[name] - wanted[name]).max() <= 0.5 + 1e-6, name  # the row is a whole number
    assert max(np.abs(before[n] - wanted[n]).max() for n in wanted) > 1


def test_row_0_and_everything_else_is_kept():
    rng = np.random.default_rng(3)
    graph = random_qgraph(rng)
    fitted = fit_bias_rows(graph, random_images(rng, graph, 3))
    for old, new in zip(graph.lowerable, fitted.lowerable, strict=True):
        assert np.array_equal(old.lowering.bias_rows[0], new.lowering.bias_rows[0])
        back = replace(new, lowering=replace(new.lowering, bias_rows=old.lowering.bias_rows))
        fitted = replace(fitted, nodes=tuple(back if n.name == old.name else n for n in fitted.nodes))
    assert npuq.to_bytes(fitted) == npuq.to_bytes(graph)


def test_walk_is_nested_and_meets_its_ratio():
    graph = random_qgraph(np.random.default_rng(5), steps=8)
    before = (0,) * len(graph.lowerable)
    assert walk_of_all_groups(graph, 0) == before
    for ratio in range(1, 101):
        now = walk_of_all_groups(graph, ratio)
        assert all(a <= b for a, b in zip(before, now, strict=True))
        before = now
    assert before == tuple(graph.tensors[n.src].groups for n in graph.lowerable)
