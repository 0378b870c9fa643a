"""The value simulator and the naive machine on the same program, images and boundaries: what each writes."""

from dataclasses import dataclass

import numpy as np
from npu_isa.isa.ops import Op, Vec
from npu_sim.fast.values.run import Values
from npu_sim.random_programs.programs import RandomProgram

from tests.naive_machine import NaiveMachine, byte_value


@dataclass(frozen=True)
class Written:
    """What a program wrote.

    Attributes:
        dram: uint8 (images, bytes): all DRAM after the constants.
        vecs: for each vec in order (instruction index, values (images, tile_h, tile_w, lanes)).
    """

    dram: np.ndarray
    vecs: list[tuple[int, np.ndarray]]


def simulated(
    p: RandomProgram, boundaries: tuple[int, ...], images: np.ndarray, ops: tuple[Op, ...] | None = None
) -> Written:
    """Run the value simulator on all images at once, with other operations if told so.

    Watched and not watched it has to write the same.
    """
    values = Values(p.ops if ops is None else ops, p.machine, p.constants, boundaries, p.dram_bytes)
    all_of_it, vecs = ((len(p.constants), p.dram_bytes),), []
    dram = values.run(images, p.input_range[0], all_of_it, lambda op, got: vecs.append((op.index, got.copy())))
    alone = values.run(images, p.input_range[0], all_of_it)
    np.testing.assert_array_equal(alone, dram)
    return Written(dram, vecs)


def naive(p: RandomProgram, boundaries: tuple[int, ...], images: np.ndarray) -> Written:
    """Run the naive machine on one image after the other."""
    drams, vecs = [], []
    for image in images:
        machine, found = NaiveMachine(p.machine, p.constants.tobytes(), p.dram_bytes), []
        machine.dram[p.input_range[0] : p.input_range[0] + image.size] = image.tobytes()

        def observe(op, m, found=found):
            if isinstance(op, Vec):
                found.append((op.index, vec_output(op, m)))

        machine.run(p.ops, boundaries, observe)
        drams.append(np.frombuffer(bytes(machine.dram[len(p.constants) :]), np.uint8))
        vecs.append(found)
    together = [(same[0][0], np.stack([v for _, v in same])) for same in zip(*vecs, strict=True)]
    return Written(np.stack(drams), together)


def vec_output(op: Vec, m: NaiveMachine) -> np.ndarray:
    """Read back what a vec wrote, value by value: int64 (tile_h, tile_w, lanes)."""
    g = op.geom
    found = np.zeros((op.tile_h, op.tile_w, op.lanes), np.int64)
    for y, x, lane in np.ndindex(found.shape):
        group, byte = divmod(op.out_byte + lane, 16)
        word = op.out_base + y * g.out_row_pitch + x * g.out_pixel_pitch + group * (1 + g.wide)
        value = byte_value(m.act[word * 16 + byte], g.clamp_low >= 0 or g.table)
        if g.wide:
            value = m.act[word * 16 + byte] + 256 * byte_value(m.act[word * 16 + 16 + byte], False)
        found[y, x, lane] = value
    return found


def assert_same_values(p: RandomProgram, boundaries: tuple[int, ...], images: np.ndarray) -> Written:
    """Compare every vec of every image, and then all of DRAM; return what both wrote."""
    got, want = simulated(p, boundaries, images), naive(p, boundaries, images)
    assert [i for i, _ in got.vecs] == [i for i, _ in want.vecs]
    for (index, a), (_, b) in zip(got.vecs, want.vecs, strict=True):
        differ = np.argwhere(a != b)
        assert not len(differ), (
            f"instruction {index}, boundaries {boundaries}: {len(differ)} of {a.size} values differ, first at "
            f"(image, y, x, lane) = {differ[0].tolist()}: {a[tuple(differ[0])]}, expected {b[tuple(differ[0])]}"
        )
    np.testing.assert_array_equal(got.dram, want.dram)
    return got


def random_images(rng: np.random.Generator, p: RandomProgram, count: int) -> np.ndarray:
    """Return different images: uint8 (count, input bytes); the second holds extremes only."""
    images = p.images(rng, count)
    if count > 1:
        images[1] = rng.choice(np.array([0, 127, 128, 255], np.uint8), images.shape[1])
    return images
