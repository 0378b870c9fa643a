"""Files as exporters write them: names, opsets, undeclared or wrong shapes, types, layouts; and files of other kinds.

Where a model is accepted, onnxruntime or an equal model written otherwise says what it means.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from npu_compiler.backend.link import compile_quantized
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.pipeline import compile_model, import_model
from npu_compiler.qgraph.npuq import from_bytes, to_bytes
from npu_isa.errors import ModelError, UnsupportedError
from npu_isa.file import container
from npu_isa.machine.config import load_machine
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import PIXELS, Net, example, images, refusal, same_meaning, same_values, save

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


# -- names


def test_nodes_of_one_name_get_names_of_their_own(tmp_path):
    net = Net((3, 6, 6))
    first = net.conv("x", 3, 4, (3, 3))
    last = net.node("Relu", net.conv(net.conv(first, 4, 4, (1, 1)), 4, 4, (1, 1)))
    model = net.model(last)
    for node in model.graph.node:
        node.name = "same"
    graph = import_model(save(model, tmp_path))
    assert [n.name for n in graph.nodes] == ["same", "same_2", "same_3"]
    assert graph.notes == ("nodes of one name: 'same' is also same_2, same_3, same_4",)
    same_values(model_with_names(model), graph, net.images())


def model_with_names(model):
    """Return a copy that onnxruntime takes: its nodes have no names."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node in made.graph.node:
        node.name = ""
    return made


def test_names_that_are_outputs_of_others_and_no_names(tmp_path):
    """A node without a name is called by its output; that may be another node's name already."""
    net = Net((3, 6, 6))
    a, b = net.conv("x", 3, 3, (1, 1), name="a"), net.conv("x", 3, 3, (1, 1), name="b")
    model = net.model(net.node("Add", a, b, name="c"))
    for node, name in zip(model.graph.node, ["", "a", ""], strict=True):
        node.name = name
    graph = read_onnx(save(model, tmp_path))
    assert [n.name for n in graph.nodes] == ["a_2", "a", "c"]
    assert [n.out for n in graph.nodes] == ["a", "b", "c"]
    assert graph.notes == ("nodes of one name: 'a' is also a_2",)


def test_names_that_the_importer_would_invent(tmp_path):
    net = Net((4, 6, 6))
    pads = net.constant([0, 1, 1, 0, 0, 0, 0, 0], np.int64)
    first = net.node("Pad", "x", pads, name="p")
    taken = net.conv("x", 4, 5, (2, 1), pads=[1, 0, 1, 0], name="p.space")
    both = net.node("Add", first, taken)
    halves = net.node("Split", both, net.constant([2, 3], np.int64), axis=1, outputs=2, name="s")
    net.node("Relu", halves, name="s.s")
    same_meaning(net, net.node("Concat", "s.s", f"{halves}.1", axis=1), tmp_path)


def test_notes_reach_the_binary_and_the_quantized_file(tmp_path):
    model = example()
    for node in model.graph.node[:2]:
        node.name = "twice"
    note = "nodes of one name: 'twice' is also twice_2"
    machine = load_machine("npu16")
    quantized, binary = compile_model(save(model, tmp_path), machine, images(8), PIXELS)
    assert quantized.notes == binary.notes == (note,)
    assert compile_quantized(from_bytes(to_bytes(quantized), "q"), machine).notes == (note,)
    again = compile_model(tmp_path / "net.onnx", machine, images(8), PIXELS)[1]
    assert container.to_bytes(binary) == container.to_bytes(again)


# -- opsets


