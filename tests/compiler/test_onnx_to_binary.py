"""From ONNX to the simulator: random networks, their binaries run as their golden models."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from npu_compiler.backend.link import compile_quantized
from npu_compiler.pipeline import import_model, quantize_graph
from npu_compiler.quantize.quantize import QuantizeOptions
from npu_isa.machine.config import load_machine
from npu_runtime.session.session import Session

from tests.equality import compare
from tests.onnx_models import PIXELS, save
from tests.random_onnx import networks

EVERY_LAYER = QuantizeOptions(keep_first_8bit=False, keep_last_8bit=False, keep_small_8bit=False)


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, True], ids=["convolutions", "every operator"])
@given(st.data(), st.sampled_from(["npu16", "npu32", "npu128"]))
@settings(max_examples=40)
def test_random_network_runs_as_its_golden_model(every, tmp_path_factory, data, machine):
    net, output = data.draw(networks(every=every))
    path = save(net.model(output), tmp_path_factory.getbasetemp())
    channels, height, width = net.shape
    pre = replace(PIXELS, mean=(0.5,) * channels, std=(0.25,) * channels)
    pixels = np.random.default_rng(0).integers(0, 256, (4, height, width, channels), dtype=np.uint8)
    graph = quantize_graph(import_model(path), pixels, pre, EVERY_LAYER)
    session = Session(compile_quantized(graph, load_machine(machine)))
    for ratio in (0, 50, 100):
        result = compare(graph, session, pixels[:2], session.binary.boundaries_at(ratio))
        assert result.difference is None
