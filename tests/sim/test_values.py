"""The value simulator against the naive machine on random programs: every vec of every image, then all of DRAM."""

import numpy as np
import pytest
from npu_sim.fast.values import run as values
from npu_sim.random_programs.machines import random_machine
from npu_sim.random_programs.programs import RandomProgram, random_program

from tests.value_models import assert_same_values, random_images


def make(seed: int, layers: int = 2) -> RandomProgram:
    rng = np.random.default_rng(seed)
    return random_program(rng, random_machine(rng), layers)


def boundary_vectors(p: RandomProgram, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """All in 8 bits, as much as possible in 4 bits, and something between."""
    most = tuple(p.legal[r][-1] for r in range(p.registers))
    return list(dict.fromkeys([(0,) * p.registers, most, p.boundaries(rng)]))


@pytest.mark.parametrize("seed", range(40))
def test_random_programs(seed):
    p, rng = make(seed), np.random.default_rng(seed)
    for boundaries in boundary_vectors(p, rng):
        assert_same_values(p, boundaries, random_images(rng, p, 3))


def test_images_in_several_batches(monkeypatch):
    """Seven images in batches of three, the memories dirty from the batch before: each as if it were alone."""
    p, rng = make(3), np.random.default_rng(3)
    images, boundaries = random_images(rng, p, 7), p.boundaries(rng)
    monkeypatch.setattr(values, "MAX_BATCH", 3)
    run = values.Values(p.ops, p.machine, p.constants, boundaries, p.dram_bytes).run
    at = (p.input_range[0], (p.output_range,))
    together = run(images, *at)
    alone = [run(image[None], *at)[0] for image in images]
    assert len({a.tobytes() for a in alone}) > 1
    np.testing.assert_array_equal(together, np.stack(alone))


def test_runs_leave_nothing_behind_and_boundaries_share_nothing_but_work():
    """Each vector prepared from another one, in any order and again, as if prepared by itself."""
    p, rng = make(17), np.random.default_rng(17)
    images = random_images(rng, p, 2)
    at = (images, p.input_range[0], (p.output_range,))
    vectors = boundary_vectors(p, rng)
    alone = {b: values.Values(p.ops, p.machine, p.constants, b, p.dram_bytes).run(*at) for b in vectors}
    assert len({v.tobytes() for v in alone.values()}) > 1
    prepared = values.Values(p.ops, p.machine, p.constants, vectors[0], p.dram_bytes)
    for b in [*vectors, *vectors[::-1]]:
        prepared = prepared.at(b)
        np.testing.assert_array_equal(prepared.run(*at), alone[b])


def test_outputs_follow_each_other():
    """Three ranges of DRAM, one of them twice: their bytes in that order, of every image."""
    p, rng = make(5), np.random.default_rng(5)
    images, boundaries = random_images(rng, p, 3), p.boundaries(rng)
    run = values.Values(p.ops, p.machine, p.constants, boundaries, p.dram_bytes).run
    first, end = p.output_range
    ranges = ((first + 16, end), (first, first + 32), (first + 16, end))
    whole = run(images, p.input_range[0], (p.output_range,))
    expected = np.concatenate([whole[:, a - first : b - first] for a, b in ranges], axis=1)
    np.testing.assert_array_equal(run(images, p.input_range[0], ranges), expected)
