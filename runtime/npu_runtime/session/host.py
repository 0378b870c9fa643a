"""The host's part of a binary: the end of its model, run by an ONNX engine on the machine's outputs."""

from collections.abc import Mapping
from typing import Any

import onnx
from npu_isa.errors import ContainerError
from npu_isa.file.binary import Binary
from numpy.typing import NDArray
from onnx import TensorProto

from npu_runtime.session.onnx_run import OnnxModel, Result

Array = NDArray[Any]


class Host:
    """The host's part, ready to run.

    Args:
        binary: one that has a part for the host.

    Raises:
        ContainerError: the part is damaged, or does not fit the outputs of the machine.
        ModelError: no engine here runs it.
    """

    def __init__(self, binary: Binary) -> None:
        assert binary.host is not None
        self._part, where = binary.host, f"{binary.model}, the host's part"
        data = self._part.onnx.tobytes()
        proto = _checked(data, where)
        self._given = {out.name: out.shape for out in binary.outputs}
        self._batch = 1
        for value in proto.graph.input:
            sizes = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            fits = value.type.tensor_type.elem_type == TensorProto.FLOAT and sizes[:1] > (0,)
            if not fits or sizes[1:] != self._given.get(value.name):
                raise _damaged(
                    f"it reads {value.name!r} of shape {list(sizes)}, which the machine does not give", where
                )
            self._batch = sizes[0]
        self._reads = [value.name for value in proto.graph.input]
        made = {value.name for value in proto.graph.output}
        missing = [out.name for out in self._part.outputs if out.name not in {*made, *self._given}]
        if missing:
            raise _damaged(f"nothing makes the output {missing[0]!r}", where)
        self._model = OnnxModel(data, where)

    @property
    def engine(self) -> str:
        """What runs it, with its version."""
        return self._model.engine

    def run(self, values: Mapping[str, Array]) -> dict[str, Result]:
        """Return the outputs of the whole model, in its order.

        Args:
            values: outputs of the machine by name, float32 (N, *shape).

        Returns:
            by name: an array (N, *shape), or where the shape is not known a list of arrays, one for each image.
        """
        shapes = {out.name: out.shape for out in self._part.outputs}
        made = self._model.run_each({name: values[name] for name in self._reads}, self._batch, shapes)
        return {name: made[name] if name in made else values[name] for name in shapes}


def _checked(data: bytes, where: str) -> onnx.ModelProto:
    """Return the model in bytes; it must need no other file."""
    try:
        proto = onnx.load_from_string(data)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf and the checker raise many types
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _damaged(f"not a readable ONNX model: {text}", where) from None
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        raise _damaged("its constants lie in another file", where)
    return proto


def _damaged(text: str, where: str) -> ContainerError:
    return ContainerError(text, where, "compile the model again")
