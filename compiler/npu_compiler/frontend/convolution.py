"""ONNX convolutions and matrices: Conv, ConvTranspose, Gemm, MatMul."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from npu_compiler.frontend import build
from npu_compiler.frontend.arrange import arranged, image, pieces
from npu_compiler.frontend.importer import (
    FEW_PARTS,
    Constants,
    Importer,
    Refused,
    Value,
    attributes,
    needed_weights,
    operator,
    weights_of,
)
from npu_compiler.frontend.layout import Atom, Axes, Axis, image_axes, joined, size_of, whole
from npu_compiler.frontend.windows import Pads, auto_pad, explicit_pads, halved, pair, window
from npu_compiler.graph.ir import Place

F32 = NDArray[np.float32]
MAX_TAPS = 225  # of a matrix over an image: of 16 channels for 16 outputs npu16 holds 255
MAX_REPEATED = 1 << 24  # weights of a matrix that stands once for each channel, zeros between them


def _kernel(imp: Importer, node: onnx.NodeProto, constants: Constants) -> tuple[F32, F32 | None, int]:
    """Return the weight of a convolution with two axes of space, its scale, and how many it has in the model."""
    found = needed_weights(imp, node, 1, constants, "the weight")
    weight, scale = found
    rank = weight.ndim - 2
    if rank not in (1, 2):
        raise Refused(f"weight of shape {list(weight.shape)}: only one- and two-dimensional convolutions are supported")
    return (weight[:, :, None] if rank == 1 else weight), scale, rank


def _bias(imp: Importer, node: onnx.NodeProto, constants: Constants, outs: int) -> F32 | None:
    bias = weights_of(imp, node, 2, constants, "the bias")
    if bias is not None and bias[0].size != outs:
        raise Refused(f"a bias of {bias[0].size} values for {outs} channels")
    return None if bias is None else bias[0].reshape(-1)


def _check_kernel_shape(attrs: Mapping[str, Any], kernel: tuple[int, int], rank: int) -> None:
    if "kernel_shape" in attrs and pair(attrs["kernel_shape"], "kernel_shape", rank) != kernel:
        raise Refused(f"kernel_shape {list(attrs['kernel_shape'])} is not that of the weight, {list(kernel[-rank:])}")


@operator("Conv", limits="one or two axes of space; the weight and the bias constant")
def _conv(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs = attributes(node)
    weight, scale, rank = _kernel(imp, node, constants)
    src = image(imp, node.input[0], (rank + 1,))
    outs, kernel = len(weight), (weight.shape[2], weight.shape[3])
    bias = _bias(imp, node, constants, outs)
    groups, shape = int(attrs.get("group", 1)), imp.shapes[src]
    if weight.shape[1] * groups != shape[0]:
        raise Refused(f"weight wants {weight.shape[1] * groups} channels, its input has {shape[0]}")
    if outs % groups:
        raise Refused(f"{outs} output channels cannot be divided into {groups} groups")
    _check_kernel_shape(attrs, kernel, rank)
    found = window(attrs, kernel, shape, rank)
    made = build.conv(imp, src, weight, bias, found.stride, found.pads, found.dilation, groups, scale)
    imp.finish(made, image_axes(imp.shapes[made], rank + 1))


# -- transposed convolution


@dataclass(frozen=True)
class _Phase:
    """Every `stride`-th output of a transposed convolution along one axis: a convolution of its own.

    Attributes:
        first: the first of these outputs.
        count: how many they are.
        taps: of the kernel, in the order in which they meet the input; none where only the bias is left.
        dilation: distance of inputs that taps meet.
        begin: inputs before the first one that the first output reads, below zero if it reads none of the first.
        end: the same at the end.
    """

    first: int
    count: int
    taps: tuple[int, ...]
    dilation: int
    begin: int
    end: int


def _phases(size: int, kernel: int, stride: int, dilation: int, pad: int, out: int) -> list[_Phase]:
    """Return the phases of one axis: output o takes tap k of input i where o + pad = i * stride + k * dilation."""
    made = []
    for first in range(min(stride, out)):
        count = (out - 1 - first) // stride + 1
        taps = [k for k in range(kernel) if (k * dilation - first - pad) % stride == 0][::-1]
        starts = [(first + pad - k * dilation) // stride for k in taps]  # input of the first output, ascending
        inside = [i for i, s in enumerate(starts) if s < size and s + count > 0]  # taps that ever meet the image
        if not inside:
            made.append(_Phase(first, count, (), 1, 0, count - size))
            continue
        taps, starts = (each[inside[0] : inside[-1] + 1] for each in (taps, starts))
        step = starts[1] - starts[0] if len(starts) > 1 else 1
        made.append(_Phase(first, count, tuple(taps), step, -starts[0], starts[-1] + count - size))
    return made


def _transposed_size(
    attrs: Mapping[str, Any], kernel: tuple[int, int], shape: tuple[int, ...], rank: int
) -> tuple[list[int], list[int]]:
    """Return the padding taken off at the beginning, and the size of the output (ONNX ConvTranspose, opset 11)."""
    stride = pair(attrs.get("strides", (1,) * rank), "strides", rank)
    dilation = pair(attrs.get("dilations", (1,) * rank), "dilations", rank)
    extra = [int(v) for v in attrs.get("output_padding", (0,) * rank)]
    if len(extra) != rank or min(extra) < 0 or max(extra) >= max(*stride, *dilation):
        raise Refused(f"output_padding {extra}: needs {rank} values below those of strides or dilations")
    extra = [0] * (2 - rank) + extra
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(shape[1:], stride, kernel, dilation, extra, strict=True)
    ]
    auto = auto_pad(attrs)
    upper = auto == "SAME_UPPER"
    wanted = [int(v) for v in attrs.get("output_shape", ())][-rank:]
    if wanted:
        wanted = [1] * (2 - rank) + wanted
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(shape[1:], stride, strict=True)]
    else:
        pads = (0,) * 4 if auto == "VALID" else explicit_pads(attrs, rank)
        return list(pads[:2]), [f - pads[a] - pads[a + 2] for a, f in enumerate(full)]
    if len(wanted) != 2:
        raise Refused(f"output_shape {wanted}: needs {rank} values")
    # what lies beyond the last product is zero, so the rest of a larger output is padding of the end
    begin, _ = halved([max(f - w, 0) for f, w in zip(full, wanted, strict=True)], upper)
    return begin, wanted


@operator(
    "ConvTranspose",
    limits="one or two axes of space, any stride, padding, dilation and groups; the weight and the bias constant; one "
    "convolution for each phase of the strides",
)
def _conv_transpose(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs = attributes(node)
    weight, scale, rank = _kernel(imp, node, constants)
    src = image(imp, node.input[0], (rank + 1,))
    shape, kernel, groups = imp.shapes[src], (weight.shape[2], weight.shape[3]), int(attrs.get("group", 1))
    if groups < 1 or len(weight) != shape[0] or shape[0] % groups:
        raise Refused(f"weight wants {len(weight)} channels in {groups} groups, its input has {shape[0]}")
    outs = weight.shape[1] * groups
    bias = _bias(imp, node, constants, outs)
    _check_kernel_shape(attrs, kernel, rank)
    stride = pair(attrs.get("strides", (1,) * rank), "strides", rank)
    dilation = pair(attrs.get("dilations", (1,) * rank), "dilations", rank)
    begin, out = _transposed_size(attrs, kernel, shape, rank)
    if min(out) < 1:
        raise Refused(f"the output would have shape {(outs, *out)}")
    build.check_parts(math.prod(min(s, o) for s, o in zip(stride, out, strict=True)))
    rows, cols = (_phases(shape[1 + a], kernel[a], stride[a], dilation[a], begin[a], out[a]) for a in (0, 1))
    turned = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(outs, -1, *kernel)
    kept = None if scale is None else np.tile(scale.reshape(-1), 1 if scale.size == 1 else groups)  # each group's
    srcs, places = [], []
    for row in rows:
        for col in cols:
            srcs.append(_phase(imp, src, (row, col), turned, bias, groups, kept))
            places.append(Place(row.first, col.first, *stride))
    made = build.mosaic(imp, srcs, places, (out[0], out[1]))
    imp.finish(made, image_axes(imp.shapes[made], rank + 1))


def _phase(
    imp: Importer,
    src: str,
    phases: tuple[_Phase, _Phase],
    weight: F32,
    bias: F32 | None,
    groups: int,
    scale: F32 | None,
) -> str:
    """Append the convolution of one phase of the rows and one of the columns."""
    row, col = phases
    ends = (row.begin, col.begin, row.end, col.end)
    src = build.pad(imp, src, _pads([min(p, 0) for p in ends]))
    if row.taps and col.taps:
        part = np.ascontiguousarray(weight[:, :, row.taps][:, :, :, col.taps])
    else:
        part, scale = np.zeros((*weight.shape[:2], max(len(row.taps), 1), max(len(col.taps), 1)), np.float32), None
    outside = _pads([max(p, 0) for p in ends])
    return build.conv(imp, src, part, bias, (1, 1), outside, (row.dilation, col.dilation), groups, scale)


def _pads(values: list[int]) -> Pads:
    return values[0], values[1], values[2], values[3]


# -- matrices


@operator("Gemm", limits="of a vector (N, C), or a flattened image, with a constant matrix; no transA")
def _gemm(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs = attributes(node)
    if attrs.get("transA", 0):
        raise Refused("transA is not supported")
    found = needed_weights(imp, node, 1, constants, "the right side")
    weight, scale = found
    if weight.ndim != 2:
        raise Refused(f"right side of shape {list(weight.shape)}: must be a matrix")
    if imp.rank(node.input[0]) != 1:
        raise Refused("its input is no vector: put Flatten before it")
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    if alpha != 1.0:
        weight = weight * np.float32(alpha)
        scale = None if scale is None or alpha <= 0 else scale * np.float32(alpha)  # -(-128) is no int8
    bias = weights_of(imp, node, 2, constants, "the bias")
    shift = None if bias is None else bias[0] * np.float32(beta)
    _matrix(imp, node.input[0], 0, weight if attrs.get("transB", 0) else weight.T, shift, scale)


@operator("MatMul", limits="of a tensor with a constant matrix on one side: over channels, or a flattened image")
def _matmul(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    left, right = node.input
    if imp.known(left) and imp.known(right):
        raise Refused("a product of two computed tensors is not supported; one side must be constant")
    flipped = imp.known(right)
    found = needed_weights(imp, node, 0 if flipped else 1, constants, "one side")
    name = right if flipped else left
    matrix, scale = found
    while matrix.ndim > 2 and len(matrix) == 1 and matrix.ndim <= 1 + imp.rank(name):
        matrix = matrix[0]
    if matrix.ndim != 2:
        raise Refused(f"{'left' if flipped else 'right'} side of shape {list(matrix.shape)}: must be a matrix")
    if flipped and imp.rank(name) < 2:
        raise Refused("the batch axis of its input would be summed over")
    weight = matrix if flipped else matrix.T
    _matrix(imp, name, imp.rank(name) - (2 if flipped else 1), weight, None, scale)


def _matrix(imp: Importer, name: str, axis: int, weight: F32, bias: F32 | None, scale: F32 | None) -> None:
    """A product over one axis with a matrix (out, in): a convolution, one with the whole image as kernel for a vector.

    Where the axis is not made of channels, or has not all of them, the image is rearranged so that it is.
    """
    value, outs = imp.value(name), len(weight)
    summed = value.order[axis]
    if weight.shape[1] != size_of(summed):
        raise Refused(f"matrix wants {weight.shape[1]} values, its input has {size_of(summed)}")
    shift = np.zeros(outs, np.float32)
    if bias is not None:
        if bias.size not in (1, outs):
            raise Refused(f"a bias of {bias.size} values for {outs} results")
        shift = np.broadcast_to(bias.reshape(-1), (outs,)).astype(np.float32)
    tensor, order = value.tensor, value.order
    if (len(order) > 1 and {a.axis for a in summed} | {0} != {0}) or any(
        a.axis == 0 for i, each in enumerate(order) for a in each if i != axis
    ):
        if _of_each_channel(imp, value, axis, outs) and pieces(_by_tokens(value, axis)) > FEW_PARTS:
            _each_channel(imp, value, axis, weight, shift, scale)
            return
        tensor, order = _tokens(imp, name, axis)
        summed = order[axis]
    tensor, kernel = _in_blocks(imp, tensor, _whole_kernel(weight, summed))
    made = build.conv(imp, tensor, kernel, shift, weight_scale=scale)
    imp.finish(made, (*order[:axis], whole(0, outs), *order[axis + 1 :]))


def _whole_kernel(weight: F32, summed: Axis) -> F32:
    """Return a matrix (out, in) as the weight of a convolution over the parts of the axes that it sums over."""
    outs = len(weight)
    by_axis = sorted(range(len(summed)), key=lambda i: (summed[i].axis, -summed[i].stride))
    turned = weight.reshape(outs, *(a.size for a in summed)).transpose(0, *(1 + i for i in by_axis))
    sizes = [size_of(a for a in summed if a.axis == axis) for axis in range(3)]
    return np.ascontiguousarray(turned.reshape(outs, *sizes))


def _in_blocks(imp: Importer, tensor: str, kernel: F32) -> tuple[str, F32]:
    """Return an image and the kernel that reads all of it, cut into blocks that lie behind each other as channels.

    A kernel of very many taps is more than a weight memory holds of one group of channels. Small ones stay, and those
    of the input, whose taps become channels anyway.
    """
    outs, channels, *size = kernel.shape
    parts = math.ceil(math.sqrt(size[0] * size[1] / MAX_TAPS))
    cuts = [min(parts, n) if min(size) > 1 else min(-(-n // MAX_TAPS), n) for n in size]
    count = cuts[0] * cuts[1]
    if count == 1 or count > FEW_PARTS or count * channels > build.MAX_READ or tensor == imp.input:
        return tensor, kernel
    rows, cols = (-(-n // c) for n, c in zip(size, cuts, strict=True))
    more = (cuts[0] * rows - size[0], cuts[1] * cols - size[1])
    tensor = build.pad(imp, tensor, (0, 0, *more))
    places = [(y * rows, x * cols) for y in range(cuts[0]) for x in range(cuts[1])]
    blocks = [build.crop(imp, tensor, range(y, y + rows), range(x, x + cols)) for y, x in places]
    wide = np.pad(kernel, ((0, 0), (0, 0), (0, more[0]), (0, more[1])))
    wide = wide.reshape(outs, channels, cuts[0], rows, cuts[1], cols).transpose(0, 2, 4, 1, 3, 5)
    return build.concat(imp, blocks), np.ascontiguousarray(wide.reshape(outs, -1, rows, cols))


def _of_each_channel(imp: Importer, value: Value, axis: int, outs: int) -> bool:
    """Whether an axis is all of the rows and columns, all others are made of channels, and these are not too many."""
    channels, height, width = imp.shapes[value.tensor]
    if channels * channels * outs * height * width > MAX_REPEATED:
        return False
    return all((atom.axis > 0) == (i == axis) for i, each in enumerate(value.order) for atom in each)


def _each_channel(
    imp: Importer, value: Value, axis: int, weight: F32, shift: NDArray[np.float32], scale: F32 | None
) -> None:
    """A product over the whole image of each channel: a convolution with the kernels of the matrix for each."""
    channels, outs = imp.shapes[value.tensor][0], len(weight)
    kernel = np.tile(_whole_kernel(weight, value.order[axis]), (channels, 1, 1, 1))
    scales = scale if scale is None or scale.size == 1 else np.tile(scale, channels)
    made = build.conv(imp, value.tensor, kernel, np.tile(shift, channels), groups=channels, weight_scale=scales)
    order = [joined(Atom(0, a.size, a.stride * outs) for a in each) for each in value.order]
    imp.finish(made, (*order[:axis], whole(0, outs), *order[axis + 1 :]))


def _others_in_space(value: Value, axis: int) -> dict[int, Axis]:
    """Return what becomes rows (1) and columns (2) where one axis of a value becomes the channels."""
    others: dict[int, Axis] = {1: (), 2: ()}
    for number, each in enumerate(value.order):
        for atom in each if number != axis else ():
            others[2 if atom.axis == 2 else 1] += (atom,)
    return others


def _by_tokens(value: Value, axis: int) -> Axes:
    others = _others_in_space(value, axis)
    return value.order[axis], joined(others[1]), joined(others[2])


def _tokens(imp: Importer, name: str, axis: int) -> tuple[str, Axes]:
    """Return a tensor whose channels are one axis of a value, and the axes of the value in it."""
    value = imp.value(name)
    others = _others_in_space(value, axis)
    tensor = arranged(imp, value.tensor, _by_tokens(value, axis))
    where: dict[Atom, Atom] = {}
    for place, atoms in others.items():
        for i, atom in enumerate(atoms):
            where[atom] = Atom(place, atom.size, size_of(atoms[i + 1 :]))
    order = [
        joined(where[a] for a in each) if n != axis else whole(0, size_of(each)) for n, each in enumerate(value.order)
    ]
    return tensor, tuple(order)