def old_network(opset):
    """Return a network of operators whose form changed since: attributes became inputs, and the other way round."""
    net = Net((4, 9, 9), opset)
    padded = net.node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 1, 1])
    stats = [net.weight(6), net.weight(6), net.weight(6), net.constant(net.rng.uniform(0.1, 2, 6))]
    first = net.node("BatchNormalization", net.conv(padded, 4, 6, (3, 3)), *stats)
    clipped = net.node("Clip", net.node("Clip", first, min=0.0, max=6.0), min=-1.0)
    if opset < 10:
        sliced = net.node("Slice", clipped, starts=[1, 0], ends=[9, 8], axes=[2, 3])
    else:
        given = ([1, 0], [9, 8], [2, 3])
        sliced = net.node("Slice", clipped, *(net.constant(v, np.int64) for v in given))
    dropped = net.node("Dropout", net.node("PRelu", sliced, net.constant([0.1])), ratio=0.3)
    pooled = net.node("MaxPool", dropped, kernel_shape=[2, 2], strides=[2, 2])
    part = net.node("Split", pooled, axis=1, split=[2, 4], outputs=2)
    both = net.node("Concat", f"{part}.1", part, axis=1)
    mean = net.node("AveragePool", both, kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1)
    flat = net.node("Flatten", net.node("LeakyRelu", mean))
    hidden = net.node("Gemm", flat, net.weight(96, 5), net.weight(5))
    wide = net.node("Unsqueeze", hidden, axes=[2, 3])
    return net, net.node("Squeeze", net.conv(wide, 5, 4, (1, 1)), axes=[2, 3])


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
@pytest.mark.parametrize("listed", [False, True], ids=["", "weights listed as inputs"])
def test_old_opsets_are_converted(opset, listed, tmp_path):
    net, out = old_network(opset)
    model = net.model(out, ir_version=3 if listed else 8)
    if listed:
        model.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer
        )
    graph = import_model(save(model, tmp_path))
    assert graph.notes == (f"opset {opset} converted to 11",)
    same_values(model, graph, net.images())


@pytest.mark.parametrize("opset", [22, 23, 24])
def test_new_opsets_are_converted(opset, tmp_path):
    net = Net((3, 8, 8), opset)
    conv = net.node("Relu", net.conv("x", 3, 4, (3, 3)))
    pooled = net.node("Dropout", net.node("AveragePool", conv, kernel_shape=[2, 2]))
    flat = net.node("Flatten", net.node("Cast", net.node("MaxPool", pooled, kernel_shape=[2, 2]), to=1))
    model = net.model(net.node("Gemm", flat, net.weight(64, 3)))
    graph = import_model(save(model, tmp_path))
    changed = "read as 21: no operator changed its form" if opset < 24 else "converted to 21"  # Cast
    assert graph.notes == (f"opset {opset} {changed}",)
    same_values(model, graph, net.images())


def test_opset_is_read_as_another_where_no_operator_changed(tmp_path):
    net = Net((3, 6, 6), 22)
    graph = import_model(save(net.model(net.node("Add", net.node("Relu", "x"), "x")), tmp_path))
    assert graph.notes == ("opset 22 read as 21: no operator changed its form",)


def test_other_name_of_the_standard_domain(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Relu", net.node("Mul", "x", net.node("Constant", value_float=2.0))))
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    assert [n.onnx_nodes for n in import_model(save(model, tmp_path)).nodes] == [("mul_1", "relu_2")]


def test_opset_that_cannot_be_converted(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.conv("x", 3, 3, (1, 1)))
    model.opset_import[0].version = 999
    error = refusal(save(model, tmp_path), UnsupportedError)
    newest = onnx.defs.onnx_opset_version()
    assert error.message == f"opset 999 cannot be converted to 21: the onnx package here knows opsets up to {newest}"
    assert error.hint == "export the model with opset 11 to 21"


def test_operator_that_the_converter_does_not_know(tmp_path):
    net = Net((3, 6, 6), 7)
    stats = [net.weight(3), net.weight(3), net.weight(3), net.constant([1.0] * 3)]
    model = net.model(net.node("BatchNormalization", "x", *stats, spatial=0))
    error = refusal(save(model, tmp_path), UnsupportedError)
    assert error.message == "opset 7 cannot be converted to 11: Attribute spatial must have value 1"


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda p: p.stem)
def test_light_models_of_the_onnx_package_get_past_their_opset(path):
    """They have opset 9. Those accepted compute what onnxruntime does; others are refused for operators alone."""
    message = ""
    try:
        graph = import_model(path, host="none")
    except UnsupportedError as error:
        message = error.message
    if message:
        assert message.startswith("node")
        assert path.stem != "light_densenet121"
        return
    assert graph.notes == ("opset 9 converted to 11",)
    x = np.random.default_rng(0).normal(0, 1, (1, *graph.shapes[graph.input])).astype(np.float32)
    same_values(onnx.load(path), graph, x)


