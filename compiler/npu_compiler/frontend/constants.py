"""Constants that meet a computed tensor element by element."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_compiler.frontend.importer import Importer, Refused, Value
from npu_compiler.frontend.layout import axis_atoms, size_of


def per_channel(imp: Importer, value: Value, array: NDArray[Any]) -> NDArray[Any]:
    """Return a constant that is broadcast to a value as one value, or one for each channel of its tensor.

    Raises:
        Refused: it differs between pixels, or makes the value larger.
    """
    if array.size == 1 and array.ndim <= 1 + len(value.order):
        return array.reshape(1)
    wide = _atom_axes(value, array)
    channels = axis_atoms(value.order, 0)
    atoms = [a for axis in value.order for a in axis]
    front = [atoms.index(a) for a in channels]
    rest = [i for i in range(len(atoms)) if i not in front]
    turned = wide.transpose(*front, *rest).reshape(*wide.transpose(*front, *rest).shape[: len(front)], -1)
    if not (turned == turned[..., :1]).all():
        raise Refused(
            f"a constant of shape {list(array.shape)} differs between pixels: only one value, or one per channel, is "
            "supported"
        )
    return np.broadcast_to(turned[..., 0], [a.size for a in channels]).reshape(imp.shapes[value.tensor][0])


def _atom_axes(value: Value, array: NDArray[Any]) -> NDArray[Any]:
    """Return a constant with an axis for each part of the value's axes, of size 1 where it has but one value."""
    full = [1, *(size_of(axis) for axis in value.order)]
    given = [1] * (len(full) - array.ndim) + list(array.shape)
    if len(given) > len(full) or any(g not in (1, f) for g, f in zip(given, full, strict=True)):
        shape = ", ".join(map(str, ["N", *full[1:]]))
        raise Refused(f"a constant of shape {list(array.shape)} does not fit a tensor of shape ({shape})")
    sizes = []
    for axis, size in zip(value.order, given[1:], strict=True):
        sizes += [a.size if size > 1 else 1 for a in axis]
    return array.reshape(sizes)
