"""Which output of a network holds the classes that labels are compared with."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from npu_isa.errors import DataError, did_you_mean


class Named(Protocol):
    """An output: its ONNX name, and its shape without the batch."""

    @property
    def name(self) -> str:
        """Name of the ONNX output."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without the batch."""


T = TypeVar("T", bound=Named)


def class_output(outputs: Sequence[T], name: str | None = None) -> T:
    """Return the output with the classes: the one named, else the only one, else the first that is a vector.

    Raises:
        DataError: there is none of this name, or no vector among several.
    """
    known = [output.name for output in outputs]
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or f"outputs: {', '.join(known)}"
        raise DataError(f"the model has no output {name!r}", hint=hint)
    vectors = [output for output in outputs if len(output.shape) == 1]
    if name is None and len(outputs) > 1 and not vectors:
        raise DataError(
            f"none of the outputs {', '.join(known)} is a vector of classes", hint="name the one that labels belong to"
        )
    if name is not None:
        return outputs[known.index(name)]
    return outputs[0] if len(outputs) == 1 else vectors[0]
