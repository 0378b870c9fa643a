"""Integer factors for sums of bytes whose zero is not byte 0: the zeros go into the bias, which is a whole number.

A node without weights makes y = (sum * mult + residual * mult2) >> shift of bytes. Where zeros leave a constant that
no multiple of mult is near, all of the sum is weighted by a small integer: the bias then counts in finer steps.
"""

from dataclasses import dataclass

import numpy as np
from npu_isa.errors import CompileError
from npu_isa.machine.numerics import MAX_MULTIPLIER, MAX_SHIFT

from npu_compiler.qgraph.ir import I32, Clamp, Epilogue, QNode, QTensor, QWindow, Residual, Window

WEIGHTS = np.arange(1, 128)  # what a byte may be weighted by
NEAR = np.arange(-3, 4)  # other factors that are tried, in their last places
BYTE = 255  # steps that a value is away from its zero, at most
ACCUMULATOR = 1 << 30


@dataclass(frozen=True)
class Offset:
    """Integers of one node, for all of its channels.

    Attributes:
        weight: of each byte summed.
        bias, mult, mult2, shift: of the epilogue; mult2 is 0 where there is no residual.
        error: steps of the output that the exact result is missed by before it is rounded, at most.
    """

    weight: int
    bias: int
    mult: int
    mult2: int
    shift: int
    error: float


def offset_factors(factor: float, factor2: float, taps: int, zeros: tuple[int, int, int], where: str) -> Offset:
    """Return integers for y = factor * sum(x - x0) + factor2 * (r - r0) + y0 that miss it least.

    Args:
        factor, factor2: above 0; 0 for factor2 where there is no residual.
        taps: bytes summed.
        zeros: x0, r0, y0.
        where: node name for messages.

    Raises:
        CompileError: the factors fit no multiplier.
    """
    reach = float(taps * BYTE)
    weight, less, near, near2 = (
        axis.ravel()
        for axis in np.meshgrid(WEIGHTS[: ACCUMULATOR // (taps * BYTE)], [0, 1, 2], NEAR, NEAR * (factor2 > 0))
    )
    most = np.maximum(factor / weight, factor2)
    shift = np.minimum(np.floor(np.log2(MAX_MULTIPLIER / most)), MAX_SHIFT).astype(np.int64) - less
    power = 2.0**shift
    mult = np.rint(factor / weight * power).astype(np.int64) + near
    mult2 = np.rint(factor2 * power).astype(np.int64) + near2
    fits = (shift >= 1) & (mult >= 1) & (mult <= MAX_MULTIPLIER) & (mult2 >= 0) & (mult2 <= MAX_MULTIPLIER)
    x0, r0, y0 = zeros
    wanted = y0 * power - r0 * mult2
    bias = np.rint(wanted / np.maximum(mult, 1))
    error = np.abs(wanted - bias * mult) / power
    error += np.abs(mult * weight / power - factor) * reach + np.abs(mult2 / power - factor2) * BYTE
    error = np.where(fits & (np.abs(bias) < ACCUMULATOR), error, np.inf)
    best = int(np.argmin(error + 1e-12 * weight))
    if not np.isfinite(error[best]):
        raise CompileError(
            f"an output step is {max(factor, factor2):.4g} times smaller than an input step, the multiplier reaches "
            f"{MAX_MULTIPLIER / 2:.1f}",
            where,
            "quantize with other scales (--requantize for a QDQ model)",
        )
    at = int(weight[best])
    return Offset(
        at, int(bias[best]) - at * taps * x0, int(mult[best]), int(mult2[best]), int(shift[best]), float(error[best])
    )


def on_channels(tensor: QTensor, value: int) -> I32:
    """Return a value on the channels that are used, 0 on the others."""
    return np.where(np.array(tensor.channel_map) >= 0, value, 0).astype(np.int32)


def padded(
    name: str, onnx_nodes: tuple[str, ...], tensors: tuple[str, str, str], out: QTensor, zero: int, window: Window
) -> list[QNode]:
    """Return what pads an image with the byte of its zero: the image, padded with byte 0, and such a border.

    The border is that of a tensor which is 1 everywhere: padding makes it 0 outside, and a factor and a bias make of 1
    and 0 the byte 0 and that of the zero.

    Args:
        name: of the last node.
        onnx_nodes: that all stand for.
        tensors: the image, the tensor of ones and the border.
        out: the padded image.
        zero: its byte.
        window: 1x1, with stride and pads.
    """
    src, ones, border = tensors
    sign = 1 if zero < 0 else -1
    one, shift = on_channels(out, 1), np.ones(out.channels, np.int32)
    nothing, whole = 0 * one, Clamp(*out.limits)
    weight = (sign * one).astype(np.int8)[:, None, None]
    made = (
        (ones, src, Window(), Epilogue(one, 2 * one, shift, whole), 0 * weight),
        (border, ones, window, Epilogue(-sign * one, 2 * abs(zero) * one, shift, whole), weight),
    )
    nodes: list[QNode] = [
        QWindow(to, to, onnx_nodes, source, pads, epilogue, "mac", weights)
        for to, source, pads, epilogue, weights in made
    ]
    epilogue = Epilogue(nothing, 2 * one, shift, whole, Residual(border, 2 * one))
    return [*nodes, QWindow(name, out.name, onnx_nodes, src, window, epilogue, "sum")]
