"""The whole compiler: a trained ONNX model and calibration images in, a binary out."""

from pathlib import Path
from typing import TYPE_CHECKING

from npu_isa.binary import Binary
from npu_isa.machine import MachineConfig

from npu_compiler.backend import Observe, _ignore, compile_quantized
from npu_compiler.qgraph import U8, Preprocess, QuantizedGraph

if TYPE_CHECKING:
    from npu_compiler.quantize import QuantizeOptions


def compile_model(
    path: str | Path,
    machine: MachineConfig,
    images: U8,
    preprocess: Preprocess,
    options: "QuantizeOptions | None" = None,
    observe: Observe = _ignore,
    *,
    requantize: bool = False,
) -> tuple[QuantizedGraph, Binary]:
    """Compile an ONNX model.

    Args:
        path: ONNX file, opset 11 to 21.
        machine: the design point to compile for.
        images: calibration images, uint8, shape (N, height, width, channels), already resized and cropped.
        preprocess: from pixels to the model's input.
        options: quantization choices; the defaults if None.
        observe: called after each stage with its name and a function that returns its dump: "import", each graph
            pass, "quantized", "schedule".
        requantize: ignore the activation quantization of a QDQ model and calibrate anew.

    Raises:
        NpuError: the model, the data or the machine does not do; the message says which and the way out.
    """
    quantized = quantize_model(path, images, preprocess, options, observe, requantize=requantize)
    return quantized, compile_quantized(quantized, machine, observe)


def quantize_model(
    path: str | Path,
    images: U8,
    preprocess: Preprocess,
    options: "QuantizeOptions | None" = None,
    observe: Observe = _ignore,
    *,
    requantize: bool = False,
) -> QuantizedGraph:
    """Import, optimize and quantize an ONNX model; see `compile_model`."""
    from npu_compiler.layout import order_groups
    from npu_compiler.onnx_reader import read_onnx
    from npu_compiler.passes import optimize
    from npu_compiler.quantize import QuantizeOptions, dump, quantize

    graph = read_onnx(path, requantize=requantize)
    observe("import", graph.dump)
    graph = optimize(graph, observe=lambda name, g: observe(name, g.dump))
    quantized = order_groups(quantize(graph, images, preprocess, options or QuantizeOptions()))
    observe("quantized", lambda: dump(quantized))
    return quantized
