"""The whole compiler, a function per step: ONNX file -> float graph -> quantized graph -> binary.

`observe` is called after each stage with its name (one of `STAGES`) and a function that returns its dump.
"""

from collections.abc import Callable
from pathlib import Path

from npu_isa.file.binary import Binary
from npu_isa.machine.config import MachineConfig

from npu_compiler import backend
from npu_compiler.backend.link import Observe, compile_quantized, ignore
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.ir import Graph
from npu_compiler.graph.passes import PASSES, optimize
from npu_compiler.lowering.evolve import Progress, State
from npu_compiler.lowering.lower import lower_graph, study
from npu_compiler.lowering.order import order_groups
from npu_compiler.options import QuantizeOptions
from npu_compiler.outputs import HostChoice
from npu_compiler.qgraph.dump import dump
from npu_compiler.qgraph.ir import U8, Preprocess, QuantizedGraph
from npu_compiler.quantize.quantize import quantize8
from npu_compiler.quantize.skeleton import skeleton

STAGES = ("import", *(p.__name__ for p in PASSES), "quantized", "schedule")


def import_model(
    path: str | Path,
    observe: Observe = ignore,
    *,
    requantize: bool = False,
    input_shape: tuple[int, ...] | None = None,
    host: HostChoice = "auto",
) -> Graph:
    """Read an ONNX model and optimize it.

    Args:
        path: the file.
        observe: sees "import" and each graph pass.
        requantize: ignore the activation quantization of a quantized model, so that it is calibrated anew.
        input_shape: shape of the image input, with or without the batch, where the model leaves sizes open.
        host: "auto": what is refused at the end of the model runs on the host; "none": it is refused.

    Raises:
        ModelError: no such file, not an ONNX model, unknown shapes.
        UnsupportedError: operators or attributes outside the supported ones; all of them at once.
    """
    graph = read_onnx(path, requantize=requantize, input_shape=input_shape, host=host)
    observe("import", graph.dump)
    return optimize(graph, observe=lambda name, g: observe(name, g.dump))


def check_fit(graph: Graph, machine: MachineConfig, options: QuantizeOptions | None = None) -> None:
    """Check that a machine can run an optimized graph before it is quantized.

    The schedule is made for a network of these shapes whose weights are zero: what it is refused for depends on nothing
    else. Errors are those of `npu_compiler.backend.check_fit`.
    """
    backend.check_fit(skeleton(graph, options or QuantizeOptions()), machine)


def quantize(
    graph: Graph,
    images: U8,
    preprocess: Preprocess,
    options: QuantizeOptions,
    state: State | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> QuantizedGraph:
    """Quantize to 8 bits, study and lower: the steps after each other; see them for arguments and errors."""
    return lower_graph(study(quantize8(graph, images, preprocess, options), options), state, progress)


def quantize_graph(
    graph: Graph,
    images: U8,
    preprocess: Preprocess,
    options: QuantizeOptions | None = None,
    observe: Observe = ignore,
    state: State | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> QuantizedGraph:
    """Quantize an optimized graph, choose the order of its 4-bit groups and lay them out in that order.

    Args:
        graph: from `import_model`.
        images: calibration images, uint8, shape (N, height, width, channels), already resized and cropped.
        preprocess: from pixels to the model's input.
        options: quantization choices; the defaults if None.
        observe: sees "quantized".
        state, progress: of an evolutionary search; see `npu_compiler.lowering.lower_graph`.

    Raises:
        DataError: the images or the preprocessing do not fit the model.
        CompileError, UnsupportedError: a number does not fit the machine's integers.
    """
    quantized = order_groups(quantize(graph, images, preprocess, options or QuantizeOptions(), state, progress))
    observe("quantized", lambda: dump(quantized))
    return quantized


def compile_model(
    path: str | Path,
    machine: MachineConfig,
    images: U8,
    preprocess: Preprocess,
    options: QuantizeOptions | None = None,
    observe: Observe = ignore,
    *,
    requantize: bool = False,
    host: HostChoice = "auto",
) -> tuple[QuantizedGraph, Binary]:
    """Compile an ONNX model for a machine: the three steps after each other; see them for arguments and errors."""
    graph = import_model(path, observe, requantize=requantize, host=host)
    check_fit(graph, machine, options)
    quantized = quantize_graph(graph, images, preprocess, options, observe)
    return quantized, compile_quantized(quantized, machine, observe)
