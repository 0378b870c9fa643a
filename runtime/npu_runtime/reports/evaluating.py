"""Accuracy and latency over a data set, one row per ratio."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from npu_isa.errors import DataError
from npu_isa.file.binary import HostOutput, OutputInfo
from numpy.typing import NDArray

from npu_runtime.data.dataset import Dataset
from npu_runtime.reports.agreement import Agreement, FloatModel, agreement_table
from npu_runtime.reports.classes import class_output
from npu_runtime.reports.explain import speedup, use_of
from npu_runtime.reports.tables import Table, text_table
from npu_runtime.session.provenance import provenance
from npu_runtime.session.session import Session

RUN_SCHEMA = "npu.run/1"
STDERR_MEANING = "±: one standard error; that of a change from 0 % counts only the images whose answer changes"
NO_LABELS = "the images have no labels: --float MODEL.onnx compares the outputs with those of the float model"
AGREEMENT = "outputs against {float_model}, run by {float_engine}"
STEP = 256  # images between two moves of the progress bar
Progress = Callable[[int], None]


@dataclass(frozen=True)
class RunRow:
    """One ratio. Units are in the names; cycles, bytes and latency are those of one inference.

    Attributes:
        ratio_percent: asked share of 4-bit multiply-accumulates of the layers that have a dial.
        effective_percent: the share reached.
        images: images run; 0 when only time was asked for.
        top1_percent, top5_percent: None without labels (top 5: with fewer than 6 classes).
        top1_stderr_points: standard error of top1_percent (binomial), in percentage points.
        top1_change_points: top1_percent less that at 0 %; None where 0 % is not among the ratios.
        top1_change_stderr_points: its standard error, from the images whose answer changes.
        total_cycles: from START to the end of the last store.
        latency_us: total_cycles at the machine's clock.
        dram_bytes: moved on the DRAM bus, whole bursts, constants and program included.
        speedup: cycles at 0 % over total_cycles.
        ideal_speedup: the same for an engine whose time is its multiply-accumulates, a 4-bit one taking half.
        matrix_utilization_percent: share of PE-cycles spent on multiplications of the model (two 4-bit ones a cycle).
        matrix_busy_percent: share of cycles in which pixels stream through the array.
        switch_cycles: writing the boundaries once; not part of total_cycles.
    """

    ratio_percent: float
    effective_percent: float
    images: int
    top1_percent: float | None
    top1_stderr_points: float | None
    top1_change_points: float | None
    top1_change_stderr_points: float | None
    top5_percent: float | None
    total_cycles: int
    latency_us: float
    speedup: float
    ideal_speedup: float
    dram_bytes: int
    matrix_utilization_percent: float
    matrix_busy_percent: float
    switch_cycles: int


@dataclass(frozen=True)
class RunReport:
    """The rows of a run and where they come from.

    Attributes:
        classes: which output was compared with labels, in words; "" where there is one output, or no labels.
        agreement: how near the outputs come to the float model's, `npu_runtime.reports.agreement`; None without it.
    """

    provenance: dict[str, str]
    rows: tuple[RunRow, ...]
    classes: str = ""
    agreement: Table | None = None

    @property
    def table(self) -> Table:
        """The rows as a table."""
        return Table(RUN_SCHEMA, self.provenance, tuple(asdict(r) for r in self.rows))

    def to_json(self) -> str:
        """Return the report as JSON: `schema`, `provenance`, `rows`, maybe `agreement`; equal runs give equal text."""
        if self.agreement is None:
            return self.table.to_json()
        return json.dumps(self.table.to_dict() | {"agreement": self.agreement.to_dict()}, indent=1) + "\n"

    def to_csv(self) -> str:
        """Return the report as CSV after `# key: value` lines; the agreement is a second table after an empty line."""
        return "\n".join(table.to_csv() for table in (self.table, self.agreement) if table is not None)

    def to_text(self) -> str:
        """Return the report as a table for people."""
        head = f"{self.provenance['model']} on {self.provenance['machine']}"
        clock = float(self.provenance["clock_hz"]) / 1e6
        head = f"{head} at {clock:,.0f} MHz, {images_run(self.rows)}\n"
        if "host" in self.provenance:
            head += f"on the host, in no cycle: {self.provenance['host']}\n"
        text = f"{head}\n" + text_table(map(_for_people, self.rows))
        has_labels, images = self.rows[0].top1_percent is not None, self.rows[0].images
        said = [STDERR_MEANING] * has_labels + [self.classes] * bool(self.classes)
        said += [NO_LABELS] * bool(images and not has_labels and self.agreement is None)
        parts = [text, "".join(f"{line}\n" for line in said)]
        if self.agreement is not None:
            parts.append(f"{AGREEMENT.format(**self.agreement.provenance)}\n\n{self.agreement.to_text()}")
        return "\n".join(filter(None, parts))


def images_run(rows: Sequence[RunRow]) -> str:
    """Say how many images the rows of a run stand on."""
    return f"{rows[0].images:,} images" if rows[0].images else "time only"


def _for_people(row: RunRow) -> dict[str, Any]:
    def percent(value: float | None, digits: int, stderr: float | None = None, sign: str = "") -> str:
        shown = "-" if value is None else f"{value:{sign}.{digits}f}"
        return shown if stderr is None else f"{shown} ± {stderr:.{digits}f}"

    return {
        "4-bit %": float(row.ratio_percent),
        "effective %": percent(row.effective_percent, 1),
        "top-1 %": percent(row.top1_percent, 2, row.top1_stderr_points),
        "change": percent(row.top1_change_points, 2, row.top1_change_stderr_points, "+"),
        "top-5 %": percent(row.top5_percent, 2),
        "cycles": row.total_cycles,
        "latency us": f"{row.latency_us:,.2f}",
        "speed-up": f"{row.speedup:.2f}",
        "of ideal": f"{row.ideal_speedup:.2f}",
        "DRAM bytes": row.dram_bytes,
        "matrix use %": percent(row.matrix_utilization_percent, 1),
    }


@dataclass(frozen=True, eq=False)
class Hits:
    """Which images have their label as the first, and among the first five, outputs; bool (N,).

    five: None with fewer than 6 classes.
    """

    first: NDArray[np.bool_]
    five: NDArray[np.bool_] | None


def evaluate(
    session: Session,
    dataset: Dataset | None,
    ratios: Iterable[float],
    progress: Progress = lambda done: None,
    *,
    classes: str | None = None,
    float_model: str | Path | None = None,
) -> RunReport:
    """Run a data set at several ratios.

    Args:
        session: the binary; its ratio is left at the last one.
        dataset: images and maybe labels; None: time only.
        ratios: percentages in 0..100.
        progress: called with the number of images done since the last call.
        classes: name of the output that labels belong to; if None the only output, or the first that is a vector.
        float_model: the ONNX file that the binary was compiled from: how near the outputs come to its; needs images.

    Raises:
        NpuError: a ratio outside 0..100.
        ModelError: the float model cannot be run.
        DataError: images, labels or the float model do not fit the binary.
    """
    rows, hits, near = [], [], []
    reference = None if float_model is None or dataset is None else FloatModel(float_model, session.binary)
    labelled = dataset is not None and dataset.labels is not None
    output = class_output(session.binary.results, classes) if labelled or classes is not None else None
    for ratio in ratios:
        session.set_ratio(ratio)
        agreement = None if reference is None else Agreement(reference, session.binary.results)
        hits.append(None if dataset is None else _run(session, dataset, output, agreement, progress))
        near += [] if agreement is None else agreement.rows(ratio)
        rows.append(_row(session, ratio, 0 if dataset is None else len(dataset), hits[-1]))
    in_8bit = next((h for row, h in zip(rows, hits, strict=True) if row.ratio_percent == 0), None)
    changed = (_with_change(row, h, in_8bit) for row, h in zip(rows, hits, strict=True))
    made = provenance(session)
    table = None if reference is None else agreement_table(made | reference.provenance, near)
    return RunReport(made, tuple(changed), _class_note(session, output), table)


def _class_note(session: Session, output: OutputInfo | HostOutput | None) -> str:
    """Say which output was compared with the labels, where there was a choice."""
    if output is None or len(session.binary.results) == 1:
        return ""
    others = ", ".join(o.name for o in session.binary.results if o.name != output.name)
    return f"classes: output {output.name} (of shape {'x'.join(map(str, output.shape or ()))}); not looked at: {others}"


def _run(
    session: Session,
    dataset: Dataset,
    output: OutputInfo | HostOutput | None,
    agreement: Agreement | None,
    progress: Progress,
) -> Hits | None:
    """Run the images and compare them with the float model, if there is one, and with labels.

    Returns:
        which are right, or None without an output that is compared with labels.
    """
    _check_labels(dataset)
    classes = 0 if output is None else math.prod(output.shape or ())
    best = []
    for first in range(0, len(dataset), STEP):
        images = dataset.images[first : first + STEP]
        found = session.run_all(images)
        if agreement is not None:
            agreement.add(images, first, found)
        if output is not None:
            best.append(_answers(np.asarray(found[output.name]).reshape(len(images), -1), dataset))
        progress(len(images))
    if output is None or dataset.labels is None:
        return None
    match = np.concatenate(best) == dataset.labels[:, None]
    return Hits(match[:, 0], match.any(axis=1) if classes > 5 else None)


def _answers(scores: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Return the classes of images in order, the first five at most, shape (N, 5).

    Args:
        scores: (N, classes); one whole number for each image is its class: the model has chosen it itself.
        dataset: its labels must be among the classes.
    """
    classes, labels = scores.shape[1], dataset.labels
    if classes == 1 and scores.dtype.kind in "iu":
        return scores
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"labels are {labels.min()}..{labels.max()}, the model has {classes} classes",
            hint="give the data set that belongs to the model",
        )
    return np.argsort(-scores, axis=1, kind="stable")[:, :5]


