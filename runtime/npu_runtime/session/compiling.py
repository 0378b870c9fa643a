"""From files to a quantized graph, and to a binary, in one call each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from npu_compiler.backend.link import Observe, compile_quantized, ignore
from npu_compiler.graph.ir import Graph
from npu_compiler.lowering.evolve import Progress, State
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model, quantize_graph
from npu_compiler.qgraph.ir import Preprocess, QuantizedGraph
from npu_isa.file.binary import Binary
from npu_isa.machine.config import MachineConfig, load_machine

from npu_runtime.data.dataset import Dataset, PreprocessOptions, load_dataset


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model at the three levels that values can be compared on."""

    graph: Graph
    quantized: QuantizedGraph
    binary: Binary


def quantize_file(
    model: str | Path,
    calibration: str | Path | Dataset,
    preprocess: PreprocessOptions | None = None,
    options: QuantizeOptions | None = None,
    *,
    requantize: bool = False,
    observe: Observe = ignore,
    state: State | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Graph, QuantizedGraph]:
    """Quantize an ONNX model for every machine; `npu_compiler.qgraph.npuq.save` keeps the result.

    Args:
        model: ONNX file, opset 11 to 21, one image input (N, C, H, W).
        calibration: data set (see `npu_runtime.data.dataset.load_dataset`), or its path; labels are not needed.
        preprocess: from pixels to the model's input; pixel / 255 if None.
        options: quantization choices; the defaults if None.
        requantize: ignore the activation quantization of a QDQ model.
        observe: see `npu_compiler.pipeline`.
        state, progress: of an evolutionary search; see `npu_compiler.lowering.lower_graph`.

    Returns:
        the optimized float graph and the quantized one.

    Raises:
        NpuError: model, data or options do not do; the message says which, where, and the way out.
    """
    given, chosen = preprocess or PreprocessOptions(), (options or QuantizeOptions()).check()
    graph = import_model(model, observe, requantize=requantize)
    data, pre = load_calibration(graph, calibration, given, chosen.max_images)
    return graph, quantize_graph(graph, data.images, pre, chosen, observe, state, progress)


def load_calibration(
    graph: Graph, source: str | Path | Dataset, preprocess: PreprocessOptions, limit: int | None
) -> tuple[Dataset, Preprocess]:
    """Return the images of a data set as a network reads them, and the preprocessing with a value per channel.

    Raises:
        DataError: the data set cannot be read, or mean and std do not fit the network's channels.
    """
    channels = graph.shapes[graph.input][0]
    mean, std = preprocess.per_channel(channels)
    pre = Preprocess(preprocess.pixel_scale, mean, std, preprocess.geometry.resize, preprocess.geometry.crop)
    data = source if isinstance(source, Dataset) else load_dataset(source, preprocess.geometry, limit, channels)
    return data, pre


def compile_file(
    model: str | Path,
    calibration: str | Path | Dataset,
    hardware: str | Path | MachineConfig = "npu32",
    preprocess: PreprocessOptions | None = None,
    options: QuantizeOptions | None = None,
    *,
    requantize: bool = False,
    observe: Observe = ignore,
) -> Compiled:
    """Compile an ONNX model for a machine: a shipped one, a TOML file, or a description.

    The other arguments and errors are those of `quantize_file`. A .npuq file is compiled by
    `npu_compiler.backend.link.compile_quantized`.
    """
    machine = hardware if isinstance(hardware, MachineConfig) else load_machine(hardware)
    machine.check()
    graph, quantized = quantize_file(model, calibration, preprocess, options, requantize=requantize, observe=observe)
    return Compiled(graph, quantized, compile_quantized(quantized, machine, observe))
