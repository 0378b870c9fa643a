"""Where the cycles go: tables by layer, engine and instruction, and the report folder with its plots."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from npu_isa.container import write_whole
from npu_isa.ops import Conv, Engine
from npu_isa.timing import conv_passes
from npu_sim.counters import (
    CAUSES,
    engine_rows,
    ideal_cycles,
    layer_cycles,
    matrix_use,
    spent,
    trace_events,
)

from npu_runtime.evaluate import RunReport, csv_text, provenance
from npu_runtime.session import Session

REPORT_SCHEMA = "npu.report/1"
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of equal keys, with what identifies them."""

    by: str
    provenance: dict[str, str]
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """Return the table as JSON."""
        body = {"schema": REPORT_SCHEMA, "by": self.by, "provenance": self.provenance, "rows": list(self.rows)}
        return json.dumps(body, indent=1) + "\n"

    def to_csv(self) -> str:
        """Return the table as CSV after `# key: value` lines."""
        return csv_text(self.provenance | {"schema": REPORT_SCHEMA}, self.rows, list(self.rows[0]) if self.rows else [])


def report(session: Session, by: str) -> Table:
    """Return the cycle report of a session at its present boundaries.

    Args:
        session: the binary and its ratio.
        by: "layer", "engine" or "instruction".

    Returns:
        one row per layer (in program order), engine, or instruction. Cycles by cause add up exactly: asserted.
    """
    makers = {"layer": _by_layer, "engine": _by_engine, "instruction": _by_instruction}
    head = provenance(session) | {
        "effective_percent": f"{session.effective_percent:.2f}",
        "total_cycles": str(session.timing().total_cycles),
    }
    return Table(by, head, tuple(makers[by](session)))


def layer_low_macs(session: Session) -> list[int]:
    """Return per layer the multiply-accumulates that run in 4 bits."""
    low = [0] * len(session.binary.layers)
    at = {layer.register: i for i, layer in enumerate(session.binary.layers) if layer.register >= 0}
    before = 0
    for step in session.binary.dial:
        part, before = step.low_macs - before, step.low_macs
        if step.boundary <= session.boundaries[step.register]:
            low[at[step.register]] += part
    return low


def _by_layer(session: Session) -> list[Row]:
    timing, binary = session.timing(), session.binary
    layers = binary.layers
    own = layer_cycles(timing, binary.layer_of, len(layers))
    by_cause = spent(timing, session.ops)
    layer_of = binary.layer_of[: len(timing.table)]
    engine_of = np.array([op.engine for op in session.ops[: len(timing.table)]])
    low = layer_low_macs(session)
    rows = []
    for i, layer in enumerate(layers):
        mine = layer_of == i
        causes = dict(zip(CAUSES, by_cause[mine & (engine_of == Engine.MATRIX)].sum(axis=0).tolist(), strict=True))
        vector = int(by_cause[mine & (engine_of == Engine.VECTOR)][:, CAUSES.index("busy")].sum())
        waiting = sum(v for k, v in causes.items() if k.startswith(("token", "port", "queue", "drain", "setup")))
        matrix_macs = layer.macs if layer.kind == "conv" else 0
        rows.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "boundary_groups": session.boundaries[layer.register] if layer.register >= 0 else 0,
                "groups": layer.groups,
                "macs": layer.macs,
                "macs_4bit": low[i],
                "cycles": int(own[i]),
                "ideal_cycles": round(ideal_cycles(binary.machine, matrix_macs - low[i], low[i]), 1),
                "stream_cycles": causes["stream"],
                "bank_cycles": causes["bank"],
                "weights_cycles": causes["weights"],
                "waiting_cycles": waiting,
                "vector_cycles": vector,
                "dram_bytes": int(timing.dram_bytes[mine].sum()),
                "passes": int(timing.passes[mine].sum()),
                "onnx_nodes": " ".join(layer.onnx_nodes),
            }
        )
    assert sum(r["cycles"] for r in rows) == timing.total_cycles
    return rows


def _by_engine(session: Session) -> list[Row]:
    timing = session.timing()
    rows = engine_rows(timing, session.ops, spent(timing, session.ops))
    return [
        {
            "engine": r.engine,
            "instructions": r.instructions,
            "total_cycles": r.total_cycles,
            **{f"{cause}_cycles": cycles for cause, cycles in zip(CAUSES, r.cycles, strict=True)},
            "dram_bytes": r.dram_bytes,
        }
        for r in rows
    ]


def _by_instruction(session: Session) -> list[Row]:
    timing, binary = session.timing(), session.binary
    by_cause = spent(timing, session.ops)
    rows = []
    for op in session.ops[: len(timing.table)]:
        i = op.index
        layer = int(binary.layer_of[i])
        low = len(conv_passes(op, _boundary(session, op), binary.machine)) if isinstance(op, Conv) else 0
        rows.append(
            {
                "instruction": i,
                "name": getattr(op, "name", type(op).__name__.lower()),
                "engine": op.engine.name.lower(),
                "layer": binary.layers[layer].name if layer >= 0 else "",
                "tile": int(binary.tile_of[i]),
                "passes": low,
                "dispatch_cycle": int(timing.dispatch[i]),
                "accept_cycle": int(timing.accept[i]),
                "start_cycle": int(timing.start[i]),
                "issue_end_cycle": int(timing.issue_end[i]),
                "end_cycle": int(timing.end[i]),
                "dram_bytes": int(timing.dram_bytes[i]),
                **{f"{c}_cycles": int(v) for c, v in zip(CAUSES, by_cause[i], strict=True) if c != "idle"},
            }
        )
    return rows


