"""What the demo rests on: its images are scikit-learn's, its network is as good as stated, the product shows on it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from npu_runtime.data.dataset import load_dataset
from npu_runtime.reports.evaluating import evaluate
from npu_runtime.session.compiling import compile_file
from npu_runtime.session.session import Session

from tests.demo import digits, digits_net

FLOAT_HITS = 692  # of the 700 test images, stated in train_digits.py


@pytest.fixture(scope="module")
def model() -> bytes:
    return digits.MODEL_FILE.read_bytes()


@pytest.mark.parametrize("which", [0, 1])
def test_images_are_those_of_scikit_learn(which):
    with np.load((digits.TRAIN_FILE, digits.TEST_FILE)[which], allow_pickle=False) as archive:
        committed = dict(archive)
    made = digits.make()[which]
    assert committed.keys() == made.keys() == {"images", "labels"}
    for name, array in made.items():
        assert committed[name].dtype == np.uint8
        assert np.array_equal(committed[name], array)


def test_split_and_pixels():
    from sklearn.datasets import load_digits

    source = load_digits()
    train, test = digits.make()
    images = np.concatenate([train["images"], test["images"]])
    assert (len(train["images"]), len(test["images"])) == (1097, 700)
    assert np.array_equal(images[..., 0], np.floor(source.images * 255 / 16 + 0.5))
    assert np.array_equal(np.concatenate([train["labels"], test["labels"]]), source.target)
    assert set(np.bincount(test["labels"])) <= set(range(67, 73))


def test_float_network_is_as_good_as_stated(model):
    test = load_dataset(digits.TEST_FILE)
    x = test.images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": x})
    assert int((logits.argmax(axis=1) == test.labels).sum()) == FLOAT_HITS


def test_committed_network_is_what_the_writer_writes(model):
    assert digits_net.difference(digits_net.to_onnx(digits_net.from_onnx(model)), model) == digits_net.IDENTICAL
    assert len(model) < 700_000


def test_form_of_the_network(model):
    read = onnx.load_from_string(model)
    (x,), (y,) = read.graph.input, read.graph.output
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (x, y)]
    assert [(x.name, dims[0]), (y.name, dims[1])] == [("input", ["N", 1, 8, 8]), ("logits", ["N", 10])]
    assert [(o.domain, o.version) for o in read.opset_import] == [("", 17)]
    assert (read.producer_name, read.producer_version, read.doc_string) == ("", "", "")
    operators = [n.op_type for n in read.graph.node]
    assert operators.count("Conv") == operators.count("BatchNormalization") == 6
    assert operators.count("Add") == 2
    assert any(a.name == "strides" and list(a.ints) == [2, 2] for n in read.graph.node for a in n.attribute)


def test_difference_names_the_weight(model):
    weights = digits_net.from_onnx(model)
    weights["fc.bias"] = weights["fc.bias"] + np.float32([0, 0, 0, 0.5] + 6 * [0])
    changed = digits_net.to_onnx(weights)
    assert digits_net.difference(changed, model) == "the largest difference of a weight is 0.5, in fc.bias"


@pytest.mark.slow
def test_the_dial_shows_on_the_demo():
    test = load_dataset(digits.TEST_FILE)
    session = Session(compile_file(digits.MODEL_FILE, digits.TRAIN_FILE).binary)
    rows = evaluate(session, test, (0, 25, 50, 75, 100)).rows
    cycles = [row.total_cycles for row in rows]
    assert [row.images for row in rows] == [700] * 5
    assert abs(rows[0].top1_percent - 100 * FLOAT_HITS / 700) <= 0.3
    assert all(row.top1_percent >= rows[0].top1_percent - 1 for row in rows)
    assert cycles == sorted(set(cycles), reverse=True)  # each of the five is another point
    assert cycles[0] >= 1.4 * cycles[-1]
