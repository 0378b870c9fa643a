"""What a network gives: its outputs, by the names that the ONNX model has for them; and whether the host may help."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

HostChoice = Literal["auto", "none"]  # whether the host may run what the machine cannot do at the end of a model


@dataclass(frozen=True)
class Output:
    """One output of a network.

    Attributes:
        name: of the ONNX output; no two outputs of a network share it.
        tensor: of the graph; two outputs may be the same one.
        shape: of the ONNX output without the batch axis, e.g. (10,).
    """

    name: str
    tensor: str
    shape: tuple[int, ...]


def tensors_of(outputs: Iterable[Output]) -> tuple[str, ...]:
    """Return the tensors of outputs in their order, each once."""
    return tuple(dict.fromkeys(o.tensor for o in outputs))
