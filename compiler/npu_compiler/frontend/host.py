"""The host's part: what the machine cannot do at the end of a model, cut off as an ONNX model of its own.

A node that is refused, and all that depends on its outputs, goes to the host; the rest is the machine's. The machine
then gives the values that the host's nodes read. Where such a value has a form that it cannot give, the node that makes
it goes to the host as well, if that is little work and nothing else of the machine reads it; else the machine gives its
tensor as it is, and the host puts it in order.
"""

import math
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from npu_isa.errors import printable
from npu_isa.file.binary import HostNode, HostOutput, HostPart
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import RuntimeContextError

from npu_compiler.frontend.arrange import gives
from npu_compiler.frontend.branches import taken
from npu_compiler.frontend.importer import MAX_VALUES, Constants, Importer, Refused, import_node
from npu_compiler.frontend.infer import Types, array_type, holds_graph, model_of, sizes, strict_types, tensor_type
from npu_compiler.frontend.tensors import FLOATS, first_line, fold_constant, read_constants

MOST = 0.01  # of the multiply-accumulates: a refused node in the middle of a network is refused
TRIED_VALUES = 1 << 20  # of the inputs and outputs of a node that is run once on zeros
REASON = 200  # characters kept of a reason
MOVED = "the machine cannot give its output in that form"
TURNED = "puts a tensor of the machine in the model's order"
RECURRENT = ("GRU", "LSTM", "RNN")
CONVOLUTIONS = ("Conv", "ConvInteger", "DeformConv")
MATRICES = ("MatMul", "MatMulInteger", "QLinearMatMul")
PRODUCTS = (*CONVOLUTIONS, *MATRICES, "ConvTranspose", "Einsum", "Gemm", "QLinearConv", *RECURRENT)  # which are counted


class NotCutError(Exception):
    """The model cannot be cut; the text says why, or nothing where the whole model would be the host's."""


@dataclass
class Part:
    """Which nodes of a model the host runs.

    Attributes:
        nodes: in order, each with the reason.
        made: the values that they make.
        constants: values that are known, by name; the dequantized weights of QDQ models too.
        faults: what contradicts itself in the nodes, as far as is known of their inputs.
        walked: all nodes of the model, in order.
        alone: each node as a model of its own, by its name, with the types of its outputs; where its inputs are known.
    """

    constants: ChainMap[str, NDArray[Any]]
    nodes: list[tuple[onnx.NodeProto, str]] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    walked: list[onnx.NodeProto] = field(default_factory=list)
    alone: dict[str, tuple[onnx.ModelProto, Types]] = field(default_factory=dict)

    def reads(self) -> list[str]:
        """Return the values that the nodes read and do not make, constants left out, in the order of reading."""
        read = (name for node, _ in self.nodes for name in node.input if name)
        return list(dict.fromkeys(name for name in read if name not in self.made and name not in self.constants))

    def needed_for(self, outputs: Iterable[str]) -> "Part":
        """Return the part with the nodes alone that these outputs depend on."""
        needed, kept = set(outputs), []
        for node, reason in reversed(self.nodes):
            if needed & set(filter(None, node.output)):
                needed.update(node.input)
                kept.append((node, reason))
        made = {name for node, _ in kept for name in node.output if name}
        return replace(self, nodes=kept[::-1], made=made)


def cut(
    model: onnx.ModelProto, new_importer: Callable[[], Importer], outputs: Sequence[str], where: str
) -> tuple[Importer, Part]:
    """Import what the machine can do of a model; return the importer, and the part of the host.

    Args:
        model: every node with a name of its own.
        new_importer: makes an importer that has seen no node.
        outputs: names of the model's outputs.
        where: the file's name in errors.

    Raises:
        NotCutError: a node is none that the host can run, or the machine cannot give what the host reads.
        ModelError: a damaged constant.
    """
    moved: set[str] = set()  # nodes that the machine can run, but the host must
    while True:
        importer = new_importer()
        part = _walk(model, importer, moved, where).needed_for(outputs)
        maker = {name: node for node in part.walked for name in node.output if name}
        own = [name for name in outputs if name not in part.made and not gives(importer, name)]
        wrong = [name for name in part.reads() if name in importer.integers or not gives(importer, name)] + own
        lost = next((name for name in wrong if name not in maker), None)
        if lost is not None:
            raise NotCutError(f"value {lost!r} is none that the machine can give")
        more = {maker[name].name for name in wrong if _moves(maker[name], part, importer)}
        if not more:
            break
        moved |= more
    for name in dict.fromkeys(wrong):
        _put_in_order(part, importer, name)
    if part.faults:
        raise NotCutError(part.faults[0])
    return importer, part