# -- shapes and types that are not declared, or wrongly


def test_output_without_shape_or_type(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Flatten", net.conv("x", 3, 4, (3, 3))))
    for damage in ("shape", "type"):
        if damage == "shape":
            model.graph.output[0].type.tensor_type.ClearField("shape")
        else:
            model.graph.output[0].ClearField("type")
        same_values(model, import_model(save(model, tmp_path)), net.images())


def test_declared_shapes_that_are_wrong(tmp_path):
    """What an exporter says of inner values and the output does not count: an edited model keeps old shapes."""
    net = Net((3, 6, 6))
    conv = net.conv("x", 3, 4, (3, 3))
    model = net.model(net.node("Relu", conv))
    plain = model_with_names(model)
    del plain.graph.value_info[:]
    for value in (*model.graph.value_info, *model.graph.output):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [1, 9, 2]))
    same_values(plain, import_model(save(model, tmp_path)), net.images())


def open_model(*shape, output="y"):
    """Return a convolution, a pool and a flattening over an image of open size."""
    net = Net((3, 8, 8))
    conv = net.node("Relu", net.conv("x", 3, 4, (3, 3)))
    model = net.model(net.node("Flatten", net.node("GlobalAveragePool", conv), name=output))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    del model.graph.value_info[:]
    return net, model


@pytest.mark.parametrize("given", [(3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8)])
@pytest.mark.parametrize("shape", [("batch", 3, "height", "width"), ("n", "c", "h", "w"), ("n", 3, 8, -1)])
def test_input_shape_is_given(shape, given, tmp_path):
    net, model = open_model(*shape)
    path = save(model, tmp_path)
    assert "--input-shape 1,3,320,320" in refusal(path, ModelError).hint
    graph = import_model(path, input_shape=given)
    assert graph.shapes["x"] == (3, 8, 8)
    same_values(open_model("n", 3, 8, 8)[1], graph, net.images())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, 3, 9, 8), "input 'x' has shape (n, 3, 8, w), not 1x3x9x8"),
        ((4, 8, 8), "input 'x' has shape (n, 3, 8, w), not 4x8x8"),
        ((8, 8), "input shape 8x8: needs (N, channels, height, width) or (channels, height, width), all 1 or more"),
        (
            (3, 8, 0),
            "input shape 3x8x0: needs (N, channels, height, width) or (channels, height, width), all 1 or more",
        ),
    ],
)
def test_input_shape_that_does_not_fit(given, message, tmp_path):
    path = save(open_model("n", 3, 8, "w")[1], tmp_path)
    assert refusal(path, ModelError, input_shape=given).message == message


def test_input_shape_may_repeat_what_is_fixed(tmp_path):
    path = save(open_model(8, 3, 8, 8)[1], tmp_path)
    assert import_model(path, input_shape=(3, 8, 8)).shapes["x"] == (3, 8, 8)
    assert (
        refusal(path, ModelError, input_shape=(1, 3, 8, 8)).message == "input 'x' has shape (8, 3, 8, 8), not 1x3x8x8"
    )


@pytest.mark.parametrize("target", [(8, -1), (-1, 64), (0, -1), None])
def test_fixed_batch(target, tmp_path):
    net = Net((3, 6, 6))
    conv = net.conv("x", 3, 4, (3, 3))
    if target is None:
        batch = net.node("Slice", net.node("Shape", conv), *(net.constant([v], np.int64) for v in (0, 1)))
        shape = net.node("Concat", batch, net.constant([-1], np.int64), axis=0)
    else:
        shape = net.constant(target, np.int64)
    model = net.model(net.node("Gemm", net.node("Reshape", conv, shape), net.weight(64, 3)), batch=8)
    same_values(model, import_model(save(model, tmp_path)), net.images(8))


