"""Which output of a network holds the classes that labels are compared with."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from npu_isa.errors import DataError, did_you_mean


class Named(Protocol):
    """An output: its ONNX name, and its shape without the batch, where that is known."""

    @property
    def name(self) -> str:
        """Name of the ONNX output."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape without the batch; None if it has none that is known."""


T = TypeVar("T", bound=Named)


def class_output(outputs: Sequence[T], name: str | None = None) -> T:
    """Return the output with the classes: the one named, else the only one, else the first that is a vector.

    Raises:
        DataError: there is none of this name, no vector among several, or its shape is not known.
    """
    known = [output.name for output in outputs]
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or f"outputs: {', '.join(known)}"
        raise DataError(f"the model has no output {name!r}", hint=hint)
    vectors = [output for output in outputs if output.shape is not None and len(output.shape) == 1]
    if name is None and len(outputs) > 1 and not vectors:
        raise DataError(
            f"none of the outputs {', '.join(known)} is a vector of classes", hint="name the one that labels belong to"
        )
    if name is None and len(outputs) > 1:
        return vectors[0]
    chosen = outputs[0 if name is None else known.index(name)]
    if chosen.shape is None:
        raise DataError(f"output {chosen.name} is no array of one shape for all images", hint="labels need classes")
    return chosen