def _moves(node: onnx.NodeProto, part: Part, importer: Importer) -> bool:
    """Whether the host runs the node that makes a value of the wrong form, rather than put its tensor in order."""
    ours = {each.name for each, _ in part.nodes}
    if any(name in importer.integers or not importer.known(name) for name in node.output if name):
        return True
    read = any(
        set(node.output) & set(each.input)
        for each in part.walked
        if each.name not in ours and not part.constants.keys() >= set(each.output)
    )
    return node.op_type not in PRODUCTS and not read


def _put_in_order(part: Part, importer: Importer, name: str) -> None:
    """Let the host make a value of the tensor that holds its elements: a Transpose of the parts of its axes."""
    shape, order = importer.full_shape(name), importer.value(name).order
    atoms = [atom for axis in order for atom in axis]
    held = sorted(atoms, key=lambda a: (a.axis, -a.stride))
    raw = importer.view(f"{name}.tensor", name, tuple((atom,) for atom in held))
    perm = [0, *(1 + held.index(atom) for atom in atoms)]
    same = all(len(axis) == 1 for axis in order)
    turned = name if same else importer.tensor_name(f"{name}.turned")
    made = [helper.make_node("Transpose", [raw], [turned], importer.node_name(f"{name}.transpose"), perm=perm)]
    if not same:
        wanted = importer.tensor_name(f"{name}.shape")
        part.constants[wanted] = np.array([importer.batch, *shape], np.int64)
        made.append(helper.make_node("Reshape", [turned, wanted], [name], importer.node_name(f"{name}.reshape")))
    part.nodes[:0] = [(node, TURNED) for node in made]
    part.made.update(output for node in made for output in node.output)
    importer.types[name] = tensor_type((importer.batch, *shape))


def _walk(model: onnx.ModelProto, importer: Importer, moved: set[str], where: str) -> Part:
    """Import the nodes that the machine can run, but those of `moved`; the others are the host's."""
    constants, weights = read_constants(model.graph.initializer, where), Constants()
    part, opsets = Part(ChainMap(constants, weights)), model.opset_import
    for node in taken(importer, model.graph.node, constants, where):
        part.walked.append(node)
        before = next((name for name in node.input if name in part.made), None)
        try:
            if fold_constant(importer, node, constants, opsets):
                continue
        except Refused as error:
            raise NotCutError(f"node {node.name}: {error}") from None
        reason = f"reads {before}" if before is not None else MOVED if node.name in moved else None
        if reason is None:
            try:
                import_node(importer, node, constants)
                weights |= {name: importer.weights[name][0] for name in node.output if name in importer.weights}
                continue
            except Refused as error:
                reason = str(error)
        _take(part, importer, node, reason, opsets)
    return part


def _take(
    part: Part, importer: Importer, node: onnx.NodeProto, reason: str, opsets: Iterable[onnx.OperatorSetIdProto]
) -> None:
    """Add a node to the host's part, and what is known of its outputs to the importer."""
    _check_operator(node, opsets)
    node = _single(node)
    part.nodes.append((node, reason))
    part.made.update(filter(None, node.output))
    types = _input_types(part, importer, node)
    if types is None:
        return
    try:
        one = model_of(node, types, part.constants, opsets)
        found = strict_types(one)
        if any(math.prod(sizes(made) or ()) > MAX_VALUES for made in found.values()):
            raise ValueError("its output is too large")
    except Exception as error:  # the library raises many types: shapes, types or attributes contradict each other
        part.faults.append(f"node {node.name} contradicts itself: {first_line(error)}")
        return
    importer.types.update(found)
    part.alone[node.name] = one, found


