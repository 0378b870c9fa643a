"""Integer multipliers, weights and biases, and the proof that no sum overflows: against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.passes import optimize
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import quantize
from npu_compiler.qgraph.multipliers import integer_weights, prove_no_overflow, rounded, shifts, worst_magnitude
from npu_isa.errors import CompileError
from npu_isa.machine.numerics import MAX_MULTIPLIER, MAX_SHIFT, lower

from tests.onnx_models import PIXELS, Net, save

FACTORS = st.floats(1e-12, 16000.0)


@given(FACTORS, st.none() | FACTORS)
def test_shift_is_the_largest_that_fits(factor, second):
    more = None if second is None else np.array([second])
    shift = int(shifts(np.array([factor]), more, "x")[0])
    most = max(factor, second or 0.0)
    fits = [n for n in range(1, MAX_SHIFT + 1) if np.ceil(most * 2.0**n - 1e-9) <= MAX_MULTIPLIER]
    assert shift == max(fits)
    assert 0 <= rounded(np.array([factor]), np.array([shift]))[0] <= MAX_MULTIPLIER


def test_factor_beyond_the_multiplier_is_refused():
    with pytest.raises(CompileError) as caught:
        shifts(np.array([1.0, 20000.0]), None, "node x")
    assert str(caught.value) == (
        "node x: an output step is 2e+04 times smaller than an input step, the multiplier reaches 16383.5\n"
        "  hint: quantize with other scales (--requantize for a QDQ model)"
    )


@given(st.integers(0, 10_000), st.sampled_from([None, 0.02]), st.sampled_from([None, 0.1]))
def test_integers_stand_for_the_real_weights(seed, residual, alpha):
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (4, 9)) * 10.0 ** rng.uniform(-3, 2, (4, 1))
    bias = rng.normal(0, 1, 4) * 10.0 ** rng.uniform(-3, 4, 4)
    source, out = 10.0 ** rng.uniform(-3, 1, 2)
    wanted = np.abs(weight).max(axis=1) / 127
    alpha = None if residual else alpha
    found = integer_weights(
        weight, bias, wanted, source, out, fixed=False, residual=residual, alpha=alpha, where="x"
    )  # fmt: skip
    # the weights' real scale is the multiplier's: the multiplier errs in no channel
    scale = found.mult * 2.0**-found.shift * out / source
    assert (scale >= wanted * (1 - 1e-9)).all()
    assert np.abs(weight - found.weight * scale[:, None]).max(axis=1) == pytest.approx(0, abs=float(scale.max()))
    assert (np.abs(weight - found.weight * scale[:, None]) <= 0.5001 * scale[:, None]).all()
    assert (np.abs(bias - found.bias * scale * source) <= 0.5001 * scale * source).all()
    assert found.mult.min() >= 1
    assert found.mult.max() <= MAX_MULTIPLIER
    second = None if found.mult2 is None else found.mult2 * 2.0**-found.shift
    if residual:
        assert second == pytest.approx(residual / out, abs=0.51 * 2.0 ** -float(found.shift.min()))
    elif alpha:
        assert second == pytest.approx(scale * source / out * alpha, abs=0.51 * 2.0 ** -float(found.shift.min()))
    else:
        assert second is None


def test_fixed_scales_are_not_touched():
    integers = np.array([[-128, 127, 5], [1, 2, -128]])
    scale = np.array([0.013, 0.0007])
    found = integer_weights(
        integers * scale[:, None], np.array([0.5, -0.25]), scale, 0.02, 0.5, fixed=True, residual=None, alpha=None,
        where="x",
    )  # fmt: skip
    assert np.array_equal(found.weight, integers)
    assert np.array_equal(found.bias, np.rint(np.array([0.5, -0.25]) / (0.02 * scale)))
    assert found.mult * 2.0**-found.shift == pytest.approx(0.02 * scale / 0.5, rel=2**-14)


def test_bias_beyond_32_bits_is_refused():
    with pytest.raises(CompileError, match=r"a bias is 2.5e\+10 steps of its accumulator, 32 bits hold 2147483647"):
        integer_weights(
            np.ones((1, 1)), np.array([5.0]), np.array([1e-8]), 0.02, 0.5, fixed=True, residual=None, alpha=None,
            where="x",
        )  # fmt: skip


# -- overflow


def test_worst_magnitude_is_that_of_any_position():
    weight = np.arange(-128, 128).astype(np.int8)
    wanted = [max(abs(int(w)), *(abs(int(lower(np.array(w), s, unsigned=False))) for s in range(5))) for w in weight]
    assert worst_magnitude(weight).tolist() == wanted
    assert worst_magnitude(np.array([-127], np.int8)) == 128  # rounding enlarges


@pytest.mark.parametrize("largest", [128, 255])
def test_proof_stops_exactly_at_the_limit(largest):
    count = ((1 << 31) - 1) // (128 * largest)
    room = (1 << 31) - 1 - count * 128 * largest
    weight = np.full((1, count), -128, np.int8)
    prove_no_overflow(weight, np.array([[room]], np.int32), largest, "x")
    prove_no_overflow(weight, np.array([[0], [-room]], np.int32), largest, "x")
    with pytest.raises(CompileError) as caught:
        prove_no_overflow(weight, np.array([[0], [-room - 1]], np.int32), largest, "node x")
    assert str(caught.value) == (
        f"node x: a sum may reach {1 << 31}, the accumulator holds {(1 << 31) - 1}\n"
        "  hint: the layer has too many weights per output for 32-bit sums"
    )


def test_lowering_can_be_what_overflows():
    """Weights of -127 fit in 8 bits; at position 4 each stands for -128."""
    count = (1 << 31) // (127 * 255)
    weight = np.full((1, count), -127, np.int8)
    assert count * 127 * 255 < 1 << 31
    with pytest.raises(CompileError, match="a sum may reach"):
        prove_no_overflow(weight, np.zeros((1, 1), np.int32), 255, "x")


def test_network_built_to_overflow_is_refused(tmp_path):
    """66,049 products of 127 with up to 255 do not fit 32 bits: a matrix over a large image, all weights equal."""
    net = Net((3, 17, 17))
    wide = net.node("Relu", net.conv("x", 3, 240, (1, 1)))
    net.node("Gemm", net.node("Flatten", wide), net.constant(np.ones((240 * 289, 1))), name="sum")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 17, 17, 3), dtype=np.uint8)
    with pytest.raises(CompileError) as caught:
        quantize(optimize(read_onnx(save(net.model("sum"), tmp_path))), pixels, PIXELS, QuantizeOptions())
    assert caught.value.where == "node sum"
    assert caught.value.message.startswith("a sum may reach 22")
