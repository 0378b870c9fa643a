"""What a .npubin holds, as values; `container` reads and writes the file."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from npu_isa.isa.tables import RAW
from npu_isa.machine.config import BLOCK_BYTES, MachineConfig


def code_address(constants_bytes: int) -> int:
    """Return the DRAM address of the program: the first block behind the constants."""
    return _whole_blocks(constants_bytes)


def data_address(constants_bytes: int, instructions: int) -> int:
    """Return the DRAM address of the first block behind the program: input, outputs and scratch lie from there on."""
    return code_address(constants_bytes) + _whole_blocks(instructions * RAW["word_bytes"])


def _whole_blocks(count: int) -> int:
    return -(-count // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, kw_only=True)
class InputInfo:
    """The input image in DRAM and how pixels become its bytes.

    Attributes:
        name: of the tensor.
        address: DRAM byte address; height x width x channels bytes, HWC, no gaps.
        height, width: pixels.
        channels: bytes of a pixel.
        signed: two's complement bytes if true.
        scale: real value of one step.
        pixel_scale, mean, std: preprocessing of a pixel p, as given to compile: ((p * pixel_scale) - mean) / std.
        resize, crop: preprocessing of the image, in pixels: one side or height and width; empty for none.
        table: uint8 (channels, 256): input byte of each pixel value.
    """

    name: str
    address: int
    height: int
    width: int
    channels: int
    signed: bool
    scale: float
    pixel_scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, ...]
    crop: tuple[int, ...]
    table: NDArray[np.uint8]

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        return self.height * self.width * self.channels

    @property
    def range(self) -> tuple[int, int]:
        """DRAM bytes [first, end) of the image."""
        return self.address, self.address + self.bytes


@dataclass(frozen=True, kw_only=True)
class OutputInfo:
    """An output tensor in DRAM: NHWC, whole groups; per pixel and group 16 bytes, or 16 low then 16 high bytes.

    Attributes:
        name: of the ONNX output.
        address: DRAM byte address; several outputs may be the same tensor.
        height, width: pixels.
        channels: physical channels of a pixel, a multiple of 16.
        bits: 8 or 16.
        signed: two's complement if true.
        scale: real value of one step.
        channel_map: logical channel of each physical channel, -1 for padding.
        shape: shape of the ONNX output without the batch axis.
    """

    name: str
    address: int
    height: int
    width: int
    channels: int
    bits: int
    signed: bool
    scale: float
    channel_map: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the tensor."""
        return self.height * self.width * self.channels * self.bits // 8

    @property
    def range(self) -> tuple[int, int]:
        """DRAM bytes [first, end) of the tensor."""
        return self.address, self.address + self.bytes


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """One node of the quantized graph, as the report needs it.

    Attributes:
        name: of the node.
        onnx_nodes: ONNX nodes that it computes.
        kind: "conv" or "window".
        register: boundary register, or -1 for a layer that has no dial.
        groups: input groups of a layer with a dial, else 0.
        boundaries: legal boundaries in groups, ascending from 0; (0,) without a dial.
        macs: multiply-accumulates of the original layer per image.
        out: name of its output tensor.
    """

    name: str
    onnx_nodes: tuple[str, ...]
    kind: str
    register: int
    groups: int
    boundaries: tuple[int, ...]
    macs: int
    out: str

    @property
    def has_dial(self) -> bool:
        """Whether part of the layer can run in 4 bits."""
        return self.register >= 0


@dataclass(frozen=True, kw_only=True)
class HostNode:
    """One ONNX node that the host runs.

    Attributes:
        name: of the node.
        operator: its ONNX type.
        reason: why the machine does not run it.
    """

    name: str
    operator: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class HostOutput:
    """One output of the whole model, where the host has a part in it.

    Attributes:
        name: of the ONNX output.
        shape: without the batch axis, which comes first; None without such an axis, or if a size depends on the image.
    """

    name: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class HostPart:
    """The end of a model that the host runs on the machine's outputs.

    Attributes:
        onnx: uint8 (bytes,): an ONNX model. It reads outputs of the machine by their names, as float32 in their own
            shapes with the batch first, and makes the outputs of the whole model that the machine does not make.
        nodes: its nodes, in order.
        outputs: those of the whole model, in its order.
        macs: multiply-accumulates of its nodes per image.
    """

    onnx: NDArray[np.uint8]
    nodes: tuple[HostNode, ...]
    outputs: tuple[HostOutput, ...]
    macs: int


