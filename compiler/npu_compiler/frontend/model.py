"""An ONNX file made ready to be imported: read, checked, of a supported opset, every node with a name of its own."""

from pathlib import Path

import onnx
from npu_isa.errors import ModelError, NpuError, UnsupportedError
from onnx import TensorProto, defs, helper, inliner, version_converter

from npu_compiler.frontend.infer import tensor_type
from npu_compiler.frontend.tensors import FLOATS, first_line
from npu_compiler.graph.ir import unique

OPSETS = range(11, 22)
ROUNDED_RESIZE = 11  # the opset from which on Resize says how it rounds
NAMED = 3  # things named of those that are alike
OTHER_FILES = {
    b"NPUBIN": ("a compiled binary (.npubin)", "give the ONNX model; `npu inspect` shows a binary"),
    b"NPUQ": ("a quantized network (.npuq)", "give the ONNX model, or leave out what quantizes"),
    b"PK\x03\x04": ("a zip archive, such as .npz or a PyTorch checkpoint", "give the ONNX model; export a checkpoint"),
    b"\x93NUMPY": ("a NumPy array (.npy)", "give the ONNX model"),
    b"\x89HDF": ("an HDF5 file, such as a Keras model", "export the model to ONNX"),
}


def load_model(path: Path, where: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Read a model, check it, convert its opset to a supported one and name its nodes.

    Args:
        path: the file; weights may lie in files beside it.
        where: its name in errors.

    Returns:
        the model, and notes on what was changed.

    Raises:
        ModelError: no such file, another kind of file, a damaged model.
        UnsupportedError: an opset that cannot be converted.
    """
    model = _read(path, where)
    for holder in (*model.opset_import, *model.graph.node):
        if holder.domain == "ai.onnx":  # another name of the standard domain
            holder.domain = ""
    try:
        _check(model)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except Exception as error:  # the checker and the inliner raise many types
        raise _damaged(error, where) from None
    model, notes = _at_supported_opset(model, where)
    notes += _name_nodes(model.graph)
    kinds = {t.data_type for t in model.graph.initializer} | {i.type.tensor_type.elem_type for i in model.graph.input}
    if wide := sorted(TensorProto.DataType.Name(k).lower() for k in kinds if k in FLOATS and k != TensorProto.FLOAT):
        notes += (f"{', '.join(wide)} read as float32",)
    return model, notes


def _read(path: Path, where: str) -> onnx.ModelProto:
    try:
        if path.is_dir():
            raise ModelError("a folder, not an ONNX model", str(path), "give the path of an ONNX file")
        if not path.is_file():
            raise ModelError("no such file", str(path), "give the path of an ONNX model")
        with path.open("rb") as file:
            head = file.read(8)
        for magic, (kind, hint) in OTHER_FILES.items():
            if head.startswith(magic):
                raise ModelError(f"not an ONNX model but {kind}", where, hint)
        return onnx.load(path)
    except NpuError:
        raise
    except Exception as error:  # the system, protobuf and external data raise many types
        raise _damaged(error, where) from None


def _damaged(error: Exception, where: str) -> ModelError:
    hint = "export the model again; `onnx.checker` says more"
    return ModelError(f"not a readable ONNX model: {first_line(error)}", where, hint)


def _check(model: onnx.ModelProto) -> None:
    """Let onnx's checker look at the model, with shapes put in where it wants them and others infer them, as we do."""
    for value in model.graph.output:
        value.type.CopyFrom(tensor_type(()))
    for value in model.graph.input:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(model)
    for tensor in model.graph.initializer:
        if min(tensor.dims, default=0) < 0:
            raise ValueError(f"tensor {tensor.name!r} has shape {list(tensor.dims)}")


def _at_supported_opset(model: onnx.ModelProto, where: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model at the nearest supported opset: as it is where no operator changed its form, or converted."""
    given = next((o for o in model.opset_import if not o.domain), None)
    if given is None or given.version in OPSETS:
        return model, ()
    wanted = OPSETS[0] if given.version < OPSETS[0] else OPSETS[-1]
    standard = {n.op_type for n in model.graph.node if not n.domain}
    known = given.version <= defs.onnx_opset_version()
    if known and all(_form(op, given.version) == _form(op, wanted) for op in standard):
        note = f"opset {given.version} read as {wanted}: no operator changed its form"
        given.version = wanted
        return model, (note,)
    note = f"opset {given.version} converted to {wanted}"
    try:
        if not known:
            raise ValueError(f"the onnx package here knows opsets up to {defs.onnx_opset_version()}")
        model = _converted(model, wanted)
    except Exception as error:  # the converter raises many types
        raise UnsupportedError(
            f"opset {given.version} cannot be converted to {wanted}: {first_line(error).rpartition(' failed: ')[2]}",
            where,
            f"export the model with opset {OPSETS[0]} to {OPSETS[-1]}",
        ) from None
    return model, (note,)


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model at another opset, by onnx's converter.

    It infers shapes, and on damaged ones that ends the process (see `infer`): the sizes of the inputs are kept from it.
    """
    before = next(o.version for o in model.opset_import if not o.domain)
    types = {value.name: value.type for value in onnx.GraphProto(input=model.graph.input).input}
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    for value in model.graph.output:
        value.ClearField("type")
    del model.graph.value_info[:]
    model.ir_version = max(model.ir_version, 4)  # constants that the converter makes need not be inputs
    made = version_converter.convert_version(model, opset)
    for value in made.graph.input:
        value.type.CopyFrom(types.get(value.name, value.type))
    for node in made.graph.node:
        if node.op_type == "Resize" and before < ROUNDED_RESIZE:
            _keep_resize(node)
    _check(made)
    return made


def _keep_resize(node: onnx.NodeProto) -> None:
    """Write into a Resize what it and Upsample meant before opset 11; the converter leaves it to other defaults."""
    given = {a.name for a in node.attribute}
    for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
        if name not in given:
            node.attribute.append(helper.make_attribute(name, value))


def _form(operator: str, opset: int) -> tuple[object, ...]:
    """Return the attributes, inputs and outputs of an operator; where these stay, only types or words were added."""
    try:
        schema = defs.get_schema(operator, opset)
    except defs.SchemaError:
        return (opset,)
    attributes = {a.name: (a.type, a.required, a.default_value.SerializeToString()) for a in schema.attributes.values()}
    parameters = [[(p.name, p.option) for p in each] for each in (schema.inputs, schema.outputs)]
    return (schema.deprecated, attributes, *parameters)


def _name_nodes(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Give every node a name of its own: the given one, else that of its output, with a number if that is taken."""
    taken = {n.name for n in graph.node if n.name}
    seen: set[str] = set()
    renamed: dict[str, list[str]] = {}
    for index, node in enumerate(graph.node):
        base = node.name or next(filter(None, node.output), f"#{index}")
        if not node.name or node.name in seen:
            node.name = unique(base, taken)
        seen.add(node.name)
        if node.name != base:
            renamed.setdefault(base, []).append(node.name)
    return tuple(f"nodes of one name: {base!r} is also {shortened(names)}" for base, names in renamed.items())


def shortened(names: list[str]) -> str:
    """Return names, the first few of many."""
    return ", ".join(map(str, names[:NAMED])) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
