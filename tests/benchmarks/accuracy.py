"""Top-1 of every convolutional model of ../shared/data by every way to 4 bits: python -m tests.benchmarks.accuracy.

Scales, positions, selections and bias rows are made from training images; accuracy is measured on labelled images that
no choice has seen, at 0/25/50/75/100 % of a dial that may stop at any group. Beside top-1 stands the mean divergence
(Kullback-Leibler, in nats) of the class probabilities from those of the float model under onnxruntime, which tells
more from few images. Each row is appended to --rows as a line of JSON, and rows that are there are not measured again;
--table prints what is there.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from npu_compiler.evolve import State
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model
from npu_compiler.quantize import quantize
from npu_runtime.ablating import outputs_at
from npu_runtime.data import Dataset
from numpy.typing import NDArray

from tests.benchmarks.models import RATIOS, Model, catalogue, float_outputs

INT4 = {"grouping": "none", "rounding": "nearest", "aligned": False, "bias_correction": "none"}
PLAIN = INT4 | {"positions": "range"}
NUMERICS = {"grouping": "none", "rounding": "nearest"}  # positions by error, aligned scales, a bias row per boundary
WAYS: dict[str, dict[str, Any]] = {
    "INT4 min-max": INT4 | {"uniform": "minmax"},
    "all of ours, greedy": {},
    "all of ours, evolutionary": {"selection": "evolutionary"},
    "all of ours, evolutionary, dynamic": {"selection": "evolutionary", "extract": "dynamic"},
    "INT4 squared error, bias": INT4 | {"uniform": "mse", "bias_correction": "layer"},
    "numerics, greedy": NUMERICS,
    "plain, greedy": PLAIN,
    "INT4 min-max, bias": INT4 | {"uniform": "minmax", "bias_correction": "layer"},
    "INT4 squared error": INT4 | {"uniform": "mse"},
    "plain, random": PLAIN | {"selection": "random"},
    "plain, range": PLAIN | {"selection": "range"},
    "numerics, random": NUMERICS | {"selection": "random"},
    "numerics, range": NUMERICS | {"selection": "range"},
    "numerics, evolutionary": NUMERICS | {"selection": "evolutionary"},
    "numerics, evolutionary, dynamic": NUMERICS | {"selection": "evolutionary", "extract": "dynamic"},
    "plain, evolutionary": PLAIN | {"selection": "evolutionary"},
    "plain, evolutionary, dynamic": PLAIN | {"selection": "evolutionary", "extract": "dynamic"},
}  # in the order in which they are measured; the table goes by TABLE
TABLE = (
    *("INT4 min-max", "INT4 min-max, bias", "INT4 squared error", "INT4 squared error, bias"),
    *(w for kind in ("plain", "numerics", "all of ours") for w in WAYS if w.startswith(kind)),
)


@dataclass(frozen=True)
class Effort:
    """What a model's size allows: images measured on, images and generations of a search."""

    images: int
    search_images: int
    generations: int


EFFORTS = {32: Effort(2000, 128, 6), 96: Effort(600, 64, 5), 224: Effort(300, 24, 4)}  # by side of the input


@dataclass
class Case:
    """A model with its images; searches made so far, by what they were made for."""

    model: Model
    effort: Effort
    calibration: NDArray[np.uint8]
    data: Dataset
    reference: NDArray[np.float64]
    pass_seconds: float
    searches: dict[str, State] = field(default_factory=dict)


def load(model: Model, images: int | None) -> Case:
    """Read the images of a model and run the float model on them."""
    side = model.calibration_images(1).shape[1]
    effort = EFFORTS[side] if images is None else replace(EFFORTS[side], images=images)
    calibration, data = model.calibration_images(256), model.labelled_images(effort.images)
    start = time.perf_counter()
    float_outputs(model, calibration)
    seconds = time.perf_counter() - start
    reference = float_outputs(model, data.images).astype(np.float64)
    return Case(model, effort, calibration, data, reference, seconds)


