"""Axes as parts of a tensor's axes, and images as runs of evenly spaced rows and columns, against NumPy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from npu_compiler.frontend.layout import Atom, axis_atoms, image_axes, in_memory_order, joined, regrouped, size_of
from npu_compiler.frontend.resample import Run, runs


def places(axes, shape):
    """The place in the tensor's memory of each element of a value, an axis an axis."""
    strides = (shape[1] * shape[2], shape[2], 1)
    found = np.zeros(1, np.int64)
    for axis in axes:
        along = np.zeros(1, np.int64)
        for atom in axis:
            along = (along[:, None] + np.arange(atom.size) * atom.stride * strides[atom.axis]).reshape(-1)
        found = found[..., None] + along
    return found[0]


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=4, max_size=4), st.permutations(range(4)))
def test_reshapes_and_transposes_rename_elements(sizes, perm):
    """Channels split in two, any order, and axes joined again: as NumPy has the elements."""
    shape = (sizes[0] * sizes[1], sizes[2], sizes[3])
    split = regrouped((a for axis in image_axes(shape) for a in axis), sizes)
    assert split is not None
    turned = tuple(split[p] for p in perm)
    last = [sizes[p] for p in perm]
    merged = regrouped((a for axis in turned for a in axis), [last[0] * last[1], last[2] * last[3]])
    assert merged is not None
    want = np.arange(np.prod(shape)).reshape(sizes).transpose(perm)
    np.testing.assert_array_equal(places(turned, shape), want)
    np.testing.assert_array_equal(places(merged, shape), want.reshape(last[0] * last[1], last[2] * last[3]))
    assert in_memory_order(merged, shape) == (want.reshape(-1) == np.arange(want.size)).all()
    assert size_of(axis_atoms(merged, 0)) == shape[0]


def test_axes_that_would_be_torn():
    assert regrouped(image_axes((4, 1, 6))[0] + image_axes((4, 1, 6))[2], (3, 8)) is None
    assert regrouped((Atom(0, 4, 1),), (2, 0)) is None
    assert regrouped((Atom(0, 4, 1),), (2,)) is None
    assert joined((Atom(0, 2, 6), Atom(0, 2, 3), Atom(1, 3, 1), Atom(0, 3, 1))) == (
        Atom(0, 4, 3),
        Atom(1, 3, 1),
        Atom(0, 3, 1),
    )


WEIGHTS = [(1.0,), (0.5, 0.5), (0.25, 0.75)]


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(WEIGHTS)), min_size=1, max_size=40), st.integers(1, 4))
def test_runs_hold_every_output_once(taps, repeats):
    taps = taps * repeats
    found = {}
    for run in runs(taps):
        for i in range(run.count):
            out = run.first + i * run.step
            assert out not in found
            found[out] = (run.start + i * run.stride, run.weights)
    assert found == dict(enumerate(taps))


def test_a_period_makes_few_runs():
    half = [(o // 2 + 3, WEIGHTS[1 + o % 2]) for o in range(20)]
    assert runs(half) == [Run(0, 2, 10, 3, 1, WEIGHTS[1]), Run(1, 2, 10, 3, 1, WEIGHTS[2])]
    assert runs([(3 * o, WEIGHTS[0]) for o in range(5)]) == [Run(0, 1, 5, 0, 3, WEIGHTS[0])]
