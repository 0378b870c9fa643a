"""What values the tensors of a float graph take on calibration images: ranges and histograms, in one pass."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from npu_isa.errors import DataError
from numpy.typing import NDArray

from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import Graph
from npu_compiler.qgraph.ir import U8, Preprocess
from npu_compiler.threads import threads

BINS = 2048
SAMPLES = 1 << 13  # values of a channel that its histogram holds, about, spread over all images
BATCH_ELEMENTS = 1 << 22  # values of the largest tensor of a batch of images
PIXEL_LIMIT = 1e15  # of a pixel after preprocessing: squares and sums of them stay within float32

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often values occur, to the nearest whole multiple of `step`.

    Attributes:
        counts: int64, shape (rows, BINS): rows are channels, or one row for all channels together.
        base: multiple of `step` that the first bin stands for: 0, or -BINS / 2 where values may be negative.
        step: a power of two.
    """

    counts: NDArray[np.int64]
    base: int
    step: float

    @property
    def centers(self) -> F64:
        """Value that each bin stands for, shape (BINS,)."""
        return np.asarray((np.arange(BINS) + self.base) * self.step, np.float64)

    @property
    def mean_square(self) -> F64:
        """Mean of the squares of each row's values, shape (rows,)."""
        total = np.maximum(self.counts.sum(axis=1), 1)
        return np.asarray(self.counts @ self.centers**2 / total)

    def coarser(self, step: float) -> "Histogram":
        """Return the histogram with a step some powers of two larger, or as large."""
        factor = round(step / self.step)
        new = np.floor((np.arange(BINS) + self.base) / factor + 0.5).astype(np.int64) - self.base
        starts = np.flatnonzero(np.diff(new, prepend=-1))
        counts = np.zeros_like(self.counts)
        counts[:, new[starts]] = np.add.reduceat(self.counts, starts, axis=1)
        return Histogram(counts, self.base, step)

    def total(self) -> "Histogram":
        """Return the histogram of all rows together."""
        return Histogram(self.counts.sum(axis=0, keepdims=True), self.base, self.step)


def joined(parts: Sequence[Histogram]) -> Histogram:
    """Return one histogram of the values of several with equal rows and base."""
    step = max(p.step for p in parts)
    counts = sum((p.coarser(step).counts for p in parts), np.zeros_like(parts[0].counts))
    return Histogram(counts, parts[0].base, step)


class Tally:
    """Range and histogram of one tensor, taken batch by batch; the step grows as larger values come.

    Args:
        channels: of the tensor.
        signed: whether values may be negative.
        by_channel: a row per channel instead of one.
    """

    def __init__(self, channels: int, *, signed: bool, by_channel: bool) -> None:
        self.low = self.high = 0.0
        rows = channels if by_channel else 1
        base = -BINS // 2 if signed else 0
        self.histogram = Histogram(np.zeros((rows, BINS), np.int64), base, 2.0**-100)

    def add(self, x: NDArray[np.float32], pixels: NDArray[np.int64] | None = None) -> bool:
        """Take the range of a batch (n, channels, height, width) and count its values.

        Args:
            x: the batch.
            pixels: those of each image that are counted, shape (n, some); all if None.

        Returns:
            whether the values are finite; nothing is counted if not.
        """
        low, high = float(x.min()), float(x.max())
        if not np.isfinite([low, high]).all():
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        base, rows = self.histogram.base, len(self.histogram.counts)
        reach = max(self.high / (BINS - 1 + base), self.low / base if base else 0.0)
        if reach > self.histogram.step:
            self.histogram = self.histogram.coarser(2.0 ** np.ceil(np.log2(reach)))
        flat = x.reshape(*x.shape[:2], -1)
        some = flat.transpose(0, 2, 1) if pixels is None else flat[np.arange(len(x))[:, None], :, pixels]
        index = np.rint(some * np.float32(1 / self.histogram.step)).astype(np.int32) - base
        np.maximum(index, 0, out=index)  # a curve may be below zero by less than `clips_negative` sees
        if rows > 1:
            index += np.arange(rows, dtype=np.int32) * BINS
        counts = self.histogram.counts
        counts += np.bincount(index.ravel(), minlength=rows * BINS).reshape(rows, BINS)
        return True