def measure(case: Case, way: str) -> dict[str, Any]:
    """Quantize by one way and measure it at every ratio."""
    effort, change = case.effort, WAYS[way]
    options = QuantizeOptions(search_images=effort.search_images, generations=effort.generations, **change)
    state = None
    if options.selection == "evolutionary":  # a search serves both kinds of extraction
        state = case.searches.setdefault(way.split(",")[0], State(options.seed))
    start = time.perf_counter()
    graph = quantize(import_model(case.model.path), case.calibration, case.model.preprocess, options, state)
    seconds = time.perf_counter() - start
    top1, divergence = {}, {}
    for ratio in RATIOS:
        scores = outputs_at(graph, case.data.images, ratio)
        top1[ratio] = round(100 * float(np.mean(scores.argmax(axis=1) == case.data.labels)), 2)
        divergence[ratio] = round(mean_divergence(case.reference, scores), 4)
    float_top1 = round(100 * float(np.mean(case.reference.argmax(axis=1) == case.data.labels)), 2)
    return {
        "model": case.model.name,
        "way": way,
        "images": len(case.data),
        "float_top1": float_top1,
        "top1": top1,
        "divergence": divergence,
        "quantize_seconds": round(seconds, 1),
        "float_pass_seconds": round(case.pass_seconds, 1),
    }


def mean_divergence(reference: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Return the mean divergence, in nats, of the class probabilities of scores, (N, classes), from a reference."""
    p, q = log_softmax(reference), log_softmax(scores)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms of class probabilities."""
    low = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(low - np.log(np.exp(low).sum(axis=1, keepdims=True)))


SHORT = ("all of ours, greedy", "all of ours, evolutionary, dynamic", "INT4 min-max", "INT4 squared error, bias")


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a Markdown table with a row per model, and how far ours is above conventional INT4 at 100 %."""
    top1 = {(r["model"], r["way"]): r["top1"] for r in rows}
    heads = ("top-1 in %", "float", "static: 0 %", "50 %", "100 %", "dynamic: 0 %", "50 %", "100 %", *SHORT[2:])
    yield f"| {' | '.join(heads)} |"
    yield "| --- " * 10 + "|"
    above = []
    for model, real in {r["model"]: r["float_top1"] for r in rows}.items():
        ours, dynamic, minmax, best = (top1[model, way] for way in SHORT)
        cells = [real, *(t[r] for t in (ours, dynamic) for r in ("0", "50", "100")), minmax["100"], best["100"]]
        yield f"| {model} | {' | '.join(f'{c:.2f}' for c in cells)} |"
        above.append([mine["100"] - other["100"] for mine in (ours, dynamic) for other in (minmax, best)])
    mean = np.mean(above, axis=0)
    yield f"\nAbove INT4 min-max and squared error with bias at 100 %, mean: static {mean[0]:.1f}, {mean[1]:.1f}; "
    yield f"dynamic {mean[2]:.1f}, {mean[3]:.1f} points."


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a Markdown table per model."""
    for model in dict.fromkeys(r["model"] for r in rows):
        mine = {r["way"]: r for r in rows if r["model"] == model}
        some = next(iter(mine.values()))
        yield f"\n**{model}**, {some['images']} images, float {some['float_top1']:.2f} %\n"
        yield "| way to 4 bits | 0 % | 25 % | 50 % | 75 % | 100 % | divergence at 0, 50, 100 % |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for way in (w for w in TABLE if w in mine):
            top1, off = mine[way]["top1"], mine[way]["divergence"]
            cells = [f"{top1[str(r)]:.2f}" for r in RATIOS]
            yield f"| {way} | {' | '.join(cells)} | {off['0']:.3f}, {off['50']:.3f}, {off['100']:.3f} |"


def main() -> int:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(catalogue()))
    parser.add_argument("--ways", type=lambda text: text.split(";"), default=list(WAYS), help="names, split by ;")
    parser.add_argument("--images", type=int, help="measured on, instead of what the model's size allows")
    parser.add_argument("--rows", type=Path, default=Path("build/accuracy.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the rows that are there as tables")
    args = parser.parse_args()
    for asked, known in ((args.models, catalogue()), (args.ways, WAYS)):
        if unknown := [a for a in asked if a not in known]:
            parser.error(f"unknown {', '.join(unknown)}; there are {'; '.join(known)}")
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    args.rows.touch()
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()]
    if args.table:
        print("\n".join([*summary(rows), *lines(rows)]))
        return 0
    done = {(r["model"], r["way"]) for r in rows}
    for name in args.models:
        case = None
        for way in args.ways:
            if (name, way) in done:
                continue
            case = case or load(catalogue()[name], args.images)
            row = measure(case, way)
            with args.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
