"""The .npubin file: magic, version, SHA-256 of what follows, then a safetensors payload with one JSON manifest.

Reading validates everything structural before anything runs; what the instructions do is `check`'s business. Equal
binaries give equal bytes: no time stamps, sorted keys.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_isa.binary import Binary, DialStep, InputInfo, LayerInfo, OutputInfo
from npu_isa.errors import ContainerError, NpuError
from npu_isa.machine import machine_from_dict
from npu_isa.tables import ISA_HASH, RAW

MAGIC = b"NPUBIN\r\n"
VERSION = 1
HEAD = len(MAGIC) + 4 + 32
WORD = int(RAW["word_bytes"])
MAX_SIDE = 1 << 16
WAY_OUT = "compile the model again"

Arrays = Mapping[str, NDArray[Any]]
ARRAYS = {
    "code": "uint8",
    "constants": "uint8",
    "table": "uint8",
    "dial": "int64",
    "layer_of": "int32",
    "tile_of": "int32",
    "channel_of": "int32",
    "location_of": "int32",
}


def seal(magic: bytes, version: int, tensors: dict[str, NDArray[Any]], manifest: dict[str, Any]) -> bytes:
    """Return file bytes: magic, version, checksum, safetensors payload with the manifest as its metadata."""
    from safetensors.numpy import save

    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    payload = save({k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}, metadata={"manifest": text})
    body = version.to_bytes(4, "little") + hashlib.sha256(payload).digest()
    return magic + body + payload


def unseal(data: bytes, magic: bytes, version: int, where: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the tensors and the manifest of file bytes.

    Raises:
        ContainerError: not such a file, another version, damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if data[: len(magic)] != magic:
        raise ContainerError(f"not a {magic[:6].decode().lower()} file", where, "check the path")
    if len(data) < HEAD:
        raise ContainerError(f"{len(data)} bytes: the file is cut short", where, WAY_OUT)
    found = int.from_bytes(data[len(magic) : len(magic) + 4], "little")
    if found != version:
        raise ContainerError(f"file version {found}, this tool reads version {version}", where, WAY_OUT)
    payload = data[HEAD:]
    if hashlib.sha256(payload).digest() != data[len(magic) + 4 : HEAD]:
        raise ContainerError("the checksum does not match: the file is damaged", where, WAY_OUT)
    try:
        tensors = load(payload)
        size = int.from_bytes(payload[:8], "little")
        manifest = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["manifest"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ContainerError(f"the payload cannot be read: {error}", where, WAY_OUT) from None
    if not isinstance(manifest, dict):
        raise ContainerError("the manifest is not an object", where, WAY_OUT)
    return tensors, manifest


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file under a temporary name beside its place and rename it: whole or not at all.

    Raises:
        ContainerError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise ContainerError(
            f"cannot write: {error.strerror}", str(target), "give a path in a writable folder"
        ) from None


def to_bytes(binary: Binary) -> bytes:
    """Return the file bytes of a binary."""
    info = {k: v for k, v in asdict(binary.input).items() if k != "table"}
    manifest = {
        "isa_hash": ISA_HASH,
        "machine": binary.machine.to_dict(),
        "machine_hash": binary.machine.hash(),
        "model": binary.model,
        "dram_bytes": binary.dram_bytes,
        "dial_macs": binary.dial_macs,
        "input": info,
        "output": asdict(binary.output),
        "layers": [asdict(layer) for layer in binary.layers],
        "notes": list(binary.notes),
    }
    dial = np.array([(s.register, s.boundary, s.low_macs) for s in binary.dial], np.int64).reshape(-1, 3)
    tensors = {name: getattr(binary, name) for name in ARRAYS if name not in ("dial", "table")}
    return seal(MAGIC, VERSION, tensors | {"dial": dial, "table": binary.input.table}, manifest)


def save(binary: Binary, path: str | Path) -> None:
    """Write a .npubin file, whole or not at all."""
    write_whole(path, to_bytes(binary))


def load(path: str | Path) -> Binary:
    """Read a .npubin file.

    Raises:
        ContainerError: missing, damaged, of another version or ISA, or inconsistent.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ContainerError(f"cannot read: {error.strerror}", str(path), "check the path") from None
    return from_bytes(data, Path(path).name)


def from_bytes(data: bytes, where: str) -> Binary:
    """Return the binary in file bytes; `where` names it in errors.

    Raises:
        ContainerError: anything structural is wrong.
    """
    tensors, manifest = unseal(data, MAGIC, VERSION, where)
    try:
        return _read(tensors, _Reader(manifest, ""))
    except _WrongError as error:
        raise ContainerError(str(error), where, WAY_OUT) from None
    except ContainerError:
        raise
    except NpuError as error:
        raise ContainerError(error.message, where, error.hint) from None


