"""Patches: the padded, lowered input of a conv's tile, and where each lies while its input stays the same."""

from collections.abc import Hashable
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

import numpy as np
from npu_isa.isa.ops import GROUP, Conv
from npu_isa.machine.numerics import lower
from npu_isa.machine.window import Axis

from npu_sim.fast.values.tables import BYTE_MAX, OFFSET, SEGMENT, WHOLE, Pool, Row

PATCH_BYTES = 256 << 10  # patches kept for later convs on the same input: part of a core's cache
LINE_BYTES = 64
SPAN_BYTES = 256  # rows of `lowering` are repeated to about this length
UNTOUCHED = (0, BYTE_MAX, 0, BYTE_MAX)  # half, mask, low and high of a byte that is not lowered


class Patches:
    """Where patches lie: a memory filled round and round, in which a patch stays while its input does.

    Attributes:
        bytes: of the memory.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._next = 0
        self._held: dict[Hashable, tuple[int, int, int, int]] = {}

    def place(self, key: Hashable, size: int, source: tuple[int, int]) -> tuple[int, bool]:
        """Return the address of a patch and whether it must be gathered; `source` are the words that it reads."""
        if key in self._held:
            return self._held[key][0], False
        start = self._next if self._next + size <= PATCH_BYTES else 0
        self._drop([k for k, v in self._held.items() if v[0] < start + size and start < v[1]])
        self._held[key] = (start, start + size, *source)
        self._next = round_up(start + size, LINE_BYTES)
        self.bytes = max(self.bytes, start + size)
        return start, True

    def written(self, first: int, end: int) -> None:
        """Forget the patches that read from words first..end-1."""
        self._drop([k for k, v in self._held.items() if v[2] < end and first < v[3]])

    def _drop(self, keys: list[Hashable]) -> None:
        for key in keys:
            del self._held[key]


class PatchAxis(NamedTuple):
    """How a patch holds the inputs of a run of outputs along rows or columns.

    Attributes:
        first: input of its first position.
        parts, step: parts, and inputs between two of them.
        positions, position_step: positions of a part, and inputs between two of them.
        next, tap: positions between two outputs, and between two taps.
        padded: some position lies outside the image.
    """

    first: int
    parts: int
    step: int
    positions: int
    position_step: int
    next: int
    tap: int
    padded: bool


def patch_axis(axis: Axis) -> PatchAxis:
    """Return how a patch holds what a run of outputs reads: as one part, or a part an output if that takes less."""
    first = axis.first * axis.stride - axis.pad
    last = (axis.count - 1) * axis.stride + (axis.kernel - 1) * axis.dilation
    padded = first < 0 or first + last >= axis.limit
    step = gcd(axis.stride if axis.count > 1 else 0, axis.dilation if axis.kernel > 1 else 0) or 1
    if last // step < axis.count * axis.kernel:
        tap = axis.dilation // step if axis.kernel > 1 else 1
        return PatchAxis(first, 1, 0, last // step + 1, step, axis.stride // step, tap, padded)
    return PatchAxis(first, axis.count, axis.stride, axis.kernel, axis.dilation, axis.kernel, 1, padded)


@dataclass(frozen=True)
class Layout:
    """Groups that a conv reads of a pixel, in the order of its group table.

    Attributes:
        groups: input group of each place.
        shifts: position of each, or what it clips of the one that is found.
        unsigned, dynamic: as of the conv's geom.
        adjoining: one pixel's groups end where the next pixel's begin.
    """

    groups: tuple[int, ...]
    shifts: tuple[int, ...]
    unsigned: int
    dynamic: int
    adjoining: bool

    @property
    def order(self) -> list[int]:
        """Places by group, as they lie in a patch."""
        return sorted(range(len(self.groups)), key=lambda place: self.groups[place])


def layout_of(op: Conv, columns: PatchAxis) -> Layout:
    """Return what a conv reads of the pixels of its patch."""
    g = op.geom
    return Layout(op.groups, op.shifts, g.unsigned, g.dynamic, g.pixel_pitch * columns.position_step == op.group_count)


def segment_rows(layout: Layout, low: int, lowering: Pool) -> list[Row]:
    """Return the segments of a layout, rows of tables.SEGMENT, of which the first `low` places are lowered."""
    order = layout.order
    rows: list[Row] = []
    ends = [i for i in range(1, len(order)) if layout.groups[order[i]] != layout.groups[order[i - 1]] + 1]
    for first, end in zip([0, *ends], [*ends, len(order)], strict=True):
        run, at, span = (end - first) * GROUP, 0, 0
        if low and layout.dynamic:
            clips = np.array([layout.shifts[p] if p < low else WHOLE for p in order[first:end]], np.uint8)
            at, span = lowering.append(clips), run
        elif low:
            codes = [_lowering(layout.shifts[p], layout.unsigned) if p < low else UNTOUCHED for p in order]
            table = np.repeat(np.array(codes[first:end], np.uint8).T, GROUP, axis=1)
            if layout.adjoining and len(ends) == 0:  # runs go on over pixels
                table = np.tile(table, (1, round_up(SPAN_BYTES, run) // run))
            at, span = lowering.append(table), table.shape[1]
        source = layout.groups[order[first]] * GROUP
        rows.append(
            SEGMENT.row(
                source=source, target=first * GROUP, run=run, lowering=at, span=span, dynamic=layout.dynamic
            )
        )  # fmt: skip
    return rows


def _lowering(shift: int, unsigned: int) -> tuple[int, int, int, int]:
    """Return half, mask, low and high of tables.Program.lowering: numerics.lower on bytes with their offset."""
    zero = 0 if unsigned else OFFSET
    low, high = zero + lower(np.array([-zero, BYTE_MAX - zero]), shift, unsigned=bool(unsigned))
    return (1 << shift) >> 1, BYTE_MAX + 1 - (1 << shift), int(low), int(high)


def round_up(value: int, unit: int) -> int:
    """Return the least multiple of a unit that is no less than a value."""
    return -(-value // unit) * unit
