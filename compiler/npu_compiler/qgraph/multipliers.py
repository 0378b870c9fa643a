"""Integer multipliers for real factors, and the weights and biases that go with them (numerics: requantize)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from npu_isa.errors import CompileError
from npu_isa.machine.numerics import MAX_MULTIPLIER, MAX_SHIFT, lower
from numpy.typing import NDArray

from npu_compiler.qgraph.ir import I8, I32

F64 = NDArray[np.float64]

BIAS_LIMIT = 1 << 30
POWERS = 2.0 ** np.arange(1, MAX_SHIFT + 1)


def shifts(factor: F64, factor2: F64 | None, where: str) -> NDArray[np.int64]:
    """Return the largest shift n of each channel with both factors times 2^n at most MAX_MULTIPLIER in magnitude.

    Raises:
        CompileError: a factor is too large for any shift.
    """
    most = np.abs(factor) if factor2 is None else np.maximum(np.abs(factor), np.abs(factor2))
    found = (np.ceil(most[:, None] * POWERS - 1e-9) <= MAX_MULTIPLIER).sum(axis=1)
    if found.min(initial=1) < 1:
        raise CompileError(
            f"an output step is {most.max():.4g} times smaller than an input step, the multiplier reaches "
            f"{MAX_MULTIPLIER / 2:.1f}",
            where,
            "quantize with other scales (--requantize for a QDQ model)",
        )
    return np.asarray(found)


def rounded(factor: F64, shift: NDArray[Any]) -> I32:
    """Return factor * 2^shift as an integer."""
    return np.rint(factor * 2.0**shift).astype(np.int32)


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """The integers of a layer with weights, by output channel.

    Attributes:
        weight: int8, shape as given.
        bias, mult, shift: int32, shape (out,).
        mult2: of the residual, or below zero for a LeakyReLU; None without either.
    """

    weight: I8
    bias: I32
    mult: I32
    shift: I32
    mult2: I32 | None


def integer_weights(
    weight: F64,
    bias: F64,
    scale: F64,
    source: float,
    out: float,
    *,
    fixed: bool,
    residual: float | None,
    alpha: float | F64 | None,
    where: str,
) -> IntegerWeights:
    """Quantize a layer's weights and bias.

    The scales of the weights are raised a little so that the multiplier is exact, and so far that the bias fits.

    Args:
        weight: real weights, output channels first.
        bias: shape (out,).
        scale: wanted scale of each output channel's weights.
        source, out, residual: scales of the input, output and residual tensor.
        fixed: keep `scale` exactly (QDQ).
        alpha: slope below zero of a LeakyReLU, one or shape (out,).
        where: node name for messages.

    Raises:
        CompileError: the factors or the bias do not fit the machine's integers.
    """
    if not fixed:
        scale = np.maximum(scale, np.abs(bias) / (source * BIAS_LIMIT))
        scale = np.maximum(scale, out / source * 2.0**-40)
    factor = source * scale / out
    factor2 = second_factor(factor, out, residual, alpha)
    shift = shifts(factor, factor2, where)
    if not fixed:
        mult = np.maximum(np.ceil(factor * 2.0**shift - 1e-9), 1.0)
        scale = mult * 2.0**-shift * out / source
    biases = np.rint(bias / (source * scale))
    if np.abs(biases).max(initial=0) > 2 * BIAS_LIMIT - 1:
        raise CompileError(
            f"a bias is {np.abs(biases).max():.4g} steps of its accumulator, 32 bits hold {2 * BIAS_LIMIT - 1}",
            where,
            "the weights' scale is too small (--requantize for a QDQ model)",
        )
    column = scale.reshape(-1, *(1,) * (weight.ndim - 1))
    integers = np.clip(np.rint(weight / column), -128 if fixed else -127, 127)
    factor = source * scale / out
    factor2 = second_factor(factor, out, residual, alpha)
    return IntegerWeights(
        integers.astype(np.int8),
        biases.astype(np.int32),
        rounded(factor, shift),
        shift.astype(np.int32),
        None if factor2 is None else rounded(factor2, shift),
    )


def second_factor(factor: F64, out: float, residual: float | None, alpha: float | F64 | None) -> F64 | None:
    """Return what the second multiplier stands for: a residual's steps, or the factor of sums below zero.

    Args:
        factor: from accumulator to output steps, shape (out,).
        out, residual: scales of the output and of the residual tensor, if there is one; below zero to subtract it.
        alpha: slope below zero of a LeakyReLU, one or shape (out,); not with a residual.
    """
    assert residual is None or alpha is None
    if residual is not None:
        return np.full_like(factor, residual / out)
    return None if alpha is None else factor * alpha


def prove_no_overflow(weight: I8, bias_rows: I32, largest: int, where: str) -> None:
    """Refuse a layer whose 32-bit sums could overflow at any boundary.

    Rounding can enlarge a lowered value: a weight of -127 may stand for -128, an activation for 240 at most, which the
    type's own largest magnitude covers.

    Args:
        weight: output channels first.
        bias_rows: shape (rows, out).
        largest: largest magnitude of an activation, lowered or not (128 or 255).
        where: node name.

    Raises:
        CompileError: the proof fails.
    """
    most = worst_magnitude(weight).reshape(len(weight), -1).sum(axis=1) * largest
    total = most + np.abs(bias_rows.astype(np.int64)).max(axis=0)
    if total.max() >= 1 << 31:
        raise CompileError(
            f"a sum may reach {int(total.max())}, the accumulator holds {(1 << 31) - 1}",
            where,
            "the layer has too many weights per output for 32-bit sums",
        )


def worst_magnitude(weight: I8) -> NDArray[np.int64]:
    """Return the largest magnitude that each weight can take, lowered at any position or not."""
    values = np.arange(-128, 128)
    lowered = np.stack([values, *(lower(values, s, unsigned=False) for s in range(5))])
    table = np.abs(lowered).max(axis=0)
    return np.asarray(table[weight.astype(np.int64) + 128])
