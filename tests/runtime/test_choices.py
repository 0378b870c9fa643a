"""npu explain and npu ablate: their rows against plain counts, their plots, and wrong calls."""

import json
from dataclasses import replace

import numpy as np
import pytest
from npu_compiler.backend.link import compile_quantized
from npu_compiler.lowering.fit import walk_of_all_groups
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model
from npu_compiler.qgraph import npuq
from npu_compiler.qgraph.ir import Preprocess
from npu_isa.errors import DataError
from npu_isa.file.container import load
from npu_isa.isa.ops import Conv
from npu_runtime.cli import main
from npu_runtime.data.dataset import Dataset, load_dataset
from npu_runtime.reports.ablating import BASELINES, LADDER, ablate, divergence_nats, outputs_at, top1_percent
from npu_runtime.reports.choices import explain_groups, explain_layers, unused_wgt_bits
from npu_runtime.session.session import Session
from npu_runtime.verification.verify import verify

from tests.qgraphs import with_dynamic_positions
from tests.runtime.conftest import DEMO


def test_layers_follow_from_the_graph(digits):
    graph = digits.quantized
    rows = explain_layers(graph).rows
    assert [r["layer"] for r in rows] == [n.name for n in graph.lowerable]
    for row, node in zip(rows, graph.lowerable, strict=True):
        assert row["groups"] == graph.tensors[node.src].groups
        assert (
            row["groups_at_25"] <= row["groups_at_50"] <= row["groups_at_75"] <= row["groups_at_100"] == row["groups"]
        )
        assert 0 < row["error_steps"] < row["truncation_error_steps"]
    for ratio in (25, 50):
        assert tuple(r[f"groups_at_{ratio}"] for r in rows) == walk_of_all_groups(graph, ratio)


def test_unused_weight_bits_by_plain_integers(digits):
    node = digits.quantized.lowerable[0]
    found = unused_wgt_bits(node)
    real = [o for o in range(len(node.weight)) if node.weight[o].any()]
    for column, o in enumerate(real):
        for group in range(found.shape[0]):
            values = node.weight[o, :, :, group * 16 : (group + 1) * 16].ravel().tolist()
            used = max((~v if v < 0 else v).bit_length() for v in values)
            assert found[group, column] == 7 - used


def test_groups_of_a_layer_turn_in_order(digits):
    graph = digits.quantized
    node = graph.lowerable[0]
    rows = explain_groups(graph, node.name).rows
    assert [r["group"] for r in rows] == list(node.lowering.order)
    assert [r["from_ratio"] for r in rows] == sorted(r["from_ratio"] for r in rows)
    channels = sorted(int(c) for r in rows for c in r["channels"].split())
    assert channels == list(range(64))


