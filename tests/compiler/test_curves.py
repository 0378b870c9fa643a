"""Curves: what a program computes, which tables it becomes, and by which bytes they are looked up."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_compiler.backend.link import compile_quantized
from npu_compiler.graph.curves import BINARY, UNARY, after, curve, well_formed
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import Act, Add, Affine, Clip, Conv, Curve, Graph, LeakyRelu, Mul, Pool
from npu_compiler.graph.passes import optimize
from npu_compiler.graph.passes.verify import shape_of
from npu_compiler.options import QuantizeOptions
from npu_compiler.outputs import Output
from npu_compiler.pipeline import quantize_graph
from npu_compiler.qgraph import golden
from npu_compiler.qgraph.ir import Factor, Lookup, Preprocess, QWindow, Residual
from npu_runtime.session.session import Session

from tests.equality import compare, random_machine

PRE = Preprocess(1 / 128, (1.0,) * 4, (1.0,) * 4, (), ())
PLAIN = QuantizeOptions(rounding="nearest", selection="range", bias_correction="none", grouping="none")
SILU = Curve(("x", "x", "sigmoid", "mul"))
IMAGES = np.random.default_rng(3).integers(0, 256, (24, 8, 8, 4)).astype(np.uint8)

WORDS = {
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "abs": abs,
    "neg": lambda x: -x,
    "reciprocal": lambda x: 1 / x,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "erf": math.erf,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": math.pow,
    "max": max,
    "min": min,
}


@given(st.sampled_from(sorted(WORDS)), st.floats(0.01, 20), st.floats(-3, 3).filter(lambda v: abs(v) > 0.01))
def test_each_word_is_its_function(word, x, constant):
    program = ("x", word) if word in UNARY else ("x", constant, word)
    want = WORDS[word](x) if word in UNARY else WORDS[word](x, constant)
    assert curve(program, np.array([x]))[0] == pytest.approx(want, rel=1e-12, abs=1e-300)
    assert curve(after(program, ("x", 2.0, "mul")), np.array([x / 2]))[0] == pytest.approx(want, rel=1e-12, abs=1e-300)


def test_every_word_is_tried():
    assert WORDS.keys() == UNARY.keys() | BINARY.keys()


@pytest.mark.parametrize("program", [(), ("x", "x"), ("mul",), ("x", "mul"), ("x", "twice"), ("x", 1.0, 2.0, "add")])
def test_what_leaves_no_single_value_is_no_program(program):
    assert not well_formed(program)


def conv(name, src, outs, ins, spread=1.0, **more):
    rng = np.random.default_rng(sum(name.encode()))  # the same in whatever order tests run
    weight = rng.normal(0, spread / ins**0.5, (outs, ins, 1, 1)).astype(np.float32)
    return Conv(name, name, (name,), src, weight, rng.normal(0, 0.3, outs).astype(np.float32), **more)


def act(name, src, kind):
    return Act(name, name, (name,), src, kind)


def network(*nodes):
    found = Graph("net", (), {"x": (4, 8, 8)}, "x", (Output("y", "x", (4, 8, 8)),))
    for node in nodes:
        found = replace(found, nodes=(*found.nodes, node), shapes=found.shapes | {node.out: shape_of(found, node)})
    return replace(found, outputs=(Output("y", nodes[-1].out, found.shapes[nodes[-1].out]),))


def quantized(graph):
    return quantize_graph(graph, IMAGES, PRE, PLAIN)


def sqnr(graph, made):
    """Decibels of the golden model's values in 8 bits against the float model's."""
    out = made.tensors[made.output_tensors[0]]
    x = ((IMAGES / 128 - 1).astype(np.float32)).transpose(0, 3, 1, 2)
    want = evaluate(graph, x)[graph.output_tensors[0]].transpose(0, 2, 3, 1)
    got = golden.run(made, made.table[np.arange(4), IMAGES], [0] * len(made.lowerable))[out.name] * out.scale
    real = [out.channel_map.index(c) for c in range(want.shape[3])]
    return 10 * np.log10((want**2).sum() / ((want - got[..., real]) ** 2).sum())


def table_of(made, name):
    node = next(n for n in made.computed if n.out == name)
    assert isinstance(node.epilogue.function, Lookup)
    return node, node.epilogue.function


def test_the_producer_looks_its_own_sums_up():
    graph = network(conv("a", "x", 24, 4), act("b", "a", SILU), conv("c", "b", 5, 24))
    made = quantized(graph)
    node, function = table_of(made, "b")
    assert [n.out for n in made.computed] == ["b", "c"]
    assert node.onnx_nodes == ("a", "b")
    out = made.tensors["b"]
    for byte in range(function.low, function.high + 1):
        x = byte * function.scale
        want = x / (1 + math.exp(-x)) / out.scale + out.zero
        found = int(function.table[byte & 255])
        found = found - 256 if out.signed and found > 127 else found
        assert abs(found - min(max(want, out.limits[0]), out.limits[1])) <= 0.5 + 1e-6
    assert sqnr(graph, made) > 30


def test_a_tensor_that_is_read_again_is_looked_up_as_it_is():
    graph = network(conv("a", "x", 24, 4), act("b", "a", SILU), Add("c", "c", (), "a", "b"), conv("d", "c", 5, 24))
    made = quantized(graph)
    node, function = table_of(made, "b")
    assert (node.src, function.scale) == ("a", made.tensors["a"].scale)
    assert (node.epilogue.mult == 1 << node.epilogue.shift).all()
    assert sqnr(graph, made) > 28


def test_values_beyond_where_a_curve_is_flat_saturate():
    """A sigmoid of values up to a hundred: bytes are spent on those below ten."""
    graph = network(conv("a", "x", 24, 4, spread=30.0), act("b", "a", Curve(("x", "sigmoid"))), conv("c", "b", 5, 24))
    made = quantized(graph)
    x = ((IMAGES / 128 - 1).astype(np.float32)).transpose(0, 3, 1, 2)
    largest = np.abs(evaluate(graph, x, keep=True)["a"]).max()
    assert largest > 60
    assert table_of(made, "b")[1].scale * 127 < 25
    assert not made.tensors["b"].signed
    assert sqnr(graph, made) > 30


@pytest.mark.parametrize(
    ("last", "bits"), [(act("y", "a", SILU), 8), (act("y", "a", LeakyRelu(0.1)), 16), (conv("y", "a", 3, 24), 16)]
)
def test_an_output_from_a_table_has_8_bits(last, bits):
    made = quantized(network(conv("a", "x", 24, 4), last))
    assert made.tensors["y"].bits == bits


def test_products_and_sums_with_one_value_for_all_pixels():
    """Squeeze and excite, then the mean taken off again."""
    graph = network(
        conv("a", "x", 24, 4),
        Pool("mean", "mean", (), "a", "avg", (8, 8)),
        conv("b", "mean", 24, 24),
        act("gate", "b", Curve(("x", "sigmoid"))),
        Mul("c", "c", (), "a", "gate"),
        Add("d", "d", (), "c", "mean", factors=(1.0, -0.5)),
        conv("e", "d", 5, 24),
    )
    made = quantized(graph)
    c, d = (next(n for n in made.computed if n.out == name) for name in "cd")
    assert isinstance(c, QWindow)
    assert isinstance(c.epilogue.operand, Factor)
    assert isinstance(d.epilogue.operand, Residual)
    assert (d.epilogue.operand.mult[np.array(made.tensors["d"].channel_map) >= 0] < 0).all()
    assert sqnr(graph, made) > 30


def test_slopes_of_any_sign_and_size():
    slopes = tuple(np.linspace(-2.0, 3.0, 24).tolist())
    graph = network(conv("a", "x", 24, 4, act=LeakyRelu(slopes)), conv("b", "a", 5, 24))
    assert sqnr(graph, quantized(graph)) > 30


def test_a_factor_below_zero_without_weights():
    graph = network(Affine("a", "a", (), "x", *np.float32([[-1, -2, 3, 0.5], [0, 1, 0, -1]])), act("b", "a", SILU))
    assert sqnr(graph, quantized(graph)) > 30


@pytest.mark.parametrize("program", [("x", "log"), ("x", "reciprocal"), ("x", -0.5, "pow")])
def test_a_curve_that_leaves_the_numbers_at_0(program):
    """Byte 0 stands for values that are near 0, and looks up what is infinite: the table's end."""
    graph = network(
        conv("a", "x", 24, 4),
        act("b", "a", Curve(("x", "x", "mul", 1e-2, "add"))),
        Pool("c", "c", (), "b", "avg", (2, 2), (2, 2)),
        act("d", "c", Curve(program)),
        conv("e", "d", 5, 24),
    )
    assert sqnr(graph, quantized(graph)) > 10