def test_batch_that_a_reshape_mixes(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Reshape", "x", net.constant([1, -1], np.int64)), batch=8)
    message = refusal(save(model, tmp_path), UnsupportedError).message
    assert message == "node reshape_0 (Reshape): to [1, -1]: the batch axis must stay as it is"


@pytest.mark.parametrize(("start", "end"), [(1, None), (2, 4), (-3, -1)])
def test_part_of_a_shape(start, end, tmp_path):
    """Shape has a start and an end since opset 15."""
    net = Net((3, 6, 6))
    shape = net.node("Shape", "x", start=start, **({} if end is None else {"end": end}))
    half = net.node("Div", net.node("Cast", shape, to=TensorProto.FLOAT), net.constant(2.0))
    out = net.node("Mul", "x", net.node("ReduceMean", half, axes=[0], keepdims=0))
    same_meaning(net, out, tmp_path)


# -- floating point of other sizes


def with_floats(model, kind):
    """Return a model whose floats are of another type, rounded to it, and the same model in float32."""
    made, plain = onnx.ModelProto(), onnx.ModelProto()
    made.CopyFrom(model)
    plain.CopyFrom(model)
    del made.graph.value_info[:], plain.graph.value_info[:]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for tensor, same in zip(made.graph.initializer, plain.graph.initializer, strict=True):
        if tensor.data_type == TensorProto.FLOAT:
            rounded = numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
            same.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = kind
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = kind
    return made, plain


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "DOUBLE"])
def test_floats_of_other_sizes(kind, tmp_path):
    net = Net((3, 8, 8), 22 if kind == "BFLOAT16" else 17)
    half = net.node("Cast", net.constant([1, 2, 3], np.int64), to=TensorProto.FLOAT)  # a folded constant
    scaled = net.node("Mul", "x", net.node("Reshape", half, net.constant([3, 1, 1], np.int64)))
    conv = net.node("Cast", net.conv(scaled, 3, 4, (3, 3)), to=TensorProto.FLOAT)
    clipped = net.node("Clip", conv, net.constant(-0.5), net.constant(6.0))
    model = net.model(net.node("Gemm", net.node("Flatten", clipped), net.weight(144, 5), net.weight(5)))
    made, plain = with_floats(model, TensorProto.DataType.Value(kind))
    graph = import_model(save(made, tmp_path))
    assert graph.notes[-1] == f"{kind.lower()} read as float32"
    same_values(plain, graph, net.images())


def test_double_that_float32_cannot_hold(tmp_path):
    net = Net((3, 6, 6))
    big = net.constant([[[1e300]]], np.float64)
    model = net.model(net.node("Mul", "x", big))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    message = refusal(save(model, tmp_path), ModelError).message
    assert message == ("tensor 'c0' of shape [1, 1, 1] cannot be read: its float64 values leave the range of float32")


# -- other files


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"NPUBIN\r\n" + bytes(40), "a compiled binary (.npubin)"),
        (b"NPUQ  \r\n" + bytes(40), "a quantized network (.npuq)"),
        (b"PK\x03\x04" + bytes(40), "a zip archive, such as .npz or a PyTorch checkpoint"),
        (b"\x93NUMPY" + bytes(40), "a NumPy array (.npy)"),
        (b"\x89HDF\r\n" + bytes(40), "an HDF5 file, such as a Keras model"),
    ],
)
def test_file_of_another_kind(data, kind, tmp_path):
    path = tmp_path / "given"
    path.write_bytes(data)
    error = refusal(path, ModelError)
    assert (error.message, error.where) == (f"not an ONNX model but {kind}", "given")


def test_folder(tmp_path):
    error = refusal(tmp_path, ModelError)
    assert (error.message, error.where) == ("a folder, not an ONNX model", str(tmp_path))


def test_weights_in_a_file_that_is_missing(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.conv("x", 3, 4, (1, 1)))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0, location="weights")
    assert len(import_model(tmp_path / "net.onnx").nodes) == 1
    (tmp_path / "weights").unlink()
    assert refusal(tmp_path / "net.onnx", ModelError).message.startswith("not a readable ONNX model: ")
