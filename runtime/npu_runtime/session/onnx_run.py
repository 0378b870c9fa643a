"""An ONNX model run as it is: by onnxruntime where that is installed, else by onnx's reference evaluator."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from npu_isa.errors import ModelError
from numpy.typing import NDArray

Array = NDArray[Any]


class OnnxModel:
    """A model ready to run.

    Args:
        source: a file, or the bytes of a model without external data.
        where: what errors call it.

    Attributes:
        engine: what runs it, with its version.
        outputs: names of its outputs.

    Raises:
        ModelError: the engine does not take the model.
    """

    def __init__(self, source: Path | bytes, where: str) -> None:
        self._where = where
        try:
            self.engine, self.outputs, self._run = _loaded(source)
        except Exception as error:  # both engines raise many types
            raise self._fault("cannot be loaded", error) from None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name.

        Raises:
            ModelError: the engine cannot run the model on these inputs.
        """
        try:
            return dict(zip(self.outputs, self._run(dict(inputs)), strict=True))
        except Exception as error:
            raise self._fault("cannot be run", error) from None

    def _fault(self, what: str, error: Exception) -> ModelError:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        return ModelError(f"{what} by {getattr(self, 'engine', 'an ONNX engine')}: {text}", self._where)


Run = Callable[[dict[str, Array]], list[Array]]


def _loaded(source: Path | bytes) -> tuple[str, list[str], Run]:
    """Return the engine's name, the names of the outputs, and what computes them."""
    try:
        import onnxruntime as ort
    except ImportError:
        return _reference(source)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums in the same order on every computer
    options.log_severity_level = 3
    data = source if isinstance(source, bytes) else str(source)
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return f"onnxruntime {ort.__version__}", names, lambda inputs: session.run(names, inputs)


def _reference(source: Path | bytes) -> tuple[str, list[str], Run]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    evaluator = ReferenceEvaluator(model)

    def run(inputs: dict[str, Array]) -> list[Array]:
        with np.errstate(all="ignore"):  # exp of a large value and the like: as the model says
            return [np.asarray(values) for values in evaluator.run(None, inputs)]

    return f"onnx {onnx.__version__}, reference evaluator", list(evaluator.output_names), run
