"""The node tests of the onnx package, run through the importer and the float evaluation.

A test is a model of one or a few nodes with inputs and expected outputs. The importer takes one image, so of several
inputs each one in turn is the image and the others are constants; all of them must be right or refused.
"""

import functools
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.ir import Graph
from npu_compiler.graph.passes import optimize
from npu_isa.errors import NpuError, UnsupportedError
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node as node_tests

FLOAT = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
MAX_OPSET = 21  # of converted models; later forms of an operator that only added types are the same
Outcome = Literal["passed", "refused", "failed"]


@dataclass(frozen=True)
class Result:
    """What became of a test with one of its inputs as the image, or with several joined to it.

    Attributes:
        image: that input, or inputs.
        reason: of a refusal or a failure.
    """

    operator: str
    test: str
    image: str
    outcome: Outcome
    reason: str = ""


@functools.cache
def cases() -> tuple[Any, ...]:
    """Return the node tests that the package generates."""
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        return tuple(node_tests.collect_testcases())


def operator_of(case: Any) -> str:
    """Return the operator that a test is of; of an operator that is expanded to others, the first of these."""
    return str(case.model.graph.node[0].op_type)


def run(case: Any) -> Iterator[Result]:
    """Yield what becomes of a test."""
    graph = case.model.graph
    inputs, outputs = case.data_sets[0]
    given = {value.name: np.asarray(array) for value, array in zip(graph.input, inputs, strict=True)}
    floats = [v.name for v in graph.input if v.type.tensor_type.elem_type in FLOAT]
    choices = [[name] for name in floats if _may_be_image(graph, name)]
    choices += [floats] if len(floats) > 1 and _joins(given, floats) else []
    for chosen in choices:
        outcome, reason = _one(case.model, given, chosen, np.asarray(outputs[0]), case.rtol, case.atol)
        yield Result(operator_of(case), case.name, ", ".join(chosen), outcome, reason)


def _may_be_image(graph: onnx.GraphProto, name: str) -> bool:
    """Whether an input can be what the network computes from: not weights, limits or ratios."""
    parameters = {"Conv", "ConvTranspose", "BatchNormalization", "Clip", "Dropout", "PRelu", "Resize", "Pad", "Gemm"}
    node = graph.node[0]
    return len(graph.node) > 1 or node.op_type not in parameters or node.input[0] == name


def _joins(given: dict[str, np.ndarray], names: list[str]) -> bool:
    """Whether inputs can be joined to one image along the axis after the batch."""
    shapes = [given[n].shape for n in names]
    return all(2 <= len(s) <= 4 and (s[0], *s[2:]) == (shapes[0][0], *shapes[0][2:]) for s in shapes)


def _one(
    model: onnx.ModelProto, given: dict[str, np.ndarray], chosen: list[str], want: np.ndarray, rtol: float, atol: float
) -> tuple[Outcome, str]:
    """Return what becomes of a model with these inputs joined to the image and the others constant."""
    image = np.concatenate([given[n] for n in chosen], axis=1) if len(chosen) > 1 else given[chosen[0]]
    if not 2 <= image.ndim <= 4:
        return "refused", "the input is no image: it has " + ("more than 4 axes" if image.ndim > 4 else "no channels")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.onnx"
        onnx.save(_with_image(model, given, chosen, image), path)
        try:
            graph = read_onnx(path)
        except UnsupportedError as error:
            return "refused", error.message
        except NpuError as error:
            kept = "computes nothing" in error.message or "needs (N" in error.message
            return ("refused" if kept else "failed"), error.message
    return _compared(graph, image, want, rtol, atol)


def _compared(graph: Graph, image: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> tuple[Outcome, str]:
    x = image.astype(np.float32).reshape(-1, *graph.shapes[graph.input])
    for stage in (graph, optimize(graph)):
        with np.errstate(all="ignore"):
            got = evaluate(stage, x)[stage.output].reshape(len(x), *stage.output_shape)
        if got.shape != want.shape:
            return "failed", f"shape {got.shape}, not {want.shape}"
        if not np.allclose(got, want.astype(np.float32), rtol, max(atol, _least(want.dtype)), equal_nan=True):
            return "failed", f"off by {np.nanmax(np.abs(got - want)):.3g}"
    return "passed", ""


def _least(dtype: np.dtype[Any]) -> float:
    """Return the tolerance of results that a test rounded to 16 bits."""
    return 1e-2 if dtype.itemsize == 2 else 0.0


def _with_image(
    model: onnx.ModelProto, given: dict[str, np.ndarray], chosen: list[str], image: np.ndarray
) -> onnx.ModelProto:
    """Return a model whose one input is the image; it starts with an Identity or a Split of it."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    opset = next(o.version for o in made.opset_import if not o.domain)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, image.shape))
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in given.items() if n not in chosen)
    if len(chosen) == 1:
        first = helper.make_node("Identity", ["image"], chosen, "first")
    else:
        sizes = [given[n].shape[1] for n in chosen]
        graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes of parts"))
        later = {"num_outputs": len(chosen)} if opset >= 18 and len(set(sizes)) == 1 else {}
        more = [] if later else ["sizes of parts"]
        if opset >= 13:
            first = helper.make_node("Split", ["image", *more], chosen, "first", axis=1, **later)
        else:
            first = helper.make_node("Split", ["image"], chosen, "first", axis=1, split=sizes)
    nodes = [first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.output[1:]
    made.ir_version = max(made.ir_version, 4)
    return made


def summary(results: Iterable[Result]) -> list[tuple[str, int, int, int, list[str]]]:
    """Return a row per operator: passed, refused, failed, and the reasons of refusals, each once."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result.operator, []).append(result)
    table = []
    for operator, found in sorted(rows.items()):
        counts = [sum(r.outcome == o for r in found) for o in ("passed", "refused", "failed")]
        table.append((operator, *counts, sorted({r.reason for r in found if r.outcome == "refused"})))
    return table
