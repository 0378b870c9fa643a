"""What each part of the method gives: the paper's ablation ladder on one model, each step on top of the one before."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from npu_compiler.graph.ir import Graph
from npu_compiler.lowering.fit import walk_of_all_groups
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import quantize
from npu_compiler.qgraph import fast_eval
from npu_compiler.qgraph.ir import Preprocess, QuantizedGraph
from npu_isa.errors import DataError
from numpy.typing import NDArray

from npu_runtime.data.dataset import Dataset
from npu_runtime.reports.classes import class_output
from npu_runtime.reports.evaluating import stderr_points
from npu_runtime.reports.tables import Table

SCHEMA = "npu.ablate/1"


@dataclass(frozen=True)
class Step:
    """One step: what it changes, at the ratio asked or (baselines) with every group in 4 bits."""

    name: str
    change: dict[str, Any]
    whole: bool = False


PLAIN = {"grouping": "none", "rounding": "nearest", "aligned": False, "bias_correction": "none", "extract": "static"}
BASELINES = (
    Step("8 bits", {}),
    Step("INT4 min-max", PLAIN | {"uniform": "minmax"}, whole=True),
    Step("INT4 min-max, bias repaired", PLAIN | {"uniform": "minmax", "bias_correction": "network"}, whole=True),
    Step("INT4 squared error", PLAIN | {"uniform": "mse"}, whole=True),
    Step("INT4 squared error, bias repaired", PLAIN | {"uniform": "mse", "bias_correction": "network"}, whole=True),
)
LADDER = (
    Step("random groups, positions by range", PLAIN | {"selection": "random", "positions": "range"}),
    Step("+ positions by squared error", {"positions": "error"}),
    Step("+ scales aligned to 4 bits", {"aligned": True}),
    Step("+ bias row per boundary", {"bias_correction": "layer"}),
    Step("+ greedy selection", {"selection": "greedy"}),
    Step("+ evolutionary selection", {"selection": "evolutionary"}),
    Step("+ dynamic extraction", {"extract": "dynamic"}),
    Step("+ channels of like magnitude in a group", {"grouping": "magnitude"}),
    Step("+ learned rounding", {"rounding": "learned"}),
)


def ablate(
    graph: Graph,
    calibration: Dataset,
    data: Dataset,
    preprocess: Preprocess,
    ratio: float,
    options: QuantizeOptions | None = None,
    observe: Callable[[str], None] = lambda name: None,
) -> Table:
    """Quantize a model by each step and measure at a ratio, on no machine in particular.

    A row has top-1, its standard error, and the divergence of the outputs from those of the first step, the network in
    8 bits, which tells steps apart that differ by few images.

    Args:
        graph: from `npu_compiler.pipeline.import_model`.
        calibration: images that scales, positions and selections are made from.
        data: images with labels that accuracy is measured on; not those of the calibration.
        preprocess: from pixels to the model's input.
        ratio: percentage of 4-bit multiply-accumulates of the ladder; baselines have all groups in 4 bits.
        options: what no step changes: method, images, seed, generations.
        observe: called with each step's name before it.

    Raises:
        DataError: the data have no labels, or do not fit the model.
    """
    if data.labels is None:
        raise DataError("an ablation needs labels", hint="give a data set with labels")
    given = (options or QuantizeOptions()).check()
    steps = [(step.name, step.change, 100.0 if step.whole else 0.0) for step in BASELINES]
    change: dict[str, Any] = {}
    for step in LADDER:
        change = change | step.change
        steps.append((step.name, change, ratio))
    rows: list[dict[str, Any]] = []
    reference = None
    for name, changed, at in steps:
        observe(name)
        made = quantize(graph, calibration.images, preprocess, replace(given, **changed))
        scores = outputs_at(made, data.images, at)
        reference = scores if reference is None else reference
        top1, off = top1_percent(scores, data), divergence_nats(reference, scores)
        row = {"step": name, "ratio_percent": at, "top1_percent": round(top1, 2)}
        row |= {"top1_stderr_points": round(stderr_points(top1, len(data)), 2), "divergence_nats": round(off, 4)}
        rows.append(row)
    head = {"model": graph.name, "ratio_percent": f"{ratio:g}", "images": str(len(data))}
    return Table(SCHEMA, head, tuple(rows))


def top1_percent(scores: NDArray[np.float64], data: Dataset) -> float:
    """Return the top-1 accuracy of outputs (N, classes)."""
    assert data.labels is not None
    return float(100.0 * np.mean(scores.argmax(axis=1) == data.labels))


def divergence_nats(reference: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Return the mean Kullback-Leibler divergence of the classes' probabilities from those of a reference, in nats.

    Both are outputs (N, classes) before a softmax.
    """
    p, q = _log_softmax(reference), _log_softmax(scores)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    low = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(low - np.log(np.exp(low).sum(axis=1, keepdims=True)))


def outputs_at(graph: QuantizedGraph, images: NDArray[np.uint8], ratio: float) -> NDArray[np.float64]:
    """Return the classes at a ratio of a dial that may stop at every group, in real values, float64 (N, classes)."""
    channels, out = np.arange(graph.tensors[graph.input].channels), graph.tensors[class_output(graph.outputs).tensor]
    made = fast_eval.run(graph, graph.table[channels, images], walk_of_all_groups(graph, ratio))[out.name]
    physical = [out.channel_map.index(c) for c in range(max(out.channel_map) + 1)]
    return np.asarray(made.reshape(len(made), -1, out.channels)[:, 0, physical] * out.scale)
