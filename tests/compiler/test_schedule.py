"""The parts of the back end that can be judged alone: memory placement, rings, tokens, tilings."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_compiler.backend.emit import Ring
from npu_compiler.backend.memory import Buffer, place
from npu_compiler.backend.tiles import _tile_shapes, cuts
from npu_compiler.backend.tokens import _within_depth
from npu_isa.machine.config import load_machine

MACHINE = replace(load_machine("npu16"), act_region_bytes=1024)  # 256 words


@st.composite
def buffers(draw):
    found = []
    for i in range(draw(st.integers(1, 12))):
        first = draw(st.integers(0, 6))
        found.append(Buffer(f"b{i}", draw(st.integers(1, 120)), first, first + draw(st.integers(0, 4))))
    return found


@given(buffers())
def test_placed_buffers_that_live_together_never_overlap(wanted):
    placed = place(wanted, MACHINE)
    if isinstance(placed, Buffer):
        at_once = max(sum(b.words for b in wanted if b.first <= t <= b.last) for t in range(12))
        assert at_once > MACHINE.act_words // 4  # first fit wastes, but not without need
        return
    assert placed.keys() == {b.name for b in wanted}
    for a in wanted:
        assert 0 <= placed[a.name] <= MACHINE.act_words - a.words
        for b in wanted:
            if a.name < b.name and a.first <= b.last and b.first <= a.last:
                assert placed[a.name] + a.words <= placed[b.name] or placed[b.name] + b.words <= placed[a.name]


def test_buffers_that_disturb_each_other_stand_in_different_regions():
    src = Buffer("src", 10, 0, 3, frozenset({"residual"}))
    residual = Buffer("residual", 10, 0, 3)
    placed = place([src, residual], MACHINE)
    assert isinstance(placed, dict)
    assert placed["src"] // MACHINE.region_words != placed["residual"] // MACHINE.region_words


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30)), max_size=60))
def test_a_ring_never_hands_out_what_was_overwritten(requests):
    ring = Ring(30)
    memory: dict[int, tuple[int, int]] = {}
    for key, size in requests:
        start, fresh = ring.get((key, size), size)
        assert start + size <= 30
        span = range(start, start + size)
        if fresh:
            memory.update(dict.fromkeys(span, (key, size)))
        assert all(memory[i] == (key, size) for i in span)


@st.composite
def token_pairs(draw):
    """(given, taken) in program order, both strictly ascending, each given before it is taken."""
    steps = draw(st.lists(st.sampled_from("gt"), max_size=60))
    waiting, pairs = [], []
    for index, step in enumerate(steps):
        if step == "g":
            waiting.append(index)
        elif waiting:
            pairs.append((waiting.pop(0), index))
    return pairs


@given(token_pairs(), st.integers(2, 6))
def test_merged_tokens_keep_every_order_and_fit_the_fifo(pairs, depth):
    kept = _within_depth(pairs, depth)
    for given_at, taken_at in pairs:  # some token kept is given no earlier and taken no later
        assert any(g >= given_at and t <= taken_at for g, t in kept)
    assert all(g < t for g, t in kept)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(kept))
    for now in range(70):
        assert sum(g <= now < t for g, t in kept) <= depth


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 600))
def test_tile_shapes_cover_an_image_within_the_limit(height, width, limit):
    shapes = list(_tile_shapes(height, width, limit))
    assert shapes
    for rows, cols in shapes:
        assert rows * cols <= limit
        assert sum(cuts(height, rows)) == height
        assert sum(cuts(width, cols)) == width


@pytest.mark.parametrize(("total", "step", "expected"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2])])
def test_cuts(total, step, expected):
    assert cuts(total, step) == expected
