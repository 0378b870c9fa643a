"""The report folder: one HTML page, its plots, the tables as CSV, the runs as JSON and a Perfetto trace."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from npu_isa.errors import DataError
from npu_isa.file.container import write_whole
from npu_sim.counters import trace_events

from npu_runtime.reports.cycles import report
from npu_runtime.reports.evaluating import AGREEMENT, RunReport, images_run
from npu_runtime.reports.explain import where_it_went
from npu_runtime.reports.plots import LEAST_SPAN, accuracy_plot, engines_plot, layers_plot, timeline_plot
from npu_runtime.reports.tables import Row, Table, cell
from npu_runtime.session.hosting import host_of
from npu_runtime.session.session import Session

ACCURACY = (
    "The dial: what a ratio costs in accuracy and gives in latency, over {images}. Bars: one standard error of top-1, "
    "sqrt(p(1-p)/n), up and down. All ratios ran the same images, so a change from 0 % is surer than the bars look: "
    "its own standard error is in the table. The axis shows {span:g} percentage points or more."
)
NO_ACCURACY = "The dial: the 4-bit ratio reached and the latency that it gives. Accuracy needs images with labels."
CAPTIONS = {
    "layers.svg": "Cycles by which each layer moves the finish line, at each ratio.",
    "engines.svg": "Cycles of each engine by cause, at each ratio.",
    "timeline.svg": "When each engine works, at the last ratio.",
}
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;"
    "text-align:right}td:first-child,th:first-child{text-align:left}figure{margin:1.5rem 0}img{max-width:100%}"
    "figcaption{color:#555;font-size:13px}pre{background:#f5f5f5;padding:.7rem;overflow:auto}.wide{overflow:auto}"
)


def write_report(folder: str | Path, session: Session, runs: RunReport) -> Path:
    """Write the report folder; each file whole or not at all.

    Args:
        folder: made if it does not exist; files of an earlier report are replaced.
        session: the binary; its ratio is left at the last of the runs.
        runs: from `npu_runtime.reports.evaluating.evaluate`.

    Returns:
        the path of index.html.

    Raises:
        DataError: the folder cannot be made.
        ContainerError: a file cannot be written.
    """
    target = make_folder(folder)
    layers, engines, texts = {}, {}, {}
    for row in runs.rows:
        ratio = row.ratio_percent
        session.set_ratio(ratio)
        layers[ratio], engines[ratio] = report(session, "layer"), report(session, "engine")
        texts[ratio] = where_it_went(session)
        write_whole(target / f"layers_{ratio:g}.csv", layers[ratio].to_csv().encode())
        write_whole(target / f"engines_{ratio:g}.csv", engines[ratio].to_csv().encode())
    plots = {
        "accuracy.svg": accuracy_plot(runs),
        "layers.svg": layers_plot(layers),
        "engines.svg": engines_plot(engines),
        "timeline.svg": timeline_plot(session),
    }
    names = [session.binary.layers[i].name if i >= 0 else "" for i in session.binary.layer_of]
    trace = trace_events(session.timing(), session.ops, names)
    files = {
        **plots,
        "runs.csv": runs.to_csv().encode(),
        "runs.json": runs.to_json().encode(),
        "trace.json": json.dumps({"traceEvents": trace}).encode(),
        "index.html": _page(session, runs, texts, layers, list(plots)).encode(),
    }
    for name, data in files.items():
        write_whole(target / name, data)
    return target / "index.html"


def make_folder(path: str | Path) -> Path:
    """Make a folder if it does not exist; raises DataError where it cannot be made."""
    target = Path(path)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder: {error.strerror}", str(target), "give another folder") from None
    return target


def _page(
    session: Session, runs: RunReport, texts: dict[float, str], layers: dict[float, Table], plots: Sequence[str]
) -> str:
    facts = "".join(f"<li>{escape(k)}: {escape(v)}</li>" for k, v in runs.provenance.items())
    images = images_run(runs.rows)
    dial = NO_ACCURACY if runs.rows[0].top1_percent is None else ACCURACY
    captions = {"accuracy.svg": dial.format(images=images, span=LEAST_SPAN)} | CAPTIONS
    parts = [f"<h1>{escape(runs.provenance['model'])} on {escape(runs.provenance['machine'])}, {images}</h1>"]
    parts += [f"<p>note: {escape(note)}</p>" for note in session.binary.notes]
    parts += [f"<p>host: {escape(line)}</p>" for line in host_of(session.binary)]
    parts.append(_table([row.__dict__ for row in runs.rows]))
    parts += [f"<p>{escape(runs.classes)}</p>"] if runs.classes else []
    if runs.agreement is not None:
        parts.append(f"<h2>{escape(AGREEMENT.format(**runs.agreement.provenance))}</h2>{_table(runs.agreement.rows)}")
    parts += [
        f'<figure><img src="{p}" alt="{captions[p]}"><figcaption>{captions[p]}</figcaption></figure>' for p in plots
    ]
    for ratio, text in texts.items():
        parts.append(f"<h2>{ratio:g} % asked</h2><pre>{escape(text)}</pre>")
        parts.append(f"<details><summary>layers</summary>{_table(layers[ratio].rows)}</details>")
    parts.append(f"<h2>Where this comes from</h2><ul>{facts}</ul>")
    parts.append(
        "<p>trace.json opens in Perfetto (one cycle is shown as one microsecond); the tables are in the .csv files.</p>"
    )
    head = f'<meta charset="utf-8"><title>npu report</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(rows: Sequence[Row]) -> str:
    names = [n for n in rows[0] if n != "onnx_nodes"]
    head = "".join(f"<th>{escape(n.replace('_', ' '))}</th>" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell(r[n]))}</td>" for n in names) + "</tr>" for r in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
