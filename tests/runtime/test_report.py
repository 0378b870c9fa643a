"""The reports: sums, formats, and the folder with its page and plots."""

import csv
import json
from dataclasses import replace

import pytest
from npu_isa.isa.ops import Engine
from npu_runtime.reports.cycles import REPORT_SCHEMA, report
from npu_runtime.reports.evaluating import evaluate
from npu_runtime.reports.folder import write_report
from npu_runtime.reports.plots import LEAST_SPAN, ablation_plot, accuracy_plot, accuracy_span
from npu_runtime.reports.tables import Table
from npu_runtime.session.session import Session


@pytest.fixture(params=[0, 60, 100])
def timed(session, request):
    session.set_ratio(request.param)
    return session


def test_layers_add_up_to_the_total(timed):
    rows = report(timed, "layer").rows
    timing = timed.timing()
    assert sum(r["cycles"] for r in rows) == timing.total_cycles
    assert sum(r["macs_4bit"] for r in rows) == timed.low_macs
    assert sum(r["dram_bytes"] for r in rows) == timing.dram_bytes.sum() == timing.total_dram_bytes - timing.fetch_bytes
    assert sum(r["stream_cycles"] for r in rows) == timing.activity["stream_cycles"].sum()
    assert all(r["ideal_cycles"] <= r["stream_cycles"] for r in rows if r["kind"] == "conv")


def test_engines_add_up_to_the_total(timed):
    rows = report(timed, "engine").rows
    assert [r["engine"] for r in rows] == [e.name.lower() for e in Engine]
    for row in rows:
        parts = [v for k, v in row.items() if k.endswith("_cycles") and k != "total_cycles"]
        assert sum(parts) == row["total_cycles"] == timed.timing().total_cycles


def test_instructions_add_up_to_the_engines(timed):
    rows, engines = report(timed, "instruction").rows, report(timed, "engine").rows
    for engine in engines:
        mine = [r for r in rows if r["engine"] == engine["engine"]]
        assert len(mine) == engine["instructions"]
        for cause in ("stream_cycles", "busy_cycles", "token_load_cycles", "token_vector_cycles", "dram_cycles"):
            assert sum(r[cause] for r in mine) == engine[cause]
    assert all(
        r["dispatch_cycle"] < r["accept_cycle"] <= r["start_cycle"] <= r["issue_end_cycle"] <= r["end_cycle"]
        for r in rows
    )


def test_formats_say_the_same(timed):
    table = report(timed, "layer")
    body = json.loads(table.to_json())
    assert body["schema"] == REPORT_SCHEMA.format(by="layer") == "npu.report.layer/2"
    assert body["provenance"]["total_cycles"] == str(timed.timing().total_cycles)
    rows = list(csv.DictReader(line for line in table.to_csv().splitlines() if not line.startswith("#")))
    assert [r["layer"] for r in rows] == [r["layer"] for r in body["rows"]]
    assert [int(r["cycles"]) for r in rows] == [r["cycles"] for r in body["rows"]]


def test_folder_is_whole_and_the_same_each_time(session, images, tmp_path):
    runs = evaluate(session, images, [0, 100])
    page = write_report(tmp_path / "a" / "b", session, runs)
    text = page.read_text()
    names = {f.name for f in page.parent.iterdir()}
    plots = {"accuracy.svg", "layers.svg", "engines.svg", "timeline.svg"}
    tables = {"layers_0.csv", "layers_100.csv", "engines_0.csv", "engines_100.csv", "runs.csv", "runs.json"}
    assert names == plots | tables | {"trace.json", "index.html"}
    assert all(f'src="{p}"' in text for p in plots)
    assert f"{runs.rows[1].total_cycles:,}" in text
    write_report(tmp_path / "c", session, runs)
    for name in names:
        assert (tmp_path / "c" / name).read_bytes() == (page.parent / name).read_bytes(), name


def test_trace_is_chrome_json_on_one_track_per_engine(session, images, tmp_path):
    write_report(tmp_path, session, evaluate(session, None, [100]))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"load", "matrix", "vector", "store"}
    slices = [e for e in events if e["ph"] == "X"]
    assert max(e["ts"] + e["dur"] for e in slices) <= session.timing().total_cycles


def test_the_page_says_what_it_stands_on(digits, images, tmp_path):
    noted = Session(replace(digits.binary, notes=("all weights are zero: <fc>",)))
    text = write_report(tmp_path / "a", noted, evaluate(noted, images, [0])).read_text()
    assert "on npu32, 40 images</h1><p>note: all weights are zero: &lt;fc&gt;</p>" in text
    assert "over 40 images. Bars: one standard error of top-1" in text
    assert f"shows {LEAST_SPAN:g} percentage points" in text
    alone = write_report(tmp_path / "b", noted, evaluate(noted, None, [0])).read_text()
    assert "on npu32, time only</h1>" in alone
    assert "0 images" not in alone
    assert "standard error" not in alone
    assert "time only" in (tmp_path / "b" / "accuracy.svg").read_text()


@pytest.mark.parametrize(
    ("values", "errors"),
    [
        ([98.86, 98.57], [0.4, 0.45]),
        ([100.0], [0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([31.0, 92.0], [0.4, 0.2]),
        ([50], [9]),
    ],
)
def test_an_axis_of_accuracies_lets_noise_look_small(values, errors):
    low, high = accuracy_span(values, errors)
    assert high - low >= LEAST_SPAN
    assert high <= 100 + 0.1 * (high - low)
    assert low <= min(v - e for v, e in zip(values, errors, strict=True))
    assert high >= min(100, max(v + e for v, e in zip(values, errors, strict=True)))


def test_accuracy_is_drawn_with_bars_and_equal_points_share_a_label(session, images):
    plot = accuracy_plot(evaluate(session, images, [0, 1, 100])).decode()
    assert "± one standard error" in plot
    assert "the dial, 40 images" in plot
    assert ">0, 1 %<" in plot


def test_an_ablation_is_drawn_with_bars():
    row = {"step": "8 bits", "ratio_percent": 0.0, "top1_percent": 91.9, "top1_stderr_points": 0.27}
    assert "of 9,979 images ± one standard error" in ablation_plot(Table("x", {"images": "9979"}, (row,))).decode()