class _WrongError(Exception):
    """A field is missing or out of its range; the text names it."""


class _Reader:
    """Typed access to a JSON object: every field is named in the error when it is not what it must be."""

    def __init__(self, data: Any, name: str) -> None:
        if not isinstance(data, dict):
            raise _WrongError(f"{name or 'manifest'} is not an object")
        self.data, self.name = data, name

    def get(self, key: str, ok: Callable[[Any], bool], what: str) -> Any:
        value = self.data.get(key)
        if not ok(value):
            raise _WrongError(f"{self.name}{key} = {str(value)[:60]!r}: must be {what}")
        return value

    def whole(self, key: str, least: int, most: int) -> int:
        return int(self.get(key, lambda v: _is_int(v) and least <= v <= most, f"a whole number in {least}..{most}"))

    def real(self, key: str, positive: bool = False) -> float:
        text = "a finite positive number" if positive else "a finite number"
        return float(self.get(key, lambda v: _is_real(v) and (v > 0 or not positive), text))

    def flag(self, key: str) -> bool:
        return bool(self.get(key, lambda v: isinstance(v, bool), "true or false"))

    def text(self, key: str) -> str:
        return str(self.get(key, _is_label, "a printable text of at most 1,000 characters"))

    def wholes(self, key: str, least: int, most: int, lengths: range) -> tuple[int, ...]:
        def ok(v: Any) -> bool:
            return isinstance(v, list) and len(v) in lengths and all(_is_int(i) and least <= i <= most for i in v)

        text = f"{lengths.start}..{lengths.stop - 1} whole numbers in {least}..{most}"
        return tuple(self.get(key, ok, text))

    def reals(self, key: str, lengths: range) -> tuple[float, ...]:
        def ok(v: Any) -> bool:
            return isinstance(v, list) and len(v) in lengths and all(_is_real(i) for i in v)

        return tuple(float(v) for v in self.get(key, ok, f"{lengths.start}..{lengths.stop - 1} finite numbers"))

    def texts(self, key: str) -> tuple[str, ...]:
        def ok(v: Any) -> bool:
            return isinstance(v, list) and len(v) < 10_000 and all(_is_label(i) for i in v)

        return tuple(self.get(key, ok, "a list of printable texts"))

    def part(self, key: str) -> "_Reader":
        return _Reader(self.data.get(key), f"{self.name}{key}.")

    def parts(self, key: str) -> list["_Reader"]:
        items = self.get(key, lambda v: isinstance(v, list) and len(v) < 100_000, "a list")
        return [_Reader(item, f"{self.name}{key}[{i}].") for i, item in enumerate(items)]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isfinite(value) if isinstance(value, float) else abs(value) < 1 << 1000


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000 and value.isprintable()


def _need(ok: bool, text: str) -> None:
    if not ok:
        raise _WrongError(text)


def _read(tensors: Arrays, top: _Reader) -> Binary:
    _need(set(tensors) == set(ARRAYS), f"arrays are {sorted(tensors)}, must be {sorted(ARRAYS)}")
    for name, dtype in ARRAYS.items():
        _need(tensors[name].dtype == dtype, f"{name} holds {tensors[name].dtype}, must be {dtype}")
    found = top.text("isa_hash")
    _need(found == ISA_HASH, f"made for the instruction set {found[:12]}, this tool has {ISA_HASH[:12]}")
    machine = machine_from_dict(top.part("machine").data, "its machine description")
    _need(top.text("machine_hash") == machine.hash(), "machine_hash does not belong to the machine")
    code, constants = tensors["code"], tensors["constants"]
    _need(code.ndim == 2 and code.shape[1] == WORD, f"code has shape {code.shape}, must be (instructions, {WORD})")
    count = len(code)
    _need(
        0 < count <= machine.instruction_words, f"{count} instructions, the machine holds {machine.instruction_words}"
    )
    _need(constants.ndim == 1, "constants are not one row of bytes")
    dram = top.whole("dram_bytes", constants.size, machine.dram_bytes)
    layers = _layers(top, RAW["boundary_registers"] - 1)
    for name in ("layer_of", "tile_of", "channel_of", "location_of"):
        _need(tensors[name].shape == (count,), f"{name} has shape {tensors[name].shape}, must be ({count},)")
        _need(int(tensors[name].min()) >= -1, f"{name} has a number below -1")
    _need(int(tensors["layer_of"].max()) < len(layers), "layer_of names a layer that is not there")
    info, out = _input(top.part("input"), tensors["table"]), _output(top.part("output"))
    for what, part in (("input", info), ("output", out)):
        _need(part.address >= constants.size, f"the {what} lies in the constants")
        _need(part.address + part.bytes <= dram, f"the {what} ends beyond dram_bytes = {dram}")
    apart = info.address + info.bytes <= out.address or out.address + out.bytes <= info.address
    _need(apart, "input and output overlap")
    macs = top.whole("dial_macs", 0, 1 << 62)
    return Binary(
        model=top.text("model"),
        machine=machine,
        code=code,
        constants=constants,
        dram_bytes=dram,
        input=info,
        output=out,
        layers=layers,
        dial=_dial(tensors["dial"], layers, macs),
        dial_macs=macs,
        layer_of=tensors["layer_of"],
        tile_of=tensors["tile_of"],
        channel_of=tensors["channel_of"],
        location_of=tensors["location_of"],
        notes=top.texts("notes"),
    )


