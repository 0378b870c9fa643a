"""How the elements of an ONNX value lie in a tensor of the graph: its axes, made of parts of the tensor's axes.

Reshape and Transpose only rename elements as long as each axis of the result is such a list of parts.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from npu_compiler.graph.ir import Shape


@dataclass(frozen=True)
class Atom:
    """A part of an axis of a tensor: `size` steps of `stride` along axis 0 (channels), 1 (height) or 2 (width)."""

    axis: int
    size: int
    stride: int


Axis = tuple[Atom, ...]  # the slowest part first; an axis of size 1 has none
Axes = tuple[Axis, ...]  # of a value, the batch left out


def size_of(axis: Iterable[Atom]) -> int:
    """Return the number of elements along an axis."""
    return math.prod(atom.size for atom in axis)


def whole(axis: int, size: int) -> Axis:
    """Return all of a tensor's axis."""
    return () if size == 1 else (Atom(axis, size, 1),)


def joined(atoms: Iterable[Atom]) -> Axis:
    """Return the same axis in the fewest parts."""
    made: list[Atom] = []
    for atom in atoms:
        last = made[-1] if made else None
        if last is not None and last.axis == atom.axis and last.stride == atom.size * atom.stride:
            made[-1] = Atom(atom.axis, last.size * atom.size, atom.stride)
        elif atom.size > 1:
            made.append(atom)
    return tuple(made)


def image_axes(shape: Shape, rank: int = 3) -> Axes:
    """Return the axes of a tensor as an image, as one of one row without height (2), or as a vector of channels (1)."""
    places = {1: (0,), 2: (0, 2), 3: (0, 1, 2)}[rank]
    return tuple(whole(axis, shape[axis]) for axis in places)


def regrouped(atoms: Iterable[Atom], sizes: Iterable[int]) -> Axes | None:
    """Return axes of these sizes that hold the atoms in the same order, or None where one would have to be torn."""
    rest, made = list(atoms), list[Axis]()
    for wanted in reversed(list(sizes)):
        axis: list[Atom] = []
        while wanted != 1:
            last = rest.pop() if rest and wanted > 0 else None
            if last is not None and wanted % last.size == 0:
                axis.insert(0, last)
                wanted //= last.size
            elif last is not None and last.size % wanted == 0:
                axis.insert(0, Atom(last.axis, wanted, last.stride))
                rest.append(Atom(last.axis, last.size // wanted, last.stride * wanted))
                wanted = 1
            else:
                return None
        made.insert(0, joined(axis))
    return None if rest else tuple(made)


def in_memory_order(axes: Axes, shape: Shape) -> bool:
    """Whether the elements of a value follow each other as those of its tensor do."""
    return joined(atom for axis in axes for atom in axis) == joined(a for axis in image_axes(shape) for a in axis)


def axis_atoms(axes: Axes, axis: int) -> list[Atom]:
    """Return the parts of a tensor's axis, the slowest first."""
    return sorted((a for each in axes for a in each if a.axis == axis), key=lambda a: -a.stride)
