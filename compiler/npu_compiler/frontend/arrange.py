"""Tensors whose elements stand where an operator needs them: channels, rows and columns change places by parts.

What a Reshape or a Transpose renamed is moved here, once something reads it that needs an image.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from npu_compiler.frontend.build import choose, concat, crop, mosaic
from npu_compiler.frontend.importer import MAX_CHANNELS, Importer, Refused, Value
from npu_compiler.frontend.layout import (
    Atom,
    Axes,
    Axis,
    axis_atoms,
    image_axes,
    joined,
    regrouped,
    size_of,
    whole,
)
from npu_compiler.graph.ir import Place

Index = dict[Atom, int]


def image(imp: Importer, name: str, ranks: tuple[int, ...] = (1, 2, 3)) -> str:
    """Return a tensor that holds an ONNX value as an image; what must be moved is appended (see `image_of`)."""
    return image_of(imp, imp.value(name), ranks)


def image_of(imp: Importer, value: Value, ranks: tuple[int, ...] = (1, 2, 3)) -> str:
    """Return a tensor that holds a value as an image.

    Args:
        imp: the graph; what must be moved is appended.
        value: (N, C, H, W), (N, C, W) as one row, or (N, C) as one pixel.
        ranks: numbers of axes, without the batch, that are right here.
    """
    if len(value.order) not in ranks:
        needs = " or ".join({1: "(N, C)", 2: "(N, C, W)", 3: "(N, C, H, W)"}[r] for r in reversed(ranks))
        raise Refused(f"its input has shape {shape_text(value.order)}, needs {needs}")
    return arranged(imp, value.tensor, image_target(value.order))


def as_image(imp: Importer, value: Value) -> Value:
    """Return a value as an image."""
    tensor = image_of(imp, value)
    return Value(tensor, image_axes(imp.shapes[tensor], len(value.order)))


def image_target(order: Axes) -> Axes:
    """Return channels, rows and columns of a value of one to three axes."""
    return (order[0], order[1] if len(order) == 3 else (), order[-1] if len(order) > 1 else ())


def result(imp: Importer, value: Value) -> Value:
    """Return an output with its elements in the order of a tensor, where channels stay such and parts are few.

    An image with its channels last is left as it is.
    """
    return as_image(imp, value) if not imp.in_memory_order(value) and _arranges(imp, value) else value


def gives(imp: Importer, name: str) -> bool:
    """Whether an ONNX value can be an output: computed from the image, in the order of a tensor or brought to it."""
    return imp.known(name) and (imp.in_memory_order(imp.value(name)) or _arranges(imp, imp.value(name)))


def _arranges(imp: Importer, value: Value) -> bool:
    """Whether a value is an image whose channels are first, in parts that are not too many."""
    if len(value.order) != 3 or size_of(value.order[0]) > MAX_CHANNELS:
        return False
    channels = {a.axis for a in value.order[0]}
    return (not channels or 0 in channels) and pieces(value.order) <= imp.most_parts


def shape_text(order: Axes) -> str:
    """Return the shape of a value in words, the batch first."""
    return f"({', '.join(['N', *(str(size_of(axis)) for axis in order)])})"


def arranged(imp: Importer, tensor: str, target: Axes) -> str:
    """Return a tensor with the elements of another one: `target` says which its channels, rows and columns are."""
    target = tuple(joined(axis) for axis in target)
    if target == image_axes(imp.shapes[tensor]):
        return tensor
    if (tensor, target) not in imp.arranged:
        moved, parts = _Move(target), pieces(target)
        if parts > imp.most_parts:
            raise Refused(
                f"its input has the values of an image in another order, or flattened: to move them takes {parts} "
                f"parts, at most {imp.most_parts} are supported"
            )
        if size_of(target[0]) > MAX_CHANNELS:
            raise Refused(f"an image of {size_of(target[0])} channels: too large")
        made = moved.emit(imp, tensor)
        imp.share(made)
        imp.arranged[tensor, target] = made
    return imp.arranged[tensor, target]


def pieces(target: Axes) -> int:
    """Return the number of parts that `arranged` cuts an image into."""
    move = _Move(tuple(joined(axis) for axis in target))
    return size_of(move.placed) * size_of(move.gathered)


class _Move:
    """What becomes of the parts of a tensor's axes on the way to `target`.

    One part of the rows stays rows, one of the columns columns. For every index of the others that become rows or
    columns (`placed`) there is a part of a mosaic; rows and columns that become channels (`gathered`) are joined.
    """

    def __init__(self, target: Axes) -> None:
        self.target = target
        self.stays: dict[int, Atom | None] = {
            axis: max((a for a in target[axis] if a.axis == axis), key=lambda a: a.size, default=None)
            for axis in (1, 2)
        }
        kept = self.stays.values()
        self.placed = tuple(a for axis in (1, 2) for a in target[axis] if a not in kept)
        self.gathered = tuple(a for a in target[0] if a.axis)

    def emit(self, imp: Importer, tensor: str) -> str:
        joined_channels: dict[tuple[tuple[Atom, int], ...], str] = {}
        srcs, places = [], []
        for placed in _indices(self.placed):
            key = tuple((a, i) for a, i in placed.items() if a.axis)
            if key not in joined_channels:
                parts = [self._cut(imp, tensor, placed | gathered) for gathered in _indices(self.gathered)]
                joined_channels[key] = concat(imp, parts)
            first = sum(i * a.stride for a, i in placed.items() if not a.axis)
            source = first + self._channels(imp.shapes[tensor][0])
            srcs.append(choose(imp, joined_channels[key], source.tolist()))
            places.append(self._place(placed))
        return mosaic(imp, srcs, places, (size_of(self.target[1]), size_of(self.target[2])))

    def _cut(self, imp: Importer, tensor: str, index: Index) -> str:
        """Return the rows and columns that stay such, at an index of the others."""
        spans = []
        for axis in (1, 2):
            stay = self.stays[axis] or Atom(axis, 1, 1)
            first = sum(i * a.stride for a, i in index.items() if a.axis == axis)
            spans.append(range(first, first + (stay.size - 1) * stay.stride + 1, stay.stride))
        return crop(imp, tensor, *spans)

    def _channels(self, channels: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the channel of the joined parts for each channel of the target, but for placed channels."""
        source = np.zeros(1, np.int64)
        for atom in self.target[0]:
            stride = atom.stride
            if atom.axis:
                stride = channels * size_of(self.gathered[self.gathered.index(atom) + 1 :])
            source = (source[:, None] + np.arange(atom.size) * stride).reshape(-1)
        return source

    def _place(self, index: Index) -> Place:
        found = []
        for axis in (1, 2):
            strides = dict(zip(self.target[axis], _strides(self.target[axis]), strict=True))
            first = sum(i * strides[a] for a, i in index.items() if a in strides)
            stay = self.stays[axis]
            found.append((first, 1 if stay is None else strides[stay]))
        return Place(found[0][0], found[1][0], found[0][1], found[1][1])


