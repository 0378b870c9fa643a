"""The baseline: conventional INT4, one 4-bit grid for a tensor and for each output channel.

A 4-bit grid of step d is an 8-bit one of step d / 16 lowered at position 4, so the baseline runs on the same machine.
"""

import numpy as np

from npu_compiler.options import Uniform
from npu_compiler.quantize.calibrate import F64, Histogram

STEPS = 16  # 8-bit steps in one of 4 bits
FACTORS = np.linspace(0.2, 1.0, 81)


def activation_scale(histogram: Histogram, span: tuple[float, float], signed: bool, kind: Uniform) -> float:
    """Return the 8-bit scale of a tensor's 4-bit grid.

    Args:
        histogram: of all channels together.
        span: least and largest value.
        signed: codes -8..7, else 0..15.
        kind: "minmax", or "mse" for the range of least squared error.
    """
    low, high = span
    step = max(high / 7, -low / 8) if signed else high / 15
    if step <= 0:
        return 1.0
    if kind == "mse":
        codes = (-8, 7) if signed else (0, 15)
        counts, x = histogram.counts.sum(axis=0), histogram.centers
        errors = [counts @ (x - np.clip(np.rint(x / (step * f)), *codes) * step * f) ** 2 for f in FACTORS]
        step *= FACTORS[int(np.argmin(errors))]
    return float(step / STEPS)


def weight_scale(weight: F64, kind: Uniform) -> F64:
    """Return the 8-bit scale of each output channel's 4-bit grid; weight: shape (out, in, taps)."""
    flat = weight.reshape(len(weight), -1)
    step: F64 = np.abs(flat).max(axis=1) / 7
    step = np.where(step == 0, 1.0, step)
    if kind == "mse":
        tried = step * FACTORS[:, None]
        errors = [((flat - np.clip(np.rint(flat / t[:, None]), -8, 7) * t[:, None]) ** 2).sum(axis=1) for t in tried]
        step = tried[np.argmin(errors, axis=0), np.arange(len(step))]
    return np.asarray(step / STEPS)
