"""The parts of a .npubin: a JSON manifest and arrays. From a `Binary` and back, with everything structural checked.

`container` puts the parts into a file; the assembler fills them from text. What the instructions do is `check`'s
business.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import combinations, pairwise
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_isa.errors import ContainerError, MachineError
from npu_isa.file.binary import (
    Binary,
    DialStep,
    HostNode,
    HostOutput,
    HostPart,
    InputInfo,
    LayerInfo,
    OutputInfo,
    data_address,
)
from npu_isa.isa.tables import ISA_HASH, RAW
from npu_isa.machine.config import machine_from_dict

WORD = int(RAW["word_bytes"])
REGISTERS = int(RAW["boundary_registers"]) - 1  # that layers may name
MAX_SIDE = 1 << 16
MAX_MACS = 1 << 62
KINDS = ("conv", "window")
PER_INSTRUCTION = ("layer_of", "tile_of", "channel_of", "location_of")
# arrays of the payload: type, and axes by name, or by length where that is fixed
ARRAYS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "code": ("uint8", ("instructions", WORD)),
    "constants": ("uint8", ("bytes",)),
    "table": ("uint8", ("input channels", 256)),
    "dial": ("int64", ("steps", 3)),
    "onnx": ("uint8", ("bytes",)),
    **dict.fromkeys(PER_INSTRUCTION, ("int32", ("instructions",))),
}

NO_BYTES = np.zeros(0, np.uint8)

Arrays = Mapping[str, NDArray[Any]]


class FieldError(ContainerError):
    """A part of the manifest or an array is not what it must be.

    Attributes:
        field: path of the part, as in "layers[2].groups"; "" if it is none in particular.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def to_parts(binary: Binary) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the manifest of a binary; see ARRAYS."""
    manifest = {
        "isa_hash": ISA_HASH,
        "machine": binary.machine.to_dict(),
        "machine_hash": binary.machine.hash(),
        "model": binary.model,
        "dram_bytes": binary.dram_bytes,
        "dial_macs": binary.dial_macs,
        "input": {k: v for k, v in asdict(binary.input).items() if k != "table"},
        "outputs": [asdict(output) for output in binary.outputs],
        "layers": [asdict(layer) for layer in binary.layers],
        "notes": list(binary.notes),
        "host": None if binary.host is None else host_to_dict(binary.host),
    }
    dial = np.array([(s.register, s.boundary, s.low_macs) for s in binary.dial], np.int64).reshape(-1, 3)
    arrays = {name: getattr(binary, name) for name in ARRAYS if name not in ("dial", "table", "onnx")}
    onnx = NO_BYTES if binary.host is None else binary.host.onnx
    return arrays | {"dial": dial, "table": binary.input.table, "onnx": onnx}, manifest


def host_to_dict(host: HostPart) -> dict[str, Any]:
    """Return the host's part as the manifest has it: without its ONNX model."""
    nodes, outputs = ([asdict(part) for part in parts] for parts in (host.nodes, host.outputs))
    return {"nodes": nodes, "outputs": outputs, "macs": host.macs}


def from_parts(arrays: Arrays, manifest: dict[str, Any]) -> Binary:
    """Return the binary of arrays and a manifest.

    Args:
        arrays: as ARRAYS says.
        manifest: values of JSON; lists may be tuples.

    Raises:
        FieldError: a part is missing, out of its range, or contradicts another.
    """
    top = _Reader(manifest, "")
    _check_types(arrays)
    found = top.text("isa_hash")
    _need(found == ISA_HASH, f"made for the instruction set {found[:12]}, this tool has {ISA_HASH[:12]}", "isa_hash")
    try:
        machine = machine_from_dict(top.part("machine").data, "")
    except MachineError as error:
        raise FieldError(f"its machine description has {error.message}", "machine") from None
    _need(top.text("machine_hash") == machine.hash(), "machine_hash does not belong to the machine", "machine_hash")
    code, constants = arrays["code"], arrays["constants"]
    count = len(code)
    _need(count > 0, "no instructions: a program has a halt at least", "code")
    base = data_address(constants.size, count)
    _need(base <= machine.dram_bytes, f"constants and program end at {base}, DRAM at {machine.dram_bytes}", "code")
    dram = top.whole("dram_bytes", base, machine.dram_bytes)
    layers = _layers(top)
    for name in PER_INSTRUCTION:
        _need(arrays[name].shape == (count,), f"{name} has shape {arrays[name].shape}, must be ({count},)", name)
        _need(int(arrays[name].min()) >= -1, f"{name} has a number below -1", name)
    _need(int(arrays["layer_of"].max()) < len(layers), "layer_of names a layer that is not there", "layer_of")
    info, outputs = _input(top.part("input"), arrays["table"]), _outputs(top)
    _check_dram(info, outputs, base, dram)
    macs = top.whole("dial_macs", 0, MAX_MACS)
    return Binary(
        model=top.text("model"),
        machine=machine,
        code=code,
        constants=constants,
        dram_bytes=dram,
        input=info,
        outputs=outputs,
        layers=layers,
        dial=_dial(arrays["dial"], layers, macs),
        dial_macs=macs,
        notes=top.texts("notes"),
        host=_host(top, arrays["onnx"], outputs),
        **{name: arrays[name] for name in PER_INSTRUCTION},
    )