def _check_labels(dataset: Dataset) -> None:
    labels = dataset.labels
    if not len(dataset):
        raise DataError("there are no images", hint="give at least one")
    if labels is None:
        return
    if labels.shape != (len(dataset),) or labels.dtype.kind not in "iu":
        raise DataError(f"labels are {labels.dtype} of shape {labels.shape}", hint="a whole number for each image")


def stderr_points(percent: float, images: int) -> float:
    """Return the standard error of a share of images, sqrt(p (1 - p) / n), in percentage points."""
    return round(math.sqrt(percent * (100.0 - percent) / images), 3)


def _with_change(row: RunRow, hits: Hits | None, in_8bit: Hits | None) -> RunRow:
    """Return the row with its change from 8 bits; the same images ran, so only those that changed make the error."""
    if hits is None or in_8bit is None:
        return row
    change = 100.0 * (hits.first.astype(np.float64) - in_8bit.first)
    return replace(
        row,
        top1_change_points=round(float(change.mean()), 3),
        top1_change_stderr_points=round(float(change.std()) / math.sqrt(len(change)), 3),
    )


def _row(session: Session, ratio: float, images: int, hits: Hits | None) -> RunRow:
    timing, gain = session.timing(), speedup(session)
    top1 = None if hits is None else 100.0 * float(hits.first.mean())
    return RunRow(
        ratio_percent=ratio,
        effective_percent=round(session.effective_percent, 3),
        images=images,
        top1_percent=None if top1 is None else round(top1, 3),
        top1_stderr_points=None if top1 is None else stderr_points(top1, images),
        top1_change_points=None,
        top1_change_stderr_points=None,
        top5_percent=None if hits is None or hits.five is None else round(100.0 * float(hits.five.mean()), 3),
        total_cycles=timing.total_cycles,
        latency_us=round(session.latency_us(), 3),
        speedup=round(gain.real, 4),
        ideal_speedup=round(gain.ideal, 4),
        dram_bytes=timing.total_dram_bytes,
        matrix_utilization_percent=round(use_of(session).utilization_percent, 2),
        matrix_busy_percent=round(100.0 * int(timing.activity["stream_cycles"].sum()) / timing.total_cycles, 2),
        switch_cycles=session.switch_cycles,
    )
