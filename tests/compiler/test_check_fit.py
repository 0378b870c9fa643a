"""The fit check before quantization: it schedules what quantization will make, and costs no pass over the weights."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from npu_compiler import backend, pipeline
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import check_fit, compile_model, import_model, quantize_graph
from npu_compiler.qgraph.ir import QConv
from npu_compiler.quantize.skeleton import skeleton
from npu_isa.errors import CompileError, UnsupportedError
from npu_isa.machine.config import load_machine

from tests.exported import EXPORTED, GRAPHS, write_exported
from tests.onnx_models import PIXELS, Net, images, save
from tests.random_onnx import networks

QUICK = QuantizeOptions(rounding="nearest", selection="range", positions="range", bias_correction="none")


def shapes(graph):
    """Return all that a schedule depends on, but the order of groups."""
    nodes = []
    for n in graph.nodes:
        window = None if not hasattr(n, "window") else vars(n.window)
        taps = None if getattr(n, "weight", None) is None else n.weight.shape
        dial = isinstance(n, QConv) and n.lowering is not None
        rows = n.lowering.bias_rows.shape if dial else None
        extract = n.lowering.extract if dial else None
        nodes.append((type(n), n.name, n.out, n.inputs, window, getattr(n, "kind", None), taps, rows, extract))
    return nodes, {t.name: (t.height, t.width, t.channels, t.bits) for t in graph.tensors.values()}


@pytest.mark.slow
@given(networks())
@settings(max_examples=60)
def test_a_skeleton_has_the_shapes_of_what_is_quantized(tmp_path_factory, case):
    net, output = case
    graph = import_model(save(net.model(output), tmp_path_factory.getbasetemp()))
    channels, height, width = net.shape
    pre = replace(PIXELS, mean=(0.5,) * channels, std=(0.25,) * channels)
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    assert shapes(skeleton(graph, QUICK)) == shapes(quantize_graph(graph, pixels, pre, QUICK))


def pooled_net(size=96):
    net = Net((3, size, size), seed=1)
    x = net.node("Relu", net.conv("x", 3, 48, (3, 3), pads=[1] * 4))
    pool = net.node("AveragePool", x, name="pool", kernel_shape=[size - 1] * 2)  # its windows overlap: not two steps
    return net.model(net.node("Flatten", pool))


def test_a_model_that_does_not_fit_is_refused_before_it_is_quantized(tmp_path, monkeypatch):
    def quantize_graph(*arguments):
        raise AssertionError("quantized")

    monkeypatch.setattr(pipeline, "quantize_graph", quantize_graph)
    machine = replace(load_machine("npu16"), act_region_bytes=32768)
    with pytest.raises(CompileError, match=r"node pool, machine npu16: .* needs [0-9]+ bytes of activation"):
        compile_model(save(pooled_net(), tmp_path), machine, images(2), PIXELS)


@pytest.mark.parametrize("size", [16, 32, 64, 96, 128])
def test_before_and_after_quantization_the_answer_is_the_same(size, tmp_path):
    machine = replace(load_machine("npu16"), act_region_bytes=8192)
    graph = import_model(save(pooled_net(size), tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    quantized = quantize_graph(graph, pixels, PIXELS, QUICK)
    answers = []
    for ask in (lambda: check_fit(graph, machine, QUICK), lambda: backend.check_fit(quantized, machine)):
        try:
            ask()
            answers.append(None)
        except CompileError as error:
            answers.append(str(error))
    assert answers[0] == answers[1]
    assert (answers[0] is None) == (size < 64)


def test_dynamic_extraction_is_refused_before_too(tmp_path):
    net = Net((3, 8, 8), seed=1)
    x = net.node("Relu", net.conv("x", 3, 48, (3, 3)))
    x = net.node("Relu", net.conv(x, 48, 16, (3, 3)))
    graph = import_model(save(net.model(net.conv(x, 16, 8, (1, 1))), tmp_path))
    machine = load_machine("npu16")
    check_fit(graph, machine, QUICK)
    with pytest.raises(UnsupportedError, match="dynamic extraction: the machine npu16 has none"):
        check_fit(graph, machine, replace(QUICK, extract="dynamic"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_large_networks_fit_every_shipped_machine(name, tmp_path):
    if not GRAPHS.exists():
        pytest.skip(f"no graphs at {GRAPHS}")
    write_exported(name, tmp_path / "model.onnx")
    graph = import_model(tmp_path / "model.onnx")
    for machine in ("npu16", "npu32", "npu128"):
        check_fit(graph, load_machine(machine))
