"""Damaged ONNX files are refused or imported, and take neither the memory nor the process with them.

tests/benchmarks/mutate_onnx.py tries many more.
"""

from collections import Counter

import numpy as np
import onnx
import pytest
from npu_isa.errors import ModelError, UnsupportedError
from onnx import TensorProto, helper

from tests.onnx_models import Net, refusal, save
from tests.onnx_mutations import mutate, outcome, small_models

FILES = small_models()


@pytest.mark.parametrize("part", range(5))
def test_damaged_files_are_refused_or_imported(part, tmp_path):
    found: Counter[str] = Counter()
    path = tmp_path / "damaged.onnx"
    for seed in range(40 * part, 40 * part + 40):
        rng = np.random.default_rng(seed)
        _, damaged = mutate(FILES[seed % len(FILES)], rng)
        path.write_bytes(damaged)
        found[outcome(path)] += 1
    assert found.keys() <= {"accepted", "ModelError", "UnsupportedError"}, found
    assert found["accepted"]
    assert found["ModelError"]


def test_whole_files_are_imported(tmp_path):
    path = tmp_path / "whole.onnx"
    for data in FILES:
        path.write_bytes(data)
        assert outcome(path) == "accepted"


# -- constants that would fill the memory

HUGE = {
    "ConstantOfShape": lambda net, big: net.node("ConstantOfShape", big),
    "Expand": lambda net, big: net.node("Expand", net.constant([1.0]), big),
    "Tile": lambda net, big: net.node("Tile", net.constant([1.0]), big),
    "Range": lambda net, big: net.node("Range", *(net.constant(v, np.int64) for v in (0, 10**12, 1))),
    "Pad": lambda net, big: net.node("Pad", net.constant([1.0]), net.constant([0, 10**12], np.int64)),
    "OneHot": lambda net, big: net.node("OneHot", net.constant([0], np.int64), big, net.constant([0.0, 1.0])),
    "MatMul": lambda net, big: net.node("MatMul", net.weight(1 << 16, 1), net.weight(1, 1 << 16)),
    "Add": lambda net, big: net.node("Add", net.weight(1 << 16, 1), net.weight(1, 1 << 16)),
}


@pytest.mark.parametrize("name", list(HUGE))
def test_constant_that_would_fill_the_memory(name, tmp_path):
    net = Net((3, 6, 6))
    made = HUGE[name](net, net.constant([10**12], np.int64))
    model = net.model(net.node("Mul", "x", net.node("Identity", made)))
    error = refusal(save(model, tmp_path), UnsupportedError)
    assert error.message.startswith(f"node {made} ({name}): ")
    assert "too large" in error.message or "is not known" in error.message


def test_tensor_that_declares_more_than_it_holds(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Conv", "x", net.weight(4, 3, 1, 1)))
    model.graph.initializer[0].dims[0] = 10**12
    assert "c0" in refusal(save(model, tmp_path), ModelError).message


@pytest.mark.parametrize("damage", ["type", "negative", "short"])
def test_tensor_that_cannot_be_read(damage, tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Conv", "x", net.weight(4, 3, 1, 1)))
    tensor = model.graph.initializer[0]
    if damage == "type":
        tensor.data_type = 119
    elif damage == "negative":
        tensor.dims[0] = -1
    else:
        tensor.raw_data = tensor.raw_data[:-3]
    error = refusal(save(model, tmp_path), ModelError)
    assert "tensor" in error.message
    assert "c0" in error.message


def test_node_that_may_make_other_values_each_time_or_holds_a_graph(tmp_path):
    net = Net((1, 6, 6))
    noise = net.node("RandomUniformLike", net.constant([1.0]), name="noise")
    drawn = net.node("Bernoulli", net.constant([0.5]), name="drawn")
    body = helper.make_graph(
        [helper.make_node("Identity", ["c0"], ["inner"])], "body", [], [onnx.ValueInfoProto(name="inner")]
    )
    chosen = net.node(
        "If", net.node("Cast", drawn, to=TensorProto.BOOL), then_branch=body, else_branch=body, name="chosen"
    )
    made = net.node("Mul", net.node("Mul", net.node("Mul", "x", noise), drawn), chosen)
    error = refusal(save(net.model(made), tmp_path), UnsupportedError)
    for name in ("noise (RandomUniformLike)", "drawn (Bernoulli)", "chosen (If)"):
        assert f"node {name}: operator not supported" in error.message


# -- what ends the process inside onnx's inference


@pytest.mark.parametrize("host", ["auto", "none"])
@pytest.mark.parametrize("opset", [10, 17])
def test_sizes_below_zero_before_a_slice(opset, host, tmp_path):
    net = Net((3, 6, 6), opset)
    conv = net.node("Conv", "x", net.weight(4, 3, 1, 9), name="wide")
    given = [net.constant([v], np.int64) for v in (0, 9, 3, 2)]
    model = net.model("sliced")  # without the Slice: building it infers shapes too
    model.graph.node.append(helper.make_node("Slice", [conv, *given], ["sliced"], "sliced"))
    message = refusal(save(model, tmp_path), UnsupportedError, host=host).message
    assert message.partition("; the host")[0] == "node wide (Conv): the window 1x9 is larger than the padded image"


def test_slice_backwards_through_a_constant_without_values(tmp_path):
    net = Net((3, 6, 6))
    none = net.node("ConstantOfShape", net.constant([0], np.int64))
    part = net.node("Slice", none, *(net.constant([v], np.int64) for v in (-1, -9, 0, -1)), name="part")
    model = net.model(net.node("Add", "x", net.node("ReduceMean", part, keepdims=0)))
    message = refusal(save(model, tmp_path), UnsupportedError).message
    assert message.startswith("node part (Slice): the size of the constant that it makes is not known")
