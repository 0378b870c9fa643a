"""The demo's network as an ONNX file: a small residual network for gray 8x8 images, written node by node.

The file holds what the training script hands over and nothing else: no time, no producer, fixed order. So equal
weights give equal bytes. BatchNormalization stays a node of its own: folding it is the compiler's work.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # the one that belongs to opset 17
EPSILON = 1e-5  # of BatchNormalization
SIDE = 8  # pixels
CLASSES = 10
IDENTICAL = "identical"


@dataclass(frozen=True)
class Block:
    """Two 3x3 convolutions and what goes around them; a 1x1 convolution goes around where the shape changes."""

    name: str
    inputs: int
    channels: int
    stride: int = 1

    @property
    def projects(self) -> bool:
        """Whether the way around has a convolution."""
        return self.stride != 1 or self.inputs != self.channels


STEM_CHANNELS = 64
BLOCKS = (Block("block1", 64, 64), Block("block2", 64, 32, stride=2))
Weights = Mapping[str, NDArray[np.float32]]


def to_onnx(weights: Weights) -> bytes:
    """Return the network as the bytes of an ONNX file.

    Args:
        weights: float32 by name: `<conv>.weight` (out, in, height, width); `<norm>.weight`, `.bias`, `.running_mean`,
            `.running_var` (channels,); `fc.weight` (classes, channels), `fc.bias` (classes,).

    Raises:
        KeyError: an array is missing.
    """
    net = _Nodes(weights)
    x = net.normed("stem.conv", "stem.norm", "input", kernel=3)
    x = net.add("Relu", "stem.relu", x)
    for block in BLOCKS:
        x = _block(net, block, x)
    x = net.add("GlobalAveragePool", "pool", x)
    x = net.add("Flatten", "flatten", x)
    net.add("Gemm", "fc", x, *net.arrays("fc.weight", "fc.bias"), output="logits", transB=1)
    value_in = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])
    value_out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(net.nodes, "digits", [value_in], [value_out], net.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def from_onnx(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the weights in an ONNX file, by name: what `to_onnx` was given."""
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(data).graph.initializer}


def difference(data: bytes, other: bytes) -> str:
    """Return in words how two ONNX files of the network differ; IDENTICAL if they do not."""
    if data == other:
        return IDENTICAL
    mine, theirs = from_onnx(data), from_onnx(other)
    if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in theirs.items()}:
        return "another network: names or shapes of the weights differ"
    apart = {name: float(np.abs(mine[name] - theirs[name]).max()) for name in mine}
    worst = max(apart, key=apart.__getitem__)
    return f"the largest difference of a weight is {apart[worst]:.3g}, in {worst}"


@dataclass
class _Nodes:
    """Nodes and constants under construction, in order."""

    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def arrays(self, *names: str) -> tuple[str, ...]:
        """Store constants; returns their names."""
        self.initializers += [numpy_helper.from_array(self.weights[n].astype(np.float32), n) for n in names]
        return names

    def add(self, operator: str, name: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        """Append a node; returns its output."""
        made = output or f"{name}.out"
        self.nodes.append(helper.make_node(operator, list(inputs), [made], name, **attributes))
        return made

    def normed(self, conv: str, norm: str, x: str, kernel: int, stride: int = 1) -> str:
        """Append a convolution that keeps the size (but for its stride), and its BatchNormalization."""
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        x = self.add("Conv", conv, x, *self.arrays(f"{conv}.weight"), **shape)
        parts = self.arrays(*(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")))
        return self.add("BatchNormalization", norm, x, *parts, epsilon=EPSILON)


def _block(net: _Nodes, block: Block, x: str) -> str:
    name = block.name
    y = net.normed(f"{name}.conv1", f"{name}.norm1", x, kernel=3, stride=block.stride)
    y = net.add("Relu", f"{name}.relu1", y)
    y = net.normed(f"{name}.conv2", f"{name}.norm2", y, kernel=3)
    around = net.normed(f"{name}.conv3", f"{name}.norm3", x, 1, block.stride) if block.projects else x
    return net.add("Relu", f"{name}.relu2", net.add("Add", f"{name}.add", y, around))
