"""The .npuq file: whole round trip, equal bytes, and every damage refused with a message."""

import json
from collections import Counter
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from npu_compiler.qgraph import golden, npuq
from npu_compiler.qgraph.dump import dump
from npu_compiler.qgraph.ir import Factor, Function, Leaky, QConv, QNode, QWindow, Residual
from npu_compiler.qgraph.verify import verify_quantized
from npu_isa.errors import ContainerError
from npu_isa.file.container import HEAD, seal, unseal

from tests.qgraphs import random_images, random_qgraph

GRAPH = random_qgraph(np.random.default_rng(147))


@pytest.mark.parametrize("seed", range(30))
def test_round_trip(seed, tmp_path):
    rng = np.random.default_rng(seed)
    graph = random_qgraph(rng)
    npuq.save(graph, tmp_path / "x.npuq")
    again = npuq.load(tmp_path / "x.npuq")
    assert npuq.to_bytes(again) == (tmp_path / "x.npuq").read_bytes()
    assert dump(again) == dump(graph)
    images = random_images(rng, graph, 2)
    full = [graph.tensors[n.src].groups for n in graph.lowerable]
    a, b = (golden.run(g, images, full)[graph.output_tensors[0]] for g in (graph, again))
    assert np.array_equal(a, b)


def changed(edit):
    """Return file bytes whose manifest or arrays were edited, with the checksum made anew."""
    arrays, manifest = unseal(npuq.to_bytes(GRAPH), npuq.MAGIC, npuq.VERSION, "x")
    arrays = {k: v.copy() for k, v in arrays.items()}
    edit(manifest, arrays)
    return seal(npuq.MAGIC, npuq.VERSION, arrays, manifest)


def conv_at(manifest):
    return next(i for i, n in enumerate(manifest["nodes"]) if n["type"] == "QConv" and n["lowering"])


def with_a(part):
    """Return the number of a node whose epilogue has a residual, or a function of some type."""
    for number, node in enumerate(GRAPH.nodes):
        if isinstance(node, QConv | QWindow):
            e = node.epilogue
            if part in (type(e.function).__name__, type(e.operand).__name__):
                return number
    raise AssertionError(f"no node with a {part}")


def epilogue(manifest, part):
    return manifest["nodes"][with_a(part)]["epilogue"]


