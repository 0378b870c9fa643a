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
from npu_compiler.frontend.importer import ELEMENT_WISE
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.graph.passes import optimize
from npu_isa.errors import NpuError, UnsupportedError
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node as node_tests

FLOAT = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
PARAMETERS = (
    "Conv",
    "ConvTranspose",
    "BatchNormalization",
    "Clip",
    "Dropout",
    "PRelu",
    "Resize",
    "Pad",
    "Gemm",
    "Gather",
)
MAX_MATRIX = 1 << 12  # values of an output whose order is undone by a matrix
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
    """Return the operator that a test is of, also where it is written out in others ("expanded")."""
    node = case.model.graph.node[0]
    return str(node.name.partition("_test_")[0] if case.name.endswith("_expanded") else node.op_type)


def run(case: Any) -> Iterator[Result]:
    """Yield what becomes of a test."""
    graph = case.model.graph
    inputs, outputs = case.data_sets[0]
    kinds = {v.name: v.type.tensor_type.elem_type for v in graph.input}
    given = {value.name: np.asarray(array) for value, array in zip(graph.input, inputs, strict=True)}
    want = np.asarray(outputs[0])
    operator, name = operator_of(case), case.name
    floats = [v.name for v in graph.input if kinds[v.name] in FLOAT and _may_be_image(graph, v.name)]
    if not floats or any(a.dtype == object for a in given.values()):
        yield Result(operator, name, "", "refused", "no input of floating point, or types that NumPy lacks")
        return
    for arrays, result in [(given, want), *_lifted(operator, given, want, kinds)]:
        choices = [[n] for n in floats] + ([floats] if _joins(arrays, floats) else [])
        for chosen in choices:
            outcome, reason = _one(case, arrays, chosen, result)
            yield Result(operator, name, ", ".join(chosen), outcome, reason)


def _may_be_image(graph: onnx.GraphProto, name: str) -> bool:
    """Whether an input can be what the network computes from: not weights, limits or ratios."""
    return len(graph.node) > 1 or graph.node[0].op_type not in PARAMETERS or graph.node[0].input[0] == name


def _lifted(
    operator: str, given: dict[str, np.ndarray], want: np.ndarray, kinds: dict[str, int]
) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Return the inputs and the output with axes of size 1 before them, where that means the same: as one image."""
    rank = max((a.ndim for n, a in given.items() if kinds[n] in FLOAT), default=0) + 1
    matrices = operator == "MatMul" and min(a.ndim for a in given.values()) > 1
    if not (matrices or operator in ELEMENT_WISE - {"QuantizeLinear"}) or not 2 <= rank <= 4:
        return []
    lifted = {n: a.reshape((1,) * (rank - a.ndim) + a.shape) if a.ndim else a for n, a in given.items()}
    return [(lifted, want.reshape((1,) * (rank - want.ndim) + want.shape))]


def _joins(given: dict[str, np.ndarray], names: list[str]) -> bool:
    """Whether inputs can be joined to one image along the axis after the batch."""
    shapes = [given[n].shape for n in names]
    return len(names) > 1 and all(2 <= len(s) <= 4 and (s[0], *s[2:]) == (shapes[0][0], *shapes[0][2:]) for s in shapes)


def _one(case: Any, given: dict[str, np.ndarray], chosen: list[str], want: np.ndarray) -> tuple[Outcome, str]:
    """Return what becomes of a test with these inputs joined to the image and the others constant."""
    image = np.concatenate([given[n] for n in chosen], axis=1) if len(chosen) > 1 else given[chosen[0]]
    if not 2 <= image.ndim <= 4 or not image.size:
        return "refused", f"the input is no image: shape {list(image.shape)}"
    found: tuple[Outcome, str] = "refused", ""
    for matrix in (0, want[0].size if want.ndim > 1 and want[0].size <= MAX_MATRIX else 0):
        model = _with_image(case.model, given, chosen, image, matrix)
        found = _imported(model, image, want, case.rtol, case.atol)
        if found[0] != "refused" or "channels not first" not in found[1]:
            break
    return found


def _imported(
    model: onnx.ModelProto, image: np.ndarray, want: np.ndarray, rtol: float, atol: float
) -> tuple[Outcome, str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.onnx"
        onnx.save(model, path)
        try:
            graph = read_onnx(path, host="none")
        except UnsupportedError as error:
            return "refused", error.message
        except NpuError as error:
            return "failed", error.message
    x = -image.astype(np.float32).reshape(-1, *graph.shapes[graph.input])
    for stage in (graph, optimize(graph)):
        with np.errstate(all="ignore"):
            output = stage.outputs[0]
            got = evaluate(stage, x)[output.tensor].reshape(len(x), *output.shape)
        if len(got) != (len(want) if want.ndim else 1) or got.size != want.size:
            return "failed", f"shape {got.shape}, not {want.shape}"
        if output.name != "product" and got.shape != want.shape:
            return "failed", f"shape {got.shape}, not {want.shape}"
        expected = want.astype(np.float32).reshape(got.shape)
        if not np.allclose(got, expected, rtol, max(atol, _least(want.dtype)), equal_nan=True):
            return "failed", f"off by {np.nanmax(np.abs(got - expected)):.3g}"
    return "passed", ""


def _least(dtype: np.dtype[Any]) -> float:
    """Return the tolerance of results that a test rounded to 16 bits."""
    return 1e-2 if dtype.itemsize == 2 else 0.0


def _with_image(
    model: onnx.ModelProto, given: dict[str, np.ndarray], chosen: list[str], image: np.ndarray, matrix: int
) -> onnx.ModelProto:
    """Return a model whose one input is the image, negated, so that it computes something in every case.

    Args:
        model: of the test.
        given: its inputs.
        chosen: those that the image is split into.
        image: that image.
        matrix: the output is flattened and multiplied with the unit matrix of this size, which asks for no order.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(made.ir_version, 4)
    graph = made.graph
    opset = next(o.version for o in made.opset_import if not o.domain)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, image.shape))
    arrays = {n: a for n, a in given.items() if n not in chosen}
    first = [helper.make_node("Neg", ["image"], [chosen[0] if len(chosen) == 1 else "negated"], "first")]
    if len(chosen) > 1:
        sizes = [given[n].shape[1] for n in chosen]
        if opset >= 13:
            arrays["sizes of parts"] = np.array(sizes, np.int64)
            first.append(helper.make_node("Split", ["negated", "sizes of parts"], chosen, "split", axis=1))
        else:
            first.append(helper.make_node("Split", ["negated"], chosen, "split", axis=1, split=sizes))
    nodes = [*first, *graph.node]
    del graph.output[1:]
    if matrix:
        arrays["unit"] = np.eye(matrix, dtype=np.float32)
        nodes.append(helper.make_node("Flatten", [graph.output[0].name], ["flat"], "flatten"))
        nodes.append(helper.make_node("MatMul", ["flat", "unit"], ["product"], "product"))
        graph.output[0].name = "product"
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
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


def main() -> None:
    """Print a table: operator, tests passed, refused, failed, reasons."""
    from npu_compiler.frontend.importer import OPERATORS

    results = [r for case in cases() if operator_of(case) in OPERATORS for r in run(case)]
    print("| operator | passed | refused | failed | refused because |\n| --- | --- | --- | --- | --- |")  # noqa: T201
    for operator, passed, refused, failed, reasons in summary(results):
        print(f"| {operator} | {passed} | {refused} | {failed} | {'; '.join(reasons)} |")  # noqa: T201


if __name__ == "__main__":
    main()
