"""Constants that meet a computed tensor element by element."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_compiler.frontend.arrange import as_image, image_target
from npu_compiler.frontend.importer import Importer, Refused, Value
from npu_compiler.frontend.layout import axis_atoms, image_axes, size_of


def per_channel(imp: Importer, value: Value, array: NDArray[Any]) -> tuple[Value, NDArray[Any]]:
    """Return a constant that is broadcast to a value as one value, or one for each channel of its tensor.

    The value is the same, or an image that it was moved to so that the constant does not differ between pixels.

    Raises:
        Refused: it differs between pixels, or makes the value larger.
    """
    if array.size == 1 and array.ndim <= 1 + len(value.order):
        return value, array.reshape(1)
    found = _by_channels(imp, value, array)
    if found is None and len(value.order) <= 3 and image_target(value.order) != image_axes(imp.shapes[value.tensor]):
        value = as_image(imp, value)
        found = _by_channels(imp, value, array)
    if found is None:
        raise Refused(
            f"a constant of shape {list(array.shape)} differs between pixels: only one value, or one per channel, is "
            "supported"
        )
    return value, found


def _by_channels(imp: Importer, value: Value, array: NDArray[Any]) -> NDArray[Any] | None:
    """Return a constant by the channels of a value's tensor, or None if it differs between pixels."""
    wide = _atom_axes(value, array)
    channels = axis_atoms(value.order, 0)
    atoms = [a for axis in value.order for a in axis]
    front = [atoms.index(a) for a in channels]
    turned = wide.transpose(*front, *(i for i in range(len(atoms)) if i not in front))
    by_pixels = turned.reshape(*turned.shape[: len(front)], -1)
    if not (by_pixels == by_pixels[..., :1]).all():
        return None
    return np.broadcast_to(by_pixels[..., 0], [a.size for a in channels]).reshape(imp.shapes[value.tensor][0])


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
