"""The host's part at run time: results of the whole model, with and without onnxruntime, damage, reports."""

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from npu_compiler.backend.link import compile_quantized
from npu_isa.asm.assemble import assemble
from npu_isa.asm.disasm import disassemble
from npu_isa.errors import AsmError, ContainerError, DataError, ModelError
from npu_isa.file import container
from npu_isa.file.binary import Binary, HostNode, HostOutput
from npu_isa.file.container import MAGIC, VERSION, from_bytes, seal, to_bytes
from npu_isa.file.manifest import to_parts
from npu_isa.machine.config import load_machine
from npu_runtime.cli import main
from npu_runtime.data.dataset import Dataset
from npu_runtime.data.preprocess import PreprocessOptions
from npu_runtime.reports.evaluating import evaluate
from npu_runtime.session.compiling import compile_file, quantize_file
from npu_runtime.session.host import Host
from npu_runtime.session.hosting import host_of
from npu_runtime.session.session import Session
from npu_runtime.verification.comparing import compare
from npu_runtime.verification.verify import verify
from onnx import TensorProto, helper, numpy_helper

from tests import host_models
from tests.onnx_models import PIXELS, images, model_input, run_onnx, run_outputs, save

MODELS = ("softmax", "both", "detector", "suppressed", "transposed")
CALIBRATION = Dataset(images(12), None)
PRE = PreprocessOptions(PIXELS.pixel_scale, PIXELS.mean, PIXELS.std)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")

    def make(name: str) -> Binary:
        path = save(getattr(host_models, name)(), folder, f"{name}.onnx")
        return compile_file(path, CALIBRATION, "npu32", PRE).binary

    return {name: make(name) for name in MODELS}


def ends(binary: Binary, pixels: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Return what the end of the model makes of the machine's outputs, an image at a time, under onnxruntime."""
    session = Session(binary)
    given = session.run_all_integers(pixels)
    scales = {out.name: np.float32(out.scale) for out in binary.outputs}
    host = onnx.load_from_string(binary.host.onnx.tobytes())
    found: dict[str, list[np.ndarray]] = {out.name: [] for out in binary.results}
    import onnxruntime

    run = onnxruntime.InferenceSession(host.SerializeToString(), providers=["CPUExecutionProvider"])
    for i in range(len(pixels)):
        real = {name: (values[i : i + 1] * scales[name]).astype(np.float32) for name, values in given.items()}
        made = run.run(None, {value.name: real[value.name] for value in host.graph.input})
        every = real | dict(zip([value.name for value in host.graph.output], made, strict=True))
        for name, values in found.items():
            values.append(every[name])
    return found


@pytest.mark.parametrize("installed", [True, False], ids=["onnxruntime", "onnx alone"])
@pytest.mark.parametrize("name", MODELS)
def test_a_run_gives_the_outputs_of_the_whole_model(compiled, monkeypatch, name, installed):
    binary, pixels = compiled[name], images(4, 5)
    want = ends(binary, pixels)
    if not installed:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)  # an import then fails
    found = Session(binary).run_all(pixels)
    assert list(found) == [out.name for out in binary.results] == list(want)
    for out in binary.results:
        for i in range(len(pixels)):
            made, wanted = np.asarray(found[out.name][i]), want[out.name][i]
            assert made.dtype == wanted.dtype
            assert np.allclose(made, wanted if out.shape is None else wanted[0], rtol=1e-5, atol=1e-6), (out, i)
        assert isinstance(found[out.name], list) == (out.shape is None)


def test_one_result_is_an_array_and_several_go_by_name(compiled):
    pixels = images(3, 6)
    scores = Session(compiled["softmax"]).run(pixels)
    assert scores.shape == (3, 7)
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-6)
    found = Session(compiled["both"]).run(pixels)
    assert list(found) == ["logits", "best", "body"]
    assert np.array_equal(found["best"], found["logits"].argmax(axis=1))
    assert len(Session(compiled["suppressed"]).run(pixels)) == 3  # a list
    integers = Session(compiled["softmax"]).run_integers(pixels)
    assert integers.dtype == np.int32  # of the machine alone