def _boundary(session: Session, op: Conv) -> int:
    register = op.geom.register
    return session.boundaries[register] if register < len(session.boundaries) else 0


def where_it_went(session: Session) -> str:
    """Explain the present ratio in a few lines: the ideal, the cycles taken, and what the rest was spent on."""
    timing, binary = session.timing(), session.binary
    machine, low = binary.machine, session.low_macs
    macs = sum(layer.macs for layer in binary.layers if layer.kind == "conv")
    rows = {r.engine: r for r in engine_rows(timing, session.ops, spent(timing, session.ops))}
    use = matrix_use(machine, rows["matrix"], macs - low, low)
    ideal8, ideal = ideal_cycles(machine, macs, 0), ideal_cycles(machine, macs - low, low)
    share = {k: 100.0 * getattr(use, k) / use.total for k in ("useful", "padding", "bank", "weights", "waiting")}
    total, of_all = timing.total_cycles, 100 * low / max(macs, 1)
    lines = [
        f"4 bits: {session.effective_percent:.1f} % of the dial's multiply-accumulates, {of_all:.1f} % of all",
        f"cycles {total:,}; ideal {ideal:,.0f} (in 8 bits {ideal8:,.0f}): {total / max(ideal, 1):.2f} x ideal",
        "PE-cycles: " + ", ".join(f"{k} {v:.1f} %" for k, v in share.items()),
    ]
    waits = dict(zip(CAUSES, rows["matrix"].cycles, strict=True))
    named = [(k, v) for k, v in waits.items() if k not in ("stream", "bank", "weights") and v]
    if named:
        text = ", ".join(f"{k} {v:,}" for k, v in sorted(named, key=lambda p: -p[1]))
        lines.append(f"matrix engine not at work (cycles): {text}")
    return "\n".join(lines)


def write_report(folder: str | Path, session: Session, runs: RunReport) -> Path:
    """Write the report folder: index.html, plots, tables and a Perfetto trace; returns the path of index.html.

    Raises:
        ContainerError: the folder cannot be written.
    """
    from npu_runtime.plots import accuracy_plot, engines_plot, layers_plot, timeline_plot

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    ratios = [row.ratio_percent for row in runs.rows]
    tables, engines, texts = {}, {}, {}
    for ratio in ratios:
        session.set_ratio(ratio)
        tables[ratio], engines[ratio] = report(session, "layer"), report(session, "engine")
        texts[ratio] = where_it_went(session)
        write_whole(target / f"layers_{ratio:g}.csv", tables[ratio].to_csv().encode())
        write_whole(target / f"engines_{ratio:g}.csv", engines[ratio].to_csv().encode())
    plots = {
        "accuracy.svg": accuracy_plot(runs),
        "layers.svg": layers_plot(tables),
        "engines.svg": engines_plot(engines),
        "timeline.svg": timeline_plot(session),
    }
    for name, data in plots.items():
        write_whole(target / name, data)
    write_whole(target / "runs.csv", runs.to_csv().encode())
    write_whole(target / "runs.json", runs.to_json().encode())
    trace = trace_events(session.timing(), session.ops, instruction_names(session))
    write_whole(target / "trace.json", json.dumps({"traceEvents": trace}).encode())
    write_whole(target / "index.html", _page(runs, texts, tables, list(plots)).encode())
    return target / "index.html"


def instruction_names(session: Session) -> list[str]:
    """Return per instruction the layer it belongs to, for timelines."""
    layers = session.binary.layers
    return [layers[i].name if i >= 0 else "" for i in session.binary.layer_of]


def _page(runs: RunReport, texts: dict[float, str], tables: dict[float, Table], plots: Sequence[str]) -> str:
    """Return the report as one HTML page; plots are files beside it."""
    from html import escape

    def table(rows: Sequence[Row], skip: tuple[str, ...] = ()) -> str:
        names = [n for n in rows[0] if n not in skip]
        head = "".join(f"<th>{escape(n.replace('_', ' '))}</th>" for n in names)
        body = "".join("<tr>" + "".join(f"<td>{escape(_cell(r[n]))}</td>" for n in names) + "</tr>" for r in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    run_rows = [row.__dict__ for row in runs.rows]
    facts = "".join(f"<li>{escape(k)}: {escape(v)}</li>" for k, v in runs.provenance.items())
    parts = [f"<h1>{escape(runs.provenance['model'])} on {escape(runs.provenance['machine'])}</h1>", table(run_rows)]
    parts += [f'<figure><img src="{p}" alt="{p}"></figure>' for p in plots]
    for ratio, text in texts.items():
        parts.append(f"<h2>{ratio:g} % asked</h2><pre>{escape(text)}</pre>")
        parts.append(f"<details><summary>layers</summary>{table(tables[ratio].rows, ('onnx_nodes',))}</details>")
    parts.append(f"<h2>Where this comes from</h2><ul>{facts}</ul>")
    parts.append(
        "<p>trace.json opens in Perfetto (one cycle is shown as one microsecond); the tables are in the .csv files.</p>"
    )
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;"
        "text-align:right}td:first-child,th:first-child{text-align:left}figure{margin:1.5rem 0}img{max-width:100%}"
        "pre{background:#f5f5f5;padding:.7rem;overflow:auto}details{overflow:auto}"
    )
    head = f'<meta charset="utf-8"><title>npu report</title><style>{style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
