"""An ONNX model run as it is: by onnxruntime where that is installed, else by onnx's reference evaluator."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from npu_isa.errors import ModelError
from numpy.typing import NDArray

Array = NDArray[Any]
Result = Array | list[Array]  # of many images; a list where they cannot be put into one array


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

    def run_each(
        self, inputs: Mapping[str, Array], batch: int, shapes: Mapping[str, tuple[int, ...] | None]
    ) -> dict[str, Result]:
        """Return the outputs of many images, run one by one: sizes inside the model may be those of one.

        Args:
            inputs: by name, each (N, ...).
            batch: images that the model is made for; one is given so many times.
            shapes: of outputs without the batch; None for those that are no array with the batch first.

        Returns:
            of each output that has a shape here, an array (N, *shape), or a list of N arrays where that is None.

        Raises:
            ModelError: the engine cannot run the model on these inputs, or its outputs have other shapes.
        """
        count = len(next(iter(inputs.values())))
        each = [self.run({k: np.repeat(v[i : i + 1], batch, axis=0) for k, v in inputs.items()}) for i in range(count)]
        found: dict[str, Result] = {}
        for name in self.outputs:
            shape = shapes.get(name)
            if shape is None:
                found[name] = [made[name] for made in each]
                continue
            wrong = next((made[name].shape for made in each if made[name].shape != (batch, *shape)), None)
            if wrong is not None:
                text = f"output {name!r} has shape {list(wrong)}, not {[batch, *shape]}"
                raise ModelError(text, self._where, "compile the model again")
            found[name] = np.concatenate([made[name][:1] for made in each]) if each else np.zeros((0, *shape))
        return found

    def _fault(self, what: str, error: Exception) -> ModelError:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        engine = getattr(self, "engine", "an ONNX engine")
        hint = "install onnxruntime, which runs more operators" if "reference" in engine else ""
        return ModelError(f"{what} by {engine}: {text}", self._where, hint)


Run = Callable[[dict[str, Array]], list[Array]]


def _loaded(source: Path | bytes) -> tuple[str, list[str], Run]:
    """Return the engine's name, the names of the outputs, and what computes them."""
    try:
        import onnxruntime as ort
    except ImportError:
        return _reference(source)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums in the same order on every computer
    options.log_severity_level = 4  # what goes wrong is raised
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
