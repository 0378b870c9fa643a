"""Window geometry: which inputs a run of outputs reads along one axis, stated once."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from npu_isa.isa.ops import Conv, Vec


@dataclass(frozen=True, slots=True)
class Axis:
    """A run of outputs along rows or columns, and the window that makes each.

    Output o reads the inputs o * stride - pad + k * dilation, k < kernel, that lie in 0..limit-1.

    Attributes:
        first, count: the outputs.
        stride: inputs between two outputs.
        dilation: inputs between two taps.
        kernel: taps.
        pad: inputs outside before the first; negative crops.
        limit: inputs.
    """

    first: int
    count: int
    stride: int
    dilation: int
    kernel: int
    pad: int
    limit: int

    def span(self) -> tuple[int, int]:
        """Return first and end of the inputs between the lowest and the highest that are read; (0, 0) for none."""
        first = max(self.first * self.stride - self.pad, 0)
        reach = (self.first + self.count - 1) * self.stride - self.pad + (self.kernel - 1) * self.dilation + 1
        end = min(reach, self.limit)
        return (first, end) if end > first else (0, 0)

    def tapped(self) -> tuple[int, ...]:
        """Return the inputs that some tap of some output meets, ascending."""
        return _tapped(self)

    def without_tap(self) -> int | None:
        """Return the first output whose window lies outside, or None."""
        at = np.arange(self.first, self.first + self.count, dtype=np.int64) * self.stride - self.pad
        met = np.zeros(self.count, np.bool_)
        for k in range(self.kernel):
            met |= (at + k * self.dilation >= 0) & (at + k * self.dilation < self.limit)
        return None if met.all() else self.first + int(np.argmin(met))

    def last_reader(self) -> dict[int, int]:
        """Return, for each input that is read, the last output that reads it, counted from `first`."""
        last: dict[int, int] = {}
        for k in range(self.kernel):
            offset = self.pad - k * self.dilation
            for at in replace(self, kernel=1, dilation=1, pad=offset).tapped():
                reader = (at + offset) // self.stride - self.first
                last[at] = max(last.get(at, reader), reader)
        return last


def axes(op: Conv | Vec) -> tuple[Axis, Axis]:
    """Return the rows and the columns of an operation's window."""
    g = op.geom
    return (
        Axis(op.out_y, op.tile_h, g.stride_y, g.dilation_y, g.kernel_h, g.pad_top, g.in_h),
        Axis(op.out_x, op.tile_w, g.stride_x, g.dilation_x, g.kernel_w, g.pad_left, g.in_w),
    )


@lru_cache(maxsize=4096)
def _tapped(axis: Axis) -> tuple[int, ...]:
    met = np.zeros(axis.limit, np.bool_)
    for k in range(axis.kernel):
        first = axis.first * axis.stride - axis.pad + k * axis.dilation
        skipped = max(0, -(first // axis.stride)) if first < 0 else 0
        met[first + skipped * axis.stride : max(0, first + axis.count * axis.stride) : axis.stride] = True
    return tuple(np.flatnonzero(met).tolist())
