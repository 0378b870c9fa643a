"""ONNX Resize and Upsample: nearest, linear and cubic, by any factor."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import onnx

from npu_compiler.frontend.arrange import image
from npu_compiler.frontend.importer import Constants, Importer, Refused, attributes, constant, operator, text
from npu_compiler.frontend.layout import image_axes
from npu_compiler.frontend.resample import COPY, MAX_LENGTH, Taps, resample

MODES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SIMPLE = 1 << 10  # denominators of scales that are meant as fractions, such as 0.3333


@operator(
    "Resize", "Upsample",
    limits="of height and width: nearest with every rounding, linear and cubic without antialias; coordinates "
    "half_pixel, half_pixel_symmetric, pytorch_half_pixel, asymmetric, align_corners; more than 64 parts: rows first, "
    "then columns",
)  # fmt: skip
def _resize(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), image(imp, node.input[0], (2, 3))
    rank = imp.rank(node.input[0])
    mode = text(attrs, "mode", "nearest")
    if mode not in ("nearest", "linear", "cubic"):
        raise Refused(f"mode {mode!r}: only nearest, linear and cubic are supported")
    own = (imp.batch, *imp.full_shape(node.input[0]))
    scales, sizes = _scales(node, constants, attrs, own)
    if sizes[:2] != own[:2]:
        raise Refused(f"to shape {sizes}: only height and width can be resized")
    if max(sizes) > MAX_LENGTH or min(sizes) < 1:
        raise Refused(f"to shape {sizes}: too large" if min(sizes) > 0 else f"to shape {sizes}: it is empty")
    if attrs.get("antialias", 0) and mode != "nearest" and min(scales) < 1:
        raise Refused("antialias is not supported where an image gets smaller")
    taps = [_taps(attrs, mode, *axis) for axis in zip(own[2:], sizes[2:], scales[2:], strict=True)]
    made = resample(imp, src, taps[0] if rank == 3 else None, taps[-1])
    imp.finish(made, image_axes(imp.shapes[made], rank))


def _scales(
    node: onnx.NodeProto, constants: Constants, attrs: Mapping[str, Any], own: tuple[int, ...]
) -> tuple[list[np.float32], tuple[int, ...]]:
    """Return the factor and the size of the output along each axis of the input."""
    axes = [int(a) for a in attrs.get("axes", range(len(own)))]
    if sorted(a % len(own) for a in axes) != sorted({a % len(own) for a in axes}) or not axes:
        raise Refused(f"axes {axes}")
    axes = [a % len(own) for a in axes]
    upsample = node.op_type == "Upsample" or len(node.input) == 2
    given = constant(node, 1 if upsample else 2, constants, "scales")
    wanted = None if upsample else constant(node, 3, constants, "sizes")
    scales, sizes = [np.float32(1)] * len(own), list(own)
    if wanted is not None and wanted.size:
        if wanted.size != len(axes) or wanted.dtype.kind not in "iu" or wanted.min() < 1 or wanted.max() > MAX_LENGTH:
            raise Refused(f"sizes {wanted.tolist()[:8]} for {len(axes)} axes: needs 1..{MAX_LENGTH} each")
        _by_sizes(attrs, [int(v) for v in wanted.reshape(-1)], axes, scales, sizes)
        return scales, tuple(sizes)
    if given is None or given.size != len(axes) or not (np.isfinite(given) & (given > 0) & (given <= MAX_LENGTH)).all():
        raise Refused(f"scales for {len(axes)} axes must be given, above 0 and at most {MAX_LENGTH}")
    for axis, scale in zip(axes, given.reshape(-1).astype(np.float32), strict=True):
        scales[axis], sizes[axis] = scale, int(np.float32(own[axis]) * scale)
        if _mode(attrs) == "align_corners" and sizes[axis] != np.float32(own[axis]) * scale:
            raise Refused(f"align_corners with scale {scale} of {own[axis]} pixels: no whole number; give sizes")
    return scales, tuple(sizes)


def _by_sizes(
    attrs: Mapping[str, Any], wanted: list[int], axes: list[int], scales: list[np.float32], sizes: list[int]
) -> None:
    """Fill in scales and sizes of the axes that get a given size; keep_aspect_ratio_policy of opset 18."""
    policy = text(attrs, "keep_aspect_ratio_policy", "stretch")
    if policy not in ("stretch", "not_larger", "not_smaller"):
        raise Refused(f"keep_aspect_ratio_policy {policy!r} is unknown")
    factors = [np.float32(w) / np.float32(sizes[a]) for a, w in zip(axes, wanted, strict=True)]
    if policy != "stretch":
        shared = min(factors) if policy == "not_larger" else max(factors)
        factors = [shared] * len(axes)
        wanted = [math.floor(float(shared) * sizes[a] + 0.5) for a in axes]
    for axis, size, factor in zip(axes, wanted, factors, strict=True):
        scales[axis], sizes[axis] = np.float32(factor), size


def _taps(attrs: Mapping[str, Any], mode: str, length: int, out: int, scale: np.float32) -> list[Taps] | None:
    """Return the inputs of each output along one axis, or None where all stays."""
    if length == out and scale == 1:
        return None
    if mode == "nearest":
        return [(i, COPY) for i in _nearest(attrs, length, out, scale)]
    exact = Fraction(float(scale)).limit_denominator(SIMPLE)
    factor = exact if exact and np.float32(float(exact)) == scale else Fraction(float(scale))
    places = [_coordinate(_mode(attrs), length, out, factor, Fraction(o)) for o in range(out)]
    if mode == "linear":
        return [_between(at, length) for at in places]
    bend, inside = float(attrs.get("cubic_coeff_a", -0.75)), bool(attrs.get("exclude_outside", 0))
    return [_cubic(at, length, Fraction(bend), inside) for at in places]


def _mode(attrs: Mapping[str, Any]) -> str:
    mode = text(attrs, "coordinate_transformation_mode", "half_pixel")
    if mode not in MODES:
        raise Refused(f"coordinate_transformation_mode {mode!r}: only {', '.join(MODES)} are supported")
    return mode


def _coordinate(mode: str, length: int, out: int, scale: Any, at: Any) -> Any:
    """Return where an output stands between the inputs, in the arithmetic of `at` (ONNX Resize, opset 19)."""
    half = type(at)(0.5)
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * (length - 1) / (out - 1) if out > 1 else at * 0
    if mode == "pytorch_half_pixel" and out == 1:
        return at * 0
    shift = at * 0
    if mode == "half_pixel_symmetric":
        shift = type(at)(length) / 2 * (1 - out / (scale * length))
    return shift + (at + half) / scale - half


def _between(at: Fraction, length: int) -> Taps:
    """Return the two neighbours of a coordinate with their weights, or the one that it hits."""
    at = min(max(at, Fraction(0)), Fraction(length - 1))
    first = math.floor(at)
    second = at - first
    return (first, COPY) if not second else (first, (float(1 - second), float(second)))


def _cubic(at: Fraction, length: int, bend: Fraction, inside: bool) -> Taps:
    """Return the four neighbours of a coordinate with their weights; what is beyond the border counts as the border.

    Args:
        at: the coordinate.
        length: of the axis.
        bend: ONNX's cubic_coeff_a.
        inside: what is beyond the border does not count.
    """
    weights: dict[int, Fraction] = {}
    for place in range(math.floor(at) - 1, math.floor(at) + 3):
        far = abs(at - place)
        near = ((bend + 2) * far - (bend + 3)) * far * far + 1
        weight = near if far <= 1 else ((far - 5) * far + 8) * far * bend - 4 * bend
        if not inside or 0 <= place < length:
            index = min(max(place, 0), length - 1)
            weights[index] = weights.get(index, Fraction(0)) + weight
    total = sum(weights.values()) if inside else Fraction(1)
    kept = [index for index, weight in weights.items() if weight] or [min(weights)]
    return kept[0], tuple(float(weights[i] / total) for i in range(kept[0], kept[-1] + 1))


def _nearest(attrs: Mapping[str, Any], length: int, out: int, scale: np.float32) -> list[int]:
    """Return the input of each output; coordinates in float32, as onnxruntime has them: that decides near halves."""
    rounding, mode = text(attrs, "nearest_mode", "round_prefer_floor"), _mode(attrs)
    if rounding not in NEAREST:
        raise Refused(f"nearest_mode {rounding!r} is unknown")
    found = []
    for o in range(out):
        at = np.float32(_coordinate(mode, length, out, scale, np.float32(o)))
        near = {
            "round_prefer_floor": np.ceil(at - np.float32(0.5)),
            "round_prefer_ceil": np.floor(at + np.float32(0.5)),
            "floor": np.floor(at),
            "ceil": np.ceil(at),
        }[rounding]
        found.append(min(max(int(near), 0), length - 1))
    return found