@pytest.mark.parametrize("magnitude", [1.0, 1e-3, 1e-5])
def test_what_is_zero_on_all_images_ruins_no_sum(magnitude):
    graph = network(
        conv("a", "x", 24, 4),
        Affine("small", "small", (), "a", np.full(24, magnitude, np.float32), np.zeros(24, np.float32)),
        conv("zero", "x", 24, 4, spread=0.0, act=Clip(low=0.0)),
        Add("sum", "sum", (), "small", "zero"),
        Affine("large", "large", (), "sum", np.full(24, 1 / magnitude, np.float32), np.zeros(24, np.float32)),
        conv("b", "large", 5, 24),
    )
    graph.nodes[2].bias[:] = 0
    assert sqnr(graph, quantized(graph)) > 20


def test_programs_do_not_grow_without_end():
    nodes = [Add(f"a{i}", f"a{i}", (), *([f"a{i - 1}" if i else "x"] * 2)) for i in range(40)]
    made = optimize(network(conv("x0", "x", 4, 4), *nodes))
    assert max(len(n.act.program) for n in made.nodes if isinstance(n, Act)) < 1024


HARD_SWISH = Curve(("x", "x", 3.0, "add", 0.0, "max", 6.0, "min", 6.0, "div", "mul"))
LOWERED = replace(PLAIN, keep_last_8bit=False, keep_small_8bit=False, bias_correction="layer")


def test_bytes_are_not_spent_below_what_a_curve_reaches():
    """0 is a byte with a 4-bit code at each position; the reader's bias takes it off. Padding knows byte 0 alone."""
    graph = network(conv("a", "x", 64, 4), act("b", "a", HARD_SWISH), conv("c", "b", 5, 64))
    made = quantize_graph(graph, IMAGES, PRE, LOWERED)
    b = made.tensors["b"]
    assert (b.signed, b.zero % 16) == (False, 0)
    assert b.zero > 0
    padded = replace(graph.nodes[2], pads=(1, 1, 1, 1))
    assert quantize_graph(network(*graph.nodes[:2], padded), IMAGES, PRE, LOWERED).tensors["b"].zero == 0
    assert sqnr(graph, made) > 30
    for seed in range(3):
        machine = random_machine(np.random.default_rng(seed))
        session = Session(compile_quantized(made, machine))
        for ratio in (0, 50, 100):
            boundaries = session.binary.boundaries_at(ratio)
            assert compare(made, session, IMAGES[:2], boundaries).difference is None
