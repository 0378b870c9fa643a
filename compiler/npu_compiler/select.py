"""In which order the groups of the layers turn 4-bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class LayerErrors:
    """What lowering each group of one layer would cost.

    Attributes:
        name: node.
        error: expected squared error of the layer's output when the group alone is lowered, in squared steps of the
            output, mean over output channels; index = group, shape (groups,).
        macs: multiply-accumulates of each group, shape (groups,).
    """

    name: str
    error: NDArray[np.float64]
    macs: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Order:
    """The order of one layer's groups.

    Attributes:
        groups: group at each place; the first b are in 4 bits at boundary b.
        score: of each place; the dial lowers first where the score per multiply-accumulate is least.
    """

    groups: tuple[int, ...]
    score: NDArray[np.float64]


class Selector(Protocol):
    """A rule that orders the groups of every layer; the sets of two ratios are nested whatever it returns."""

    def __call__(self, layers: Sequence[LayerErrors]) -> dict[str, Order]:
        """Return the order of each layer by name."""


def by_error(layers: Sequence[LayerErrors]) -> dict[str, Order]:
    """Order by expected error per multiply-accumulate, each group judged alone (greedy)."""
    found = {}
    for layer in layers:
        order = np.argsort(layer.error / np.maximum(layer.macs, 1), kind="stable")
        found[layer.name] = Order(tuple(int(g) for g in order), layer.error[order])
    return found


SELECTORS: dict[str, Callable[[Sequence[LayerErrors]], dict[str, Order]]] = {"error": by_error}
