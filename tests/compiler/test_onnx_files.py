"""Files as exporters write them: names, opsets, undeclared or wrong shapes, types, layouts; and files of other kinds.

Where a model is accepted, onnxruntime or an equal model written otherwise says what it means.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from npu_compiler.backend.link import compile_quantized
from npu_compiler.frontend.reader import read_onnx
from npu_compiler.graph.float_eval import evaluate
from npu_compiler.pipeline import compile_model, import_model
from npu_compiler.qgraph.npuq import from_bytes, to_bytes
from npu_isa.errors import ModelError, NpuError, UnsupportedError
from npu_isa.file import container
from npu_isa.machine.config import load_machine
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import PIXELS, TOLERANCE, Net, example, images, run_onnx, same_meaning, save

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def refusal(path, kind, **options):
    with pytest.raises(NpuError) as caught:
        import_model(path, **options)
    assert type(caught.value) is kind
    return caught.value


def same_values(model, graph, x, last=False):
    """Assert that a graph gives onnxruntime's values and shape; the model's image may have its channels last."""
    want = run_onnx(model, np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x)
    got = evaluate(graph, x)[graph.output].reshape(want.shape)
    assert graph.output_shape == want.shape[1:]
    assert np.abs(got - want).max() <= TOLERANCE * (1 + np.abs(want).max())


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
    model = net.model(net.node("Mul", net.node("Relu", "x"), net.node("Constant", value_float=2.0)))
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    assert len(import_model(save(model, tmp_path)).nodes) == 2


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
        graph = import_model(path)
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
    assert message == "node reshape_0 (Reshape): to [1, -1]: only flattening to (N, -1) is supported"


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


# -- channels last


def channels_last(net, x):
    return net.node("Transpose", x, perm=[0, 2, 3, 1])


def channels_first(net, x):
    return net.node("Transpose", x, perm=[0, 3, 1, 2])


@pytest.mark.parametrize("batch", ["N", 4])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled before"])
def test_channels_last_image(scaled, batch, tmp_path):
    """As tf2onnx writes it: a Transpose behind the input, maybe normalization between; Dense after Flatten."""
    net = Net((3, 9, 8))
    pixels, net.shape = net.images(4), (9, 8, 3)
    x = "x"
    if scaled:
        x = net.node("Sub", net.node("Div", "x", net.constant(2.0)), net.constant([0.1, 0.2, 0.3]))
    conv = net.node("Relu", net.conv(channels_first(net, x), 3, 4, (3, 3)))
    last = channels_last(net, net.node("MaxPool", conv, kernel_shape=[2, 2]))
    again = net.node("Add", net.node("Mul", last, net.weight(4)), last)
    flat = net.node("Reshape", again, net.constant([-1, 6 * 5 * 4], np.int64))
    model = net.model(net.node("MatMul", flat, net.weight(120, 5)), batch=batch)
    graph = import_model(save(model, tmp_path))
    assert graph.shapes[graph.input] == (3, 9, 8)
    same_values(model, graph, pixels, last=True)


def test_channels_last_image_of_open_size(tmp_path):
    net = Net((3, 9, 8))
    pixels, net.shape = net.images(), ("height", "width", 3)
    model = net.model(net.conv(channels_first(net, "x"), 3, 4, (3, 3)))
    path = save(model, tmp_path)
    error = refusal(path, ModelError)
    assert (
        error.message
        == "input 'x' has shape (N, height, width, 3), needs (N, height, width, channels) with known sizes"
    )
    assert "--input-shape 1,320,320,3" in error.hint
    same_values(model, import_model(path, input_shape=(9, 8, 3)), pixels, last=True)


@pytest.mark.parametrize("opset", [11, 17])
def test_vectors_with_the_channels_last(opset, tmp_path):
    """Global pools squeezed to a vector, vectors reshaped to one pixel: height and width stand before the channels."""
    net = Net((3, 5, 4), opset)
    pooled = channels_last(net, net.node("GlobalAveragePool", net.conv("x", 3, 4, (3, 3))))
    axes = {"axes": [1, 2]} if opset < 13 else {}
    more = [] if axes else [net.constant([1, 2], np.int64)]
    vector = net.node("Gemm", net.node("Squeeze", pooled, *more, **axes), net.weight(4, 6))
    pixel = net.node("Reshape", vector, net.constant([-1, 1, 1, 6], np.int64))
    conv = channels_last(net, net.conv(channels_first(net, pixel), 6, 5, (1, 1)))
    again = net.node("Unsqueeze", net.node("Flatten", conv), *more, **axes)
    same_meaning(net, net.node("Relu", channels_first(net, again)), tmp_path)


def test_transposes_that_cancel_each_other(tmp_path):
    net = Net((3, 5, 4))
    turned = net.node("Transpose", net.conv("x", 3, 3, (1, 1)), perm=[0, 3, 1, 2])
    turned = net.node("Transpose", turned, perm=[0, 3, 1, 2])
    same_meaning(net, net.conv(net.node("Transpose", turned, perm=[0, 3, 1, 2]), 3, 4, (3, 3)), tmp_path)


@pytest.mark.parametrize(("channels", "size"), [(1, (3, 3)), (4, (1, 1))], ids=["one channel", "one pixel"])
def test_output_with_the_channels_last_where_it_is_the_same(channels, size, tmp_path):
    net = Net((3, 5, 5))
    kernel = (6 - size[0], 6 - size[1])
    same_meaning(net, channels_last(net, net.conv("x", 3, channels, kernel)), tmp_path)


@pytest.mark.parametrize("flat", [False, True])
def test_output_with_the_channels_last_where_it_is_another(flat, tmp_path):
    net = Net((3, 5, 4))
    last = net.node("Transpose", net.conv("x", 3, 4, (3, 3)), perm=[0, 2, 3, 1], name="last")
    out = net.node("Flatten", last, name="flat") if flat else last
    error = refusal(save(net.model(out), tmp_path), UnsupportedError)
    assert error.message == (
        "output 'flat' has its channels not first: shape (N, 24)"
        if flat
        else "output 'last' has its channels not first: shape (N, 3, 2, 4)"
    )
    assert error.hint == "remove the Transpose before the output"


def test_sum_of_two_orders(tmp_path):
    net = Net((4, 4, 4))
    out = net.node("Add", "x", channels_last(net, "x"), name="sum")
    message = refusal(save(net.model(out), tmp_path), UnsupportedError).message
    assert message == "node sum (Add): shapes (4, 4, 4) and (4, 4, 4) differ: broadcasting is not supported"


# -- vectors


def test_parts_of_a_vector(tmp_path):
    """The last axis of a vector is its channels."""
    net = Net((6, 1, 1))
    flat = net.node("Relu", net.node("Flatten", "x"))
    given = (net.constant([v], np.int64) for v in (1, 5, -1))
    middle = net.node("Slice", flat, *given)
    parts = net.node("Split", flat, net.constant([2, 4], np.int64), axis=-1, outputs=2)
    padded = net.node("Pad", parts, net.constant([0, 1, 0, 1], np.int64))
    both = net.node("Concat", middle, padded, f"{parts}.1", axis=-1)
    same_meaning(net, both, tmp_path)


def test_one_value_after_flattening(tmp_path):
    net = Net((3, 4, 4))
    flat = net.node("Mul", net.node("Flatten", "x"), net.constant([0.5]))
    same_meaning(net, net.node("MatMul", net.node("Add", flat, net.constant(1.0)), net.weight(48, 3)), tmp_path)


# -- constants that would fill the memory

HUGE = {
    "ConstantOfShape": lambda net, big: net.node("ConstantOfShape", big),
    "Expand": lambda net, big: net.node("Expand", net.constant([1.0]), big),
    "Tile": lambda net, big: net.node("Tile", net.constant([1.0]), big),
    "Range": lambda net, big: net.node("Range", *(net.constant(v, np.int64) for v in (0, 10**12, 1))),
    "Pad": lambda net, big: net.node("Pad", net.constant([1.0]), net.constant([0, 10**12], np.int64)),
    "OneHot": lambda net, big: net.node("OneHot", net.constant([0], np.int64), big, net.constant([0.0, 1.0])),
    "MatMul": lambda net, big: net.node("MatMul", net.weight(1 << 16, 1), net.weight(1, 1 << 16)),
    "Add": lambda net, big: net.node("Add", net.weight(1 << 16, 1), net.weight(1, 1 << 16)),
}


@pytest.mark.parametrize("name", list(HUGE))
def test_constant_that_would_fill_the_memory(name, tmp_path):
    net = Net((3, 6, 6))
    made = HUGE[name](net, net.constant([10**12], np.int64))
    model = net.model(net.node("Mul", "x", net.node("Identity", made)))
    error = refusal(save(model, tmp_path), UnsupportedError)
    assert error.message.startswith(f"node {made} ({name}): ")
    assert "too large" in error.message or "is not known" in error.message


def test_tensor_that_declares_more_than_it_holds(tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Conv", "x", net.weight(4, 3, 1, 1)))
    model.graph.initializer[0].dims[0] = 10**12
    assert "c0" in refusal(save(model, tmp_path), ModelError).message


@pytest.mark.parametrize("damage", ["type", "negative", "short"])
def test_tensor_that_cannot_be_read(damage, tmp_path):
    net = Net((3, 6, 6))
    model = net.model(net.node("Conv", "x", net.weight(4, 3, 1, 1)))
    tensor = model.graph.initializer[0]
    if damage == "type":
        tensor.data_type = 119
    elif damage == "negative":
        tensor.dims[0] = -1
    else:
        tensor.raw_data = tensor.raw_data[:-3]
    error = refusal(save(model, tmp_path), ModelError)
    assert "tensor" in error.message
    assert "c0" in error.message


def test_node_that_may_make_other_values_each_time_or_holds_a_graph(tmp_path):
    net = Net((1, 6, 6))
    noise = net.node("RandomUniformLike", net.constant([1.0]), name="noise")
    drawn = net.node("Bernoulli", net.constant([0.5]), name="drawn")
    body = helper.make_graph(
        [helper.make_node("Identity", ["c0"], ["inner"])], "body", [], [onnx.ValueInfoProto(name="inner")]
    )
    chosen = net.node("If", net.constant(True, bool), then_branch=body, else_branch=body, name="chosen")
    made = net.node("Mul", net.node("Mul", net.node("Mul", "x", noise), drawn), chosen)
    error = refusal(save(net.model(made), tmp_path), UnsupportedError)
    for name in ("noise (RandomUniformLike)", "drawn (Bernoulli)", "chosen (If)"):
        assert f"node {name}: operator not supported" in error.message


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


# -- what ends the process inside onnx's inference


@pytest.mark.parametrize("opset", [10, 17])
def test_sizes_below_zero_before_a_slice(opset, tmp_path):
    net = Net((3, 6, 6), opset)
    conv = net.node("Conv", "x", net.weight(4, 3, 1, 9), name="wide")
    given = [net.constant([v], np.int64) for v in (0, 9, 3, 2)]
    model = net.model("sliced")  # without the Slice: building it infers shapes too
    model.graph.node.append(helper.make_node("Slice", [conv, *given], ["sliced"], "sliced"))
    message = refusal(save(model, tmp_path), UnsupportedError).message
    assert message == "node wide (Conv): the window 1x9 is larger than the padded image"


def test_slice_backwards_through_a_constant_without_values(tmp_path):
    net = Net((3, 6, 6))
    none = net.node("ConstantOfShape", net.constant([0], np.int64))
    part = net.node("Slice", none, *(net.constant([v], np.int64) for v in (-1, -9, 0, -1)), name="part")
    model = net.model(net.node("Add", "x", net.node("ReduceMean", part, keepdims=0)))
    message = refusal(save(model, tmp_path), UnsupportedError).message
    assert message.startswith("node part (Slice): the size of the constant that it makes is not known")