class _Reader:
    """Typed access to a JSON object: every field is named in the error when it is not what it must be."""

    def __init__(self, data: Any, name: str) -> None:
        if not isinstance(data, dict):
            raise FieldError(f"{name.rstrip('.') or 'the manifest'} is not an object", name.rstrip("."))
        self.data, self.name = data, name

    def get(self, key: str, ok: Callable[[Any], bool], what: str) -> Any:
        value = self.data.get(key)
        if key not in self.data:
            raise FieldError(f"{self.name}{key} is missing: must be {what}", f"{self.name}{key}")
        if not ok(value):
            raise FieldError(f"{self.name}{key} = {repr(value)[:60]}: must be {what}", f"{self.name}{key}")
        return value

    def need(self, ok: bool, key: str, text: str) -> None:
        _need(ok, f"{self.name}{key} {text}", f"{self.name}{key}")

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
            return _is_list(v) and len(v) in lengths and all(_is_int(i) and least <= i <= most for i in v)

        return tuple(self.get(key, ok, f"{_count(lengths)} whole numbers in {least}..{most}"))

    def reals(self, key: str, lengths: range) -> tuple[float, ...]:
        def ok(v: Any) -> bool:
            return _is_list(v) and len(v) in lengths and all(_is_real(i) for i in v)

        return tuple(float(v) for v in self.get(key, ok, f"{_count(lengths)} finite numbers"))

    def texts(self, key: str) -> tuple[str, ...]:
        def ok(v: Any) -> bool:
            return _is_list(v) and len(v) < 10_000 and all(_is_label(i) for i in v)

        return tuple(self.get(key, ok, "a list of printable texts"))

    def part(self, key: str) -> "_Reader":
        return _Reader(self.data.get(key), f"{self.name}{key}.")

    def parts(self, key: str) -> list["_Reader"]:
        items = self.get(key, lambda v: _is_list(v) and len(v) < 100_000, "a list")
        return [_Reader(item, f"{self.name}{key}[{i}].") for i, item in enumerate(items)]


def _count(lengths: range) -> str:
    return str(lengths.start) if len(lengths) == 1 else f"{lengths.start}..{lengths.stop - 1}"


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isfinite(value) if isinstance(value, float) else abs(value) < 1 << 1000


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000 and value.isprintable()


def _need(ok: bool, text: str, field: str = "") -> None:
    if not ok:
        raise FieldError(text, field)


def _check_types(arrays: Arrays) -> None:
    _need(set(arrays) == set(ARRAYS), f"arrays are {sorted(arrays)}, must be {sorted(ARRAYS)}")
    for name, (dtype, axes) in ARRAYS.items():
        found = arrays[name]
        _need(found.dtype == dtype, f"{name} holds {found.dtype}, must be {dtype}", name)
        fits = found.ndim == len(axes) and all(
            isinstance(a, str) or a == n for a, n in zip(axes, found.shape, strict=True)
        )
        _need(fits, f"{name} has shape {found.shape}, must be ({', '.join(map(str, axes))})", name)


def _check_dram(info: InputInfo, outputs: tuple[OutputInfo, ...], base: int, dram_bytes: int) -> None:
    parts: list[tuple[str, str, InputInfo | OutputInfo]] = [("the input", "input", info)]
    parts += [(f"output {out.name}", f"outputs[{i}]", out) for i, out in enumerate(outputs)]
    for what, path, part in parts:
        field = f"{path}.address"
        _need(part.address >= base, f"{what} lies before {base:#x}, in the constants or the program", field)
        _need(part.range[1] <= dram_bytes, f"{what} ends beyond dram_bytes = {dram_bytes}", field)
    for (what, _, part), (other_what, other_path, other) in combinations(parts, 2):
        apart = part.range[1] <= other.range[0] or other.range[1] <= part.range[0]
        _need(apart or _tensor(part) == _tensor(other), f"{what} and {other_what} overlap", f"{other_path}.address")


