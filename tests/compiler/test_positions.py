"""How layers run in 4 bits: positions err least, bias rows repair the mean, the score is the error measured."""

from dataclasses import replace

import numpy as np
import pytest
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.passes import optimize
from npu_compiler.lowering.lower import lower_graph, study
from npu_compiler.lowering.positions import positions, value_counts
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import quantize
from npu_compiler.qgraph import golden
from npu_compiler.qgraph.ir import GROUP
from npu_compiler.quantize.quantize import quantize8
from npu_isa.machine.numerics import lower

from tests.onnx_models import PIXELS, images, save, wide_example

LAYER = QuantizeOptions(rounding="nearest")


@pytest.fixture(scope="module")
def wide_graph(tmp_path_factory):
    return optimize(read_onnx(save(wide_example(), tmp_path_factory.mktemp("wide"))))


def naive_counts(graph, image_bytes):
    """Return the counts of 8-bit values of each channel of every tensor, in plain Python terms."""
    values = golden.run(graph, image_bytes, [0] * len(graph.lowerable), keep=True)
    return {
        name: np.stack([np.bincount(x[..., c].ravel() - graph.tensors[name].limits[0], minlength=256)
                        for c in range(x.shape[3])])
        for name, x in values.items() if graph.tensors[name].bits == 8
    }  # fmt: skip


@pytest.fixture(scope="module")
def case(wide_graph):
    """The network in 8 bits, its layers with a dial, the calibration bytes and the counts of their values."""
    found = study(quantize8(wide_graph, images(24), PIXELS, LAYER), LAYER)
    return found, naive_counts(found.graph, found.image_bytes)


def test_values_are_counted_exactly(case):
    found, counts = case
    for name, got in value_counts(found.graph, found.image_bytes, {layer.src.name for layer in found.layers}).items():
        assert np.array_equal(got, counts[name])


def test_positions_err_least(case):
    """Every other position of a group's activations, and of its weights, errs as much or more."""
    found, counts = case
    for layer in found.layers:
        node, src, made = layer.node, layer.src, layer.positions
        x = np.arange(256) + src.limits[0]
        weight = node.weight.reshape(len(node.weight), -1, src.channels).astype(np.float64)
        factor = node.epilogue.mult * 2.0 ** -node.epilogue.shift.astype(np.float64)
        for group in range(src.groups):
            span = slice(group * GROUP, (group + 1) * GROUP)
            share = counts[src.name][span] / counts[src.name][span].sum(axis=1, keepdims=True)
            energy = ((factor[:, None, None] * weight[:, :, span]) ** 2).sum(axis=(0, 1))
            lowered = [lower(x, s, unsigned=not src.signed) for s in range(5)]
            errors = [(energy * (share @ (x - lx) ** 2)).sum() for lx in lowered]
            assert errors[made.act_shift[group]] <= min(errors) * (1 + 1e-9)
            square = share @ lowered[made.act_shift[group]] ** 2
            for out in range(0, len(weight), 7):
                w = node.weight.reshape(weight.shape)[out, :, span]
                off = [((w - lower(w, s, unsigned=False)) ** 2 * square).sum() for s in range(5)]
                assert off[made.wgt_shift[group, out]] <= min(off) * (1 + 1e-9)


def mean_errors(graph, image_bytes):
    """Return per 1x1 layer the mean errors at each boundary, its inputs in 8 bits, in steps of the output.

    Of larger kernels the formula takes every pixel to meet every tap, which borders and strides belie.
    """
    values = golden.run(graph, image_bytes, [0] * len(graph.lowerable), keep=True)
    found = {}
    for node in graph.lowerable:
        if node.window.kernel != (1, 1):
            continue
        x, w = values[node.src].astype(np.int64), node.weight[:, 0, 0].astype(np.int64)
        lx, lw, real = x.copy(), w.copy(), np.array(graph.tensors[node.out].channel_map) >= 0
        found[node.name] = []
        for place, group in enumerate(node.lowering.order):
            span = slice(group * GROUP, (group + 1) * GROUP)
            shift = node.lowering.act_shift[place]
            lx[..., span] = lower(x[..., span], shift, unsigned=not graph.tensors[node.src].signed)
            lw[:, span] = lower(w[:, span], node.lowering.wgt_shift[place][:, None], unsigned=False)
            rows = node.lowering.bias_rows
            off = (lx @ lw.T - x @ w.T).mean(axis=(0, 1, 2)) + rows[place + 1] - rows[0]
            found[node.name].append(np.abs(off * node.epilogue.mult * 2.0**-node.epilogue.shift)[real])
    return found


