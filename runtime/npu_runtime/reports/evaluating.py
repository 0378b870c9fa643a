"""Accuracy and latency over a data set, one row per ratio."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from npu_isa.errors import DataError

from npu_runtime.data.dataset import Dataset
from npu_runtime.reports.explain import speedup, use_of
from npu_runtime.reports.tables import Table, text_table
from npu_runtime.session.provenance import provenance
from npu_runtime.session.session import Session

RUN_SCHEMA = "npu.run/1"
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
    """The rows of a run and where they come from."""

    provenance: dict[str, str]
    rows: tuple[RunRow, ...]

    @property
    def table(self) -> Table:
        """The rows as a table."""
        return Table(RUN_SCHEMA, self.provenance, tuple(asdict(r) for r in self.rows))

    def to_json(self) -> str:
        """Return the report as JSON: `schema`, `provenance`, `rows`; equal runs give equal text."""
        return self.table.to_json()

    def to_csv(self) -> str:
        """Return the report as CSV after `# key: value` lines."""
        return self.table.to_csv()

    def to_text(self) -> str:
        """Return the report as a table for people."""
        head = f"{self.provenance['model']} on {self.provenance['machine']}"
        clock = float(self.provenance["clock_hz"]) / 1e6
        return f"{head} at {clock:,.0f} MHz, {self.rows[0].images:,} images\n\n" + text_table(
            map(_for_people, self.rows)
        )


def _for_people(row: RunRow) -> dict[str, Any]:
    def percent(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    shown = {"top-1 %": percent(row.top1_percent, 2), "top-5 %": percent(row.top5_percent, 2)}
    return {
        "4-bit %": float(row.ratio_percent),
        "effective %": percent(row.effective_percent, 1),
        **shown,
        "cycles": row.total_cycles,
        "latency us": f"{row.latency_us:,.2f}",
        "speed-up": f"{row.speedup:.2f}",
        "of ideal": f"{row.ideal_speedup:.2f}",
        "DRAM bytes": row.dram_bytes,
        "matrix use %": percent(row.matrix_utilization_percent, 1),
    }


def evaluate(
    session: Session, dataset: Dataset | None, ratios: Iterable[float], progress: Progress = lambda done: None
) -> RunReport:
    """Run a data set at several ratios.

    Args:
        session: the binary; its ratio is left at the last one.
        dataset: images and maybe labels; None: time only.
        ratios: percentages in 0..100.
        progress: called with the number of images done since the last call.

    Raises:
        NpuError: a ratio outside 0..100; DataError: images or labels do not fit the model.
    """
    rows = []
    for ratio in ratios:
        session.set_ratio(ratio)
        hits = None if dataset is None else _hits(session, dataset, progress)
        rows.append(_row(session, ratio, 0 if dataset is None else len(dataset), hits))
    return RunReport(provenance(session), tuple(rows))


def _hits(session: Session, dataset: Dataset, progress: Progress) -> tuple[int, int | None] | None:
    """Return the images whose label is the first, and among the first five, outputs."""
    classes = int(np.prod(session.binary.output.shape))
    if dataset.labels is not None and (dataset.labels.min() < 0 or dataset.labels.max() >= classes):
        raise DataError(
            f"labels are {dataset.labels.min()}..{dataset.labels.max()}, the model has {classes} classes",
            hint="give the data set that belongs to the model",
        )
    top1 = top5 = 0
    for first in range(0, len(dataset), STEP):
        part = slice(first, first + STEP)
        scores = session.run_integers(dataset.images[part]).reshape(-1, classes)
        if dataset.labels is not None:
            best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
            match = best == dataset.labels[part, None]
            top1 += int(match[:, 0].sum())
            top5 += int(match.any(axis=1).sum())
        progress(len(scores))
    return None if dataset.labels is None else (top1, top5 if classes > 5 else None)


def _row(session: Session, ratio: float, images: int, hits: tuple[int, int | None] | None) -> RunRow:

    timing, gain = session.timing(), speedup(session)
    return RunRow(
        ratio_percent=ratio,
        effective_percent=round(session.effective_percent, 3),
        images=images,
        top1_percent=None if hits is None else round(100.0 * hits[0] / images, 3),
        top5_percent=None if hits is None or hits[1] is None else round(100.0 * hits[1] / images, 3),
        total_cycles=timing.total_cycles,
        latency_us=round(session.latency_us(), 3),
        speedup=round(gain.real, 4),
        ideal_speedup=round(gain.ideal, 4),
        dram_bytes=timing.total_dram_bytes,
        matrix_utilization_percent=round(use_of(session).utilization_percent, 2),
        matrix_busy_percent=round(100.0 * int(timing.stream.sum()) / timing.total_cycles, 2),
        switch_cycles=session.switch_cycles,
    )
