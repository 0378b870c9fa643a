"""Where two models of one network differ first: golden against simulator, bit for bit; golden against float, in dB."""

from dataclasses import dataclass

import numpy as np
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import Graph
from npu_compiler.qgraph import golden
from npu_compiler.qgraph.ir import QTensor, QuantizedGraph
from npu_compiler.quantize.calibrate import pixel_values
from npu_isa.file.binary import LayerInfo
from npu_isa.isa.ops import Vec
from numpy.typing import NDArray

from npu_runtime.session.session import Array, Session
from npu_runtime.verification.models import check_network

UNWRITTEN = np.iinfo(np.int32).min


@dataclass(frozen=True)
class Difference:
    """The first value of a layer that differs, in the order image, row, column, channel.

    Attributes:
        channel: of the ONNX tensor; -1 for a channel that only fills up a group.
        instruction: the vec that wrote the value, -1 if none did.
    """

    layer: str
    tensor: str
    image: int
    y: int
    x: int
    channel: int
    golden: int
    simulated: int | None
    instruction: int

    def __str__(self) -> str:
        """Return the place and the two values in one line."""
        found = "never written" if self.simulated is None else f"simulator {self.simulated}"
        by = f" (instruction {self.instruction})" if self.instruction >= 0 else ""
        return (
            f"layer {self.layer}, tensor {self.tensor}: image {self.image}, pixel ({self.y}, {self.x}), "
            f"channel {self.channel}: golden {self.golden}, {found}{by}"
        )


@dataclass(frozen=True)
class LayerComparison:
    """One layer's output: values compared, how many differ, the first of them, and the signal-to-noise ratio.

    Attributes:
        float_sqnr_db: of the golden values against the float model's, decibels; None where the float graph has no
            such tensor or no float graph was given.
    """

    layer: str
    tensor: str
    values: int
    differing: int
    first: Difference | None
    float_sqnr_db: float | None


def compare(
    graph: QuantizedGraph, session: Session, images: NDArray[np.uint8], float_graph: Graph | None = None
) -> tuple[LayerComparison, ...]:
    """Compare every tensor that the simulator writes with the golden model's, at the session's boundaries.

    Args:
        graph: the network that the binary was compiled from.
        session: the binary.
        images: pixels, uint8 (N, height, width, channels).
        float_graph: the float network, for the signal-to-noise ratios.

    Returns:
        one row per layer, in program order.

    Raises:
        DataError: the images or the binary do not belong to the network.
    """
    layers = session.binary.layers
    check_network(graph, session.binary)
    expected = golden.run(graph, session.prepare(images), session.boundaries, keep=True)
    found = {layer.out: np.full(expected[layer.out].shape, UNWRITTEN, np.int32) for layer in layers}
    by = {layer.out: np.full(expected[layer.out].shape[1:], -1, np.int32) for layer in layers}

    def observe(op: Vec, values: Array) -> None:
        name = layers[session.binary.layer_of[op.index]].out
        if op.geom.table:  # what a table holds are bytes; whoever reads them knows their sign
            values = values.astype(np.uint8).view(np.int8 if graph.tensors[name].signed else np.uint8)
        channel = int(session.binary.channel_of[op.index])
        rows, cols = slice(op.out_y, op.out_y + op.tile_h), slice(op.out_x, op.out_x + op.tile_w)
        found[name][:, rows, cols, channel : channel + op.lanes] = values
        by[name][rows, cols, channel : channel + op.lanes] = op.index

    session.run_integers(images, observe)
    floats = {} if float_graph is None else _floats(float_graph, graph, images)
    rows = []
    for layer in layers:
        want, tensor = expected[layer.out], graph.tensors[layer.out]
        first = _first_difference(layer, tensor, want, found[layer.out], by[layer.out])
        sqnr = _sqnr_db(floats[layer.out], want, tensor) if layer.out in floats else None
        differing = int((want != found[layer.out]).sum())
        rows.append(LayerComparison(layer.name, layer.out, want.size, differing, first, sqnr))
    return tuple(rows)


def _first_difference(layer: LayerInfo, tensor: QTensor, want: Array, got: Array, by: Array) -> Difference | None:
    """Return the first value that differs; `by` has the instruction that wrote each: (rows, columns, channels)."""
    wrong = want != got
    if not wrong.any():
        return None
    image, y, x, c = (int(v) for v in np.unravel_index(int(wrong.argmax()), wrong.shape))
    value = int(got[image, y, x, c])
    simulated = None if value == UNWRITTEN else value
    place = layer.name, layer.out, image, y, x, tensor.channel_map[c]
    return Difference(*place, int(want[image, y, x, c]), simulated, int(by[y, x, c]))


def _floats(float_graph: Graph, graph: QuantizedGraph, images: NDArray[np.uint8]) -> dict[str, Array]:
    real = pixel_values(graph.preprocess).astype(np.float32)
    x = real[np.arange(len(real)), images]
    return evaluate(float_graph, np.ascontiguousarray(x.transpose(0, 3, 1, 2)), keep=True)


def _sqnr_db(real: Array, integers: Array, tensor: QTensor) -> float | None:
    channel_map = np.array(tensor.channel_map)
    if real.ndim != 4 or real.shape[1] != int((channel_map >= 0).sum()):
        return None
    at = np.flatnonzero(channel_map >= 0)
    wanted = real.transpose(0, 2, 3, 1)[..., channel_map[at]].astype(np.float64)
    noise = float(((wanted - (integers[..., at] - tensor.zero) * tensor.scale) ** 2).sum())
    signal = float((wanted**2).sum())
    return None if signal == 0 or noise == 0 else 10 * float(np.log10(signal / noise))
