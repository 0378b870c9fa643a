"""Small ONNX models for tests: built node by node, and run by onnxruntime as the reference."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import Graph
from npu_compiler.graph.passes import optimize
from npu_compiler.pipeline import import_model
from npu_compiler.qgraph.ir import Preprocess
from npu_isa.errors import NpuError
from onnx import TensorProto, helper, numpy_helper

TOLERANCE = 1e-5  # float32 sums of a few hundred terms in another order
PIXELS = Preprocess(1 / 255, (0.4, 0.5, 0.6), (0.25, 0.3, 0.2), (), ())
IR_VERSIONS = {opset: 8 for opset in range(7, 19)} | {19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12}


class Net:
    """A model under construction: one image input `x`, constants, nodes that follow each other.

    Args:
        shape: (channels, height, width) of the input.
        opset: version of the standard operators.
        seed: of the random weights.
    """

    def __init__(self, shape: tuple[int, int, int], opset: int = 17, seed: int = 0) -> None:
        self.shape = shape
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add an initializer and return its name."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weight(self, *shape: int, spread: float = 0.5) -> str:
        """Add random weights and return their name."""
        return self.constant(self.rng.normal(0, spread, shape))

    def node(self, operator: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes: Any) -> str:
        """Append a node and return its first output: the name of the node, with .1, .2 for further ones."""
        name = f"{operator.lower()}_{len(self.nodes)}" if name is None else name
        made = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, list(inputs), made, name, **attributes))
        return name

    def conv(self, src: str, ins: int, outs: int, kernel: tuple[int, int], group: int = 1, **attributes: Any) -> str:
        """Append a convolution with random weights and bias."""
        weight = self.weight(outs, ins // group, *kernel, spread=(ins // group * kernel[0] * kernel[1]) ** -0.5)
        return self.node("Conv", src, weight, self.weight(outs), group=group, **attributes)

    def model(
        self, *outputs: str, batch: str | int = "N", ir_version: int | None = None, domains: tuple[str, ...] = ()
    ) -> onnx.ModelProto:
        """Return the model whose outputs are these values; `domains` of operators that are not standard ones."""
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *self.shape])],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)],
            ir_version=ir_version or IR_VERSIONS[self.opset],
        )
        if set(domains) - {"com.microsoft"}:
            return model  # inference knows no others
        return onnx.shape_inference.infer_shapes(model, data_prop=True)  # gives the outputs their shapes, mostly

    def images(self, count: int = 2) -> np.ndarray:
        """Return random inputs, float32 (count, channels, height, width)."""
        return self.rng.normal(0, 1, (count, *self.shape)).astype(np.float32)


def save(model: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    """Write a model and return its path."""
    path = folder / name
    onnx.save(model, path)
    return path


def run_onnx(model: onnx.ModelProto | Path, x: np.ndarray, *, as_written: bool = False) -> np.ndarray:
    """Return the first output of a model under onnxruntime, one thread.

    As written: without fused operators, whose 8-bit products saturate in pairs on processors of some years.
    """
    options = onnxruntime.SessionOptions()
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def run_outputs(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return every output of a model under onnxruntime, by name."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def same_meaning(net: Net, output: str, folder: Path, count: int = 2) -> Graph:
    """Assert that import and every pass keep what onnxruntime computes; return the optimized graph.

    Where the model holds the number of images, in a shape, `count` is that.
    """
    model, x = net.model(output), net.images(count)
    want = run_onnx(model, x)
    stages = {"import": read_onnx(save(model, folder), host="none")}
    optimized = optimize(stages["import"], observe=stages.__setitem__)
    for stage, graph in stages.items():
        got = evaluate(graph, x.reshape(count, *graph.shapes[graph.input]))[graph.output_tensors[0]]
        assert graph.outputs[0].shape == want.shape[1:], stage
        error = np.abs(got.reshape(want.shape) - want).max()
        assert error <= TOLERANCE * (1 + np.abs(want).max()), (stage, error)
    return optimized


def same_values(model: onnx.ModelProto, graph: Graph, x: np.ndarray, last: bool = False) -> None:
    """Assert that a graph gives onnxruntime's values and shape; the model's image may have its channels last."""
    want = run_onnx(model, np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x)
    got = evaluate(graph, x)[graph.output_tensors[0]].reshape(want.shape)
    assert graph.outputs[0].shape == want.shape[1:]
    assert np.abs(got - want).max() <= TOLERANCE * (1 + np.abs(want).max())


def refusal(path: Path, kind: type[NpuError], **options: Any) -> NpuError:
    """Return the error that refuses a file; it must be of this class. The host takes nothing if not told so."""
    options = {"host": "none"} | options
    with pytest.raises(NpuError) as caught:
        import_model(path, **options)
    assert type(caught.value) is kind
    return caught.value


def example() -> onnx.ModelProto:
    """Return a network with every place where a quantizer acts.

    Convolutions, ReLU and ReLU6, a residual, pools, a concat whose parts fill no group, a depthwise layer, a matrix.
    """
    net = Net((3, 12, 12), seed=1)
    stem = net.node("Relu", net.conv("x", 3, 16, (3, 3), pads=[1] * 4))
    added = net.node("Add", net.conv(stem, 16, 16, (3, 3), pads=[1] * 4), stem)
    pooled = net.node("MaxPool", net.node("Relu", added), kernel_shape=[2, 2], strides=[2, 2])
    branches = [net.node("Relu", net.conv(pooled, 16, 8, (1, 1))), net.conv(pooled, 16, 9, (3, 3), pads=[1] * 4)]
    both = net.node("Concat", *branches, axis=1)
    deep = net.node("Clip", net.conv(both, 17, 17, (3, 3), 17, pads=[1] * 4), net.constant(0.0), net.constant(6.0))
    flat = net.node("Flatten", net.node("GlobalAveragePool", deep))
    return net.model(net.node("Gemm", flat, net.weight(10, 17), net.weight(10), transB=1))


def wide_example() -> onnx.ModelProto:
    """Return a network whose layers have several groups: 1x1 and 3x3, a stride, a residual, some small weights."""
    net = Net((3, 12, 12))
    stem = net.node("Relu", net.conv("x", 3, 40, (3, 3), pads=[1] * 4))
    added = net.node("Add", net.conv(stem, 40, 40, (3, 3), pads=[1] * 4), stem)
    deep = net.node("Relu", net.conv(net.node("Relu", added), 40, 72, (1, 1)))
    down = net.node("LeakyRelu", net.conv(deep, 72, 33, (3, 3), strides=[2, 2]), alpha=0.1)
    last = net.conv(down, 33, 48, (1, 1))
    net.constants[net.nodes[-1].input[1]][:, :16] *= np.float32(0.03)
    flat = net.node("Flatten", net.node("GlobalAveragePool", last))
    return net.model(net.node("Gemm", flat, net.weight(10, 48), net.weight(10), transB=1))


def images(count: int, seed: int = 0) -> np.ndarray:
    """Return random pixels for the example, uint8 (count, 12, 12, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)


def model_input(pixels: np.ndarray) -> np.ndarray:
    """Return what PIXELS makes of pixels, float32 (N, channels, height, width)."""
    real = (pixels / 255 - np.array(PIXELS.mean)) / np.array(PIXELS.std)
    return np.ascontiguousarray(real.transpose(0, 3, 1, 2)).astype(np.float32)
