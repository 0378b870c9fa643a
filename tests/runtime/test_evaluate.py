"""Accuracy over a data set, and what a run's rows say."""

import csv
import json
from dataclasses import replace

import npu_runtime as npu
import numpy as np
import pytest
from npu_compiler.qgraph import golden
from npu_isa.errors import DataError, NpuError
from npu_runtime.data.dataset import Dataset
from npu_runtime.reports.evaluating import RUN_SCHEMA, evaluate
from npu_runtime.reports.explain import matrix_macs, use_of, what_would_help, where_it_went
from npu_sim.fast.time.model import simulate

PROMISED = {
    "ratio_percent",
    "images",
    "top1_percent",
    "total_cycles",
    "latency_us",
    "dram_bytes",
    "matrix_utilization_percent",
}


def golden_scores(digits, session, images):
    tensor = digits.quantized.tensors[digits.quantized.output_tensors[0]]
    out = golden.run(digits.quantized, session.prepare(images), session.boundaries)[tensor.name][:, 0, 0]
    return out[:, [tensor.channel_map.index(c) for c in range(10)]]


@pytest.mark.parametrize("ratio", [0, 100])
def test_top1_and_top5_are_those_of_the_golden_model(digits, session, images, ratio):
    row = evaluate(session, images, [ratio]).rows[0]
    scores = golden_scores(digits, session, images.images)
    rank = (scores > np.take_along_axis(scores, images.labels[:, None], 1)).sum(axis=1)
    ties = (scores == np.take_along_axis(scores, images.labels[:, None], 1)).sum(axis=1)
    assert (ties == 1).all(), "a tie needs another expectation"
    assert row.top1_percent == pytest.approx(100 * (rank == 0).mean())
    assert row.top5_percent == pytest.approx(100 * (rank < 5).mean())
    assert row.images == len(images)


def test_rows_follow_from_the_timing(session):
    report = evaluate(session, None, [0, 50, 100])
    for row in report.rows:
        session.set_ratio(row.ratio_percent)
        timing = session.timing()
        assert row.total_cycles == timing.total_cycles == timing.end.max()
        assert row.dram_bytes == timing.total_dram_bytes > timing.dram_bytes.sum()
        assert row.speedup == pytest.approx(report.rows[0].total_cycles / row.total_cycles, abs=1e-4)
        macs, low = matrix_macs(session), session.low_macs
        pes = session.binary.machine.array_rows * session.binary.machine.array_cols
        useful = 100 * (macs - low / 2) / (pes * timing.total_cycles)
        assert row.matrix_utilization_percent == pytest.approx(useful, abs=0.01)
        assert use_of(session).total == 2 * pes * timing.total_cycles
        assert (row.images, row.top1_percent, row.top5_percent) == (0, None, None)
    assert report.rows[0].speedup == report.rows[0].ideal_speedup == 1.0
    assert 1.5 < report.rows[2].ideal_speedup <= 2.0