def _tensor(part: InputInfo | OutputInfo) -> object:
    """Return what two outputs of one tensor have in common."""
    return replace(part, name="", shape=()) if isinstance(part, OutputInfo) else part


def _input(r: _Reader, table: NDArray[Any]) -> InputInfo:
    channels = r.whole("channels", 1, 4096)
    _need(table.shape == (channels, 256), f"table has shape {table.shape}, must be ({channels}, 256)", "table")
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


def _outputs(top: _Reader) -> tuple[OutputInfo, ...]:
    outputs = tuple(_output(r) for r in top.parts("outputs"))
    _need(len(outputs) > 0, "no outputs", "outputs")
    for i, output in enumerate(outputs):
        taken = any(other.name == output.name for other in outputs[:i])
        _need(not taken, f"a second output is called {output.name}", f"outputs[{i}].name")
    return outputs


def _output(r: _Reader) -> OutputInfo:
    channels = r.whole("channels", 16, 1 << 16)
    r.need(channels % 16 == 0, "channels", f"= {channels}: must be whole groups of 16")
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
    r.need(real == list(range(len(real))) and bool(real), "channel_map", "does not name each channel once")
    values, wanted = info.height * info.width * len(real), prod(info.shape)
    r.need(values == wanted, "shape", f"has {wanted} values, the tensor {values}")
    return info


def _host(top: _Reader, onnx: NDArray[Any], made: tuple[OutputInfo, ...]) -> HostPart | None:
    if top.get("host", lambda v: v is None or isinstance(v, dict), "null or an object") is None:
        _need(not onnx.size, "a model for the host, and no host", "host")
        return None
    r = top.part("host")
    _need(onnx.size > 0, "no model for the host", "host")
    nodes = [HostNode(**{f: n.text(f) for f in ("name", "operator", "reason")}) for n in r.parts("nodes")]
    outputs = [HostOutput(name=o.text("name"), shape=_result_shape(o)) for o in r.parts("outputs")]
    names = [output.name for output in outputs]
    _need(0 < len(names) == len(set(names)), "the host has no outputs, or two of one name", "host")
    _need(bool(set(names) - {output.name for output in made}), "the host makes no output", "host")
    return HostPart(onnx=onnx, nodes=tuple(nodes), outputs=tuple(outputs), macs=r.whole("macs", 0, MAX_MACS))


def _result_shape(r: _Reader) -> tuple[int, ...] | None:
    if r.get("shape", lambda v: v is None or _is_list(v), "null or a list") is None:
        return None
    return r.wholes("shape", 0, 1 << 32, range(9))


def _layers(top: _Reader) -> tuple[LayerInfo, ...]:
    found = []
    for r in top.parts("layers"):
        groups = r.whole("groups", 0, RAW["max_groups"])
        bounds = r.wholes("boundaries", 0, groups, range(1, RAW["max_groups"] + 2))
        r.need(bounds[0] == 0 and all(a < b for a, b in pairwise(bounds)), "boundaries", "do not rise from 0 on")
        layer = LayerInfo(
            name=r.text("name"),
            onnx_nodes=r.texts("onnx_nodes"),
            kind=str(r.get("kind", lambda v: v in KINDS, " or ".join(KINDS))),
            register=r.whole("register", -1, REGISTERS - 1),
            groups=groups,
            boundaries=bounds,
            macs=r.whole("macs", 0, MAX_MACS),
            out=r.text("out"),
        )
        r.need(layer.register >= 0 or bounds == (0,), "boundaries", "need a register")
        found.append(layer)
    used = sorted(layer.register for layer in found if layer.register >= 0)
    _need(used == list(range(len(used))), f"boundary registers {used} are not 0..{len(used) - 1}, each once", "layers")
    return tuple(found)


def _dial(array: NDArray[Any], layers: tuple[LayerInfo, ...], macs: int) -> tuple[DialStep, ...]:
    _need(macs > 0 or not len(array), "dial_macs = 0: a dial has multiply-accumulates to count", "dial_macs")
    left = {layer.register: list(layer.boundaries[1:]) for layer in layers if layer.register >= 0}
    steps, before = [], 0
    for place, (register, boundary, low) in enumerate(array.tolist()):
        field = f"dial[{place}]"
        legal = register in left and left[register][:1] == [boundary]
        _need(legal, f"dial step {place}: boundary {boundary} of register {register} is not its next legal one", field)
        _need(before <= low <= macs, f"dial step {place} reaches {low} multiply-accumulates of {macs}", field)
        left[register].pop(0)
        before = low
        steps.append(DialStep(register=register, boundary=boundary, low_macs=low))
    return tuple(steps)
