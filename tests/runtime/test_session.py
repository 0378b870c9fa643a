"""The session: the dial, its cost, time, and values against the golden model."""

import numpy as np
import pytest
from npu_compiler.qgraph import golden
from npu_isa.errors import DataError, NpuError
from npu_runtime.session.session import Session, decode_output


def test_any_ratio_is_legal_and_latency_never_rises(session):
    cycles, effective = [], []
    for ratio in range(101):
        effective.append(session.set_ratio(ratio))
        cycles.append(session.timing().total_cycles)
        steps = session.binary.dial[: session.binary.steps_at(ratio)]
        assert session.low_macs == (steps[-1].low_macs if steps else 0)
    assert cycles == sorted(cycles, reverse=True)
    assert effective == sorted(effective)
    assert (effective[0], effective[100]) == (0.0, 100.0)
    assert cycles[100] < cycles[0]


def test_effective_ratio_is_the_nearest_step(session):
    macs = session.binary.dial_macs
    steps = [0, *(step.low_macs for step in session.binary.dial)]
    assert session.ratios == pytest.approx([100 * low / macs for low in steps])
    for ratio in np.linspace(0, 100, 37):
        nearest = min(abs(100 * low / macs - ratio) for low in steps)
        assert abs(session.set_ratio(float(ratio)) - ratio) == pytest.approx(nearest)


def test_sets_are_nested(session):
    before = (0,) * session.binary.registers
    for ratio in range(101):
        session.set_ratio(ratio)
        assert all(a <= b for a, b in zip(before, session.boundaries, strict=True))
        before = session.boundaries


@pytest.mark.parametrize("ratio", [-1, 100.5, float("nan"), float("inf")])
def test_ratio_outside_is_refused_and_changes_nothing(session, ratio):
    session.set_ratio(50)
    before = session.boundaries
    with pytest.raises(NpuError, match=r"outside 0\.\.100"):
        session.set_ratio(ratio)
    assert session.boundaries == before


def test_switching_costs_a_byte_per_layer_and_the_latch(session):
    assert session.switch_cycles == session.binary.registers + 1
    session.set_ratio(25)
    session.set_ratio(75)
    assert session.switch_cycles_total == 2 * session.switch_cycles


def test_illegal_boundaries_are_refused(session):
    layer = next(x for x in session.binary.layers if x.register == 0)
    wrong = list(session.boundaries)
    wrong[0] = layer.groups + 1
    with pytest.raises(NpuError, match=f"boundary {layer.groups + 1} is not legal for layer {layer.name}"):
        session.set_boundaries(wrong)
    with pytest.raises(NpuError, match="boundaries given"):
        session.set_boundaries(wrong[1:])


@pytest.mark.parametrize("ratio", [0, 37, 100])
def test_outputs_are_those_of_the_golden_model(digits, session, images, ratio):
    session.set_ratio(ratio)
    tensor = digits.quantized.tensors[digits.quantized.output_tensors[0]]
    out = golden.run(digits.quantized, session.prepare(images.images), session.boundaries)[tensor.name]
    logical = [tensor.channel_map.index(c) for c in range(10)]
    assert np.array_equal(session.run_integers(images.images), out[:, 0, 0, logical])
    assert np.allclose(session.run(images.images), out[:, 0, 0, logical] * tensor.scale, rtol=1e-6)


def test_time_needs_no_data_and_does_not_depend_on_the_session(digits, session):
    session.set_ratio(50)
    other = Session(digits.binary)
    assert other.timing(session.boundaries).total_cycles == session.timing().total_cycles
    assert session.latency_us() == pytest.approx(session.timing().total_cycles / 1e3)  # npu32 runs at 1 GHz


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 1), np.uint8)]
)
def test_wrong_images_are_refused(session, wrong):
    with pytest.raises(DataError, match="images are") as error:
        session.run(wrong)
    assert "(N, 8, 8, 1)" in error.value.hint


def test_input_bytes_come_from_the_table(session):
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1) * 4
    info = session.binary.input
    real = (pixels * info.pixel_scale - info.mean[0]) / info.std[0]
    expected = np.clip(np.rint(real / info.scale), *((-128, 127) if info.signed else (0, 255)))
    got = session.prepare(pixels)
    assert np.array_equal(got.view(np.int8) if info.signed else got, expected)


def test_wide_output_is_low_plane_then_high_plane(digits):
    out = digits.binary.outputs[0]
    raw = np.zeros((1, out.bytes), np.uint8)
    at = out.channel_map.index(3)
    raw[0, at], raw[0, 16 + at] = 0xFE, 0xFF  # -2 in 16 bits
    assert decode_output(out, raw)[0].tolist() == [0, 0, 0, -2, 0, 0, 0, 0, 0, 0]