def test_explain_command(capsys, digits, tmp_path):
    npuq.save(digits.quantized, tmp_path / "d.npuq")
    assert main(["explain", str(tmp_path / "d.npuq"), "--plots", str(tmp_path / "p"), "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == len(digits.quantized.lowerable)
    assert {f.name for f in (tmp_path / "p").iterdir()} == {"unused_bits.svg", "extraction.svg"}
    assert main(["explain", str(tmp_path / "d.npuq"), "--layer", "nope"]) == 1
    assert "no layer 'nope' with a dial" in capsys.readouterr().err


def test_quantize_then_compile_equals_compile(capsys, tmp_path):
    model, data = str(DEMO / "digits.onnx"), str(DEMO / "digits_train.npz")
    common = ["--calibration", data, "--max-images", "32"]
    assert main(["quantize", model, *common, "-o", str(tmp_path / "d.npuq")]) == 0
    assert main(["compile", str(tmp_path / "d.npuq"), "-o", str(tmp_path / "a.npubin")]) == 0
    assert main(["compile", model, *common, "-o", str(tmp_path / "b.npubin")]) == 0
    assert (tmp_path / "a.npubin").read_bytes() == (tmp_path / "b.npubin").read_bytes()


def test_a_search_can_be_taken_up_again(capsys, tmp_path):
    model, data = str(DEMO / "digits.onnx"), str(DEMO / "digits_train.npz")
    args = ["quantize", model, "--calibration", data, "--max-images", "16", "--select", "evolutionary"]
    one, two, state = (str(tmp_path / n) for n in ("a.npuq", "b.npuq", "s.json"))
    assert main([*args, "--budget", "1", "--state", state, "-o", one]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["ratio"] == 75
    assert main([*args, "--budget", "1", "--state", state, "-o", two]) == 0
    assert (tmp_path / "a.npuq").read_bytes() == (tmp_path / "b.npuq").read_bytes()


def test_dynamic_positions_need_a_machine_that_finds_them(capsys, tmp_path):
    """Refused by npu32; compiled for a machine that is npu32 but for this: golden = fast = register at every ratio."""
    model, data = str(DEMO / "digits.onnx"), str(DEMO / "digits_train.npz")
    made, binary, machine = (tmp_path / name for name in ("d.npuq", "d.npubin", "found.toml"))
    args = ["quantize", model, "--calibration", data, "--max-images", "8", "--extract", "dynamic", "-o", str(made)]
    assert main(args) == 0
    assert main(["compile", str(made), "-o", str(binary)]) == 1
    assert "dynamic extraction: the machine npu32 has none" in capsys.readouterr().err
    assert not binary.exists()
    machine.write_text('base = "npu32"\nname = "found"\ndynamic_extraction = true\n', encoding="utf-8")
    assert main(["compile", str(made), "--hardware", str(machine), "-o", str(binary)]) == 0
    graph, found = npuq.load(made), load(binary)
    assert {op.geom.dynamic for op in Session(found).ops if isinstance(op, Conv)} == {0, 1}  # the first is in 8 bits
    clipped = with_dynamic_positions(graph, clips=(0, 1, 2))
    for asked, compiled in ((graph, found), (clipped, compile_quantized(clipped, found.machine))):
        session = Session(compiled)
        images = session.prepare(load_dataset(DEMO / "digits_test.npz", limit=1, channels=1).images).reshape(1, -1)
        vectors = [compiled.boundaries_at(ratio) for ratio in (0, 25, 50, 75, 100)]
        assert verify(compiled, vectors, ("golden", "fast", "register"), images, asked).difference is None


def test_dynamic_extraction_costs_static_programs_a_cycle_where_convs_drain(digits):
    """The same network and dial on a machine with the register: a few cycles more, at no ratio fewer."""
    other = compile_quantized(digits.quantized, replace(digits.binary.machine, dynamic_extraction=True))
    for ratio in (0, 50, 100):
        cycles = [Session(b).timing(b.boundaries_at(ratio)).total_cycles for b in (digits.binary, other)]
        assert 0 < cycles[1] - cycles[0] < 0.02 * cycles[0]


def test_ladder_has_every_step_and_its_rows_are_accuracies(images):
    graph = import_model(DEMO / "digits.onnx")
    calibration = load_dataset(DEMO / "digits_train.npz", limit=16, channels=1)
    pre = Preprocess(1 / 255, (0.0,), (1.0,), (), ())
    seen = []
    options = QuantizeOptions(generations=0, max_images=16)
    table = ablate(graph, calibration, images, pre, 75, options, seen.append)
    assert seen == [s.name for s in (*BASELINES, *LADDER)] == [r["step"] for r in table.rows]
    assert all(0 <= r["top1_percent"] <= 100 for r in table.rows)
    assert table.rows[0]["top1_percent"] >= 95
    assert table.rows[0]["divergence_nats"] == 0 < min(r["divergence_nats"] for r in table.rows[1:])
    with pytest.raises(DataError, match="an ablation needs labels"):
        ablate(graph, calibration, Dataset(images.images, None), pre, 75)


def test_accuracy_without_a_machine_is_that_of_the_simulator_at_the_ends(digits, session, images):
    for ratio in (0, 100):
        session.set_ratio(ratio)
        hits = session.run_integers(images.images).argmax(axis=1) == images.labels
        found = top1_percent(outputs_at(digits.quantized, images.images, ratio), images)
        assert found == pytest.approx(100 * hits.mean())


def test_divergence_by_hand():
    """Halves against 3/4 and 1/4: (ln(1/2 / 3/4) + ln(1/2 / 1/4)) / 2 = ln(4/3) / 2; the second image has none."""
    reference = np.log([[0.5, 0.5], [0.9, 0.1]])
    scores = np.log([[0.75, 0.25], [0.9, 0.1]]) + 3  # a constant changes no probability
    assert divergence_nats(reference, scores) == pytest.approx(np.log(4 / 3) / 2 / 2)
