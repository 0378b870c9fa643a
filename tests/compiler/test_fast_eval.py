"""The fast evaluation is the golden model, bit for bit, at boundaries and for any set of lowered groups."""

from dataclasses import replace

import numpy as np
import pytest
from npu_compiler.qgraph import fast_eval, golden
from npu_compiler.qgraph.fast_eval import Evaluator, Mode, lowered_bytes, mode_at
from npu_compiler.qgraph.ir import Clamp, Epilogue
from npu_isa.errors import DataError

from tests.qgraphs import random_images, random_qgraph, with_dynamic_positions


@pytest.mark.parametrize("seed", range(40))
def test_outputs_are_those_of_the_golden_model(seed):
    rng = np.random.default_rng(seed)
    graph = random_qgraph(rng)
    images = random_images(rng, graph, int(rng.integers(1, 6)))
    for share in (0, 0.5, 1):
        boundaries = [round(share * graph.tensors[n.src].groups) for n in graph.lowerable]
        expected = golden.run(graph, images, boundaries)[graph.output_tensors[0]]
        assert np.array_equal(fast_eval.run(graph, images, boundaries)[graph.output_tensors[0]], expected)


@pytest.mark.parametrize("seed", range(12))
def test_kept_tensors_are_those_of_the_golden_model(seed):
    rng = np.random.default_rng(100 + seed)
    graph = random_qgraph(rng)
    images = random_images(rng, graph, 3)
    names = [n.out for n in graph.nodes if n.out != graph.output_tensors[0]]
    expected = golden.run(graph, images, [0] * len(graph.lowerable), keep=True)
    found = [*Evaluator(graph).batches(images, {}, names)]
    for name in names:
        raw = np.concatenate([values[name] for values in found])
        got = raw.view(np.int8) if graph.tensors[name].signed else raw
        assert np.array_equal(got, expected[name]), name


@pytest.mark.parametrize("seed", range(12))
def test_any_set_of_groups_is_a_prefix_of_another_order(seed):
    """Lower a random set of groups; the golden model does the same at a boundary of the order that puts them first."""
    rng = np.random.default_rng(200 + seed)
    graph = random_qgraph(rng)
    images = random_images(rng, graph, 2)
    modes, nodes, boundaries = {}, {}, []
    for node in graph.lowerable:
        groups = graph.tensors[node.src].groups
        whole = mode_at(node, groups)
        lowered = rng.random(groups) < 0.5
        modes[node.name] = replace(whole, lowered=lowered)
        order = tuple(int(g) for g in [*np.flatnonzero(lowered), *np.flatnonzero(~lowered)])
        lowering = replace(
            node.lowering,
            order=order,
            act_shift=tuple(int(s) for s in whole.act_shift[list(order)]),
            wgt_shift=whole.wgt_shift[list(order)],
            bias_rows=np.tile(whole.bias, (groups + 1, 1)),
        )
        nodes[node.name] = replace(node, lowering=lowering)
        boundaries.append(int(lowered.sum()))
    reordered = replace(graph, nodes=tuple(nodes.get(n.name, n) for n in graph.nodes))
    expected = golden.run(reordered, images, boundaries)[graph.output_tensors[0]]
    assert np.array_equal(Evaluator(graph).run(images, modes)[graph.output_tensors[0]], expected)


@pytest.mark.parametrize("clip", [0, 1, 3])
@pytest.mark.parametrize("signed", [False, True])
def test_dynamic_positions_by_plain_integers(signed, clip):
    """Bit length of the OR of the magnitudes (~x of a negative x) - 4 (3 if signed) - clip, at least 0."""
    rng = np.random.default_rng(5)
    x = (rng.integers(0, 256, (500, 1, 1, 32)) >> rng.integers(0, 9, (500, 1, 1, 1))).astype(np.uint8)
    if signed:
        x = np.where(rng.random(x.shape) < 0.5, ~x, x)
    mode = Mode(
        np.array([True, False]), np.array([clip, 0]), np.zeros((2, 1), np.int8), np.zeros(1, np.int32), "dynamic"
    )
    got = lowered_bytes(x, mode, signed)
    assert np.array_equal(got[..., 16:], x[..., 16:])
    for pixel, low in zip(x[:, 0, 0, :16].tolist(), got[:, 0, 0, :16].tolist(), strict=True):
        values = [v - 256 if signed and v > 127 else v for v in pixel]
        bits = 0
        for v in values:
            bits |= ~v if v < 0 else v
        s = max(bits.bit_length() - (3 if signed else 4) - clip, 0)
        least, most = (-8, 7) if signed else (0, 15)
        expected = [min(max((v + ((1 << s) >> 1)) >> s, least), most) << s for v in values]
        assert low == [v & 255 for v in expected]


def test_walk_gives_the_mean_of_the_accumulators():
    rng = np.random.default_rng(7)
    graph = random_qgraph(rng)
    images = random_images(rng, graph, 5)
    boundaries = [graph.tensors[n.src].groups for n in graph.lowerable]
    values = golden.run(graph, images, boundaries, keep=True)
    at = dict(zip((n.name for n in graph.lowerable), boundaries, strict=True))
    checked = []

    def choose(node, mean):
        mode = mode_at(node, at.get(node.name, 0))
        identity = replace(
            node,
            epilogue=Epilogue(
                bias=np.zeros_like(node.epilogue.bias),
                mult=np.ones_like(node.epilogue.mult),
                shift=np.ones_like(node.epilogue.shift),
                function=Clamp(-32768, 32767),
            ),
            lowering=node.lowering and replace(node.lowering, bias_rows=np.zeros_like(node.lowering.bias_rows)),
        )
        wide = replace(
            graph, tensors={**graph.tensors, node.out: replace(graph.tensors[node.out], bits=16, signed=True)}
        )
        half = golden.run_node(wide, identity, values, at.get(node.name, 0))  # (sum + 1) >> 1, clamped to 16 bits
        if np.abs(half).max() < 32767:
            expected = half.mean(axis=(0, 1, 2))
            assert np.allclose(mean(mode) / 2, expected, atol=0.51), node.name
            checked.append(node.name)
        return mode

    Evaluator(graph).walk(images, choose)
    assert checked


def test_wrong_arguments():
    graph = random_qgraph(np.random.default_rng(0))
    with pytest.raises(DataError, match="boundaries for"):
        fast_eval.run(graph, random_images(np.random.default_rng(0), graph, 1), [0] * 99)


@pytest.mark.parametrize("seed", range(6))
def test_dynamic_extraction_is_that_of_the_golden_model(seed):
    rng = np.random.default_rng(300 + seed)
    graph = with_dynamic_positions(random_qgraph(rng))
    images = random_images(rng, graph, 2)
    for share in (0.5, 1):
        boundaries = [round(share * graph.tensors[n.src].groups) for n in graph.lowerable]
        expected = golden.run(graph, images, boundaries)[graph.output_tensors[0]]
        assert np.array_equal(fast_eval.run(graph, images, boundaries)[graph.output_tensors[0]], expected)