def test_json_has_what_is_promised_and_csv_says_the_same(session, images):
    report = evaluate(session, images, [0, 100])
    body = json.loads(report.to_json())
    assert body["schema"] == RUN_SCHEMA
    assert set(body["rows"][0]) >= PROMISED
    lines = report.to_csv().splitlines()
    head = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    assert head["schema"] == RUN_SCHEMA
    assert head["binary_sha256"] == body["provenance"]["binary_sha256"]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    for row, expected in zip(rows, body["rows"], strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx(expected)


def test_equal_runs_give_equal_text_and_progress_counts_every_image(digits, session, images):
    moved = []
    first = evaluate(session, images, [0, 25], moved.append)
    assert sum(moved) == 2 * len(images)
    assert first.to_json() == evaluate(session, images, [0, 25]).to_json()


def test_standard_errors_are_those_of_the_images(digits, session, images):
    """Of a sample of 0 and 1, and of one of -1, 0 and 1: NumPy's standard deviation over the root of the number."""
    # a network that has no doubt on these images shows nothing: a third of the labels are made wrong
    labels = np.where(np.arange(len(images)) % 3, images.labels, (images.labels + 1) % 10)
    rows = evaluate(session, replace(images, labels=labels), [100, 0]).rows
    hits = []
    for row in rows:
        session.set_ratio(row.ratio_percent)
        hits.append((golden_scores(digits, session, images.images).argmax(axis=1) == labels).astype(float))
        assert row.top1_stderr_points == pytest.approx(100 * hits[-1].std() / np.sqrt(len(images)), abs=1e-3)
    assert rows[0].top1_stderr_points > 5
    change = 100 * (hits[0] - hits[1])
    assert rows[0].top1_change_points == pytest.approx(change.mean(), abs=1e-3)
    assert rows[0].top1_change_stderr_points == pytest.approx(change.std() / np.sqrt(len(images)), abs=1e-3)
    assert (rows[1].top1_change_points, rows[1].top1_change_stderr_points) == (0, 0)


@pytest.mark.parametrize("wrong", [0, 4])
def test_a_change_counts_the_images_whose_answer_changes(session, images, monkeypatch, wrong):
    """Four of 40 images lost at 100 %: a change of -10 points, sqrt(0.1 - 0.01) / sqrt(40) of a standard error."""

    def scores(self, pixels):
        lost = np.arange(len(pixels)) < (wrong if self.effective_percent else 0)
        return {"logits": np.eye(10, dtype=np.int32)[np.where(lost, (images.labels + 1) % 10, images.labels)]}

    monkeypatch.setattr(type(session), "run_all", scores)
    row = evaluate(session, images, [0, 100]).rows[1]
    assert row.top1_change_points == -2.5 * wrong
    assert row.top1_change_stderr_points == pytest.approx(100 * np.sqrt(0.09 / 40) if wrong else 0.0, abs=1e-3)
    assert row.top1_stderr_points == row.top1_change_stderr_points  # all are right at 0 %


def test_without_0_percent_there_is_no_change(session, images):
    row = evaluate(session, images, [50]).rows[0]
    assert row.top1_stderr_points is not None
    assert (row.top1_change_points, row.top1_change_stderr_points) == (None, None)


def test_the_text_says_what_it_stands_on(session, images):
    text = evaluate(session, images, [0, 100]).to_text()
    assert ", 40 images\n" in text
    assert "±: one standard error" in text
    assert "+0.00 ± 0.00" in text
    alone = evaluate(session, None, [0]).to_text()
    assert ", time only\n" in alone
    assert "0 images" not in alone
    assert "±" not in alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.arange(39)}, r"labels are int64 of shape \(39,\)"),
        ({"labels": np.zeros(40)}, r"labels are float64 of shape \(40,\)"),
        ({"labels": np.full(40, -1)}, r"labels are -1\.\.-1, the model has 10 classes"),
        ({"images": np.zeros((0, 8, 8, 1), np.uint8), "labels": np.zeros(0, int)}, "there are no images"),
    ],
)
def test_data_that_cannot_be_counted_are_refused(session, images, change, message):
    with pytest.raises(DataError, match=message):
        evaluate(session, replace(images, **change), [0])


def test_images_without_labels_have_no_accuracy(session, images):
    row = evaluate(session, Dataset(images.images, None), [0]).rows[0]
    assert (row.images, row.top1_percent) == (len(images), None)
    assert ",,," in evaluate(session, None, [0]).to_csv()  # missing is empty, never 0


def test_labels_of_another_data_set_are_refused(session, images):
    with pytest.raises(DataError, match=r"labels are 0\.\.10, the model has 10 classes"):
        evaluate(session, replace(images, labels=np.array([0, 10] * 20)), [0])


def test_ratio_outside_is_refused(session):
    with pytest.raises(NpuError, match="outside"):
        evaluate(session, None, [120])


def test_explanation_adds_up(session):
    session.set_ratio(100)
    text = where_it_went(session)
    parts = [line.split() for line in text.splitlines() if line.startswith("  ") and "%" in line]
    parts = [p for p in parts if "->" not in p]
    assert [p[0] for p in parts] == ["useful", "padding", "bank", "weights", "waiting"]
    total = session.timing().total_cycles
    assert sum(int(p[2].replace(",", "")) for p in parts) == pytest.approx(total, abs=3)  # each is rounded
    assert f"{total:,} cycles" in text


def test_help_is_timed_not_guessed(digits, session):
    """Each change offered is a run of the same program on that machine."""
    session.set_ratio(100)
    before = session.timing().total_cycles
    found = what_would_help(session)
    assert found == sorted(found, key=lambda f: f[3])
    assert "weight_rows_per_cycle" in {f[0] for f in found}  # passes of 16 pixels wait for weights
    for name, now, then, cycles in found:
        machine = digits.binary.machine
        burst = max(machine.dram_burst_bytes, then) if name == "dram_bytes_per_cycle" else machine.dram_burst_bytes
        assert getattr(machine, name) == now
        other = replace(machine, **{"dram_burst_bytes": burst, name: then})
        assert simulate(session.ops, other, session.boundaries).total_cycles == cycles < before


def test_the_front_door_names_what_there_is():
    for name in npu.__all__:
        assert callable(getattr(npu, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        npu.nonsense  # noqa: B018
