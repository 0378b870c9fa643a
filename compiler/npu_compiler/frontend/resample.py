"""Images whose rows and columns are weighted sums of others: the parts of which they are put together.

What a resize, a padding by reflection, or a choice of rows makes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npu_compiler.frontend import build
from npu_compiler.frontend.importer import Importer, Refused, too_large
from npu_compiler.graph.ir import Place

Taps = tuple[int, tuple[float, ...]]  # first input, weights of it and those after it
MAX_PERIOD = 64  # outputs after which the weights may repeat
MAX_TOGETHER = 64  # parts of a mosaic of rows and columns; of more, rows come first and then columns
MAX_LENGTH = 1 << 16  # outputs along an axis
COPY = (1.0,)


@dataclass(frozen=True)
class Run:
    """Outputs along an axis that are evenly spaced, of inputs that are evenly spaced, with the same weights.

    Attributes:
        first, step, count: the outputs.
        start, stride: the first input of the first output, and how far each moves on.
        weights: of the inputs from there on.
    """

    first: int
    step: int
    count: int
    start: int
    stride: int
    weights: tuple[float, ...]

    @property
    def reach(self) -> range:
        """Inputs that it reads: those that it copies, or all from the first to the last."""
        last = self.start + (self.count - 1) * self.stride
        if self.weights == COPY:
            return range(self.start, last + 1, self.stride)
        return range(self.start, last + len(self.weights))


def runs(taps: Sequence[Taps]) -> list[Run]:
    """Return few runs that hold every output once: with the period at which there are fewest."""
    numbers: dict[tuple[float, ...], int] = {}
    starts = np.array([start for start, _ in taps])
    kinds = np.array([numbers.setdefault(weights, len(numbers)) for _, weights in taps])
    period = min(range(1, min(len(taps), MAX_PERIOD) + 1), key=lambda p: _ends(starts, kinds, p))
    return [run for residue in range(period) for run in _straight(taps, residue, period)]


def _ends(starts: NDArray[np.int64], kinds: NDArray[np.int64], period: int) -> int:
    """Return how many runs end where the weights or the distance of inputs change, taking every `period`-th output."""
    moved = starts[period:] - starts[:-period]
    goes_on = (kinds[period:] == kinds[:-period]) & (moved >= 1)
    turns = goes_on[period:] & goes_on[:-period] & (moved[period:] != moved[:-period])
    return period + int((~goes_on).sum()) + int(turns.sum())


def _straight(taps: Sequence[Taps], residue: int, period: int) -> Iterator[Run]:
    """Yield the runs among every `period`-th output."""
    outputs = range(residue, len(taps), period)
    at = 0
    while at < len(outputs):
        start, weights = taps[outputs[at]]
        end, stride = at + 1, 1
        while end < len(outputs) and taps[outputs[end]][1] == weights:
            moved = taps[outputs[end]][0] - taps[outputs[end - 1]][0]
            if moved < 1 or (end > at + 1 and moved != stride):
                break
            end, stride = end + 1, moved
        yield Run(outputs[at], period, end - at, start, stride, weights)
        at = end


def resample(imp: Importer, src: str, rows: Sequence[Taps] | None, cols: Sequence[Taps] | None) -> str:
    """Return an image of weighted sums; None for an axis that stays.

    Rows and columns together where that takes at most MAX_TOGETHER parts; else rows first, and then columns, so that a
    quantized network rounds twice.
    """
    channels, height, width = imp.shapes[src]
    size = height if rows is None else len(rows), width if cols is None else len(cols)
    if too_large((channels, *size)):
        raise Refused(f"the output would have shape {(channels, *size)}: too large")
    down, across = ([_all(n)] if t is None else runs(t) for t, n in ((rows, height), (cols, width)))
    if len(down) * len(across) <= MAX_TOGETHER:
        return _together(imp, src, down, across)
    build.check_parts(max(len(down), len(across)))
    return _together(imp, _together(imp, src, down, [_all(width)]), [_all(size[0])], across)


def _all(size: int) -> Run:
    return Run(0, 1, size, 0, 1, COPY)


def _together(imp: Importer, src: str, rows: list[Run], cols: list[Run]) -> str:
    crops: dict[tuple[range, range], str] = {}
    srcs, places = [], []
    for row in rows:
        for col in cols:
            reach = (row.reach, col.reach)
            if row.weights != COPY or col.weights != COPY:  # a convolution has strides of its own
                reach = (range(row.reach[0], row.reach[-1] + 1), range(col.reach[0], col.reach[-1] + 1))
            if reach not in crops:
                crops[reach] = build.crop(imp, src, *reach)
            srcs.append(_weighted(imp, crops[reach], row, col))
            places.append(Place(row.first, col.first, row.step, col.step))
    size = sum(row.count for row in rows), sum(col.count for col in cols)
    return build.mosaic(imp, srcs, places, size)


def _weighted(imp: Importer, src: str, row: Run, col: Run) -> str:
    if row.weights == COPY and col.weights == COPY:
        return src
    channels = imp.shapes[src][0]
    kernel = np.outer(row.weights, col.weights).astype(np.float32)
    weight = np.ascontiguousarray(np.broadcast_to(kernel, (channels, 1, *kernel.shape)))
    stride = (row.stride if row.count > 1 else 1, col.stride if col.count > 1 else 1)
    return build.conv(imp, src, weight, None, stride, groups=channels)


def pick(imp: Importer, src: str, axis: int, indices: Sequence[int]) -> str:
    """Return an image with these channels (axis 0), rows (1) or columns (2), in this order."""
    if axis == 0:
        return build.choose(imp, src, indices)
    if len(indices) > MAX_LENGTH:
        raise Refused(f"{len(indices)} rows or columns: too large")
    taps = [(i, COPY) for i in indices]
    return resample(imp, src, taps if axis == 1 else None, taps if axis == 2 else None)
