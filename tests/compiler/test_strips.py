"""Strips: they cover what is made, lie where they are said to, and are refused only if the smallest does not fit."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from npu_compiler.backend import check_fit, compile_quantized, make_plan
from npu_compiler.backend.memory import Pitch, words_per_pixel
from npu_compiler.backend.strips import Cut, Job, Passing, even_cuts, moved_bytes, strips_of
from npu_compiler.backend.tiles import tiling_of
from npu_compiler.backend.transfers import Operand
from npu_compiler.outputs import Output
from npu_compiler.qgraph.ir import (
    Clamp,
    Epilogue,
    Place,
    Preprocess,
    QFold,
    QMosaic,
    QTensor,
    QuantizedGraph,
    QWindow,
    Window,
)
from npu_isa.check.program import check_binary
from npu_isa.errors import CompileError
from npu_isa.isa.codec import decode
from npu_isa.isa.ops import Load, Store
from npu_isa.isa.resolve import resolve
from npu_isa.machine.config import load_machine
from npu_isa.machine.timing import transfer
from npu_runtime.session.session import Session

from tests.equality import compare, tiny_machine
from tests.qgraphs import random_qgraph

NPU16 = load_machine("npu16")


def pooled(height, width, channels, window, out, kind="sum"):
    """Return a network that gathers an image of `channels` and pools it."""
    channel_map = tuple(range(channels))
    tensors = [
        QTensor("image", height, width, channels, 1.0, False, channel_map),
        QTensor("gathered", height, width, channels, 1.0, False, channel_map),
        QTensor("copied", height, width, channels, 1.0, False, channel_map),
        QTensor("pooled", *out, channels, 1.0, False, channel_map),
    ]
    one = np.ones(channels, np.int32)
    e = Epilogue(0 * one, one, one, Clamp(0, 255))
    weight = np.ones((channels, *window.kernel), np.int8) if kind == "mac" else None
    nodes = (
        QFold("fold", "gathered", (), "image", Window()),
        QWindow("copy", "copied", (), "gathered", Window(), e, "sum"),
        QWindow("pool", "pooled", (), "copied", window, e, kind, weight),
    )
    pre = Preprocess(1.0, (0.0,) * channels, (1.0,) * channels, (), ())
    table = np.zeros((channels, 256), np.uint8)
    named = {t.name: t for t in tensors}
    return QuantizedGraph("net", nodes, named, "image", (Output("pooled", "pooled", (channels, *out)),), pre, table)


def job(node, graph, machine, passing=()):
    src, out = graph.tensors[node.src], graph.tensors[node.out]
    pitch = Pitch(words_per_pixel(src), words_per_pixel(src) * src.width)
    return Job(node, tiling_of(node, src, out, pitch, machine), src, out, passing, machine)


@given(st.integers(1, 300))
def test_even_cuts_are_all_lengths_of_even_pieces(total):
    found = even_cuts(total)
    assert found[0] == 1
    assert found[-1] == total
    assert all(a < b for a, b in pairwise(found))
    assert {-(-total // length) for length in found} == {-(-total // -(-total // k)) for k in range(1, total + 1)}


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.tuples(*[st.integers(1, 9)] * 3))
def test_strips_make_every_pixel_of_every_column_tile_once(height, width, groups, steps):
    graph = pooled(height, width, 16 * groups, Window(), (height, width))
    work = job(graph.nodes[2], graph, NPU16)
    strips = strips_of(work, Cut(*steps, buffers=2))
    made = [(y, x, c) for s in strips for y in s.y for x in s.x for c in s.columns]
    assert sorted(made) == [(y, x, c) for y in range(height) for x in range(width) for c in range(groups)]


@given(st.integers(0, 500), st.integers(0, 300), st.integers(0, 300), st.integers(1, 40), st.integers(1, 9), st.data())
def test_an_origin_is_an_address_that_reaches_the_same_pixels(base, row0, col0, width, pixel, data):
    pitch = Pitch(pixel, width * pixel + data.draw(st.integers(0, 7)))
    at = Operand(base, row0, range(col0, col0 + width), 2, 3, pitch)
    word = data.draw(st.integers(2, 4))
    address, row = at.origin(word)
    assert address >= 0
    assert row >= row0
    for y, x in ((row0, col0), (row0 + 3, col0 + width - 1)):
        assert address + (y - row) * pitch.row + x * pitch.pixel == at.address(y, x, word)
    assert at.address(row0, col0, 2) == base


@pytest.mark.parametrize("kernel", [1, 3])
def test_full_width_comes_first_where_it_fits_half_the_memory(kernel):
    """Unless others move far fewer bytes: rows of a 3x3 window one by one load each input row three times."""
    graph = pooled(64, 64, 64, Window((kernel, kernel), pad_top=kernel // 2, pad_left=kernel // 2), (64, 64), "max")
    machine = replace(NPU16, act_banks=1)
    pitch = make_plan(graph, machine).pitches["copied"]
    row = 2 * ((kernel - 1) * pitch.row + 64 * pitch.pixel + 64 * 4)  # words of two buffers each of source and output
    for words, cut in ((row, kernel == 3), (row - 1, True)):
        (_, pool) = make_plan(graph, replace(machine, act_region_bytes=words // 2 * 16)).nodes
        assert any(len(s.x) < 64 or len(s.columns) < 4 for s in pool.strips) == cut


@pytest.mark.parametrize("seed", range(20))
def test_moved_bytes_are_those_of_the_program(seed):
    """Whole bursts of the loads and stores of a pool, alone in its program but for the copy before it."""
    rng = np.random.default_rng(seed)
    size, kernel, groups = int(rng.integers(14, 24)), int(rng.integers(1, 4)), int(rng.integers(1, 5))
    out = size - kernel + 1
    graph = pooled(size, size, 16 * groups, Window((kernel, kernel)), (out, out))
    machine = replace(NPU16, act_region_bytes=1024 * int(rng.integers(1, 4)), dram_burst_bytes=16)
    plan = make_plan(graph, machine)
    n = plan.nodes[1]
    assert n.moved.keys() == {"src", "out"}  # neither is resident
    binary = compile_quantized(graph, machine)
    ops = [op for op, layer in zip(resolve(decode(binary.code)), binary.layer_of, strict=True) if layer == 1]
    moves = [op for op in ops if isinstance(op, Store) or (isinstance(op, Load) and op.memory == 0)]
    got = sum(transfer(op, 0, machine).bursts for op in moves) * machine.dram_burst_bytes
    s, count = n.strips[0], len(n.strips)
    passing = tuple(
        Passing(role, graph.tensors[name], groups, plan.pitches[name], sliced=True)
        for role, name in (("src", n.node.src), ("out", n.node.out))
    )
    cut = Cut(len(s.y), len(s.x), len(s.columns), len(n.moved["src"].buffers))
    latency = count * machine.dram_latency_cycles * machine.dram_bytes_per_cycle
    estimate = moved_bytes(job(n.node, graph, machine, passing), cut) - latency
    last = -(-n.tiling.columns // cut.columns) * cut.columns / n.tiling.columns  # the last slice counts as a whole one
    assert got <= estimate <= got * last


def raised(machine, hint):
    key, value = re.match(r"raise (\w+) to at least (\d+) in ", hint).groups()
    return key, replace(machine, **{key: int(value)})


@pytest.mark.parametrize("seed", range(30))
def test_a_machine_with_what_a_refusal_names_is_the_least_that_does(seed):
    """Following the hints leads to a program; a unit less of the last key is refused for the same node."""
    rng = np.random.default_rng(seed)
    graph, machine = random_qgraph(rng), tiny_machine(rng)
    unit = machine.act_banks * 16
    machine = replace(machine, act_region_bytes=unit, weight_memory_bytes=16, param_memory_bytes=4 * machine.array_cols)
    refused = []
    while True:
        try:
            check_fit(graph, machine)
            break
        except CompileError as error:
            key, larger = raised(machine, error.hint)
            assert getattr(larger, key) > getattr(machine, key)
            refused.append((key, error.where))
            machine = larger.check()
    assert {key for key, _ in refused} >= {"weight_memory_bytes", "param_memory_bytes"}
    check_binary(compile_quantized(graph, machine))
    for key, where in dict(refused).items():
        step = {"act_region_bytes": unit, "weight_memory_bytes": 16, "param_memory_bytes": 4 * machine.array_cols}[key]
        with pytest.raises(CompileError, match=key) as found:
            check_fit(graph, replace(machine, **{key: getattr(machine, key) - step}))
        assert found.value.where == where


def test_refusal_of_a_window_names_its_operands():
    graph = pooled(200, 100, 64, Window((200, 100)), (1, 1))
    with pytest.raises(CompileError) as found:
        make_plan(graph, NPU16)
    assert found.value.where == "node pool, machine npu16"
    assert found.value.message == (
        "its smallest strip, one output pixel (src 'copied': 200 x 100 pixels of 16 channels, 320000 bytes; "
        "out 'pooled': 1 x 1 pixels of 16 channels, 16 bytes), needs 320016 bytes of activation memory, "
        "the machine has 131072"
    )
    own = 'in a TOML file with a name of its own and base = "npu16"'
    assert found.value.hint == f"raise act_region_bytes to at least 80064 {own}"


def test_refusal_of_a_parameter_block():
    graph = pooled(40, 40, 16, Window((40, 40)), (1, 1), "mac")
    with pytest.raises(CompileError, match="parameter block of 403 rows needs 25792 bytes of parameter memory"):
        make_plan(graph, NPU16)


def test_refusal_of_dram_and_of_a_machine_of_ones_own():
    graph = pooled(40, 40, 16, Window((40, 40)), (1, 1))
    size = make_plan(graph, NPU16).dram_bytes
    with pytest.raises(CompileError, match=f"the network needs [0-9]+ bytes of DRAM, the machine has {size}") as found:
        check_fit(graph, replace(NPU16, name="mine", dram_bytes=size))
    assert found.value.hint.endswith("in its description")


def stacked(width, parts, channels, *, below):
    """Return a network that copies an image of one row into the rows, or the columns, of a larger one."""
    channel_map = tuple(range(channels))
    size = (parts, width) if below else (1, parts * width)
    names = {"image": (1, width), "gathered": (1, width), "whole": size, "out": size}
    names |= {f"part{i}": (1, width) for i in range(parts)}
    tensors = {n: QTensor(n, *s, channels, 1.0, False, channel_map) for n, s in names.items()}
    one = np.ones(channels, np.int32)
    e = Epilogue(0 * one, 2 * one, one, Clamp(0, 255))
    places = tuple(Place(i, 0, parts, 1) if below else Place(0, i, 1, parts) for i in range(parts))
    nodes = (
        QFold("fold", "gathered", (), "image", Window()),
        *(QWindow(f"copy{i}", f"part{i}", (), "gathered", Window(), e, "sum") for i in range(parts)),
        QMosaic("mosaic", "whole", (), tuple(f"part{i}" for i in range(parts)), places),
        QWindow("last", "out", (), "whole", Window(), e, "sum"),
    )
    pre = Preprocess(1.0, (0.0,) * channels, (1.0,) * channels, (), ())
    table = np.tile(np.arange(256, dtype=np.uint8), (channels, 1))
    outputs = (Output("out", "out", (channels, *size)),)
    return QuantizedGraph("net", nodes, tensors, "image", outputs, pre, table)


def test_rows_further_apart_than_instructions_count_pass_through_dram():
    graph, machine = stacked(512, 8, 256, below=True), load_machine("npu128")
    plan = make_plan(graph, machine)
    assert 8 * plan.pitches["whole"].row > 65535
    assert "whole" in plan.dram
    session = Session(compile_quantized(graph, machine))
    images = np.random.default_rng(0).integers(0, 256, (1, 1, 512, 256), dtype=np.uint8)
    assert compare(graph, session, images, ()).difference is None


def test_pixels_further_apart_in_dram_than_instructions_count_are_refused():
    with pytest.raises(CompileError) as caught:
        check_fit(stacked(64, 16, 4096, below=False), replace(load_machine("npu128"), act_region_bytes=1 << 17))
    assert "its pixels lie 65536 bytes apart in DRAM, as every 16th of 'whole'" in str(caught.value)
