"""Each pass over the float graph: what it does to a small graph, as a golden dump, and that the meaning stays."""

from dataclasses import replace

import numpy as np
import pytest
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import (
    Act,
    Add,
    Affine,
    Clip,
    Concat,
    Conv,
    Crop,
    Curve,
    Graph,
    LeakyRelu,
    Mosaic,
    Mul,
    Place,
    Pool,
    TensorQuant,
)
from npu_compiler.graph.passes import PASSES, optimize
from npu_compiler.graph.passes.fold_activation import fold_activation
from npu_compiler.graph.passes.fold_batchnorm import fold_batchnorm
from npu_compiler.graph.passes.fold_pad import fold_pad
from npu_compiler.graph.passes.fuse_curves import fuse_curves
from npu_compiler.graph.passes.fuse_residual import fuse_residual
from npu_compiler.graph.passes.prune import prune
from npu_compiler.graph.passes.sink_into_parts import sink_into_parts
from npu_compiler.graph.passes.split_pools import split_pools
from npu_compiler.graph.passes.verify import shape_of, verify
from npu_compiler.options import QuantizeOptions
from npu_compiler.outputs import Output
from npu_compiler.pipeline import quantize
from npu_compiler.qgraph.dump import dump
from npu_compiler.qgraph.ir import Preprocess

RNG = np.random.default_rng(0)
RELU, RELU6 = Clip(low=0.0), Clip(low=0.0, high=6.0)
LEAKY = LeakyRelu(0.1)
SHAPE = (3, 6, 6)


def conv(name, src, outs=3, ins=3, **more):
    weight = RNG.normal(0, 0.3, (outs, ins, 3, 3)).astype(np.float32)
    more = {"pads": (1, 1, 1, 1)} | more
    return Conv(name, name, (name,), src, weight, RNG.normal(0, 1, outs).astype(np.float32), **more)


def affine(name, src, channels=3):
    factors = RNG.uniform(0.5, 2, (2, channels)).astype(np.float32)
    return Affine(name, name, (name,), src, factors[0], factors[1])


def act(name, src, kind):
    return Act(name, name, (name,), src, kind)


def add(name, a, b, **more):
    return Add(name, name, (name,), a, b, **more)


def mul(name, a, b, **more):
    return Mul(name, name, (name,), a, b, **more)


def uniform(name, src, scale, shift, channels=3):
    """A factor and a term that are the same for all channels."""
    return Affine(name, name, (name,), src, *(np.full(channels, v, np.float32) for v in (scale, shift)))


def pad(name, src, pads=(1, 0, 1, 2)):
    return Crop(name, name, (name,), src, pads=pads)


def graph(*nodes, quant=None):
    """Return the graph whose output is made by the last node."""
    found = Graph("net", (), {"x": SHAPE}, "x", (Output("y", "x", SHAPE),), quant or {})
    for node in nodes:
        found = replace(found, nodes=(*found.nodes, node), shapes=found.shapes | {node.out: shape_of(found, node)})
    return replace(found, outputs=(Output("y", nodes[-1].out, found.shapes[nodes[-1].out]),))