def _check_operator(node: onnx.NodeProto, opsets: Iterable[onnx.OperatorSetIdProto]) -> None:
    version = next((o.version for o in opsets if not o.domain), 1)
    if not all(isinstance(word, str) for word in (node.name, *node.input, *node.output)):  # protobuf gives it as bytes
        raise NotCutError(f"node {node.name!r}: a name is not text")
    if node.domain:
        raise NotCutError(f"node {node.name} ({node.op_type}) is of another domain, {node.domain}")
    if not defs.has(node.op_type, version):
        raise NotCutError(f"node {node.name}: ONNX has no operator {node.op_type} in opset {version}")
    if holds_graph(node):
        raise NotCutError(f"node {node.name} ({node.op_type}) holds graphs of its own")


def _single(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node that makes float32 where it made floating point of 16 or 64 bits: all are read as float32."""
    if node.op_type != "Cast":
        return node
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for attribute in made.attribute:
        if attribute.name == "to" and attribute.type == AttributeProto.INT and attribute.i in FLOATS:
            attribute.i = TensorProto.FLOAT
    return made


def _input_types(part: Part, importer: Importer, node: onnx.NodeProto) -> Types | None:
    """Return the types of a node's inputs, or None if one is not known."""
    types: Types = {}
    for name in filter(None, node.input):
        shape = importer.shape_of(name)
        if name in part.constants:
            types[name] = array_type(part.constants[name])
        elif name in importer.types:
            types[name] = importer.types[name]
        elif shape is not None and name not in importer.integers:
            types[name] = tensor_type(shape)
        else:
            return None
    return types


def _try_on_zeros(part: Part) -> None:
    """Run each node once: inference passes over what does not fit, as in the channels of a convolution."""
    for node, _ in part.nodes:
        if node.name not in part.alone:
            continue
        model, made = part.alone[node.name]
        feeds = _zeros(model, made, part.constants)
        if feeds is None:
            continue
        try:
            with np.errstate(all="ignore"):
                ReferenceEvaluator(model).run(None, feeds)
        except (NotImplementedError, RuntimeContextError):  # onnx does not run it in this opset; onnxruntime may
            continue
        except Exception as error:  # the library raises many types
            raise NotCutError(f"node {node.name} contradicts itself: {first_line(error)}") from None


def _zeros(
    model: onnx.ModelProto, made: Types, constants: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]] | None:
    """Return inputs for a node on its own, or None where it is not tried.

    That is where a size is not known, or large, or where it reads computed integers: zeros may be none that it takes.
    """
    feeds: dict[str, NDArray[Any]] = {}
    shapes = [sizes(found) for found in made.values()]
    for value in model.graph.input:
        shape = sizes(value.type)
        shapes.append(shape)
        if value.name in constants:
            feeds[value.name] = constants[value.name]
        elif shape is not None and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            feeds[value.name] = np.broadcast_to(np.float32(0), shape)
        else:
            return None
    known = [math.prod(shape) for shape in shapes if shape is not None]
    return feeds if len(known) == len(shapes) and sum(known) <= TRIED_VALUES else None


# -- the part as a model