def check_images(graph: Graph, images: U8, pre: Preprocess) -> None:
    """Raise DataError where calibration images or preprocessing do not fit the network's input."""
    channels, height, width = graph.shapes[graph.input]
    if images.ndim == 4 and images.shape[1:] == (channels, height, width) != (height, width, channels):
        raise DataError(
            f"calibration images are (N, C, H, W) {images.shape}, must be (N, H, W, C)",
            graph.name,
            "transpose them: images.transpose(0, 2, 3, 1)",
        )
    if images.ndim == 4 and images.shape[3] != channels:
        raise DataError(
            f"the calibration images have {images.shape[3]} channels, the model takes {channels}",
            graph.name,
            f"give images with {channels}; those of a .npz are taken as they are, image files are gray or RGB",
        )
    if images.ndim != 4 or images.shape[1:3] != (height, width) or images.dtype != np.uint8:
        raise DataError(
            f"calibration images are {images.dtype} of shape {images.shape}, the model reads uint8 of shape "
            f"(N, {height}, {width}, {channels})",
            graph.name,
            "resize or crop them (--resize, --crop)",
        )
    if len(images) == 0:
        raise DataError("there are no calibration images", graph.name, "give at least a few dozen (--calibration)")
    check_preprocess(graph, pre)


def check_preprocess(graph: Graph, pre: Preprocess) -> None:
    """Raise DataError where preprocessing does not fit the network's input, or leaves the range of float32."""
    channels = graph.shapes[graph.input][0]
    for name, values in (("mean", pre.mean), ("std", pre.std)):
        if len(values) != channels:
            raise DataError(f"{name} has {len(values)} values, the input has {channels} channels", graph.name)
    if not all(s > 0 and np.isfinite(s) for s in pre.std) or not np.isfinite([pre.pixel_scale, *pre.mean]).all():
        raise DataError("preprocessing needs finite numbers and std above zero", graph.name)
    with np.errstate(over="ignore"):
        largest = float(np.abs(pixel_values(pre)).max())
    if not largest <= PIXEL_LIMIT:
        raise DataError(
            f"preprocessing makes pixels as large as {largest:.3g}, the limit is {PIXEL_LIMIT:g}",
            graph.name,
            "a pixel p becomes (p * pixel_scale - mean) / std: check --pixel-scale, --mean and --std",
        )


def pixel_values(pre: Preprocess) -> F64:
    """Return the model's input for every pixel value, shape (channels, 256)."""
    pixels = np.arange(256) * pre.pixel_scale
    return np.asarray((pixels[None, :] - np.array(pre.mean)[:, None]) / np.array(pre.std)[:, None])


def tallies(
    graph: Graph, images: U8, pre: Preprocess, signed: Mapping[str, bool], by_channel: set[str]
) -> dict[str, Tally]:
    """Take range and histogram of every tensor of the float graph on calibration images.

    Args:
        graph: the network.
        images, pre: calibration images (N, height, width, channels) and their way to the network's input.
        signed: of every tensor: whether its values may be negative.
        by_channel: tensors whose channels are told apart.

    Raises:
        DataError: a tensor is not finite.
    """
    found = {t: Tally(s[0], signed=signed[t], by_channel=t in by_channel) for t, s in graph.shapes.items()}
    size = batch_size(int(np.prod(s)) for s in graph.shapes.values())
    values = pixel_values(pre).astype(np.float32)
    with threads() as pool:
        for first in range(0, len(images), size):
            numbers = np.arange(len(images))[first : first + size]

            def visit(tensor: str, x: NDArray[Any], numbers: NDArray[np.int64] = numbers) -> None:
                if not found[tensor].add(x, _samples(numbers, x.shape[2] * x.shape[3], len(images))):
                    raise DataError(f"{tensor} is not finite on the calibration images", graph.name, "check the model")

            batch = values[np.arange(len(values)), images[numbers]]
            evaluate(graph, np.ascontiguousarray(batch.transpose(0, 3, 1, 2)), visit=visit, each=pool.map)
    return found


def _samples(numbers: NDArray[np.int64], pixels: int, images: int) -> NDArray[np.int64] | None:
    """Return the pixels of some images to count, so that all images together give about SAMPLES; None for all.

    Evenly spread over an image, from another first pixel in each: over the images every pixel comes up.
    """
    every = images * pixels // SAMPLES
    if every < 2:
        return None
    return np.asarray((numbers[:, None] + np.arange(max(1, pixels // every)) * every) % pixels)


def batch_size(elements: Iterable[int]) -> int:
    """Return the images that are evaluated at once, from the values of each tensor of one image."""
    return max(1, BATCH_ELEMENTS // max(elements))
