"""Learned rounding: every prefix of the places errs less, by the windows themselves; the 8-bit form is kept."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from npu_compiler.lowering.rounding import _Moments, _settled
from npu_isa.machine.numerics import lower

SIZE = 16


def random_layer(rng, outs=6, places=3):
    """Windows with correlated columns, lowered ones, weights, positions."""
    depth = SIZE * places
    mix = rng.normal(0, 1, (depth, depth)) + 2 * np.eye(depth)
    x = np.clip(np.rint(rng.normal(0, 1, (400, depth)) @ mix * 8), -128, 127)
    lx = np.asarray(lower(x.astype(np.int64), 2, unsigned=False), np.float64)
    weight = np.clip(np.rint(rng.normal(0, 30, (outs, depth))), -127, 127).astype(np.int64)
    return x - x.mean(axis=0), lx - lx.mean(axis=0), weight, rng.integers(0, 5, (places, outs))


def error(x, lx, weight, made, shift, places):
    """Return the variance over the windows of each output's error with the first places in 4 bits."""
    w, low = weight.astype(np.float64), lower(made, np.repeat(shift.T, SIZE, axis=1), unsigned=False)
    end = places * SIZE
    return ((x[:, :end] @ w[:, :end].T - lx[:, :end] @ low[:, :end].T) ** 2).mean(axis=0)


@pytest.mark.parametrize("seed", range(8))
def test_the_error_falls_by_the_windows_themselves(seed):
    rng = np.random.default_rng(seed)
    x, lx, weight, shift = random_layer(rng)
    moments = _Moments(lx.T @ lx / 400, lx.T @ x / 400, 1e-9 * (x.T @ x) / 400)
    made = _settled(weight, shift, SIZE, moments)
    for places in (1, 2, 3):
        before, after = (error(x, lx, weight, w, shift, places).sum() for w in (weight, made))
        assert after < before, places


@pytest.mark.parametrize("seed", range(4))
def test_the_8_bit_form_is_kept_where_it_counts_more(seed):
    """With a heavy weight on it no stored value moves; with a light one, all that move lower to another code."""
    rng = np.random.default_rng(seed)
    x, lx, weight, shift = random_layer(rng)
    ll, cross, xx = lx.T @ lx / 400, lx.T @ x / 400, x.T @ x / 400
    assert np.array_equal(_settled(weight, shift, SIZE, _Moments(ll, cross, 1e9 * xx)), weight)
    made = _settled(weight, shift, SIZE, _Moments(ll, cross, 1e-9 * xx))
    at = np.repeat(shift.T, SIZE, axis=1)
    moved = made != weight
    assert moved.any()
    assert np.array_equal(moved, lower(made, at, unsigned=False) != lower(weight, at, unsigned=False))
    near = made - np.sign(made - weight)  # one step back towards the given value lowers to another code: nearest kept
    assert (lower(near, at, unsigned=False) != lower(made, at, unsigned=False))[moved].all()


def test_a_hand_worked_case():
    """Two equal columns, weights 6 and 6 at position 2: each rounds to 8 (6 + 2 >> 2 = 2), off by 2 + 2 in all.

    One of them lowered to 4 instead makes the sum 12, exact; it is stored as 5, the nearest value that lowers to 4.
    """
    ones = np.zeros((SIZE, SIZE))
    ones[:2, :2] = 1.0
    weight = np.zeros((1, SIZE), np.int64)
    weight[0, :2] = 6
    made = _settled(weight, np.array([[2]]), SIZE, _Moments(ones, ones, 1e-3 * ones))
    assert made[0, :2].tolist() == [5, 6]
    assert int(lower(made[0, :2], 2, unsigned=False).sum()) == 12


def test_the_same_bytes_whatever_the_number_of_threads(tmp_path):
    """Where windows are taken must not depend on how the images are shared out to threads."""
    demo = Path(__file__).parents[1] / "demo"
    made = []
    for count in (1, 2, 5):
        out = tmp_path / f"{count}.npuq"
        code = f"import os, sys; os.cpu_count = lambda: {count}; from npu_runtime.cli import main; sys.exit(main())"
        argv = ["quantize", demo / "digits.onnx", "--calibration", demo / "digits_train.npz", "-o", out]
        subprocess.run([sys.executable, "-c", code, *map(str, argv)], check=True, capture_output=True)
        made.append(out.read_bytes())
    assert made[0] == made[1] == made[2]