EDITS = {
    "missing field": (lambda m, a: m.pop("input"), "the manifest must be an object of"),
    "unknown field": (lambda m, a: m.update(extra=1), "the manifest must be an object of"),
    "wrong type": (lambda m, a: m.update(name=3), "name must be a text"),
    "bool for int": (
        lambda m, a: m["outputs"][0]["shape"].__setitem__(0, True),
        "outputs.0.shape.0 must be a whole number",
    ),
    "unknown node": (
        lambda m, a: m["nodes"][0].update(type="magic"),
        "nodes.0 must be an object of type QFold or QConv or QWindow or QConcat or QMosaic",
    ),
    "a list for a type": (lambda m, a: m["nodes"][0].update(type=[]), "nodes.0 must be an object of type"),
    "another record": (lambda m, a: m["nodes"][0].update(type="Window"), "nodes.0 must be an object of type"),
    "type of another node": (
        lambda m, a: m["nodes"][0].update(type="QConv"),
        "nodes.0 must be an object of type, name",
    ),
    "unknown function": (
        lambda m, a: epilogue(m, "Clamp")["function"].update(type="Table"),
        "epilogue.function must be an object of type Clamp or Leaky or Lookup",
    ),
    "leaky without a multiplier": (
        lambda m, a: epilogue(m, "Clamp")["function"].update(type="Leaky"),
        "epilogue.function must be an object of type, low, high, mult",
    ),
    "leaky multiplier": (
        lambda m, a: a[f"nodes.{with_a('Leaky')}.epilogue.function.mult"].fill(1 << 15),
        "leaky mult beyond",
    ),
    "residual multiplier": (
        lambda m, a: a[f"nodes.{with_a('Residual')}.epilogue.operand.mult"].fill(1 << 15),
        "the residual's mult beyond",
    ),
    "residual of nothing": (lambda m, a: epilogue(m, "Residual")["operand"].update(tensor="nope"), "reads 'nope'"),
    "no function": (
        lambda m, a: epilogue(m, "Clamp").update(function=None),
        "epilogue.function must be an object of type",
    ),
    "a list for an array": (lambda m, a: m["table"].update(array=[]), "table must be an array of the file"),
    "infinite": (lambda m, a: m["preprocess"].update(pixel_scale=10**400), "pixel_scale must be a finite number"),
    "array gone": (lambda m, a: a.pop("table"), "table must be an array of the file"),
    "array too much": (lambda m, a: a.update(more=np.zeros(1)), "arrays that nothing names: more"),
    "table shape": (lambda m, a: a.update(table=a["table"][:, :255]), "shape of the pixel table"),
    "no output": (
        lambda m, a: m["outputs"][0].update(tensor="nope"),
        f"output {GRAPH.outputs[0].name}: it is not made",
    ),
    "scale": (lambda m, a: m["tensors"][m["outputs"][0]["tensor"]].update(scale=-1.0), "scale -1"),
    "size": (lambda m, a: m["tensors"][m["outputs"][0]["tensor"]].update(height=0), "size 0x"),
    "order": (lambda m, a: m["nodes"][conv_at(m)]["lowering"]["order"].__setitem__(0, 77), "the order is no perm"),
    "position": (lambda m, a: m["nodes"][conv_at(m)]["lowering"]["act_shift"].__setitem__(0, 9), "activation posit"),
    "kernel": (lambda m, a: m["nodes"][conv_at(m)]["window"].update(kernel=[7, 9]), "weights int8"),
    "stride": (lambda m, a: m["nodes"][conv_at(m)]["window"].update(stride=[0, 1]), "window"),
    "shift": (lambda m, a: a[f"nodes.{conv_at(m)}.epilogue.shift"].fill(48), "shift outside 1..47"),
    "mult": (lambda m, a: a[f"nodes.{conv_at(m)}.epilogue.mult"].fill(-(1 << 15)), "mult beyond"),
    "clamp": (lambda m, a: m["nodes"][conv_at(m)]["epilogue"]["function"].update(low=5), "clamp 5.."),
    "overflow": (lambda m, a: a[f"nodes.{conv_at(m)}.lowering.bias_rows"].fill((1 << 31) - 1), "a sum may reach"),
    "std": (lambda m, a: m["preprocess"].update(std=[0.0] * len(m["preprocess"]["std"])), "preprocessing numbers"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_is_refused(name):
    edit, message = EDITS[name]
    with pytest.raises(ContainerError) as error:
        npuq.from_bytes(changed(edit), "x.npuq")
    assert message in str(error.value)
    assert str(error.value).startswith("x.npuq")
    assert "quantize the model again" in str(error.value) or "accumulator" in str(error.value)


def test_the_edits_start_from_a_good_file():
    npuq.from_bytes(changed(lambda m, a: None), "x")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_random_changes_of_the_manifest_are_refused_or_harmless(data):
    """Any value of the manifest replaced by another: a ContainerError, or a graph that obeys every rule."""

    def edit(manifest, arrays):
        place, key = manifest, data.draw(st.sampled_from(sorted(manifest)))
        while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        odd = st.sampled_from([[], {}, 0.5, 10**400])
        place[key] = data.draw(st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.text(max_size=3) | odd)

    try:
        graph = npuq.from_bytes(changed(edit), "x")
    except ContainerError:
        return
    verify_quantized(graph, "x")


@pytest.mark.parametrize("length", [0, 5, HEAD - 1, HEAD, HEAD + 10])
def test_cut_short(length):
    with pytest.raises(ContainerError):
        npuq.from_bytes(npuq.to_bytes(GRAPH)[:length], "x")


def test_flipped_bytes_are_found_by_the_checksum():
    data = bytearray(npuq.to_bytes(GRAPH))
    data[len(data) // 2] ^= 1
    with pytest.raises(ContainerError, match="checksum"):
        npuq.from_bytes(bytes(data), "x")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ContainerError, match="cannot read: No such file"):
        npuq.load(tmp_path / "no.npuq")
    (tmp_path / "x.npuq").write_text(json.dumps({}))
    with pytest.raises(ContainerError, match="not a npuq file"):
        npuq.load(tmp_path / "x.npuq")


def test_rules_hold_for_what_the_compiler_makes():
    for seed in range(100):
        verify_quantized(random_qgraph(np.random.default_rng(seed)), "random")


def test_a_residual_and_a_leaky_function_are_not_for_one_node():
    number = with_a("Residual")
    node = GRAPH.nodes[number]
    leaky = Leaky(*GRAPH.tensors[node.out].limits, node.epilogue.mult)
    both = replace(node, epilogue=replace(node.epilogue, function=leaky))
    nodes = (*GRAPH.nodes[:number], both, *GRAPH.nodes[number + 1 :])
    with pytest.raises(ContainerError, match="a second operand with a leaky function"):
        verify_quantized(replace(GRAPH, nodes=nodes), "x")


def test_every_member_of_the_unions_makes_the_round_trip():
    """The parts of a graph by type, before and after, over graphs that have all of them."""

    def parts(graph):
        found = Counter(type(n) for n in graph.nodes)
        computed = [n.epilogue for n in graph.nodes if isinstance(n, QConv | QWindow)]
        return found + Counter(type(part) for e in computed for part in (e.function, e.operand))

    graphs = [random_qgraph(np.random.default_rng(seed)) for seed in range(12)]
    seen = [parts(g) for g in graphs]
    assert seen == [parts(npuq.from_bytes(npuq.to_bytes(g), "x")) for g in graphs]
    assert set(sum(seen, Counter())) == {*get_args(QNode), *get_args(Function), Residual, Factor, type(None)}


def test_a_file_of_the_version_before_is_refused():
    arrays, manifest = unseal(npuq.to_bytes(GRAPH), npuq.MAGIC, npuq.VERSION, "x")
    with pytest.raises(ContainerError, match="version 1"):
        npuq.from_bytes(seal(npuq.MAGIC, 1, arrays, manifest), "x")


def test_two_owners_of_a_tensor_are_refused():
    conv = next(n for n in GRAPH.nodes if isinstance(n, QConv))
    twice = replace(GRAPH, nodes=(*GRAPH.nodes, replace(conv, name="again")))
    with pytest.raises(ContainerError, match="again: output"):
        verify_quantized(twice, "x")
