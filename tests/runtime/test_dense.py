"""Networks that give something for every pixel or cell, from the ONNX file to the register-level machine."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
import pytest
from npu_compiler.backend.link import compile_quantized
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model, quantize_graph
from npu_compiler.qgraph.ir import QuantizedGraph
from npu_isa.machine.config import load_machine
from npu_runtime.session.session import Session
from npu_runtime.verification.verify import verify

from tests import dense_models
from tests.equality import compare
from tests.onnx_models import PIXELS, model_input, run_outputs, save

pytestmark = pytest.mark.slow
QUICK = QuantizeOptions(rounding="nearest", selection="range", positions="range", bias_correction="none")
SMALL = replace(load_machine("npu16"), act_region_bytes=4096, name="small")  # so that tensors pass through DRAM
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "U-Net": partial(dense_models.unet, resize=False),
    "U-Net with Resize": partial(dense_models.unet, resize=True),
    "YOLOv5": dense_models.yolov5,
    "YOLOv8": partial(dense_models.yolov8, decoded=False),
    "YOLOv8, decoded": partial(dense_models.yolov8, decoded=True),
}


def images(count: int, seed: int) -> np.ndarray:
    """Return pixels that vary slowly, with some noise, uint8 (count, side, side, 3)."""
    rng, side = np.random.default_rng(seed), dense_models.SIDE
    coarse = rng.integers(0, 256, (count, side // 8, side // 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Case:
    """A network, and what was made of it."""

    model: onnx.ModelProto
    quantized: QuantizedGraph


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    model = MODELS[request.param]()
    graph = import_model(save(model, tmp_path_factory.mktemp("dense")))
    return Case(model, quantize_graph(graph, images(8, 0), PIXELS, QUICK))


@pytest.mark.parametrize("machine", ["npu16", "npu32", "npu128", "small"])
def test_golden_and_simulator_agree(case, machine):
    session = Session(compile_quantized(case.quantized, SMALL if machine == "small" else load_machine(machine)))
    for ratio in (0, 50, 100):
        found = compare(case.quantized, session, images(1, 1), session.binary.boundaries_at(ratio))
        assert found.difference is None, ratio


def test_the_register_level_machine_agrees(case):
    binary = compile_quantized(case.quantized, load_machine("npu16"))
    data = Session(binary).prepare(images(1, 1)).reshape(1, -1)
    report = verify(binary, [binary.boundaries_at(r) for r in (0, 100)], ("golden", "fast", "register"), data,
                    case.quantized)  # fmt: skip
    assert report.difference is None, str(report.difference)


def test_the_host_decodes_and_nothing_else(case):
    decoded = any(n.op_type == "Softmax" for n in case.model.graph.node)
    operators = [] if case.quantized.host is None else [n.operator for n in case.quantized.host.nodes]
    assert ("Softmax" in operators) == decoded
    assert not {"Resize", "ConvTranspose", "MaxPool"} & set(operators)
    assert operators.count("Conv") == decoded  # the mean of the bins


def varying(values: np.ndarray) -> np.ndarray:
    """Return the values of an image, channels first, without what a channel is on average."""
    flat = values.reshape(len(values), -1)
    return flat - flat.mean(axis=1, keepdims=True)


def test_outputs_are_those_of_the_model(case):
    pixels = images(4, 2)
    got = Session(compile_quantized(case.quantized, load_machine("npu32"))).run_all(pixels)
    for i, x in enumerate(model_input(pixels)):
        expected = run_outputs(case.model, x[None])
        assert list(got) == list(expected)
        for name, values in expected.items():
            assert got[name][i].shape == values.shape[1:]
            want = varying(values[0])
            noise = varying(got[name][i]) - want
            assert 10 * np.log10((want**2).sum() / (noise**2).sum()) > 14, name
