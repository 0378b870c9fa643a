"""The reports: sums, formats, and the folder with its page and plots."""

import csv
import json

import pytest
from npu_isa.isa.ops import Engine
from npu_runtime.reports.cycles import REPORT_SCHEMA, report
from npu_runtime.reports.evaluating import evaluate
from npu_runtime.reports.folder import write_report


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
    assert sum(r["stream_cycles"] for r in rows) == timing.stream.sum()
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
