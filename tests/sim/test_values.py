"""The value simulator against the naive machine on random programs: every vec of every image, then all of DRAM."""

import numpy as np
import pytest
from npu_sim.fast import values

from tests.programs import RandomProgram, random_machine, random_program
from tests.value_models import assert_same_values, random_images, simulated


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
    at = (p.input_range[0], p.output_range[0], p.output_range[1] - p.output_range[0])
    together = run(images, *at)
    alone = [run(image[None], *at)[0] for image in images]
    assert len({a.tobytes() for a in alone}) > 1
    np.testing.assert_array_equal(together, np.stack(alone))


def test_a_run_leaves_nothing_behind_for_the_next():
    p, rng = make(5), np.random.default_rng(5)
    images, boundaries = random_images(rng, p, 2), p.boundaries(rng)
    first = simulated(p, boundaries, images)
    np.testing.assert_array_equal(first.dram, simulated(p, boundaries, images).dram)
