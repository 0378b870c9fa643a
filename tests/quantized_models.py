"""Models quantized by onnxruntime, and how far integers are from what the model says."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from npu_compiler.graph import float_eval
from npu_compiler.graph.ir import Graph, TensorQuant
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import check_fit, import_model
from npu_compiler.qgraph import golden
from npu_compiler.qgraph.ir import QTensor, QuantizedGraph
from npu_compiler.quantize.prepare import prepare
from npu_compiler.quantize.quantize import quantize8
from npu_isa.machine.config import load_machine
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from tests.onnx_models import PIXELS, images, model_input, run_onnx

EIGHT_BITS = QuantizeOptions(keep_first_8bit=False, keep_last_8bit=False, keep_small_8bit=False)


class Batches(CalibrationDataReader):
    """Batches of calibration images, by the name of the input; those of the example networks if none are given."""

    def __init__(self, batches: Iterable[dict[str, np.ndarray]] | None = None) -> None:
        self.batches = iter([{"x": model_input(images(8, seed))} for seed in range(4)] if batches is None else batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch."""
        return next(self.batches, None)


def quantized_by_ort(
    source: Path,
    made: Path,
    form: QuantFormat = QuantFormat.QDQ,
    activations: QuantType = QuantType.QUInt8,
    weights: QuantType = QuantType.QInt8,
    batches: Iterable[dict[str, np.ndarray]] | None = None,
    **options: Any,
) -> Path:
    """Quantize a model file with onnxruntime's static quantizer; `options` are its own. Returns the path made."""
    extra = options.pop("extra_options", {})
    logging.disable(logging.WARNING)  # it advises to prepare the model
    try:
        quantize_static(
            source, made, Batches(batches), form, activation_type=activations, weight_type=weights, extra_options=extra,
            **options,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return made


def in_8_bits(graph: Graph, pixels: np.ndarray | None = None) -> QuantizedGraph:
    """Return the network in 8 bits, after the check that a machine fits; pixels of an image that is none of 12x12."""
    check_fit(graph, load_machine("npu32"))
    return quantize8(graph, images(16) if pixels is None else pixels, PIXELS, EIGHT_BITS).graph


def run(graph: QuantizedGraph, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the integers of every tensor, channels of the model first: (N, channels, height, width)."""
    made = golden.run(graph, graph.table[np.arange(3), pixels], [0] * len(graph.lowerable), keep=True)
    return {name: logical(graph.tensors[name], x) for name, x in made.items()}


def logical(tensor: QTensor, x: np.ndarray) -> np.ndarray:
    """Return the channels of the model, (N, channels, height, width), of physical ones, last."""
    places = [tensor.channel_map.index(c) for c in range(max(tensor.channel_map) + 1)]
    return x[..., places].transpose(0, 3, 1, 2)


def off_from_model(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Return how far the outputs are from onnxruntime's, in steps of the output."""
    graph = in_8_bits(import_model(path))
    out = graph.tensors[graph.output_tensors[0]]
    want = run_onnx(path, model_input(pixels), as_written=True)
    assert np.abs(want).max() > 20 * out.scale  # the comparison is not one of zeros
    return np.abs(run(graph, pixels)[graph.output_tensors[0]].reshape(want.shape) - want / out.scale)


def off_by_node(path: Path, pixels: np.ndarray) -> dict[str, float]:
    """Return for each node the most that its integers differ from the exact result of the integers it reads.

    The exact result is that of the float operator on dequantized integers, quantized without rounding.
    """
    imported = import_model(path)
    graph = in_8_bits(imported)
    prepared = prepare(imported).graph
    values = run(graph, pixels)
    real = {t: _real(values[t], q) for t, q in prepared.quant.items() if t in values}
    found = {}
    for node in prepared.nodes:
        if node.out not in real or not all(t in real for t in float_eval.inputs(node)):
            continue
        quant = prepared.quant[node.out]
        want = float_eval._node(prepared, node, real, map).astype(np.float64) / quant.scale + quant.zero
        found[node.name] = float(np.abs(values[node.out] - np.clip(want, *quant.integers)).max())
    return found


def _real(x: np.ndarray, quant: TensorQuant) -> np.ndarray:
    return ((x.astype(np.float64) - quant.zero) * quant.scale).astype(np.float32)


def shifted_zeros(path: Path, seed: int) -> None:
    """Give every activation of a QDQ model another zero point, any, and somewhat larger steps."""
    model, rng = onnx.load(path), np.random.default_rng(seed)
    of_activations = {n.input[2]: n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if tensor.name in of_activations:
            info = np.iinfo(value.dtype)
            made = np.array(rng.integers(info.min, info.max + 1), value.dtype)
        elif tensor.name in of_activations.values():
            made = (value * rng.uniform(1, 2)).astype(np.float32)
        else:
            continue
        tensor.CopyFrom(onnx.numpy_helper.from_array(made, tensor.name))
    onnx.save(model, path)
