"""Top-1 of every convolutional model of ../shared/data by every way to 4 bits: python -m tests.benchmarks.accuracy.

Scales, positions, selections and bias rows are made from training images; accuracy is measured on labelled images that
no choice has seen, at 0/25/50/75/100 % of a dial that may stop at any group. Beside top-1 stands the mean divergence
(Kullback-Leibler, in nats) of the class probabilities from those of the float model under onnxruntime, which tells
more from few images. Each row is appended to --rows as a line of JSON, and rows that are there, of as many images, are
not measured again; --table prints what is there.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from npu_compiler.lowering.evolve import State
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model, quantize
from npu_compiler.qgraph.ir import QuantizedGraph
from npu_runtime.data.dataset import Dataset
from npu_runtime.reports.ablating import divergence_nats, outputs_at
from numpy.typing import NDArray

from tests.benchmarks.models import RATIOS, Model, chosen_models, float_outputs, positive

INT4 = {"grouping": "none", "rounding": "nearest", "aligned": False, "bias_correction": "none"}
PLAIN = INT4 | {"positions": "range"}
NUMERICS = {"grouping": "none", "rounding": "nearest"}  # positions by error, aligned scales, a bias row per boundary
WAYS: dict[str, dict[str, Any]] = {
    "INT4 min-max": INT4 | {"uniform": "minmax"},
    "all of ours, greedy": {},
    "all of ours, greedy, dynamic": {"extract": "dynamic"},
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
    data: Dataset
    searches: dict[str, State] = field(default_factory=dict)

    @cached_property
    def calibration(self) -> NDArray[np.uint8]:
        """Training images, uint8 (N, height, width, 3)."""
        return self.model.calibration_images(256)

    @cached_property
    def reference(self) -> NDArray[np.float64]:
        """Outputs of the float model for the labelled images."""
        return float_outputs(self.model, self.data.images).astype(np.float64)

    @cached_property
    def pass_seconds(self) -> float:
        """Time of one pass of onnxruntime over the calibration images."""
        start = time.perf_counter()
        float_outputs(self.model, self.calibration)
        return time.perf_counter() - start


def load(model: Model, images: int | None) -> Case:
    """Read the labelled images of a model."""
    effort = EFFORTS[model.calibration_images(1).shape[1]]
    return Case(model, effort, model.labelled_images(images or effort.images))


def quantized(case: Case, way: str, state: State | None) -> QuantizedGraph:
    """Quantize by one way."""
    effort = case.effort
    options = QuantizeOptions(search_images=effort.search_images, generations=effort.generations, **WAYS[way])
    return quantize(import_model(case.model.path), case.calibration, case.model.preprocess, options, state)


def measure(case: Case, way: str) -> dict[str, Any]:
    """Quantize by one way and measure it at every ratio."""
    state = None
    if WAYS[way].get("selection") == "evolutionary":  # a search with static positions serves both kinds of extraction
        static = way.removesuffix(", dynamic")
        if static not in case.searches:
            case.searches[static] = State(QuantizeOptions().seed)
            if way != static:
                quantized(case, static, case.searches[static])
        state = case.searches[static]
    start = time.perf_counter()
    graph = quantized(case, way, state)
    seconds = time.perf_counter() - start
    top1, divergence, loss_error = {}, {}, {}
    eight_bits = right = np.zeros(len(case.data))
    for ratio in RATIOS:
        scores = outputs_at(graph, case.data.images, ratio)
        right = (scores.argmax(axis=1) == case.data.labels).astype(np.float64)
        eight_bits = right if ratio == 0 else eight_bits
        top1[ratio] = round(100 * float(right.mean()), 2)
        divergence[ratio] = round(divergence_nats(case.reference, scores), 4)
        loss_error[ratio] = round(100 * float(np.std(right - eight_bits)) / len(right) ** 0.5, 2)
    float_top1 = round(100 * float(np.mean(case.reference.argmax(axis=1) == case.data.labels)), 2)
    return {
        "model": case.model.name,
        "way": way,
        "images": len(case.data),
        "float_top1": float_top1,
        "top1": top1,
        "divergence": divergence,
        "loss_error": loss_error,
        "quantize_seconds": round(seconds, 1),
        "float_pass_seconds": round(case.pass_seconds, 1),
    }


GREEDY = {"all of ours, greedy": "static", "all of ours, greedy, dynamic": "dynamic"}
SEARCH = "all of ours, evolutionary"
LOSSES = ("50 % loses", "100 % loses")
Rows = dict[str, dict[str, Any]]  # by way


def by_set(rows: list[dict[str, Any]]) -> dict[tuple[str, int], Rows]:
    """Return the rows of each model and number of images, by way; models as they come, then fewest images first."""
    found: dict[tuple[str, int], Rows] = {(r["model"], r["images"]): {} for r in rows}
    for r in rows:
        found[r["model"], r["images"]][r["way"]] = r
    place = {name: number for number, name in enumerate(dict.fromkeys(r["model"] for r in rows))}
    return dict(sorted(found.items(), key=lambda item: (place[item[0][0]], item[0][1])))


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield Markdown: the means over the models, greedy selection on the most images, times, and each model's ways."""
    sets = by_set(rows)
    whole = {key: mine for key, mine in sets.items() if {*WAYS} <= {*mine}}
    if whole:
        yield from _means(list(whole.values()))
    # the last set of a model has the most images
    greedy = {model: (images, mine) for (model, images), mine in sets.items() if {*GREEDY} <= {*mine}}
    yield from _table("Greedy selection on the most images", ("model, images", "float", "positions", *RATIOS, *LOSSES))
    for model, (images, mine) in greedy.items():
        for way, positions in GREEDY.items():
            yield _line(f"{model}, {images:,}", f"{mine[way]['float_top1']:.2f}", positions, *_top1(mine[way]))
    heads = ("model", "onnxruntime, one pass", "all of ours, greedy", "the search besides")
    yield from _table("Seconds, 256 calibration images", heads)
    for (model, _), mine in whole.items():
        ours, search = mine[next(iter(GREEDY))], mine[SEARCH]
        more = search["quantize_seconds"] - ours["quantize_seconds"]
        yield _line(model, ours["float_pass_seconds"], ours["quantize_seconds"], f"{more:.1f}")
    for (model, images), mine in whole.items():
        title = f"{model}, {images:,} images, float {next(iter(mine.values()))['float_top1']:.2f} %"
        yield from _table(title, ("way to 4 bits", *RATIOS, *LOSSES, "divergence at 0, 50, 100 %"))
        for way in TABLE:
            off = mine[way]["divergence"]
            yield _line(way, *_top1(mine[way]), f"{off['0']:.3f}, {off['50']:.3f}, {off['100']:.3f}")


