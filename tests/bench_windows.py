"""Random windows of convolutions and vecs with extreme operands, placed so that they read a small memory."""

from dataclasses import dataclass

import numpy as np
from npu_isa.machine import window

ACT_WORDS = 1024
OUT = ACT_WORDS // 2  # sources below, outputs above


def one_of(rng: np.random.Generator, *values):
    return values[int(rng.integers(len(values)))]


@dataclass(frozen=True)
class Axis:
    """One axis of a window, with the rows inside the image that it may read: [low, high)."""

    kernel: int
    stride: int
    dilation: int
    pad: int
    limit: int
    first: int
    count: int
    low: int
    high: int


def random_axis(rng: np.random.Generator, most_pad: int, most_limit: int, most_dilation: int, span: int) -> Axis:
    """Return an axis of which some tap lies inside the image and that reads at most `span` rows."""
    while True:
        kernel, stride = one_of(rng, 1, 2, 3, 7, 255), one_of(rng, 1, 2, 3, 7, 255)
        dilation = one_of(rng, 1, 2, most_dilation)
        limit, first, count = one_of(rng, 1, 2, 5, most_limit), one_of(rng, 0, 3, 4000), int(rng.integers(1, 6))
        inside = one_of(rng, 0, limit - 1, int(rng.integers(limit)))
        pad = (first + int(rng.integers(count))) * stride + int(rng.integers(kernel)) * dilation - inside
        low, high = window.Axis(first, count, stride, dilation, kernel, pad, limit).span()
        if -most_pad <= pad < most_pad and high - low <= span:
            return Axis(kernel, stride, dilation, pad, limit, first, count, low, high)


@dataclass(frozen=True)
class Window:
    """Operands of a window on the lower half of the activation memory: of the geometry and of the tile."""

    geometry: dict[str, int]
    tile: dict[str, int]
    base: int
    row0: int

    @property
    def taps(self) -> int:
        return self.geometry["kernel_h"] * self.geometry["kernel_w"]

    @property
    def pixels(self) -> int:
        return self.tile["tile_h"] * self.tile["tile_w"]


def random_window(rng: np.random.Generator, words: int, most_taps: int, *limits: int) -> Window:
    """Return a window on pixels of `words` words; `limits` as in `random_axis`."""
    while True:
        y, x = random_axis(rng, *limits, ACT_WORDS // 2), random_axis(rng, *limits, 60)
        room = OUT - words
        pixel = int(rng.integers(1, max(2, min(room // max(x.high - x.low - 1, 1), 40))))
        room -= (x.high - x.low - 1) * pixel
        row = int(rng.integers(0, max(1, min(room // max(y.high - y.low - 1, 1), 65535)) + 1))
        room -= (y.high - y.low - 1) * row
        if room < 0 or y.kernel * x.kernel > most_taps:
            continue
        row0 = y.low + int(rng.integers(-2, 4))
        base = int(rng.integers(0, room + 1)) - (y.low - row0) * row - x.low * pixel
        if 0 <= base < 1 << 24 and row0 < 1 << 15:
            break
    pairs = {
        name: (getattr(y, name), getattr(x, name)) for name in ("kernel", "stride", "dilation", "pad", "limit", "first")
    }
    geometry = {"pad_top": y.pad, "pad_left": x.pad, "in_h": y.limit, "in_w": x.limit}
    geometry |= dict(zip(("kernel_h", "kernel_w"), pairs["kernel"], strict=True))
    geometry |= {f"{name}_{axis}": pairs[name][i] for name in ("stride", "dilation") for i, axis in enumerate("yx")}
    tile = {"out_y": y.first, "out_x": x.first, "tile_h": y.count, "tile_w": x.count}
    return Window(geometry | {"row_pitch": row, "pixel_pitch": pixel}, tile, base, row0)
