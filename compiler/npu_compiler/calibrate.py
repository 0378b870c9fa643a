"""What values the tensors of a float graph take on calibration images: ranges, then histograms."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from npu_isa.errors import DataError
from numpy.typing import NDArray

from npu_compiler.float_eval import evaluate
from npu_compiler.graph import Graph
from npu_compiler.qgraph import U8, Preprocess

BINS = 2048
BATCH_ELEMENTS = 1 << 24  # values of all tensors alive at once

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often values occur.

    Attributes:
        counts: int64, shape (channels, BINS); one row for all channels together where they are not told apart.
        centers: value in the middle of each bin, shape (BINS,).
    """

    counts: NDArray[np.int64]
    centers: F64

    @property
    def mean_square(self) -> F64:
        """Mean of the squares of each row's values, shape (rows,)."""
        total = np.maximum(self.counts.sum(axis=1), 1)
        return np.asarray(self.counts @ self.centers**2 / total)


def check_images(graph: Graph, images: U8, pre: Preprocess) -> None:
    """Raise DataError where calibration images or preprocessing do not fit the network's input."""
    channels, height, width = graph.shapes[graph.input]
    if images.ndim != 4 or images.shape[1:] != (height, width, channels) or images.dtype != np.uint8:
        raise DataError(
            f"calibration images are {images.dtype} of shape {images.shape}, the model reads uint8 of shape "
            f"(N, {height}, {width}, {channels})",
            graph.name,
            "resize or crop them (--resize, --crop)",
        )
    if len(images) == 0:
        raise DataError("there are no calibration images", graph.name, "give at least a few dozen (--calibration)")
    for name, values in (("mean", pre.mean), ("std", pre.std)):
        if len(values) != channels:
            raise DataError(f"{name} has {len(values)} values, the input has {channels} channels", graph.name)
    if not all(s > 0 and np.isfinite(s) for s in pre.std) or not np.isfinite([pre.pixel_scale, *pre.mean]).all():
        raise DataError("preprocessing needs finite numbers and std above zero", graph.name)


def pixel_values(pre: Preprocess) -> F64:
    """Return the model's input for every pixel value, shape (channels, 256)."""
    pixels = np.arange(256) * pre.pixel_scale
    return np.asarray((pixels[None, :] - np.array(pre.mean)[:, None]) / np.array(pre.std)[:, None])


def batches(graph: Graph, images: U8, pre: Preprocess) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield every tensor of the float graph, float32 (n, channels, height, width), batch by batch."""
    per_image = sum(int(np.prod(s)) for s in graph.shapes.values())
    size = max(1, BATCH_ELEMENTS // per_image)
    values = pixel_values(pre).astype(np.float32)
    channel = np.arange(len(values))
    for first in range(0, len(images), size):
        batch = values[channel, images[first : first + size]]
        yield evaluate(graph, np.ascontiguousarray(batch.transpose(0, 3, 1, 2)), keep=True)


def ranges(graph: Graph, images: U8, pre: Preprocess) -> dict[str, tuple[float, float]]:
    """Return the least and largest value of every tensor, zero included.

    Raises:
        DataError: a tensor is not finite.
    """
    found = {t: (0.0, 0.0) for t in graph.shapes}
    for batch in batches(graph, images, pre):
        for tensor, x in batch.items():
            low, high = float(x.min()), float(x.max())
            if not np.isfinite([low, high]).all():
                raise DataError(f"{tensor} is not finite on the calibration images", graph.name, "check the model")
            found[tensor] = (min(low, found[tensor][0]), max(high, found[tensor][1]))
    return found


def histograms(
    graph: Graph, images: U8, pre: Preprocess, spans: Mapping[str, tuple[float, float]], by_channel: set[str]
) -> dict[str, Histogram]:
    """Count the values of the tensors in `spans`, each in BINS bins from its span's low to its high end.

    Args:
        graph, images, pre: as for `ranges`.
        spans: range of each tensor wanted, as wide as its values.
        by_channel: tensors whose channels are told apart.
    """
    rows = {t: graph.shapes[t][0] if t in by_channel else 1 for t in spans}
    counts = {t: np.zeros(rows[t] * BINS, np.int64) for t in spans}
    for batch in batches(graph, images, pre):
        for tensor, (low, high) in spans.items():
            x = batch[tensor]
            index = ((x - np.float32(low)) * np.float32(BINS / max(high - low, 1e-30))).astype(np.int32)
            np.clip(index, 0, BINS - 1, out=index)
            if tensor in by_channel:
                index += (np.arange(x.shape[1], dtype=np.int32) * BINS)[:, None, None]
            counts[tensor] += np.bincount(index.ravel(), minlength=rows[tensor] * BINS)
    found = {}
    for tensor, (low, high) in spans.items():
        centers = low + (np.arange(BINS) + 0.5) * (high - low) / BINS
        found[tensor] = Histogram(counts[tensor].reshape(-1, BINS), centers)
    return found