def _means(sets: list[Rows]) -> Iterator[str]:
    """Yield a table of each way's mean top-1, and the geometric mean of divergences: no one model outweighs others."""
    yield from _table(f"Mean of {len(sets)} models", ("way to 4 bits", *RATIOS, "divergence at 25, 50, 75, 100 %"))
    for way in TABLE:
        top1 = [f"{np.mean([mine[way]['top1'][str(r)] for mine in sets]):.1f}" for r in RATIOS]
        off = [np.exp(np.mean([np.log(mine[way]["divergence"][str(r)]) for mine in sets])) for r in RATIOS[1:]]
        yield _line(way, *top1, ", ".join(f"{d:.3f}" for d in off))


def _top1(row: dict[str, Any]) -> list[str]:
    """Return the cells of top-1 at each ratio and of what 50 and 100 % lose against 8 bits, with a standard error."""
    top1 = row["top1"]
    cells = [f"{top1[str(r)]:.2f}" for r in RATIOS]
    for ratio in ("50", "100"):
        error = f" ± {row['loss_error'][ratio]:.2f}" if "loss_error" in row else ""
        cells.append(f"{top1['0'] - top1[ratio]:.2f}{error}")
    return cells


def _table(title: str, heads: tuple[str | int, ...]) -> Iterator[str]:
    yield f"\n**{title}**\n"
    yield _line(*(f"{h} %" if isinstance(h, int) else h for h in heads))
    yield _line(*["---"] * len(heads))


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", help="names, split by commas; all if left out")
    parser.add_argument("--ways", type=lambda text: text.split(";"), default=list(WAYS), help="names, split by ;")
    parser.add_argument("--images", type=positive, help="measured on, instead of what the model's size allows")
    parser.add_argument("--rows", type=Path, default=Path("build/accuracy.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the rows that are there as tables")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()] if args.rows.exists() else []
    if args.table:
        print("\n".join(tables(rows)))
        return 0
    models = chosen_models(parser, args.models)
    if unknown := [way for way in args.ways if way not in WAYS]:
        parser.error(f"no way {', '.join(unknown)}; there are {'; '.join(WAYS)}")
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["model"], r["images"], r["way"]) for r in rows}
    for model in models:
        case = load(model, args.images)
        for way in args.ways:
            if (model.name, len(case.data), way) in done:
                continue
            row = measure(case, way)
            with args.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
