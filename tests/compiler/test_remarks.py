"""Notes on models and calibration images that are accepted, but hardly meant; they reach the binary."""

from dataclasses import replace

import numpy as np
import pytest
from npu_compiler.backend.link import compile_quantized
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.ir import Conv
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import quantize_graph
from npu_compiler.quantize.remarks import remarks
from npu_isa.machine.config import load_machine

from tests.onnx_models import PIXELS, example, images, save


@pytest.fixture
def graph(tmp_path):
    return read_onnx(save(example(), tmp_path))


def without_weights(graph, count):
    """Return the graph with the first `count` convolutions all zero, and their names."""
    convs = [n for n in graph.nodes if isinstance(n, Conv)][:count]
    zeroed = {n.name: replace(n, weight=np.zeros_like(n.weight)) for n in convs}
    return replace(graph, nodes=tuple(zeroed.get(n.name, n) for n in graph.nodes)), list(zeroed)


def test_nothing_is_said_of_what_is_in_order(graph):
    assert remarks(graph, images(2)) == ()


@pytest.mark.parametrize(
    ("pixels", "notes"),
    [
        (images(1), ["one calibration image: ranges fit no other"]),
        (np.repeat(images(1), 4, axis=0), ["the 4 calibration images are the same"]),
        (np.full((4, 12, 12, 3), 7, np.uint8), ["the 4 calibration images are the same", "is of one colour"]),
        (images(5)[:, :1, :1].repeat(12, 1).repeat(12, 2), ["each calibration image is of one colour"]),
    ],
    ids=["one", "same", "constant", "colours"],
)
def test_calibration_images_that_say_little(graph, pixels, notes):
    found = remarks(graph, pixels)
    assert len(found) == len(notes)
    assert all(note in text for note, text in zip(notes, found, strict=True))


def test_layers_without_weights_are_named(graph):
    zeroed, names = without_weights(graph, 2)
    assert remarks(zeroed, images(2)) == (
        f"all weights are zero: {', '.join(names)}; was the model trained and exported whole?",
    )


def test_many_layers_without_weights_are_counted(graph):
    conv = next(n for n in graph.nodes if isinstance(n, Conv))
    nodes = tuple(replace(conv, name=f"n{i}", weight=np.zeros_like(conv.weight)) for i in range(8))
    assert "n0, n1, n2, n3, n4 and 3 more;" in remarks(replace(graph, nodes=nodes), images(2))[0]


def test_notes_reach_the_binary(graph):
    zeroed, names = without_weights(graph, 1)
    quantized = quantize_graph(zeroed, images(1), PIXELS, QuantizeOptions(rounding="nearest"))
    assert [names[0] in note for note in quantized.notes] == [False, True]
    assert compile_quantized(quantized, load_machine("npu32")).notes == quantized.notes