@pytest.mark.parametrize("name", ["softmax", "detector"])
def test_values_near_those_of_the_float_model(compiled, name):
    pixels = images(6, 7)
    model = getattr(host_models, name)()
    want = np.concatenate([run_onnx(model, x[None]) for x in model_input(pixels)])
    found = Session(compiled[name]).run(pixels)
    assert 10 * np.log10((want**2).sum() / ((want - found) ** 2).sum()) > 30


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_a_model_for_any_number_of_images_runs_on_all(batch, tmp_path):
    pixels = images(5, 8)
    for make in (host_models.softmax, host_models.both):
        model = make(batch=batch)
        binary = compile_file(save(model, tmp_path), CALIBRATION, "npu32", PRE).binary
        found = Session(binary).run_all(pixels)
        want = run_outputs(make(), model_input(pixels))
        assert {name: values.shape for name, values in found.items()} == {n: v.shape for n, v in want.items()}
        first = Session(binary).run_all(pixels[:1])
        assert all(np.array_equal(first[name][0], found[name][0]) for name in found)


def test_equal_compilations_give_equal_bytes(compiled, tmp_path):
    for name in ("softmax", "detector"):
        path = save(getattr(host_models, name)(), tmp_path, f"{name}.onnx")
        data = to_bytes(compile_file(path, CALIBRATION, "npu32", PRE).binary)
        assert data == to_bytes(compiled[name]) == to_bytes(from_bytes(data, "x"))


@pytest.mark.parametrize("name", MODELS)
def test_assembly_text_keeps_the_host(compiled, name):
    again = assemble(disassemble(compiled[name]), "x.s")
    assert to_bytes(replace(again, location_of=compiled[name].location_of)) == to_bytes(compiled[name])


def test_assembly_text_that_is_wrong(compiled):
    text = disassemble(compiled["softmax"])
    with pytest.raises(AsmError, match=r"host\.macs is missing"):
        assemble(text.replace(".host 0\n", ""), "x.s")
    with pytest.raises(AsmError, match=r"host\.nodes\[0\]\.reason is missing"):
        assemble(text.replace(' reason="the machine divides by no computed sum"', ""), "x.s")
    with pytest.raises(AsmError, match=r"host\.outputs\[0\]\.shape = \[-1\]"):
        assemble(text.replace('.result "scores" shape=[7]', '.result "scores" shape=[-1]'), "x.s")


def test_models_of_the_machine_agree_on_its_outputs(compiled, tmp_path):
    path = save(host_models.both(), tmp_path)
    graph, quantized = quantize_file(path, CALIBRATION, PRE)
    binary = compile_quantized(quantized, load_machine("npu16"))
    data = Session(binary).prepare(images(1, 3)).reshape(1, -1)
    report = verify(binary, [binary.boundaries_at(50)], ("golden", "fast", "register"), data, quantized)
    assert report.difference is None, report
    assert all(row.differing == 0 for row in compare(quantized, Session(binary), images(2), graph))


# -- damage


def damaged(binary: Binary, change) -> str:
    arrays, manifest = to_parts(binary)
    change(arrays, manifest)
    with pytest.raises(ContainerError) as caught:
        from_bytes(seal(MAGIC, VERSION, arrays, manifest), "x.npubin")
    return caught.value.message


def test_files_whose_host_is_damaged(compiled):
    binary = compiled["softmax"]
    nodes = lambda m: m["host"]["nodes"][0]  # noqa: E731
    assert damaged(binary, lambda a, m: m.update(host=None)) == "a model for the host, and no host"
    assert damaged(binary, lambda a, m: a.update(onnx=a["onnx"][:0])) == "no model for the host"
    assert damaged(binary, lambda a, m: nodes(m).pop("reason")).startswith("host.nodes[0].reason is missing")
    assert damaged(binary, lambda a, m: nodes(m).update(name="\x1b")).startswith("host.nodes[0].name = ")
    assert damaged(binary, lambda a, m: m["host"].update(macs=-1)).startswith("host.macs = -1")
    assert damaged(binary, lambda a, m: m["host"].update(outputs=[])) == "the host has no outputs, or two of one name"
    other = [{"name": "logits", "shape": [7]}]
    assert damaged(binary, lambda a, m: m["host"].update(outputs=other)) == "the host makes no output"
    for shape in (7, [1.0], [-1], "7", [1 << 40]):
        assert damaged(binary, lambda a, m, s=shape: m["host"]["outputs"][0].update(shape=s)).startswith(
            "host.outputs[0].shape = "
        )


def host_error(binary: Binary, model: onnx.ModelProto | bytes, **changes) -> str:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    wrong = replace(binary, host=replace(binary.host, onnx=np.frombuffer(data, np.uint8), **changes))
    session = Session(wrong)
    session.timing()  # time needs no host
    with pytest.raises(ContainerError) as caught:
        session.run(images(1))
    assert caught.value.hint == "compile the model again"
    return caught.value.message