def host_part(
    part: Part, importer: Importer, outputs: Sequence[str], machine_macs: int, opsets: Iterable[onnx.OperatorSetIdProto]
) -> HostPart:
    """Return the host's part of a model.

    Args:
        part: its nodes; not none.
        importer: has imported the rest.
        outputs: names of the whole model's outputs.
        machine_macs: multiply-accumulates of the rest per image.
        opsets: of the model.

    Raises:
        NotCutError: too many multiply-accumulates, or a model that ONNX's checker refuses.
    """
    macs = sum(_macs(node, importer, part.constants) for node, _ in part.nodes)
    macs = -(-macs // importer.batch)
    if macs > MOST * (macs + machine_macs):
        share = f"{100 * macs / (macs + machine_macs):.1f} % of the multiply-accumulates, of {100 * MOST:g} % at most"
        raise NotCutError(f"with those behind them these nodes do {share}")
    _try_on_zeros(part)
    model = _model(part, importer, [name for name in outputs if name in part.made], opsets)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises many types
        raise NotCutError(f"their model is refused by ONNX's checker: {first_line(error)}") from None
    nodes = tuple(
        HostNode(name=printable(n.name)[:REASON], operator=n.op_type, reason=printable(reason)[:REASON])
        for n, reason in part.nodes
    )
    results = tuple(HostOutput(name=name, shape=_result_shape(name, part, importer)) for name in outputs)
    mixed = next((result.name for result in results if result.shape is None), None)
    if mixed is not None and importer.batch > 1:
        raise NotCutError(f"output {mixed!r} may mix the {importer.batch} images that the model is made for")
    data = np.frombuffer(model.SerializeToString(deterministic=True), np.uint8)
    return HostPart(onnx=data, nodes=nodes, outputs=results, macs=macs)


def _model(
    part: Part, importer: Importer, outputs: Sequence[str], opsets: Iterable[onnx.OperatorSetIdProto]
) -> onnx.ModelProto:
    read = dict.fromkeys(name for node, _ in part.nodes for name in node.input if name in part.constants)
    given = [(name, importer.shape_of(name)) for name in part.reads()]
    for name in outputs:
        kind = importer.types.get(name)
        if kind is None or not kind.tensor_type.elem_type:
            raise NotCutError(f"what output {name!r} is cannot be told before the model runs")
    graph = helper.make_graph(
        [node for node, _ in part.nodes],
        "host",
        [helper.make_value_info(name, tensor_type(shape)) for name, shape in given if shape is not None],
        [helper.make_value_info(name, importer.types[name]) for name in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(part.constants[name]), name) for name in read],
    )
    own = [helper.make_opsetid("", o.version) for o in opsets if not o.domain]
    return helper.make_model_gen_version(graph, opset_imports=own)


def _result_shape(name: str, part: Part, importer: Importer) -> tuple[int, ...] | None:
    shape = sizes(importer.types[name]) if name in part.made else importer.shape_of(name)
    return shape[1:] if shape and shape[0] == importer.batch else None


def _macs(node: onnx.NodeProto, importer: Importer, constants: Mapping[str, NDArray[Any]]) -> int:
    """Return the multiply-accumulates of a node for all images that the model is made for."""
    if node.op_type not in PRODUCTS:
        return 0

    def shape(name: str) -> tuple[int, ...]:
        found = constants[name].shape if name in constants else importer.shape_of(name)
        if found is None:
            raise NotCutError(f"the size of node {node.name} ({node.op_type}) is not known")
        return found

    if node.op_type in RECURRENT:  # (steps, images, values) by the weights of inputs and of states
        return math.prod(shape(node.input[0])[:2]) * sum(math.prod(shape(name)) for name in node.input[1:3])
    if node.op_type == "Einsum":
        equation = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "equation"), "")
        return _einsum_macs(equation, [shape(name) for name in node.input])
    left, out = shape(node.input[0]), shape(node.output[0])
    match node.op_type:
        case "QLinearConv":
            return math.prod(out) * math.prod(shape(node.input[3])[1:])
        case "ConvTranspose":
            return math.prod(left) * math.prod(shape(node.input[1])[1:])
        case "Gemm":
            return math.prod(left) * out[-1]
        case product if product in CONVOLUTIONS:
            return math.prod(out) * math.prod(shape(node.input[1])[1:])
        case _:
            return math.prod(out) * left[-1]


def _einsum_macs(equation: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """Return how often an Einsum of several tensors multiplies: once for each value of all its indices together."""
    lengths: dict[str, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    for term, shape in zip(terms, shapes, strict=False):  # ONNX's inference has seen to their number
        before, _, after = term.partition("...")
        between = [f"...{i}" for i in range(len(shape) - len(before) - len(after), 0, -1)]  # broadcast from the last
        for index, length in zip([*before, *between, *after], shape, strict=False):
            lengths[index] = max(lengths.get(index, 1), length)
    return math.prod(lengths.values()) if len(shapes) > 1 else 0