@dataclass(frozen=True, kw_only=True)
class DialStep:
    """One step of the dial.

    Attributes:
        register: boundary register to set.
        boundary: groups in 4 bits from then on.
        low_macs: multiply-accumulates then done in 4 bits in all.
    """

    register: int
    boundary: int
    low_macs: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Binary:
    """A compiled network for one machine.

    Attributes:
        model: name of the network.
        machine: the machine that it was compiled for.
        code: uint8, shape (instructions, 32): the program, in DRAM behind the constants (`code_address`).
        constants: uint8, DRAM from address 0: weights, parameters, bias tables.
        dram_bytes: DRAM used in all: constants, program, input, outputs, scratch.
        input: where the image lies and how it is made.
        outputs: where each result lies and what it means, in the order of the ONNX model.
        layers: nodes of the network, as instructions name them.
        dial: steps in order (in a file: register, boundary, low_macs); the ratio walks along them.
        dial_macs: multiply-accumulates of the layers with a dial: 100 %.
        layer_of: int32 (instructions,): layer of each instruction, -1 for none.
        tile_of: int32 (instructions,): tile number inside the layer, -1 for none.
        channel_of: int32 (instructions,): first output channel that a conv or vec makes, -1 for others.
        location_of: int32 (instructions,): line of the assembly source, 0 for none.
        notes: remarks of the compiler.
        host: the end of the model that the host runs, or None; cycles are those of the machine alone.
    """

    model: str
    machine: MachineConfig
    code: NDArray[np.uint8]
    constants: NDArray[np.uint8]
    dram_bytes: int
    input: InputInfo
    outputs: tuple[OutputInfo, ...]
    layers: tuple[LayerInfo, ...]
    dial: tuple[DialStep, ...]
    dial_macs: int
    layer_of: NDArray[np.int32]
    tile_of: NDArray[np.int32]
    channel_of: NDArray[np.int32]
    location_of: NDArray[np.int32]
    notes: tuple[str, ...] = ()
    host: HostPart | None = None

    @property
    def results(self) -> tuple[OutputInfo | HostOutput, ...]:
        """The outputs of the whole model, in its order: what the machine gives, or what the host makes of that."""
        return self.outputs if self.host is None else self.host.outputs

    @property
    def output_ranges(self) -> tuple[tuple[int, int], ...]:
        """DRAM bytes [first, end) of each output, in their order."""
        return tuple(output.range for output in self.outputs)

    @cached_property
    def registers(self) -> int:
        """Boundary registers used."""
        return sum(layer.has_dial for layer in self.layers)

    def percent(self, low_macs: int) -> float:
        """Return the ratio that multiply-accumulates in 4 bits are, in percent of `dial_macs`."""
        return 100.0 * low_macs / self.dial_macs if self.dial_macs else 0.0

    def steps_at(self, ratio_percent: float) -> int:
        """Return how many dial steps come nearest to a ratio: the share of `dial_macs` done in 4 bits, in percent.

        Of two steps equally near, the one with fewer 4-bit multiply-accumulates.
        """
        asked = ratio_percent / 100 * self.dial_macs
        done = [0, *(step.low_macs for step in self.dial)]
        after = bisect_right(done, asked)
        if after < len(done) and done[after] - asked < asked - done[after - 1]:
            return after
        return after - 1

    def boundaries_at(self, ratio_percent: float) -> tuple[int, ...]:
        """Return the boundary vector, in groups per register, for a ratio of 0..100 percent."""
        vector = [0] * self.registers
        for step in self.dial[: self.steps_at(ratio_percent)]:
            vector[step.register] = step.boundary
        return tuple(vector)

    def effective_percent(self, ratio_percent: float) -> float:
        """Return the ratio really reached when `ratio_percent` is asked."""
        steps = self.steps_at(ratio_percent)
        return self.percent(self.dial[steps - 1].low_macs if steps else 0)