CASES = {
    "prune": (
        prune,
        graph(conv("kept", "x"), conv("dead", "kept"), act("deader", "dead", RELU), act("out", "kept", RELU)),
    ),
    "fold_pad": (
        fold_pad,
        graph(
            pad("a", "x"),
            conv("takes", "a"),
            pad("b", "takes", (-1, 0, 0, 0)),
            conv("not_a_crop", "b"),
            pad("c", "not_a_crop"),
            Pool("not_a_maximum", "not_a_maximum", (), "c", "max", (2, 2)),
            pad("d", "not_a_maximum"),
            conv("not_a_shared_one", "d", pads=(0, 0, 0, 0)),
            conv("other_reader", "d", pads=(0, 0, 0, 0)),
            add("out", "not_a_shared_one", "other_reader"),
        ),
    ),
    "fold_batchnorm": (
        fold_batchnorm,
        graph(
            conv("a", "x"),
            affine("bn_a", "a"),
            affine("bn_again", "bn_a"),
            act("relu", "bn_again", RELU),
            affine("after_relu", "relu"),
            conv("b", "after_relu"),
            affine("shared", "b"),
            add("sum", "shared", "b"),
            affine("after_sum", "sum"),
        ),
    ),
    "fold_activation": (
        fold_activation,
        graph(
            conv("a", "x"),
            act("relu", "a", RELU),
            act("relu6", "relu", RELU6),
            act("leaky_after_clip", "relu6", LEAKY),
            affine("b", "leaky_after_clip"),
            act("leaky", "b", LEAKY),
            add("c", "leaky", "leaky_after_clip"),
            act("clip", "c", Clip(low=-1.0, high=1.0)),
            act("apart", "clip", Clip(low=2.0, high=3.0)),
            Pool("pool", "pool", (), "apart", "max", (2, 2)),
            act("after_pool", "pool", RELU),
        ),
    ),
    "fuse_residual": (
        fuse_residual,
        graph(
            conv("early", "x"),
            conv("later", "x"),
            add("of_two", "early", "later", act=RELU),
            add("of_itself", "of_two", "of_two"),
            conv("active", "of_itself", act=RELU),
            add("not_after_relu", "active", "of_itself"),
            conv("shared", "not_after_relu"),
            add("not_shared", "shared", "not_after_relu"),
            conv("before_leaky", "shared"),
            add("leaky", "before_leaky", "not_shared", act=LEAKY),
        ),
    ),
    "fuse_residual_qdq": (
        fuse_residual,
        graph(conv("fixed", "x"), add("sum", "fixed", "x"), quant={"fixed": TensorQuant(0.25, True)}),
    ),
    "fuse_curves": (
        fuse_curves,
        graph(
            conv("a", "x"),
            act("sigmoid", "a", Curve(("x", "sigmoid"))),
            mul("silu", "a", "sigmoid"),
            conv("b", "silu"),
            uniform("plus_3", "b", 1.0, 3.0),
            act("relu6", "plus_3", RELU6),
            uniform("sixth", "relu6", 1 / 6, 0.0),
            mul("hard_swish", "b", "sixth"),
            conv("c", "hard_swish"),
            act("a_clip_stays", "c", RELU),
            mul("of_two_roots", "a_clip_stays", "hard_swish"),
            affine("per_channel", "of_two_roots"),
            act("tanh", "per_channel", Curve(("x", "tanh"))),
            add("difference", "tanh", "per_channel", factors=(0.5, -1.0)),
            act("read_twice", "difference", Curve(("x", "exp"))),
            conv("d", "read_twice"),
            add("other_reader", "read_twice", "d"),
            act("relu_of_output", "other_reader", RELU),
            uniform("output_keeps_16_bits", "relu_of_output", 2.0, 0.0),
        ),
    ),
    "fuse_curves_qdq": (
        fuse_curves,
        graph(
            act("fixed", "x", Curve(("x", "sigmoid"))),
            mul("product", "x", "fixed"),
            quant={"fixed": TensorQuant(1 / 255, False)},
        ),
    ),
    "sink_into_parts": (
        sink_into_parts,
        graph(
            *(conv(name, "x") for name in ("top", "bottom", "left", "right", "read_again")),
            Mosaic("high", "high", ("m",), ("top", "bottom"), (Place(), Place(y=6)), (12, 6)),
            affine("bn", "high"),
            act("prelu", "bn", LeakyRelu((0.1, 0.2, -0.3))),
            Concat("wide", "wide", ("c",), ("left", "right")),
            affine("bn_of_six", "wide", 6),
            act("prelu_of_six", "bn_of_six", LeakyRelu(tuple(i / 8 for i in range(6)))),
            Pool("pool", "pool", (), "prelu", "max", (2, 1), (2, 1)),
            Concat("not_all_free", "not_all_free", (), ("pool", "read_again", "prelu_of_six")),
            act("stays", "not_all_free", RELU),
            conv("out", "stays", ins=12, residual="read_again"),
        ),
    ),
    "split_pools": (
        split_pools,
        graph(
            Pool("small", "small", (), "x", "avg", (3, 3), (3, 3)),
            Mosaic("tall", "tall", (), ("x",) * 128, tuple(Place(y=6 * i) for i in range(128)), (768, 6)),
            Pool("some_rows", "some_rows", (), "tall", "avg", (768, 6)),
            Pool("overlapping", "overlapping", (), "tall", "max", (768, 6), (1, 1)),
            Pool("largest", "largest", (), "tall", "max", (768, 3), (768, 3)),
            Concat("out", "out", (), ("some_rows", "overlapping")),
            add("sum", "largest", "largest"),
        ),
    ),
    "fold_activation_qdq": (
        fold_activation,
        graph(conv("fixed", "x"), act("relu", "fixed", RELU), quant={"fixed": TensorQuant(0.25, True)}),
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_pass(name, golden):
    graph_pass, before = CASES[name]
    verify(before, "the test")
    after = graph_pass(before)
    verify(after, graph_pass.__name__)
    x = RNG.normal(0, 1, (2, *SHAPE)).astype(np.float32)
    want, got = (evaluate(g, x)[g.output_tensors[0]] for g in (before, after))
    assert np.abs(want - got).max() <= 1e-5 * (1 + np.abs(want).max())
    golden(f"{name}.txt", f"# before\n{before.dump()}# after {graph_pass.__name__}\n{after.dump()}")


def test_passes_run_in_their_order_and_are_observed():
    seen = []
    made = optimize(CASES["fold_batchnorm"][1], observe=lambda name, g: seen.append((name, len(g.nodes))))
    assert [name for name, _ in seen] == [p.__name__ for p in PASSES]
    assert [count for _, count in seen] == sorted((count for _, count in seen), reverse=True)
    assert seen[-1][1] == len(made.nodes)


def test_merged_nodes_keep_the_names_of_all():
    made = optimize(graph(conv("a", "x"), affine("b", "a"), act("c", "b", RELU), add("d", "c", "x")))
    assert [n.onnx_nodes for n in made.nodes] == [("a", "b", "c"), ("d",)]
    assert [(n.name, n.out) for n in made.nodes] == [("a", "c"), ("d", "d")]


def test_batchnorm_keeps_the_integers_of_a_qdq_model():
    """A weight's integer stays: the factor, and its sign, go into scale and weight alike."""
    before = graph(conv("a", "x", weight_scale=np.full(3, 0.01, np.float32)), affine("b", "a"))
    made = fold_batchnorm(before).nodes[0]
    old = before.nodes[0].weight / before.nodes[0].weight_scale[:, None, None, None]
    new = made.weight / made.weight_scale[:, None, None, None]
    assert np.abs(old - new).max() < 1e-3


@pytest.mark.parametrize("integer", [-127, -128])
def test_batchnorm_drops_a_scale_whose_integers_would_leave_int8(integer):
    """-128 with its sign changed is 128."""
    a, b = conv("a", "x", weight_scale=np.full(3, 0.01, np.float32)), affine("b", "a")
    a.weight[0, 0, 0, 0] = integer * a.weight_scale[0]
    b.scale[:] = -2
    kept = fold_batchnorm(graph(a, b)).nodes[0].weight_scale
    assert (kept is None) == (integer == -128)


def test_batchnorm_stays_where_its_product_is_not_finite():
    a, b = conv("a", "x"), affine("b", "a")
    a.weight[:] = 1e30
    b.scale[:] = 1e30
    assert fold_batchnorm(graph(a, b)).nodes == (a, b)


BROKEN = {
    "name": (lambda g: replace(g, nodes=(g.nodes[0], replace(g.nodes[1], name="a"))), "a: node name is taken"),
    "twice": (lambda g: replace(g, nodes=(g.nodes[0], replace(g.nodes[1], out="a"))), "b: a is made twice"),
    "order": (lambda g: replace(g, nodes=g.nodes[::-1]), "b: reads a before it is made"),
    "shape": (lambda g: replace(g, shapes=g.shapes | {"b": (3, 6, 7)}), r"b: shape \(3, 6, 7\)"),
    "missing": (lambda g: replace(g, outputs=(Output("y", "c", (4, 5, 5)),)), "net: outputs not made: {'c'}"),
    "mosaic": (
        lambda g: replace(g, nodes=(*g.nodes, Mosaic("m", "m", (), ("b", "b"), (Place(), Place(y=5)), (11, 6)))),
        "m: a pixel in no part",
    ),
    "curve": (
        lambda g: replace(g, nodes=(g.nodes[0], replace(g.nodes[1], act=Curve(("x", "mul"))))),
        "b: curve",
    ),
    "unknown": (lambda g: replace(g, shapes=g.shapes | {"z": SHAPE}), "net: shapes of unknown tensors: {'z'}"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_graph_is_named_after_the_pass(name):
    change, text = BROKEN[name]
    with pytest.raises(AssertionError, match=f"(after some_pass: )?{text}"):
        verify(change(graph(conv("a", "x"), act("b", "a", RELU))), "some_pass")


def test_quantized_graph(golden):
    """Whole numbers throughout, so that the text is the same everywhere: pixels as they are, weights up to 127."""
    weight = (np.arange(4 * 3).reshape(4, 3, 1, 1) % 5 - 1).astype(np.float32)
    weight[:, 0] = 127.0
    twice = np.full((4, 1, 3, 3), 127.0, np.float32)
    one = np.full((2, 8, 1, 1), 127.0, np.float32)
    nothing = np.zeros(4, np.float32)
    made = graph(
        Conv("stem", "stem", (), "x", weight, nothing, act=RELU),
        Conv("deep", "deep", (), "stem", twice, nothing, (2, 2), (1, 1, 1, 1), groups=4),
        Pool("pool", "pool", (), "stem", "max", (2, 2), (2, 2)),
        Concat("both", "both", (), ("deep", "pool")),
        Conv("head", "head", (), "both", one, np.zeros(2, np.float32)),
    )
    pixels = np.full((1, 6, 6, 3), 254, np.uint8)
    pre = Preprocess(1.0, (0.0,) * 3, (1.0,) * 3, (), ())
    options = QuantizeOptions(aligned=False, bias_correction="none", keep_last_8bit=False, keep_small_8bit=False)
    golden("quantized.txt", dump(quantize(made, pixels, pre, options)))
