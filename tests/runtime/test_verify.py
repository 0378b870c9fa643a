"""The comparison of models: what it counts, which difference it names first, what models may leave out."""

from dataclasses import replace

import numpy as np
import pytest
from npu_compiler.backend.link import compile_quantized
from npu_isa.errors import DataError, NpuError
from npu_runtime.verification import models as v
from npu_runtime.verification.models import MOMENTS, UNKNOWN, Observation, Workload, check_network, models_named
from npu_runtime.verification.verify import compare, verify

from tests.binaries import SMALL, small_binary
from tests.qgraphs import random_qgraph
from tests.register_models import instruction

WORK = Workload(
    small_binary(0).machine,
    (instruction("vgeom"), instruction("load", run=16), instruction("halt")),
    np.zeros(0, np.uint8),
    64,
    0,
    ((0, 16),),
    ("", "conv1", ""),
)


def observation(**changes) -> Observation:
    times = np.array([[0, 1, 1, 2, 2], [1, 2, 2, 6, 26]], np.int64)
    causes = np.zeros((4, 15), np.int64)
    memories = {"dram": np.zeros(64, np.uint8), "acc": np.zeros((2, 3, 4), np.int32)}
    return replace(Observation(26, times, causes, memories), **changes)


def with_time(index: int, moment: str, value: int) -> Observation:
    times = observation().times.copy()
    times[index, MOMENTS.index(moment)] = value
    return observation(times=times)


def said(*others: Observation) -> str:
    seen = {"a": observation(), **{"bcd"[i]: o for i, o in enumerate(others)}}
    return str(compare(WORK, seen, (3,)).difference)


def test_equal_models():
    report = compare(WORK, {"a": observation(), "b": observation(), "c": observation()}, ())
    assert report.difference is None
    assert (report.runs, report.instructions, report.cycles) == (1, 3, 26)
    assert (report.times, report.counters, report.values) == (2 * 10, 2 * 60, 2 * (64 + 24))
    assert str(report) == (
        "a = b = c: 1 runs, 3 instructions, 26 cycles; compared 20 times, 120 counters, 176 values: 0 differences"
    )


def test_places():
    acc, dram, causes = np.zeros((2, 3, 4), np.int32), np.zeros(64, np.uint8), np.zeros((4, 15), np.int64)
    acc[1, 2, 3], dram[5], causes[2, 6] = 7, 9, 1
    end = "end of instruction 1 (load, layer conv1): a 26, b 27 (boundaries 3)"
    assert said(with_time(1, "end", 27)) == end
    assert (
        said(observation(), with_time(1, "end", 27))
        == "end of instruction 1 (load, layer conv1): a 26, b 26, c 27 (boundaries 3)"
    )
    assert said(with_time(0, "issue_end", 3)) == "issue end of instruction 0 (vgeom): a 2, b 3 (boundaries 3)"
    assert said(observation(total_cycles=27)) == "total cycles: a 26, b 27 (boundaries 3)"
    assert said(observation(causes=causes)) == "cycles of the vector engine by cause port: a 0, b 1 (boundaries 3)"
    assert said(observation(memories={"acc": acc})) == "memory acc, half 1, row 2, column 3: a 0, b 7 (boundaries 3)"
    dram_text = "memory dram, byte 5 behind the program: a 0, b 9 (boundaries 3)"
    assert said(observation(memories={"dram": dram})) == dram_text


def test_the_earliest_time_is_named_first():
    late_but_first_in_program = with_time(0, "end", 20)
    times = late_but_first_in_program.times.copy()
    times[1, MOMENTS.index("accept")] = 1
    assert said(observation(times=times)).startswith("accept of instruction 1")


def test_what_a_model_does_not_know_is_not_compared():
    times = observation().times.copy()
    times[0] = UNKNOWN
    report = compare(WORK, {"a": observation(), "rtl": Observation(times=times)}, ())
    assert report.difference is None
    assert (report.times, report.counters, report.values) == (5, 0, 0)
    times[1, 4] = 0
    assert compare(WORK, {"a": observation(), "rtl": Observation(times=times)}, ()).difference is not None


def test_reports_add_up_and_stop_at_the_first_difference():
    seen = []

    def right(work, boundaries, image):
        return observation()

    def wrong(work, boundaries, image):
        seen.append(boundaries)
        return observation() if boundaries == (1,) else with_time(0, "end", 3)

    image = np.zeros((1, 4), np.uint8)
    report = verify(WORK, [(1,), (2,), (3,)], {"right": right, "wrong": wrong}, image)
    assert (report.runs, report.times) == (2, 20)
    assert seen == [(1,), (2,)]
    assert report.difference.boundaries == (2,)
    assert "DIFFERENCE end of instruction 0 (vgeom): right 2, wrong 3" in str(report)


def test_a_binary_with_its_golden_model():
    graph = random_qgraph(np.random.default_rng(1), steps=3)
    binary = compile_quantized(graph, SMALL)
    vectors = [binary.boundaries_at(ratio) for ratio in (0, 100)]
    report = verify(binary, vectors, ("golden", "fast", "register"), graph=graph)
    assert report.difference is None, report.difference
    assert report.models == ("golden", "fast", "register")
    golden = v.golden_model(graph)

    def one_bit_off(work, boundaries, image):
        memories = golden(work, boundaries, image).memories
        return Observation(memories={"output": memories["output"] ^ 1})

    found = verify(binary, vectors, {"off": one_bit_off, "register": v.register}).difference
    assert found.what.startswith("memory output, byte 0, written by instruction ")
    assert "(store, layer " in found.what


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["fast", "regster"], "unknown model 'regster'\n  hint: did you mean 'register'?"),
        (["x"], "unknown model 'x'\n  hint: models: golden, fast, register"),
        (["golden"], "the golden model computes a network"),
    ],
)
def test_unknown_models(names, text):
    with pytest.raises(NpuError) as caught:
        models_named(names)
    assert text in str(caught.value)


def test_a_network_that_the_binary_is_not_of_is_refused():
    rng = np.random.default_rng(0)
    graphs = [random_qgraph(rng) for _ in range(8)]
    binary = compile_quantized(graphs[0], SMALL)
    check_network(graphs[0], binary)
    for graph in graphs[1:]:
        with pytest.raises(DataError, match="was not compiled from this network"):
            verify(binary, [binary.boundaries_at(0)], ("fast", "golden"), graph=graph)
    image, out = graphs[0].tensors[graphs[0].input], graphs[0].tensors[graphs[0].output_tensors[0]]
    for tensor in (replace(image, height=image.height + 1), replace(out, bits=24 - out.bits)):
        with pytest.raises(DataError, match="was not compiled from this network"):
            check_network(replace(graphs[0], tensors=graphs[0].tensors | {tensor.name: tensor}), binary)
