"""Plots as SVG bytes; equal input gives equal bytes."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from npu_isa.isa.ops import Engine, Setup
from npu_sim.counters import CAUSES

from npu_runtime.reports.evaluating import RunReport
from npu_runtime.session.session import Session

if TYPE_CHECKING:
    from npu_compiler.qgraph.ir import QuantizedGraph

    from npu_runtime.reports.tables import Table

COLORS = {
    "stream": "#1b7837",
    "busy": "#1b7837",
    "bank": "#d9a400",
    "setup": "#7fbf7b",
    "weights": "#e08214",
    "dram": "#8c510a",
    "port": "#b2182b",
    "token_load": "#4393c3",
    "token_matrix": "#2166ac",
    "token_vector": "#92c5de",
    "token_store": "#053061",
    "token_full": "#762a83",
    "drain": "#9970ab",
    "fetch": "#525252",
    "queue": "#bababa",
    "idle": "#e6e6e6",
}


def _figure(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    """Return a figure and its axes, without pyplot: a caller's backend stays as it is."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, panels, sharey=panels > 1)


def _svg(figure: Figure) -> bytes:
    """Return the figure as SVG without date or random identifiers."""
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "npu", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def accuracy_plot(runs: RunReport) -> bytes:
    """Draw top-1 against latency, a point per ratio; without labels, cycles against the ratio."""
    figure, axes = _figure(7, 4.2)
    latency = [r.latency_us for r in runs.rows]
    has_labels = all(r.top1_percent is not None for r in runs.rows)
    ys = [r.top1_percent if has_labels else r.effective_percent for r in runs.rows]
    axes.plot(latency, ys, "o-", color="#2166ac")
    for x, y, row in zip(latency, ys, runs.rows, strict=True):
        axes.annotate(f"{row.ratio_percent:g} %", (x, y), textcoords="offset points", xytext=(6, 6), fontsize=9)
    axes.set_xlabel("latency of one image (µs)")
    axes.set_ylabel("top-1 accuracy (%)" if has_labels else "effective 4-bit ratio (%)")
    axes.set_title(f"{runs.provenance['model']} on {runs.provenance['machine']}: the dial")
    axes.grid(alpha=0.3)
    axes.margins(0.12)
    axes.set_ylim(top=min(axes.get_ylim()[1], 101.0))
    return _svg(figure)


