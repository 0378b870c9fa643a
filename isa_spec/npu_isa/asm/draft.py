"""What an assembly text has said so far, statement by statement, and the parts of the binary that follow from it."""

from dataclasses import dataclass
from math import prod
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_isa.asm.syntax import CHANNEL, NAMES, TOKENS
from npu_isa.errors import NpuError, did_you_mean, quoted
from npu_isa.file.binary import data_address
from npu_isa.file.manifest import KINDS, PER_INSTRUCTION
from npu_isa.isa.codec import encode, operand_problem, token_problem
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import BY_NAME, ENGINES, FRONT, ISA_HASH, InstructionSpec, Operand
from npu_isa.machine.config import SHIPPED, load_machine, machine_from_dict

DEFAULT_MACHINE = "npu32"
STEP_KEYS = NAMES[".step"]


class WrongError(Exception):
    """A line is wrong at a column (from 1): what, and the way out."""

    def __init__(self, column: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.column, self.message, self.hint = column, message, hint


@dataclass(frozen=True, slots=True)
class Item:
    """One name=value: int, float, text, list, or a tuple of bare words; columns of both, from 1."""

    name: str
    value: Any
    column: int
    value_column: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One line: an instruction, or a directive with its value, if any, and its items."""

    head: str
    column: int
    value: Item | None
    items: tuple[Item, ...]


class Draft:
    """Collects statements and bytes; `parts` gives what `manifest.from_parts` takes."""

    def __init__(self, where: str) -> None:
        self._data: dict[str, bytearray] = {}
        self._model: str = PurePath(where).stem
        self._base = DEFAULT_MACHINE
        self._parts: dict[str, dict[str, Any]] = {"machine": {}, "input": {}}
        self._outputs: list[dict[str, Any]] = [{}]
        self._dram: int | None = None
        self._dial_macs: int | None = None
        self._layers: list[dict[str, Any]] = []
        self._steps: list[tuple[int, ...]] = []
        self._notes: list[str] = []
        self._host_macs: int | None = None
        self._host: dict[str, list[dict[str, Any]]] = {"nodes": [], "outputs": []}
        self._code: list[Instruction] = []
        self._columns: dict[str, list[int]] = {name: [] for name in PER_INSTRUCTION}
        self._layer = self._tile = -1
        self._places: dict[str, tuple[int, int]] = {}

    def place(self, field: str) -> tuple[int, int]:
        """Return line and column of what set a field of the manifest, or of the part that it belongs to; else 0, 0."""
        while field and field not in self._places:
            field = field.rpartition(".")[0]
        return self._places.get(field, (0, 0))

    def add(self, statement: Statement, line: int) -> None:
        """Take one more line.

        Raises:
            WrongError: a name given twice or unknown, a value of the wrong kind or out of its range.
        """
        seen = set()
        for item in statement.items:
            if item.name not in NAMES[statement.head]:
                raise unknown_name(item.column, statement.head, item.name)
            if item.name in seen:
                raise WrongError(item.column, f"{quoted(item.name)} is given twice", "keep one of them")
            seen.add(item.name)
        if statement.head in BY_NAME:
            self._places.setdefault("code", (line, statement.column))
            self._instruction(statement, line)
        else:
            self._directive(statement, line)

    def block(self, name: str, line: int) -> bytearray:
        """Return the bytes of a block of data so far, to be extended; `line` is where the text names it."""
        self._places.setdefault(name, (line, 1))
        return self._data.setdefault(name, bytearray())

    # -- directives

    def _directive(self, statement: Statement, line: int) -> None:
        head, value = statement.head, statement.value
        spot = (line, statement.column)
        match head:
            case ".model":
                self._model = self._only(statement, "model", spot)
            case ".dram":
                self._dram = self._only(statement, "dram_bytes", spot)
            case ".dial":
                self._dial_macs = self._only(statement, "dial_macs", spot)
            case ".note":
                assert value is not None
                self._places.setdefault("notes", spot)
                self._notes.append(value.value)
            case ".host":
                self._host_macs = self._only(statement, "host.macs", spot)
            case ".hostnode" | ".result":
                self._part_of_host(statement, line)
            case ".machine" | ".input":
                if value is not None:
                    self._base = self._shipped(value)
                self._fill(self._parts[head[1:]], head[1:], statement, line)
            case ".output":
                if "name" in self._outputs[-1] and any(item.name == "name" for item in statement.items):
                    self._outputs.append({})
                self._fill(self._outputs[-1], f"outputs[{len(self._outputs) - 1}]", statement, line)
            case ".define":
                assert value is not None
                layer = {"name": value.value}
                self._layers.append(layer)
                self._fill(layer, f"layers[{len(self._layers) - 1}]", statement, line)
            case ".step":
                self._step(statement, spot)
            case ".layer":
                assert value is not None
                self._layer, self._tile = self._layer_number(value), -1
            case ".tile":
                assert value is not None
                self._tile = -1 if isinstance(value.value, tuple) else _note(value)
            case _:
                raise AssertionError(head)  # the grammar knows no other

    def _only(self, statement: Statement, field: str, spot: tuple[int, int]) -> Any:
        assert statement.value is not None
        if field in self._places:
            raise WrongError(
                statement.column, f"a second {statement.head}", f"the first is in line {self._places[field][0]}"
            )
        self._places[field] = spot
        return statement.value.value

    def _shipped(self, value: Item) -> str:
        name = str(value.value)
        if name not in SHIPPED:
            near = did_you_mean(name, SHIPPED)
            raise WrongError(
                value.column, f"no shipped machine {quoted(name)}", near or f"there are {', '.join(SHIPPED)}"
            )
        return name

    def _fill(self, part: dict[str, Any], path: str, statement: Statement, line: int) -> None:
        self._places.setdefault(path, (line, statement.column))
        for item in statement.items:
            if item.name in part:
                first = self._places[f"{path}.{item.name}"][0]
                raise WrongError(item.column, f"{quoted(item.name)} is given twice", f"the first is in line {first}")
            part[item.name] = _plain(item.value)
            self._places[f"{path}.{item.name}"] = (line, item.column)

    def _step(self, statement: Statement, spot: tuple[int, int]) -> None:
        given = {item.name: _whole(item) for item in statement.items}
        missing = [key for key in STEP_KEYS if key not in given]
        if missing:
            raise WrongError(statement.column, f"{', '.join(missing)} missing", f"a step needs {', '.join(STEP_KEYS)}")
        self._places[f"dial[{len(self._steps)}]"] = spot
        self._steps.append(tuple(given[key] for key in STEP_KEYS))

    def _layer_number(self, value: Item) -> int:
        if isinstance(value.value, tuple):
            return -1
        names = [layer["name"] for layer in self._layers]
        if isinstance(value.value, int):
            if not 0 <= value.value < len(names):
                raise WrongError(
                    value.column, f"no layer {value.value}: {len(names)} are defined", "put a .define before"
                )
            return value.value
        if value.value not in names:
            near = did_you_mean(value.value, names)
            raise WrongError(value.column, f"no layer {quoted(value.value)} is defined", near or "put a .define before")
        if names.count(value.value) > 1:
            raise WrongError(
                value.column, f"several layers are called {quoted(value.value)}", "give the layer's number"
            )
        return names.index(value.value)

    # -- instructions

    def _instruction(self, statement: Statement, line: int) -> None:
        spec = BY_NAME[statement.head]
        given = {item.name: item for item in statement.items}
        operands = {o.name: _operand(o, given.get(o.name), statement.column) for o in spec.operands}
        pop, push = (_engines(spec, given[name]) if name in given else 0 for name in TOKENS)
        self._code.append(Instruction(spec.name, operands, pop, push))
        channel = _note(given[CHANNEL]) if CHANNEL in given else -1
        for name, number in zip(PER_INSTRUCTION, (self._layer, self._tile, channel, line), strict=True):
            self._columns[name].append(number)

    # -- the end

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return arrays and manifest, with defaults for what was not said."""
        constants = np.frombuffer(bytes(self._data.get("constants", b"")), np.uint8)
        base = data_address(constants.size, len(self._code))
        info = _with_input_defaults(self._parts["input"], base)
        outputs: list[dict[str, Any]] = []
        for said in self._outputs:
            outputs.append(_with_output_defaults(said, _end(outputs[-1] if outputs else info)))
        machine, machine_hash = self._machine()
        macs = self._steps[-1][STEP_KEYS.index("low_macs")] if self._steps else 0
        manifest = {
            "isa_hash": ISA_HASH,
            "machine": machine,
            "machine_hash": machine_hash,
            "model": self._model,
            "dram_bytes": max(base, _end(info), *map(_end, outputs)) if self._dram is None else self._dram,
            "dial_macs": macs if self._dial_macs is None else self._dial_macs,
            "input": info,
            "outputs": outputs,
            "layers": [_with_layer_defaults(layer) for layer in self._layers],
            "notes": self._notes,
            "host": self._host_part(),
        }
        arrays: dict[str, NDArray[Any]] = {
            "code": encode(self._code),
            "constants": constants,
            "table": self._table(_channels(info)),
            "onnx": np.frombuffer(bytes(self._data.get("onnx", b"")), np.uint8),
            "dial": np.array(self._steps, np.int64).reshape(-1, len(STEP_KEYS)),
            **{name: np.array(column, np.int32) for name, column in self._columns.items()},
        }
        return arrays, manifest

    def _part_of_host(self, statement: Statement, line: int) -> None:
        assert statement.value is not None
        kind = "nodes" if statement.head == ".hostnode" else "outputs"
        part = {"name": statement.value.value}
        self._host[kind].append(part)
        self._places.setdefault("host", (line, statement.column))
        self._fill(part, f"host.{kind}[{len(self._host[kind]) - 1}]", statement, line)
        if kind == "outputs":
            part.setdefault("shape", None)

    def _host_part(self) -> dict[str, Any] | None:
        if self._host_macs is None and not any(self._host.values()):
            return None
        return self._host | ({} if self._host_macs is None else {"macs": self._host_macs})

    def _machine(self) -> tuple[dict[str, Any], str]:
        said = self._parts["machine"]
        named = {"name": "custom"} if said else {}
        machine = load_machine(self._base).to_dict() | named | said
        try:
            return machine, machine_from_dict(machine, "").hash()
        except NpuError:
            return machine, ""  # from_parts names what is wrong with it

    def _table(self, channels: int) -> NDArray[np.uint8]:
        held = self._data.get("table")
        if held is None:
            return np.tile(np.arange(256, dtype=np.uint8), (channels, 1))
        table = np.frombuffer(bytes(held), np.uint8)
        return table.reshape(-1, 256) if len(held) % 256 == 0 else table


# -- defaults


def _channels(part: dict[str, Any]) -> int:
    """Return the channels of an input or output, or a stand-in where from_parts will refuse them."""
    channels = part.get("channels")
    return channels if isinstance(channels, int) and 0 < channels <= 1 << 16 else 1


def _with_input_defaults(said: dict[str, Any], address: int) -> dict[str, Any]:
    count = _channels(said)
    defaults = {"name": "input", "address": address, "signed": True, "scale": 1.0, "pixel_scale": 1.0}
    return defaults | {"mean": [0.0] * count, "std": [1.0] * count, "resize": [], "crop": []} | said


def _with_output_defaults(said: dict[str, Any], address: int) -> dict[str, Any]:
    defaults = {"name": "output", "address": address, "bits": 8, "signed": True, "scale": 1.0}
    part = defaults | {"channel_map": list(range(_channels(said)))} | said
    sides = [part.get("height"), part.get("width")]
    real = (
        sum(isinstance(c, int) and c >= 0 for c in part["channel_map"]) if isinstance(part["channel_map"], list) else 0
    )
    return {"shape": [real] if sides == [1, 1] else [real, *sides]} | part


def _with_layer_defaults(said: dict[str, Any]) -> dict[str, Any]:
    defaults = {"onnx_nodes": [], "kind": KINDS[0], "register": -1, "groups": 0, "boundaries": [0], "macs": 0}
    return defaults | {"out": said["name"]} | said


def _end(part: dict[str, Any]) -> int:
    """Return the DRAM byte behind an input or output, or 0 where from_parts will refuse it."""
    sizes = [size for key in ("height", "width", "channels") if isinstance(size := part.get(key), int)]
    bits = 16 if part.get("bits") == 16 else 8
    return part["address"] + prod(sizes) * bits // 8 if len(sizes) == 3 and isinstance(part["address"], int) else 0


# -- values


def unknown_name(column: int, head: str, word: str) -> WrongError:
    """Return the fault of a name that an instruction or directive does not have."""
    names = NAMES[head]
    hint = did_you_mean(word, names) or (f"it has {', '.join(names)}" if names else "")
    return WrongError(column, f"{head} has no {'key' if head.startswith('.') else 'operand'} {quoted(word)}", hint)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: true and false, other words as texts."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, tuple):
        return {"true": True, "false": False}.get(value[0], "+".join(value))
    return value


def _whole(item: Item, least: int = -(1 << 63), most: int = (1 << 63) - 1) -> int:
    if not isinstance(item.value, int) or not least <= item.value <= most:
        raise WrongError(item.value_column, f"{item.name} must be a whole number in {least}..{most}")
    return item.value


def _note(item: Item) -> int:
    """Return a number of the debug map."""
    return _whole(item, 0, (1 << 31) - 1)


def _operand(operand: Operand, item: Item | None, column: int) -> int | tuple[int, ...]:
    """Return the value of an operand; what is left out is the default."""
    values = [] if item is None else item.value if isinstance(item.value, list) else [item.value]
    if item is not None:
        column = item.value_column or item.column
        if isinstance(item.value, list) != bool(operand.repeat):
            form = f"a list of at most {operand.repeat} numbers" if operand.repeat else "one value"
            example = f"{operand.name}=[1, 2]" if operand.repeat else f"{operand.name}=1"
            raise WrongError(column, f"{operand.name} takes {form}", f"as in {example}")
    numbers = [_number(operand, value, column) for value in values]
    numbers += [operand.default] * (operand.elements - len(numbers))
    wrong = operand_problem(operand, numbers)
    if wrong is not None:
        raise WrongError(column, wrong, operand.doc)
    return tuple(numbers) if operand.repeat else numbers[0]


def _number(operand: Operand, value: Any, column: int) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, tuple) and len(value) == 1 and value[0] in operand.names:
        return operand.names.index(value[0])
    hint = f"a whole number, or {', '.join(operand.names)}" if operand.names else "a whole number"
    if isinstance(value, tuple):
        near = did_you_mean(value[0], operand.names)
        raise WrongError(column, f"{operand.name} = {quoted('+'.join(value))} is not known", near or hint)
    raise WrongError(column, f"{operand.name} = {quoted(value)} is not a whole number", hint)


def _engines(spec: InstructionSpec, item: Item) -> int:
    """Return the mask of engines that a pop or push names."""
    words = item.value if isinstance(item.value, tuple) else ()
    mask = 0
    for word in words:
        if word not in ENGINES:
            near = did_you_mean(word, ENGINES)
            raise WrongError(item.value_column, f"no engine {quoted(word)}", near or f"there are {', '.join(ENGINES)}")
        mask |= 1 << ENGINES.index(word)
    wrong = token_problem(spec, mask) if words else "not names of engines"
    if wrong is not None:
        others = [engine for engine in ENGINES if engine != spec.engine]
        hint = f"leave {item.name} out" if spec.engine == FRONT else f"as in {item.name}={'+'.join(others[:2])}"
        raise WrongError(item.value_column, f"{item.name}: {wrong}", hint)
    return mask