def test_models_of_the_host_that_are_damaged(compiled):
    binary = compiled["softmax"]
    data = binary.host.onnx.tobytes()

    def changed(change) -> onnx.ModelProto:
        model = onnx.load_from_string(data)
        change(model.graph)
        return model

    def size(graph, value):
        graph.input[0].type.tensor_type.shape.dim[1].dim_value = value

    def outside(graph):
        tensor = numpy_helper.from_array(np.ones(7, np.float32), "c")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="secret.bin")
        graph.initializer.append(tensor)

    assert host_error(binary, b"nothing").startswith("not a readable ONNX model")
    assert host_error(binary, data[:-9]).startswith("not a readable ONNX model")
    assert host_error(binary, changed(lambda g: g.node[0].ClearField("op_type"))).startswith("not a readable")
    text = "it reads 'logits' of shape [1, 8], which the machine does not give"
    assert host_error(binary, changed(lambda g: size(g, 8))) == text
    assert "which the machine does not give" in host_error(binary, changed(lambda g: size(g, 0)))
    assert host_error(binary, changed(outside)).startswith(("its constants lie in another file", "not a readable"))
    missing = (HostOutput(name="scores", shape=(7,)), HostOutput(name="more", shape=(7,)))
    assert host_error(binary, data, outputs=missing) == "nothing makes the output 'more'"


def test_a_host_that_makes_another_shape_than_it_says(compiled):
    binary = compiled["softmax"]
    wrong = replace(binary, host=replace(binary.host, outputs=(HostOutput(name="scores", shape=(8,)),)))
    with pytest.raises(ModelError, match=r"output 'scores' has shape \[1, 7\], not \[1, 8\]"):
        Session(wrong).run(images(1))