def _input(r: _Reader, table: NDArray[Any]) -> InputInfo:
    channels = r.whole("channels", 1, 4096)
    _need(table.shape == (channels, 256), f"table has shape {table.shape}, must be ({channels}, 256)")
    return InputInfo(
        name=r.text("name"),
        address=r.whole("address", 0, 1 << 32),
        height=r.whole("height", 1, MAX_SIDE),
        width=r.whole("width", 1, MAX_SIDE),
        channels=channels,
        signed=r.flag("signed"),
        scale=r.real("scale", positive=True),
        pixel_scale=r.real("pixel_scale"),
        mean=r.reals("mean", range(1, 4097)),
        std=r.reals("std", range(1, 4097)),
        resize=r.wholes("resize", 1, MAX_SIDE, range(3)),
        crop=r.wholes("crop", 1, MAX_SIDE, range(3)),
        table=table,
    )


def _output(r: _Reader) -> OutputInfo:
    channels = r.whole("channels", 16, 1 << 16)
    _need(channels % 16 == 0, f"output.channels = {channels}: must be whole groups of 16")
    info = OutputInfo(
        name=r.text("name"),
        address=r.whole("address", 0, 1 << 32),
        height=r.whole("height", 1, MAX_SIDE),
        width=r.whole("width", 1, MAX_SIDE),
        channels=channels,
        bits=int(r.get("bits", lambda v: _is_int(v) and v in (8, 16), "8 or 16")),
        signed=r.flag("signed"),
        scale=r.real("scale", positive=True),
        channel_map=r.wholes("channel_map", -1, channels - 1, range(channels, channels + 1)),
        shape=r.wholes("shape", 1, 1 << 32, range(1, 9)),
    )
    real = sorted(c for c in info.channel_map if c >= 0)
    _need(real == list(range(len(real))) and bool(real), "output.channel_map does not name each channel once")
    values, wanted = info.height * info.width * len(real), int(np.prod([int(s) for s in info.shape], dtype=object))
    _need(values == wanted, f"output.shape has {wanted} values, the tensor {values}")
    return info


def _layers(top: _Reader, registers: int) -> tuple[LayerInfo, ...]:
    found = []
    for r in top.parts("layers"):
        groups = r.whole("groups", 0, 256)
        bounds = r.wholes("boundaries", 0, groups, range(1, 258))
        _need(bounds[0] == 0 and all(a < b for a, b in pairwise(bounds)), f"{r.name}boundaries")
        layer = LayerInfo(
            name=r.text("name"),
            onnx_nodes=r.texts("onnx_nodes"),
            kind=str(r.get("kind", lambda v: v in ("conv", "window"), "conv or window")),
            register=r.whole("register", -1, registers - 1),
            groups=groups,
            boundaries=bounds,
            macs=r.whole("macs", 0, 1 << 62),
            out=r.text("out"),
        )
        _need(layer.register >= 0 or bounds == (0,), f"{r.name}boundaries: a layer without a register has none")
        found.append(layer)
    used = sorted(layer.register for layer in found if layer.register >= 0)
    _need(used == list(range(len(used))), f"boundary registers {used} are not 0..{len(used) - 1}, each once")
    return tuple(found)


def _dial(array: NDArray[Any], layers: tuple[LayerInfo, ...], macs: int) -> tuple[DialStep, ...]:
    _need(array.ndim == 2 and array.shape[1] == 3, f"dial has shape {array.shape}, must be (steps, 3)")
    left = {layer.register: list(layer.boundaries[1:]) for layer in layers if layer.register >= 0}
    steps, before = [], 0
    for register, boundary, low in array.tolist():
        _need(register in left and left[register][:1] == [boundary], f"dial step ({register}, {boundary}) is not legal")
        _need(before <= low <= macs, f"dial step reaches {low} multiply-accumulates of {macs}")
        left[register].pop(0)
        before = low
        steps.append(DialStep(register=register, boundary=boundary, low_macs=low))
    return tuple(steps)
