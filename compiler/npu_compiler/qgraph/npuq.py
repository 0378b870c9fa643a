"""The .npuq file: a quantized graph, the same for every machine. Checked as a whole before use.

The container is that of .npubin (npu_isa.file.container): a manifest of the graph's fields, arrays beside it. Which
fields there are is read off the dataclasses, each named by its type, and which types may stand in a place off their
unions, so that a new field or member needs no change here.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from npu_isa.errors import ContainerError
from npu_isa.file.container import read_whole, seal, unseal, write_whole
from numpy.typing import NDArray

from npu_compiler.qgraph.ir import QuantizedGraph
from npu_compiler.qgraph.verify import verify_quantized

MAGIC = b"NPUQ  \r\n"
VERSION = 3
WAY_OUT = "quantize the model again"

Arrays = dict[str, NDArray[Any]]


def to_bytes(graph: QuantizedGraph) -> bytes:
    """Return the file bytes of a quantized graph; equal graphs give equal bytes."""
    arrays: Arrays = {}
    manifest = _plain(graph, "", arrays)
    return seal(MAGIC, VERSION, arrays, manifest)


def save(graph: QuantizedGraph, path: str | Path) -> None:
    """Write a .npuq file, whole or not at all."""
    write_whole(path, to_bytes(graph))


def load(path: str | Path) -> QuantizedGraph:
    """Read a .npuq file.

    Raises:
        ContainerError: missing, damaged, of another version, or it breaks a rule of the quantized graph.
    """
    return from_bytes(read_whole(path), Path(path).name)


def from_bytes(data: bytes, where: str) -> QuantizedGraph:
    """Return the graph in file bytes; `where` names it in errors. Raises ContainerError as `load` does."""
    arrays, manifest = unseal(data, MAGIC, VERSION, where)
    unused = dict(arrays)
    try:
        graph = _typed(QuantizedGraph, manifest, "", unused)
    except _WrongError as error:
        raise ContainerError(str(error), where, WAY_OUT) from None
    if unused:
        raise ContainerError(f"arrays that nothing names: {', '.join(sorted(unused)[:5])}", where, WAY_OUT)
    assert isinstance(graph, QuantizedGraph)
    verify_quantized(graph, where)
    return graph


class _WrongError(Exception):
    """A field is missing or of the wrong type; the text names it."""


def _plain(value: Any, path: str, arrays: Arrays) -> Any:
    """Return a value as JSON; arrays go to `arrays` under their path, which stands in their place."""
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"array": path}
    if is_dataclass(value):
        inside = {f.name: _plain(getattr(value, f.name), f"{path}.{f.name}".lstrip("."), arrays) for f in fields(value)}
        return {"type": type(value).__name__, **inside}
    if isinstance(value, tuple):
        return [_plain(v, f"{path}.{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        return {k: _plain(v, f"{path}.{k}", arrays) for k, v in value.items()}
    assert value is None or isinstance(value, str | int | float | bool), (path, type(value))
    return value


def _typed(kind: Any, value: Any, path: str, arrays: Arrays) -> Any:
    """Return JSON as a value of a type, as the dataclasses declare it; used arrays are taken out of `arrays`."""
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _record((kind,), value, path, arrays)
    if origin in (Union, UnionType):
        inner = [k for k in get_args(kind) if k is not NoneType]
        if value is None and len(inner) < len(get_args(kind)):
            return None
        return _record(inner, value, path, arrays) if len(inner) > 1 else _typed(inner[0], value, path, arrays)
    if origin is Literal:
        _need(value in get_args(kind), path, f"one of {', '.join(get_args(kind))}")
        return value
    if origin is tuple:
        return _sequence(get_args(kind), value, path, arrays)
    if origin is dict:
        _need(isinstance(value, dict), path, "an object")
        return {k: _typed(get_args(kind)[1], v, f"{path}.{k}", arrays) for k, v in value.items()}
    if origin is np.ndarray:
        name = value.get("array") if isinstance(value, dict) else None
        _need(isinstance(name, str) and name in arrays, path, "an array of the file")
        return arrays.pop(str(name))
    if kind is float:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        _need(real and abs(value) <= sys.float_info.max, path, "a finite number")
        return float(value)
    _need(type(value) is kind, path, {int: "a whole number", str: "a text", bool: "true or false"}[kind])
    return value


def _record(kinds: Sequence[Any], value: Any, path: str, arrays: Arrays) -> Any:
    """Return JSON as a value of the dataclass that it names, which must be one of these."""
    names = [k.__name__ for k in kinds]
    _need(isinstance(value, dict) and value.get("type") in names, path, f"an object of type {' or '.join(names)}")
    kind = kinds[names.index(value["type"])]
    hints = get_type_hints(kind)
    parts = [f.name for f in fields(kind)]
    _need(value.keys() == {"type", *parts}, path, f"an object of type, {', '.join(parts)}")
    return kind(**{n: _typed(hints[n], value[n], f"{path}.{n}".lstrip("."), arrays) for n in parts})


def _sequence(kinds: tuple[Any, ...], value: Any, path: str, arrays: Arrays) -> tuple[Any, ...]:
    _need(isinstance(value, list), path, "a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    _need(len(kinds) == len(value), path, f"a list of {len(kinds)}")
    return tuple(_typed(k, v, f"{path}.{i}", arrays) for i, (k, v) in enumerate(zip(kinds, value, strict=True)))


def _need(ok: bool, path: str, what: str) -> None:
    if not ok:
        raise _WrongError(f"{path or 'the manifest'} must be {what}")