def layers_plot(tables: Mapping[float, "Table"]) -> bytes:
    """Draw the cycles of each layer at each ratio."""
    first = next(iter(tables.values()))
    names = [r["layer"] for r in first.rows]
    figure, axes = _figure(10, 0.9 + 0.22 * len(names))
    height = 0.8 / len(tables)
    colors = mpl.colormaps["viridis"](np.linspace(0.1, 0.85, len(tables)))
    for i, (ratio, table) in enumerate(tables.items()):
        at = np.arange(len(names)) + (i - (len(tables) - 1) / 2) * height
        axes.barh(at, [r["cycles"] for r in table.rows], height, label=f"{ratio:g} %", color=colors[i])
    axes.set_yticks(np.arange(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("cycles by which the layer moves the finish line")
    axes.legend(title="4-bit ratio", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    return _svg(figure)


def engines_plot(tables: Mapping[float, "Table"]) -> bytes:
    """Draw each engine's cycles by cause, one panel per ratio."""
    figure, all_axes = _figure(2.4 * len(tables) + 2.5, 3.6, len(tables))
    panels = np.atleast_1d(all_axes)
    used = [c for c in CAUSES if any(r[f"{c}_cycles"] for t in tables.values() for r in t.rows)]
    for axes, (ratio, table) in zip(panels, tables.items(), strict=True):
        names = [r["engine"] for r in table.rows]
        bottom = np.zeros(len(names))
        for cause in used:
            values = np.array([r[f"{cause}_cycles"] for r in table.rows])
            axes.bar(names, values, bottom=bottom, color=COLORS[cause], label=cause)
            bottom += values
        axes.set_title(f"{ratio:g} %", fontsize=10)
        axes.tick_params(axis="x", rotation=60)
    panels[0].set_ylabel("cycles")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=8, title="cause")
    return _svg(figure)


def timeline_plot(session: Session) -> bytes:
    """Draw when each engine works, a colour per layer, at the session's ratio."""
    timing, layers = session.timing(), session.binary.layers
    figure, axes = _figure(12, 2.8)
    colors = mpl.colormaps["tab20"](np.arange(max(len(layers), 1)) % 20)
    for engine in Engine:
        spans, faces = [], []
        for op in session.ops[: len(timing.table)]:
            if op.engine == engine and not isinstance(op, Setup):
                start, end = int(timing.start[op.index]), int(timing.issue_end[op.index])
                spans.append((start, end - start))
                faces.append(colors[session.binary.layer_of[op.index]])
        axes.broken_barh(spans, (int(engine) - 0.4, 0.8), facecolors=faces)
    axes.set_yticks(range(len(Engine)), [e.name.lower() for e in Engine])
    axes.invert_yaxis()
    axes.set_xlim(0, timing.total_cycles)
    axes.set_xlabel("cycle")
    axes.set_title(f"engines at work, {session.effective_percent:.0f} % in 4 bits; a colour per layer", fontsize=10)
    return _svg(figure)


def unused_bits_plot(graph: "QuantizedGraph") -> bytes:
    """Draw per layer the share of groups whose activations or weights leave 0, 1, ... bits unused (figure 1)."""
    from npu_runtime.reports.choices import unused_act_bits, unused_wgt_bits

    nodes = graph.lowerable
    figure, panels = _figure(12, 1.2 + 0.22 * len(nodes), 2)
    colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.95, 9))
    found = (
        ("activations", [unused_act_bits(graph, n) for n in nodes]),
        ("weights", [unused_wgt_bits(n).ravel() for n in nodes]),
    )
    for axes, (title, values) in zip(panels, found, strict=True):
        left = np.zeros(len(nodes))
        for bits in range(9):
            share = np.array([100.0 * np.mean(v == bits) for v in values])
            axes.barh(range(len(nodes)), share, left=left, color=colors[bits], label=str(bits))
            left += share
        axes.set_title(f"{title}: unused bits", fontsize=10)
        axes.set_xlabel("share of groups (%)")
    panels[0].set_yticks(range(len(nodes)), [n.name for n in nodes], fontsize=7)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, title="unused bits")
    return _svg(figure)


def extraction_plot(table: "Table") -> bytes:
    """Draw each layer's error with all groups in 4 bits: top 4 bits against chosen positions (paper, figure 3)."""
    names = [r["layer"] for r in table.rows]
    figure, axes = _figure(9, 1.2 + 0.25 * len(names))
    at = np.arange(len(names))
    for shift, key, label, color in (
        (-0.2, "truncation_error_steps", "top 4 bits, no rounding", "#b2182b"),
        (0.2, "error_steps", "chosen positions", "#2166ac"),
    ):
        axes.barh(at + shift, [r[key] or 0.0 for r in table.rows], 0.4, label=label, color=color)
    axes.set_yticks(at, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("expected error of the layer's output (root mean square, output steps)")
    axes.legend(fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    return _svg(figure)


def ablation_plot(table: "Table") -> bytes:
    """Draw the top-1 of each step of an ablation."""
    figure, axes = _figure(9, 1.2 + 0.3 * len(table.rows))
    values = [r["top1_percent"] for r in table.rows]
    colors = ["#2166ac" if r["step"].startswith(("+", "random")) else "#999999" for r in table.rows]
    axes.scatter(values, range(len(values)), color=colors, zorder=2)  # points: the axis need not start at 0
    for at, value in enumerate(values):
        axes.annotate(f"{value:.2f}", (value, at), textcoords="offset points", xytext=(7, -3), fontsize=8)
    names = [f"{r['step']} ({r['ratio_percent']:g} %)" for r in table.rows]
    axes.set_yticks(range(len(values)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(alpha=0.3)
    axes.set_xlabel("top-1 accuracy (%)")
    return _svg(figure)
