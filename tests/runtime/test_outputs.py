"""Networks with several outputs, from the ONNX file to the register-level machine."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from npu_compiler.backend.link import compile_quantized
from npu_compiler.graph import float_eval
from npu_compiler.lowering.select import squared_distance
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model, quantize_graph
from npu_compiler.qgraph import fast_eval, golden, npuq
from npu_compiler.qgraph.ir import QuantizedGraph
from npu_compiler.quantize.quantize import dial_nodes
from npu_isa.asm.assemble import assemble
from npu_isa.asm.disasm import disassemble
from npu_isa.check.program import check_binary
from npu_isa.errors import AsmError, CompileError, ContainerError, DataError, ProgramError
from npu_isa.file import container
from npu_isa.file.container import MAGIC, VERSION, from_bytes, seal, to_bytes
from npu_isa.file.manifest import to_parts
from npu_isa.machine.config import load_machine
from npu_runtime.cli import main
from npu_runtime.data.dataset import Dataset, load_dataset
from npu_runtime.reports.classes import class_output
from npu_runtime.reports.evaluating import evaluate
from npu_runtime.session.session import Session
from npu_runtime.verification.models import check_network
from npu_runtime.verification.verify import verify
from onnx import helper

from tests.equality import random_machine, tiny_machine
from tests.onnx_models import PIXELS, TOLERANCE, Net, images, model_input, run_outputs, save
from tests.qgraphs import random_images, random_qgraph
from tests.several_outputs import OUTPUTS, network

TWO, THREE = ("classes", "features"), ("small", "classes", "sum")
SETS = [TWO, THREE, OUTPUTS, ("classes", "again")]
SMALL = replace(load_machine("npu16"), act_region_bytes=2048, name="small")  # so that tensors pass through DRAM


def sqnr_db(want: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()))


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")

    def make(names: tuple[str, ...]) -> QuantizedGraph:
        graph = import_model(save(network(*names), folder))
        return quantize_graph(graph, images(12), PIXELS, QuantizeOptions(keep_first_8bit=False))

    return {names: make(names) for names in SETS}


@pytest.mark.parametrize("names", SETS)
def test_every_pass_keeps_every_output(names, tmp_path):
    model, x = network(*names), model_input(images(3))
    want = run_outputs(model, x)
    graph = import_model(save(model, tmp_path))
    assert [o.name for o in graph.outputs] == list(names)
    found = float_eval.evaluate(graph, x)
    for output in graph.outputs:
        assert output.shape == want[output.name].shape[1:]
        error = np.abs(found[output.tensor].reshape(want[output.name].shape) - want[output.name]).max()
        assert error <= TOLERANCE * (1 + np.abs(want[output.name]).max()), output


@pytest.mark.parametrize("names", SETS)
def test_quantized_outputs_are_wide_and_read_by_none(quantized, names):
    graph = quantized[names]
    assert [o.name for o in graph.outputs] == list(names)
    assert all(graph.tensors[t].bits == 16 and not graph.users(t) for t in graph.output_tensors)
    assert len(graph.output_tensors) == len(names) - ("again" in names)  # a tensor given twice is made once
    assert npuq.to_bytes(npuq.from_bytes(npuq.to_bytes(graph), "x")) == npuq.to_bytes(graph)
    bytes_in = graph.table[np.arange(3), images(4, 1)]
    for share in (0, 1):
        boundaries = [share * graph.tensors[n.src].groups for n in graph.lowerable]
        want, found = golden.run(graph, bytes_in, boundaries), fast_eval.run(graph, bytes_in, boundaries)
        assert want.keys() == found.keys()
        assert all(np.array_equal(want[t], found[t]) for t in want)


@pytest.mark.parametrize("machine", ["npu16", "npu32", "npu128", SMALL], ids=str)
@pytest.mark.parametrize("names", SETS)
def test_golden_fast_and_register_level_agree(quantized, names, machine):
    graph = quantized[names]
    chosen = load_machine(machine) if isinstance(machine, str) else machine
    binary = compile_quantized(graph, chosen)
    check_binary(binary)
    data = graph.table[np.arange(3), images(1, 2)].reshape(1, -1)
    report = verify(binary, [binary.boundaries_at(r) for r in (0, 60)], ("golden", "fast", "register"), data, graph)
    assert report.difference is None, report
    again = from_bytes(to_bytes(binary), "x")
    assert to_bytes(again) == to_bytes(binary)
    assert to_bytes(replace(assemble(disassemble(binary), "x.s"), location_of=binary.location_of)) == to_bytes(binary)


@pytest.mark.parametrize("names", SETS)
def test_a_session_gives_outputs_by_name(quantized, names):
    pixels = images(5, 3)
    session, want = Session(compile_quantized(quantized[names], load_machine("npu32"))), network(*names)
    found, integers = session.run(pixels), session.run_integers(pixels)
    assert list(found) == list(integers) == list(names)
    expected = run_outputs(want, model_input(pixels))
    for out in session.binary.outputs:
        assert found[out.name].shape == expected[out.name].shape
        assert np.array_equal(found[out.name], (integers[out.name] * np.float32(out.scale)).astype(np.float32))
        assert sqnr_db(expected[out.name], found[out.name]) > 25


def test_the_check_asks_for_every_output(quantized):
    binary = compile_quantized(quantized[TWO], load_machine("npu32"))
    longer = replace(binary.outputs[1], address=binary.dram_bytes)
    wrong = replace(binary, outputs=(binary.outputs[0], longer), dram_bytes=binary.dram_bytes + longer.bytes)
    with pytest.raises(ProgramError, match="is never written") as caught:
        check_binary(wrong)
    assert caught.value.where == "output 1"


def test_outputs_that_are_others_belong_to_another_network(quantized):
    binary = compile_quantized(quantized[TWO], load_machine("npu32"))
    check_network(quantized[TWO], binary)
    for other in (quantized[THREE], replace(quantized[TWO], outputs=quantized[TWO].outputs[::-1])):
        with pytest.raises(DataError, match="was not compiled from this network"):
            check_network(other, binary)


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_with_several_outputs(seed):
    """On random machines, every third of them so small that tensors pass through DRAM."""
    rng = np.random.default_rng(5000 + seed)
    graph = random_qgraph(rng, outputs=2 + seed % 3)
    npuq.from_bytes(npuq.to_bytes(graph), "x")  # it is valid
    binary = compiled_on(graph, rng, small=seed % 3 == 0)
    check_binary(binary)
    pixels = random_images(rng, graph, 2)
    vectors = [binary.boundaries_at(ratio) for ratio in (0, 70, 100)]
    report = verify(binary, vectors, ("golden", "fast"), pixels.reshape(2, -1), graph)
    assert report.difference is None, report
    for vector in vectors:
        want, found = golden.run(graph, pixels, vector), fast_eval.run(graph, pixels, vector)
        assert all(np.array_equal(want[t], found[t]) for t in graph.output_tensors)


def compiled_on(graph: QuantizedGraph, rng: np.random.Generator, *, small: bool):
    machine = (tiny_machine if small else random_machine)(rng)
    for _ in range(6):
        try:
            return compile_quantized(graph, machine)
        except CompileError:  # one strip does not fit
            machine = replace(machine, act_region_bytes=2 * machine.act_region_bytes)
    raise AssertionError(machine)


# -- files


def damaged(binary, change) -> str:
    arrays, manifest = to_parts(binary)
    change(manifest["outputs"])
    with pytest.raises(ContainerError) as caught:
        from_bytes(seal(MAGIC, VERSION, arrays, manifest), "x.npubin")
    return caught.value.message


def test_damaged_binaries(quantized):
    binary = compile_quantized(quantized[TWO], load_machine("npu32"))
    at = binary.outputs[0].address
    assert damaged(binary, lambda o: o.clear()) == "no outputs"
    assert damaged(binary, lambda o: o.append(1)) == "outputs[2] is not an object"
    assert damaged(binary, lambda o: o[1].update(name="classes")) == "a second output is called classes"
    text = "output classes and output features overlap"
    assert damaged(binary, lambda o: o[1].update(address=at)) == text  # the same place, another tensor
    twice = compile_quantized(quantized["classes", "again"], load_machine("npu32"))
    assert twice.outputs[0].address == twice.outputs[1].address
    text = "output classes and output again overlap"
    assert damaged(twice, lambda o: o[1].update(scale=1.0)) == text


def test_damaged_networks(quantized):
    graph = quantized[TWO]

    def refused(*outputs) -> str:
        with pytest.raises(ContainerError) as caught:
            npuq.from_bytes(npuq.to_bytes(replace(graph, outputs=outputs)), "x.npuq")
        return caught.value.message

    first, second = graph.outputs
    assert refused() == refused(first, first) == "no outputs, or two of one name"
    assert refused(first) == f"16 bits inside the network: ['{second.tensor}']"
    assert refused(first, replace(second, tensor="stem")) == "output features: it is read inside the network"
    assert refused(first, replace(second, tensor="x")) == "output features: it is not made"
    assert refused(replace(first, shape=(8,)), second) == "output classes: shape (8,) of 7 values"


# -- evaluation


def test_labels_belong_to_a_vector(quantized):
    session = Session(compile_quantized(quantized[THREE], load_machine("npu32")))
    data = Dataset(images(6, 4), np.zeros(6, np.int64))
    report = evaluate(session, data, [0])
    assert report.classes == "classes: output classes (of shape 7); not looked at: small, sum"
    assert report.classes in report.to_text()
    right = 100 * np.mean(session.run(data.images)["classes"].argmax(axis=1) == 0)
    assert report.rows[0].top1_percent == pytest.approx(right, abs=1e-3)
    assert "24x6x6" in evaluate(session, data, [0], classes="small").classes
    with pytest.raises(DataError, match="the model has no output 'clases'"):
        evaluate(session, data, [0], classes="clases")
    with pytest.raises(DataError, match="none of the outputs small, sum is a vector of classes"):
        class_output(session.binary.outputs[::2])


@pytest.fixture(scope="module")
def served(quantized, tmp_path_factory):
    """A binary, its model and images without labels, as files."""
    folder = tmp_path_factory.mktemp("served")
    container.save(compile_quantized(quantized[TWO], load_machine("npu32")), folder / "x.npubin")
    save(network(*TWO), folder, "x.onnx")
    save(network(*TWO, batch=1), folder, "one.onnx")
    save(network(*TWO, batch=3), folder, "three.onnx")
    np.savez(folder / "data.npz", images=images(5, 7))
    return folder


def by_hand(session, folder, ratio: float) -> dict[str, tuple[float, float, float]]:
    session.set_ratio(ratio)
    pixels = images(5, 7)
    got, want = session.run(pixels), run_outputs(network(*TWO), model_input(pixels))
    found = {}
    for name in TWO:
        a, b = want[name].astype(np.float64).ravel(), got[name].astype(np.float64).ravel()
        found[name] = sqnr_db(a, b), float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), float(np.abs(a - b).max())
    return found


@pytest.mark.parametrize("model", ["x.onnx", "one.onnx", "three.onnx"])
@pytest.mark.parametrize("installed", [True, False])
def test_agreement_with_the_float_model(served, monkeypatch, model, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)  # an import then fails
    session = Session(served / "x.npubin")
    report = evaluate(session, load_dataset(served / "data.npz"), [0, 100], float_model=served / model)
    assert report.agreement is not None
    assert report.agreement.provenance["float_engine"].startswith("onnxruntime" if installed else "onnx ")
    rows = report.agreement.rows
    assert [(row["ratio_percent"], row["output"]) for row in rows] == [(r, name) for r in (0, 100) for name in TWO]
    for ratio in (0, 100):
        hand = by_hand(session, served, ratio)
        for row in rows:
            if row["ratio_percent"] == ratio:
                found = row["sqnr_db"], row["cosine"], row["largest_error"]
                assert found == pytest.approx(hand[row["output"]], rel=1e-3, abs=0.02)


def test_agreement_on_the_command_line(served, capsys):
    call = ["run", str(served / "x.npubin"), "--data", str(served / "data.npz"), "--ratio", "0"]
    assert main(call) == 0
    assert "have no labels: --float MODEL.onnx compares" in capsys.readouterr().out
    assert main([*call, "--float", str(served / "x.onnx"), "--report", str(served / "report")]) == 0
    text = capsys.readouterr().out
    assert "outputs against x.onnx, run by onnxruntime" in text
    assert "no labels" not in text
    assert "outputs against x.onnx" in (served / "report" / "index.html").read_text()
    assert main([*call, "--float", str(served / "x.onnx"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agreement"]["schema"] == "npu.agreement/1"
    assert [row["output"] for row in found["agreement"]["rows"]] == list(TWO)
    assert main([*call, "--float", str(served / "x.onnx"), "--format", "csv"]) == 0
    assert "\n\n# tool" in capsys.readouterr().out
    assert main(["inspect", str(served / "x.npubin")]) == 0
    lines = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("output")]
    assert lines == ["classes:", "features:"]


def test_a_float_model_of_another_network(served, tmp_path):
    session, data = Session(served / "x.npubin"), load_dataset(served / "data.npz")
    with pytest.raises(DataError, match="the model gives sum, the binary classes, features"):
        evaluate(session, data, [0], float_model=save(network("sum"), tmp_path))
    other = Net((3, 14, 14))
    other.nodes.append(helper.make_node("Relu", ["x"], ["features"], "r"))
    with pytest.raises(DataError, match="takes images of 3x14x14"):
        evaluate(session, data, [0], float_model=save(other.model("features"), tmp_path))


# -- rules of their own


def test_distances_of_outputs_are_added_as_shares():
    reference = {"a": np.full((1, 1, 1, 4), 100, np.int16), "b": np.full((1, 1, 1, 2), 1000, np.int16)}
    moved = {"a": reference["a"] + np.int16(10), "b": reference["b"] - np.int16(100)}
    only_a = {"a": reference["a"]}
    assert squared_distance({"a": moved["a"]}, only_a) == 100.0  # in squared steps
    assert squared_distance(moved, reference) == pytest.approx(200.0)  # both are 10 % off
    assert squared_distance(moved, {"b": reference["b"], "a": reference["a"]}) == pytest.approx(20000.0)
    nothing = {"a": reference["a"], "c": np.zeros((1, 1, 1, 1), np.int16)}
    assert squared_distance(nothing, nothing) == 0.0


def test_the_last_layer_of_each_output_stays_in_8_bits(tmp_path):
    net = Net((3, 8, 8))
    stem = net.conv("x", 3, 32, (3, 3), name="stem")
    net.conv(net.conv(stem, 32, 32, (3, 3), name="left"), 32, 16, (1, 1), name="left_end")
    net.conv(net.conv(stem, 32, 32, (3, 3), name="right"), 32, 16, (1, 1), name="right_end")
    names = [node.output[0] for node in net.nodes]
    graph = import_model(save(net.model(names[2], names[4]), tmp_path))
    assert dial_nodes(graph, QuantizeOptions(keep_small_8bit=False)) == {"left", "right"}
    assert dial_nodes(graph, QuantizeOptions(keep_small_8bit=False, keep_last_8bit=False)) == {
        "left",
        "right",
        "left_end",
        "right_end",
    }


def test_a_second_name_begins_another_output():
    text = (
        ".input height=1 width=1 channels=16\n"
        ".output height=1 width=1\n.output name=a channels=16\n.output name=b height=1 width=1 channels=32\n"
        "  halt\n"
    )
    binary = assemble(text, "x.s")
    assert [(out.name, out.channels) for out in binary.outputs] == [("a", 16), ("b", 32)]
    assert binary.outputs[1].address == binary.outputs[0].range[1]
    with pytest.raises(AsmError) as caught:
        assemble(text.replace("name=b height=1 width=1 channels=32", "name=b height=1 width=1"), "x.s")
    assert caught.value.where == "x.s:4:1"
    assert caught.value.message.startswith("outputs[1].channels is missing")