def test_an_operator_that_the_engine_does_not_know(compiled, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    binary = compiled["softmax"]
    model = onnx.load_from_string(binary.host.onnx.tobytes())
    model.graph.node[0].CopyFrom(helper.make_node("StringNormalizer", ["logits"], ["scores"], "odd"))
    wrong = replace(binary, host=replace(binary.host, onnx=np.frombuffer(model.SerializeToString(), np.uint8)))
    with pytest.raises(ModelError) as caught:
        Session(wrong).run(images(1))
    assert caught.value.hint == "install onnxruntime, which runs more operators"


# -- reports


def test_labels_meet_probabilities_or_the_class_that_the_model_chose(compiled, tmp_path):
    pixels = images(8, 9)
    scores = Session(compiled["softmax"]).run(pixels)
    labels = scores.argmax(axis=1)
    labels[:2] = (labels[:2] + 1) % 7
    report = evaluate(Session(compiled["softmax"]), Dataset(pixels, labels), [0])
    assert report.rows[0].top1_percent == 75.0
    assert "on the host, in no cycle: Softmax 1: 0 of 978,328 multiply-accumulates (0 %)" in report.to_text()
    assert report.provenance["host"] == "Softmax 1: 0 of 978,328 multiply-accumulates (0 %)"
    both = Session(compiled["both"])
    assert "classes: output logits" in evaluate(both, Dataset(pixels, labels), [0]).to_text()
    chosen = evaluate(both, Dataset(pixels, both.run(pixels)["best"]), [0], classes="best")
    assert (chosen.rows[0].top1_percent, chosen.rows[0].top5_percent) == (100.0, None)
    with pytest.raises(DataError, match="output chosen is no array of one shape"):
        evaluate(Session(compiled["suppressed"]), Dataset(pixels, labels), [0])


@pytest.mark.parametrize("name", MODELS)
def test_agreement_is_that_of_the_whole_model(compiled, name, tmp_path):
    path = save(getattr(host_models, name)(), tmp_path)
    report = evaluate(Session(compiled[name]), Dataset(images(3, 4), None), [0], float_model=path)
    rows = {row["output"]: row for row in report.agreement.rows}
    assert set(rows) == {out.name for out in compiled[name].results}
    for out in compiled[name].results:
        near = rows[out.name]["sqnr_db"]
        assert (near is None) == (out.shape is None or rows[out.name]["largest_error"] == 0)
        assert near is None or near > 25


def test_what_the_host_does_in_words(compiled):
    lines = host_of(compiled["detector"])
    assert lines[0] == "17 nodes of the model run on the host, 0 of 900,288 multiply-accumulates (0 %)"
    assert lines[1] == "Transpose (transpose_7, transpose_21): the machine cannot give its output in that form"
    assert lines[-2] == "15 nodes behind: Add 2, Concat 3, Mul 2, Reshape 2, Sigmoid 2, Slice 4"
    assert lines[-1] == "cycles and latency are those of the machine alone"
    part = compiled["softmax"].host
    twice = (*part.nodes, HostNode(name="other", operator="Softmax", reason=part.nodes[0].reason))
    changed = replace(compiled["softmax"], host=replace(part, nodes=twice, macs=10000))
    assert host_of(changed)[:2] == [
        "2 nodes of the model run on the host, 10,000 of 988,328 multiply-accumulates (1 %)",
        "Softmax (scores, other): the machine divides by no computed sum",
    ]


def test_every_report_names_the_host(compiled, capsys, tmp_path):
    model = save(host_models.softmax(), tmp_path)
    np.savez(tmp_path / "data.npz", images=images(12), labels=np.arange(12) % 7)
    data, out, kept = (str(tmp_path / n) for n in ("data.npz", "x.npubin", "x.npuq"))
    call = ["compile", str(model), "--calibration", data, "--npuq", kept, "-o", out]
    assert main([*call, "--host", "none"]) == 1
    assert "node scores (Softmax): the machine divides by no computed sum\n" in capsys.readouterr().err
    assert main(call) == 0
    said = capsys.readouterr().err
    assert "host: 1 node of the model run on the host, 0 of 978,328" in said
    assert "host: Softmax (scores): the machine divides by no computed sum" in said
    assert main(["compile", kept, "-o", out]) == 0
    assert "host: Softmax (scores): the machine divides by no computed sum" in capsys.readouterr().err
    assert main(["quantize", str(model), "--calibration", data, "-o", kept]) == 0
    assert "host: 1 node of the model run on the host, 0 of 978,328" in capsys.readouterr().err
    assert main(["inspect", out]) == 0
    assert "host            Softmax (scores): the machine divides by no computed sum" in capsys.readouterr().out
    assert main(["report", out]) == 0
    assert "not in these cycles, on the host: Softmax 1" in capsys.readouterr().out
    assert main(["report", out, "--by", "instruction"]) == 0
    assert "not in these cycles, on the host: Softmax 1" in capsys.readouterr().out
    folder = tmp_path / "report"
    assert main(["run", out, "--data", data, "--ratio", "0", "--report", str(folder), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["host"].startswith("Softmax 1")
    page = (folder / "index.html").read_text()
    assert "host: cycles and latency are those of the machine alone" in page
    assert main(["verify", out, "--quantized", kept, "--models", "golden,fast", "--ratio", "0"]) == 0


# -- bytes


def bytes_model(tmp_path):
    net = host_models.backbone()
    net.node("Mul", net.node("Cast", "x", to=TensorProto.FLOAT, name="real"), net.constant(1 / 64), name="small")
    net.nodes[0].input[0] = "small"
    net.nodes[:] = [*net.nodes[-2:], *net.nodes[:-2]]
    model = net.model("body")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return save(model, tmp_path), model


def test_an_image_of_bytes_is_taken_as_it_is(tmp_path):
    path, model = bytes_model(tmp_path)
    made = compile_file(path, CALIBRATION)
    info = made.binary.input
    assert (info.pixel_scale, info.mean) == (1.0, (0.0,) * 3)
    assert (info.table == np.arange(256)).all()
    pixels = images(3, 2)
    want = run_onnx(model, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    found = Session(made.binary).run(pixels)
    assert 10 * np.log10((want**2).sum() / ((want - found) ** 2).sum()) > 30
    report = evaluate(Session(made.binary), Dataset(pixels, None), [0], float_model=path)
    assert report.agreement.rows[0]["sqnr_db"] > 30
    for wrong in (PreprocessOptions(1 / 128), PreprocessOptions(mean=(3.0,)), PRE):
        with pytest.raises(DataError, match="the model takes bytes, pixels as they are"):
            compile_file(path, CALIBRATION, preprocess=wrong)
    assert compile_file(path, CALIBRATION, preprocess=PreprocessOptions(1.0, resize=(12, 12))).binary.input.resize


def test_the_engine_is_named(compiled, monkeypatch):
    assert Host(compiled["softmax"]).engine.startswith("onnxruntime ")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert Host(compiled["softmax"]).engine.startswith("onnx ")


def test_a_saved_binary_runs(compiled, tmp_path):
    container.save(compiled["softmax"], tmp_path / "x.npubin")
    pixels = images(2)
    assert np.array_equal(Session(tmp_path / "x.npubin").run(pixels), Session(compiled["softmax"]).run(pixels))
