"""Ranges, histograms and 8-bit scales, compared with the values themselves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.options import QuantizeOptions
from npu_compiler.qgraph.ir import Preprocess
from npu_compiler.quantize.calibrate import BINS, SAMPLES, Histogram, Tally, check_images, joined, pixel_values, tallies
from npu_compiler.quantize.quantize import image_quant, pixel_table
from npu_compiler.quantize.scales import method_scale
from npu_isa.errors import DataError

from tests.onnx_models import PIXELS, example, images, model_input, save


def tally(batches, *, signed, by_channel=False):
    found = Tally(batches[0].shape[1], signed=signed, by_channel=by_channel)
    for batch in batches:
        found.add(batch)
    return found


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_histogram_counts_every_value_within_a_step(seed, signed, by_channel):
    """Batches whose sizes grow make the step grow; a value then stands at most one and a half steps off.

    Half a step by rounding, and less than one more by all the roundings of the smaller steps together: each doubling
    moves a value by at most half of the old step.
    """
    rng = np.random.default_rng(seed)
    sizes = np.sort(10.0 ** rng.uniform(-4, 4, 5))
    batches = [(size * rng.normal(0, 1, (2, 3, 4, 5))).astype(np.float32) for size in sizes]
    batches = batches if signed else [np.abs(b) for b in batches]
    found = tally(batches, signed=signed, by_channel=by_channel)
    values = np.concatenate(batches)
    assert (found.low, found.high) == (min(0, values.min()), values.max())
    h = found.histogram
    assert len(h.counts) == (3 if by_channel else 1)
    assert np.log2(h.step) == round(np.log2(h.step))
    for row, some in zip(h.counts, values.transpose(1, 0, 2, 3) if by_channel else [values], strict=True):
        counted = np.repeat(h.centers, row)
        assert np.abs(counted - np.sort(some.ravel())).max() <= 1.5 * h.step
    largest = np.abs(values).max()
    assert largest / (BINS if not signed else BINS / 2) <= h.step * 1.001
    assert h.step <= 2.01 * largest / (BINS / 2 - 1 if signed else BINS - 1)  # no finer than needed, at most twice


def test_zero_stands_for_itself():
    x = np.zeros((1, 1, 8, 8), np.float32)
    x[0, 0, 0, 0] = 3.0
    h = tally([x], signed=False).histogram
    assert h.counts[0, 0] == 63
    assert h.centers[0] == 0.0
    assert h.mean_square[0] == pytest.approx(9 / 64, rel=1e-3)


def test_tensor_of_zeros_has_a_scale():
    found = tally([np.zeros((1, 2, 3, 3), np.float32)], signed=True)
    assert (found.low, found.high) == (0.0, 0.0)
    assert method_scale(found.histogram, (0.0, 0.0), True, QuantizeOptions()) == 1.0


def test_joined_histograms_hold_the_values_of_all():
    rng = np.random.default_rng(0)
    parts = [(s * rng.normal(0, 1, (1, 2, 9, 9))).astype(np.float32) for s in (0.01, 1.0, 30.0)]
    whole = joined([tally([p], signed=True).histogram.total() for p in parts])
    counted = np.repeat(whole.centers, whole.counts[0])
    values = np.sort(np.concatenate([p.ravel() for p in parts]))
    assert np.abs(counted - values).max() <= 1.5 * whole.step


def test_tallies_of_a_network(tmp_path):
    """Every tensor is seen once, whole; few samples are taken where there are more than enough."""
    graph, pixels = read_onnx(save(example(), tmp_path)), images(24)
    signed = dict.fromkeys(graph.shapes, True)
    found = tallies(graph, pixels, PIXELS, signed, {"x"})
    values = evaluate(graph, model_input(pixels), keep=True)
    for tensor, x in values.items():
        assert found[tensor].low == pytest.approx(min(0, x.min()), rel=1e-4, abs=1e-5)
        assert found[tensor].high == pytest.approx(max(0, x.max()), rel=1e-4, abs=1e-5)
        assert found[tensor].histogram.counts.sum() == x.size  # 24 x 12 x 12 pixels: all of them are samples
    assert found["x"].histogram.counts.shape == (3, BINS)
    many = np.repeat(pixels, 80, axis=0)
    sampled = tallies(graph, many, PIXELS, signed, {"x"})["x"].histogram
    assert SAMPLES / 2 <= sampled.counts[0].sum() <= 2 * SAMPLES
    assert sampled.mean_square == pytest.approx(found["x"].histogram.mean_square, rel=0.03)


def test_values_that_are_not_finite_are_refused(tmp_path):
    graph = read_onnx(save(example(), tmp_path))
    first = replace(graph.nodes[0], weight=graph.nodes[0].weight * np.float32(1e38))
    broken = replace(graph, nodes=(first, *graph.nodes[1:]))
    with pytest.raises(DataError) as caught:
        tallies(broken, images(2), PIXELS, dict.fromkeys(graph.shapes, True), set())
    assert caught.value.message.endswith("is not finite on the calibration images")


# -- scales by method


def squared_error(x, scale, signed):
    q = np.clip(np.rint(x / scale), *((-128, 127) if signed else (0, 255)))
    return float(((x - q * scale) ** 2).sum())


@pytest.mark.parametrize("signed", [True, False])
def test_minmax_scale_holds_every_value_and_no_more(signed):
    x = np.random.default_rng(1).normal(0, 2, (4, 3, 16, 16)).astype(np.float32)
    x = x if signed else np.abs(x)
    found = tally([x], signed=signed)
    scale = method_scale(found.histogram, (found.low, found.high), signed, QuantizeOptions(method="minmax"))
    assert np.abs(x - np.rint(x / scale) * scale).max() <= 0.5001 * scale
    assert scale == pytest.approx(max(x.max() / 127, -x.min() / 128) if signed else x.max() / 255)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("percentile", [99.0, 99.9, 100.0])
def test_percentile_scale_saturates_that_share(percentile, signed):
    x = np.random.default_rng(2).standard_t(3, (8, 3, 32, 32)).astype(np.float32)
    x = x if signed else np.abs(x)
    found = tally([x], signed=signed)
    options = QuantizeOptions(method="percentile", percentile=percentile)
    scale = method_scale(found.histogram, (found.low, found.high), signed, options)
    limit, step = scale * (127 if signed else 255), found.histogram.step
    beyond = 1 - percentile / 100
    assert (np.abs(x) > limit + step).mean() <= beyond <= (np.abs(x) > limit - step).mean()


@pytest.mark.parametrize("signed", [True, False])
def test_mse_scale_errs_least(signed):
    """Against the values themselves, over a finer grid of scales than the one that is searched."""
    x = np.random.default_rng(3).standard_t(4, (8, 3, 32, 32)).astype(np.float32)
    x = x if signed else np.abs(x)
    found = tally([x], signed=signed)
    span = (found.low, found.high)
    scale, widest = (method_scale(found.histogram, span, signed, QuantizeOptions(method=m)) for m in ("mse", "minmax"))
    best = min(squared_error(x, widest * f, signed) for f in np.linspace(0.3, 1.0, 211))
    assert squared_error(x, scale, signed) <= 1.02 * best
    assert squared_error(x, scale, signed) < squared_error(x, widest, signed)  # heavy tails: clipping pays


# -- the image


@pytest.mark.parametrize(
    "pre",
    [
        PIXELS,
        Preprocess(1.0, (0.0,) * 3, (1.0,) * 3, (), ()),
        Preprocess(1 / 255, (0.0, 0.1, 0.0), (1.0, 1.0, 0.3), (), ()),
    ],
    ids=["signed", "raw", "mixed"],
)
def test_pixel_table_rounds_every_pixel_value(pre):
    quant = image_quant(pre)
    table = pixel_table(pre, quant)
    real = pixel_values(pre)
    assert quant.signed == bool((real < 0).any())
    integers = table.view(np.int8) if quant.signed else table
    assert np.abs(integers * quant.scale - real).max() <= 0.5001 * quant.scale
    limit = 127 if quant.signed else 255
    assert np.abs(integers.astype(int)).max() >= limit  # the whole range is used


@pytest.mark.parametrize(
    ("pixels", "pre", "message"),
    [
        (images(2)[:, :11], PIXELS, "(2, 11, 12, 3), the model reads uint8 of shape (N, 12, 12, 3)"),
        (images(2).astype(np.float32), PIXELS, "calibration images are float32"),
        (images(2)[..., :1], PIXELS, "the calibration images have 1 channels, the model takes 3"),
        (images(2).transpose(0, 3, 1, 2), PIXELS, "are (N, C, H, W) (2, 3, 12, 12), must be (N, H, W, C)"),
        (images(2), replace(PIXELS, pixel_scale=1e300), "pixels as large as 1.27e+303, the limit is 1e+15"),
        (images(2), replace(PIXELS, std=(1.0, 1e-308, 1.0)), "pixels as large as"),
        (images(0), PIXELS, "there are no calibration images"),
        (images(2), replace(PIXELS, mean=(0.5, 0.5)), "mean has 2 values, the input has 3 channels"),
        (images(2), replace(PIXELS, std=(1.0, 0.0, 1.0)), "preprocessing needs finite numbers and std above zero"),
        (images(2), replace(PIXELS, mean=(0.0, np.nan, 0.0)), "preprocessing needs finite numbers"),
    ],
    ids=["size", "dtype", "channels", "order", "huge", "tiny std", "none", "mean", "std", "nan"],
)
def test_images_that_do_not_fit_are_refused(pixels, pre, message, tmp_path):
    with pytest.raises(DataError) as caught:
        check_images(read_onnx(save(example(), tmp_path)), pixels, pre)
    assert message in caught.value.message
    assert caught.value.where == "net"


def test_a_coarser_histogram_keeps_its_counts():
    h = Histogram(np.arange(BINS)[None], -BINS // 2, 0.5)
    wide = h.coarser(4.0)
    assert wide.counts.sum() == h.counts.sum()
    mean = (h.counts * h.centers).sum() / h.counts.sum()
    assert (wide.counts * wide.centers).sum() / wide.counts.sum() == pytest.approx(mean, abs=0.3)
