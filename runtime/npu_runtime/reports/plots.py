"""Plots as SVG bytes; equal input gives equal bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from npu_isa.isa.ops import Engine, Setup
from npu_sim.activity import CAUSES

from npu_runtime.reports.evaluating import RunReport, images_run
from npu_runtime.session.session import Session

if TYPE_CHECKING:
    from npu_compiler.qgraph.ir import QuantizedGraph

    from npu_runtime.reports.tables import Table

LEAST_SPAN = 5.0  # percentage points that an axis of accuracies shows
LEGEND_LAYERS = 20  # colours that can be told apart
COLORS = {
    "stream": "#1b7837",
    "busy": "#5aae61",
    "bank": "#d9a400",
    "setup": "#c7e9c0",
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
    """Draw top-1 against latency, a point per ratio with its standard error; without labels, the ratio reached."""
    figure, axes = _figure(7, 4.2)
    rows = runs.rows
    latency = [r.latency_us for r in rows]
    title = f"{runs.provenance['model']} on {runs.provenance['machine']}: the dial, {images_run(rows)}"
    if all(r.top1_percent is not None for r in rows):
        ys, errors = [r.top1_percent or 0.0 for r in rows], [r.top1_stderr_points or 0.0 for r in rows]
        axes.errorbar(latency, ys, errors, fmt="o-", color="#2166ac", ecolor="#92c5de", capsize=3)
        axes.set_ylim(accuracy_span(ys, errors))
        axes.set_ylabel("top-1 accuracy (%) ± one standard error")
    else:
        ys, errors = [r.effective_percent for r in rows], [0.0] * len(rows)
        axes.plot(latency, ys, "o-", color="#2166ac")
        axes.set_ylabel("effective 4-bit ratio (%)")
    names: dict[tuple[float, float], list[str]] = {}  # ratios that reach the same step of the dial share a point
    for row, x, y, error in zip(rows, latency, ys, errors, strict=True):
        names.setdefault((x, y + error), []).append(f"{row.ratio_percent:g}")
    for place, ratios in names.items():
        text = f"{', '.join(ratios)} %"
        axes.annotate(text, place, textcoords="offset points", xytext=(4, 5), fontsize=9)
    axes.set_xlabel("latency of one image (µs)")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.margins(x=0.12, y=0.12)
    return _svg(figure)


def accuracy_span(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis of accuracies in per cent: LEAST_SPAN at least, else noise would fill the picture.

    Args:
        values: accuracies in per cent.
        errors: their standard errors in percentage points; two of them, up and down, are within the axis.
    """
    low = min(v - 2 * e for v, e in zip(values, errors, strict=True))
    high = max(v + 2 * e for v, e in zip(values, errors, strict=True))
    span = max(1.2 * (high - low), LEAST_SPAN)
    top = min((low + high + span) / 2, 100.0 + 0.1 * span)
    return top - span, top


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
    figure.legend(loc="outside right upper", title="4-bit ratio", fontsize=8)
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
        axes.set_title(f"4-bit ratio {ratio:g} %", fontsize=10)
        axes.tick_params(axis="x", rotation=60)
    panels[0].set_ylabel("cycles")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=8, title="cause")
    return _svg(figure)


def timeline_plot(session: Session) -> bytes:
    """Draw when each engine works, a colour per layer, at the session's ratio."""
    timing, layers = session.timing(), session.binary.layers
    figure, axes = _figure(12, 3.2)
    colors = mpl.colormaps["tab20"](np.arange(max(len(layers), 1)) % LEGEND_LAYERS)
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
    repeated = f", the same again after {LEGEND_LAYERS}" if len(layers) > LEGEND_LAYERS else ""
    title = f"engines at work, {session.effective_percent:.0f} % in 4 bits; a colour per layer{repeated}"
    axes.set_title(title, fontsize=10)
    if not repeated:
        marks = [Patch(color=color, label=layer.name) for color, layer in zip(colors, layers, strict=False)]
        figure.legend(handles=marks, loc="outside right upper", fontsize=7)
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
    # points, no bars: the axis is logarithmic, and a bar's length would depend on where it starts
    for key, label, color in (
        ("truncation_error_steps", "top 4 bits, no rounding", "#b2182b"),
        ("error_steps", "chosen positions", "#2166ac"),
    ):
        axes.plot([r[key] or np.nan for r in table.rows], at, "o", label=label, color=color)
    axes.set_yticks(at, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("expected error of the layer's output (root mean square, output steps)")
    figure.legend(loc="outside right upper", fontsize=8)
    axes.grid(alpha=0.3, which="both")
    return _svg(figure)


def ablation_plot(table: "Table") -> bytes:
    """Draw the top-1 of each step of an ablation, with its standard error."""
    figure, axes = _figure(9, 1.2 + 0.3 * len(table.rows))
    values, errors = ([r[k] for r in table.rows] for k in ("top1_percent", "top1_stderr_points"))
    for at, (row, value, error) in enumerate(zip(table.rows, values, errors, strict=True)):
        color = "#2166ac" if row["step"].startswith(("+", "random")) else "#999999"
        axes.errorbar(value, at, xerr=error, fmt="o", color=color, capsize=2)  # points: the axis need not start at 0
        axes.annotate(f"{value:.2f}", (value + error, at), textcoords="offset points", xytext=(5, -3), fontsize=8)
    names = [f"{r['step']} ({r['ratio_percent']:g} %)" for r in table.rows]
    axes.set_yticks(range(len(values)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(accuracy_span(values, errors))
    axes.grid(alpha=0.3)
    axes.set_xlabel(f"top-1 accuracy (%) of {int(table.provenance['images']):,} images ± one standard error")
    return _svg(figure)
