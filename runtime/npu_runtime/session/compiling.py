"""From files to a quantized graph, and to a binary, in one call each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from npu_compiler.backend.link import Observe, compile_quantized, ignore
from npu_compiler.graph.ir import Graph
from npu_compiler.lowering.evolve import Progress, State
from npu_compiler.options import QuantizeOptions
from npu_compiler.outputs import HostChoice
from npu_compiler.pipeline import check_fit, import_model, quantize_graph
from npu_compiler.qgraph.ir import Preprocess, QuantizedGraph
from npu_isa.file.binary import Binary
from npu_isa.machine.config import MachineConfig, load_machine

from npu_runtime.data.dataset import Dataset, load_dataset
from npu_runtime.data.preprocess import PreprocessOptions, as_bytes


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model at the three levels that values can be compared on."""

    graph: Graph
    quantized: QuantizedGraph
    binary: Binary


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that quantization needs, read and checked: the network, calibration images, and the way to its input."""

    graph: Graph
    calibration: Dataset
    preprocess: Preprocess


def prepare(
    model: str | Path,
    calibration: str | Path | Dataset,
    preprocess: PreprocessOptions | None = None,
    options: QuantizeOptions | None = None,
    *,
    machine: MachineConfig | None = None,
    requantize: bool = False,
    input_shape: tuple[int, ...] | None = None,
    host: HostChoice = "auto",
    observe: Observe = ignore,
) -> Prepared:
    """Read and check what takes no time, before the minutes that quantization may take.

    Args:
        model: ONNX file, one image input (N, C, H, W); opsets outside 11 to 21 are converted where onnx can.
        calibration: data set (see `npu_runtime.data.dataset.load_dataset`), or its path; labels are not needed.
        preprocess: from pixels to the model's input; pixel / 255 if None, or the pixel where that takes bytes.
        options: quantization choices; the defaults if None.
        machine: what the network shall run on, if that is known: what it will refuse is refused now.
        requantize: ignore the activation quantization of a quantized model.
        input_shape: N, C, H, W of a model that leaves sizes open.
        host: "auto": what is refused at the end of the model runs on the host; "none": it is refused.
        observe: see `npu_compiler.pipeline`.

    Raises:
        NpuError: model, data, options or machine do not do; the message says which, where, and the way out.
    """
    given, chosen = preprocess or PreprocessOptions(), (options or QuantizeOptions()).check()
    graph = import_model(model, observe, requantize=requantize, input_shape=input_shape, host=host)
    if machine is not None:
        check_fit(graph, machine, chosen)
    if graph.takes_bytes:
        given = as_bytes(given)
    channels = graph.shapes[graph.input][0]
    mean, std = given.per_channel(channels)
    pre = Preprocess(given.pixel_scale, mean, std, given.geometry.resize, given.geometry.crop)
    if not isinstance(calibration, Dataset):
        calibration = load_dataset(calibration, given.geometry, chosen.max_images, channels)
    return Prepared(graph, calibration, pre)


def quantize_file(
    model: str | Path,
    calibration: str | Path | Dataset,
    preprocess: PreprocessOptions | None = None,
    options: QuantizeOptions | None = None,
    *,
    machine: MachineConfig | None = None,
    requantize: bool = False,
    input_shape: tuple[int, ...] | None = None,
    host: HostChoice = "auto",
    observe: Observe = ignore,
    state: State | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Graph, QuantizedGraph]:
    """Quantize an ONNX model for every machine; `npu_runtime.save_quantized` keeps the result.

    Args:
        state, progress: of an evolutionary search; see `npu_compiler.lowering.lower_graph`.
        others: those of `prepare`, and its errors.

    Returns:
        the optimized float graph and the quantized one.
    """
    ready = prepare(
        model,
        calibration,
        preprocess,
        options,
        machine=machine,
        requantize=requantize,
        input_shape=input_shape,
        host=host,
        observe=observe,
    )
    images, pre = ready.calibration.images, ready.preprocess
    return ready.graph, quantize_graph(ready.graph, images, pre, options, observe, state, progress)


def compile_file(
    model: str | Path,
    calibration: str | Path | Dataset,
    hardware: str | Path | MachineConfig = "npu32",
    preprocess: PreprocessOptions | None = None,
    options: QuantizeOptions | None = None,
    *,
    requantize: bool = False,
    input_shape: tuple[int, ...] | None = None,
    host: HostChoice = "auto",
    observe: Observe = ignore,
) -> Compiled:
    """Compile an ONNX model for a machine: a shipped one, a TOML file, or a description.

    The other arguments and errors are those of `prepare`. For several machines, quantize once (`quantize_file`) and
    compile the quantized graph for each (`compile_quantized`).
    """
    machine = hardware if isinstance(hardware, MachineConfig) else load_machine(hardware)
    graph, quantized = quantize_file(
        model,
        calibration,
        preprocess,
        options,
        machine=machine,
        requantize=requantize,
        input_shape=input_shape,
        host=host,
        observe=observe,
    )
    return Compiled(graph, quantized, compile_quantized(quantized, machine, observe))