def test_bias_rows_repair_the_mean_error(wide_graph):
    """What is left of the mean error is rounding; without the rows it is many times as much."""
    pixels = images(24)
    off = {}
    for repair in ("none", "layer"):
        graph = quantize(wide_graph, pixels, PIXELS, replace(LAYER, bias_correction=repair))
        off[repair] = mean_errors(graph, graph.table[np.arange(3), pixels])
    assert off["layer"].keys() == off["none"].keys()
    assert len(off["layer"]) == 2
    for name, left in off["layer"].items():
        assert max(row.max() for row in left) < 0.01, name
        assert np.mean(off["none"][name]) > 20 * np.mean(left), name


def test_row_zero_is_the_8_bit_bias(wide_graph):
    graph = quantize(wide_graph, images(8), PIXELS, LAYER)
    for node in graph.lowerable:
        assert np.array_equal(node.lowering.bias_rows[0], node.epilogue.bias)
        assert len(node.lowering.bias_rows) == graph.tensors[node.src].groups + 1


def test_the_expected_error_is_the_measured_one(case):
    """The score of a group is the mean squared error of the layer's sums when the group alone is lowered.

    Measured on the calibration images themselves, in squared steps of the output. The formula takes channels and taps
    for independent, which they are not quite: a quarter.
    """
    found, _ = case
    graph, image_bytes = found.graph, found.image_bytes
    values = golden.run(graph, image_bytes, [], keep=True)
    checked = 0
    for layer in found.layers:
        node, src, made = layer.node, layer.src, layer.positions
        if node.window.kernel != (1, 1):
            continue
        x = values[node.src].astype(np.float64)
        factor = node.epilogue.mult * 2.0 ** -node.epilogue.shift.astype(np.float64)
        weight = node.weight[:, 0, 0].astype(np.float64)
        for group in range(src.groups):
            span = slice(group * GROUP, (group + 1) * GROUP)
            lx = lower(values[node.src][..., span], int(made.act_shift[group]), unsigned=not src.signed)
            lw = lower(node.weight[:, 0, 0, span], made.wgt_shift[group][:, None], unsigned=False)
            off = x[..., span] @ weight[:, span].T - lx @ lw.T - made.correction[group]
            outputs = int(node.weight.any(axis=(1, 2, 3)).sum())
            measured = ((off * factor) ** 2).mean(axis=(0, 1, 2)).sum() / outputs
            assert made.error[group] == pytest.approx(measured, rel=0.25)
            checked += 1
    assert checked >= 3


def test_positions_of_a_layer_alone(case):
    """`positions` needs counts alone: the same layer gives the same result."""
    found, counts = case
    layer = found.layers[0]
    again = positions(layer.node, layer.src, counts[layer.src.name], LAYER)
    assert np.array_equal(again.act_shift, layer.positions.act_shift)
    assert np.array_equal(again.wgt_shift, layer.positions.wgt_shift)


def test_scores_of_a_layer_sum_to_what_it_costs_the_output(wide_graph):
    """Measured with the golden model: that layer alone in 4 bits, with its own bias row."""
    found = study(quantize8(wide_graph, images(12), PIXELS, LAYER), LAYER)
    units = found.with_sensitivity(found.units())
    graph = lower_graph(found)
    groups = [graph.tensors[n.src].groups for n in graph.lowerable]
    nothing = golden.run(graph, found.image_bytes, [0] * len(groups))[graph.output_tensors[0]].astype(np.float64)
    for number, node in enumerate(graph.lowerable):
        alone = [g if i == number else 0 for i, g in enumerate(groups)]
        moved = golden.run(graph, found.image_bytes, alone)[graph.output_tensors[0]]
        mine = units.score[units.layer == number]
        assert mine.sum() == pytest.approx(((moved - nothing) ** 2).mean()), node.name
        assert np.allclose(
            mine / mine.sum(), found.layers[number].positions.error / sum(found.layers[number].positions.error)
        )