def _strides(axis: Axis) -> list[int]:
    return [size_of(axis[i + 1 :]) for i in range(len(axis))]


def _indices(atoms: Axis) -> Iterator[Index]:
    for index in np.ndindex(*(a.size for a in atoms)):
        yield dict(zip(atoms, index, strict=True))


def tensor_axis(imp: Importer, value: Value, axis: int) -> int | None:
    """Return the axis of the tensor that an axis of a value (the batch not counted) is all of, or None."""
    shape, own = imp.shapes[value.tensor], value.order[axis]
    if own:
        return own[0].axis if own == whole(own[0].axis, shape[own[0].axis]) else None
    used = {a.axis for each in value.order for a in each}
    first = {1: (0,), 2: (0, 2), 3: (0, 1, 2)}.get(len(value.order), (0,) * len(value.order))[axis]
    free = [a for a in (first, 1, 2, 0) if shape[a] == 1 and a not in used]
    return free[0] if free else None


def along(imp: Importer, value: Value, axes: Sequence[int]) -> tuple[Value, list[int]]:
    """Return a value some of whose axes are all of axes of its tensor, and those.

    It is moved to an image if it must be.

    Args:
        imp: the graph.
        value: the value.
        axes: of it, the batch counted, as `Importer.axis` returns them.
    """
    if 0 in axes:
        raise Refused("the batch axis must stay as it is")
    found = [tensor_axis(imp, value, axis - 1) for axis in axes]
    if None in found or len(set(found)) != len(found):
        value = as_image(imp, value)
        found = [tensor_axis(imp, value, axis - 1) for axis in axes]
    return value, [axis for axis in found if axis is not None]


def resized(order: Axes, axis: int, tensor_axis: int, size: int) -> Axes:
    """Return the axes of a value after one of them (the batch counted), all of a tensor's axis, got another size."""
    return (*order[: axis - 1], whole(tensor_axis, size), *order[axis:])


def like(reference: Axes, order: Axes) -> Axes | None:
    """Return the target that gives a value the arrangement of another one, whose axes it has or lacks.

    Args:
        reference: axes of the other value.
        order: axes of the value: as many, each as large or of size 1.

    Returns:
        channels, rows and columns; None where a tensor's axis would be there in part, or an axis torn.
    """
    found: list[tuple[Atom, Axis | None]] = []  # by atom of the reference; None where the value has but one
    for theirs, own in zip(reference, order, strict=True):
        if not own:
            found += [(atom, None) for atom in theirs]
            continue
        parts = regrouped(own, [a.size for a in theirs])
        if parts is None:
            return None
        found += zip(theirs, parts, strict=True)
    target: list[Axis] = []
    by_atom = dict(found)
    for axis in range(3):
        parts_of = [by_atom[a] for a in axis_atoms(reference, axis)]
        if any(p is None for p in parts_of) and not all(p is None for p in parts_of):
            return None
        target.append(joined(a for part in parts_of if part is not None for a in part))
    return tuple(target)
