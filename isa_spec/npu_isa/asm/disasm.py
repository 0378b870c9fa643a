"""The disassembler: a whole binary as text that `asm` turns into the same binary and a person can read."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np

from npu_isa.asm.describe import Narrator
from npu_isa.asm.syntax import CHANNEL, DATA, NONE, TOKENS
from npu_isa.errors import ProgramError
from npu_isa.file.binary import Binary, LayerInfo
from npu_isa.file.manifest import to_parts
from npu_isa.isa.codec import decode, operand_values
from npu_isa.isa.ops import Load, Memory, Op
from npu_isa.isa.program import Instruction
from npu_isa.isa.resolve import resolve
from npu_isa.isa.tables import BY_NAME, ENGINES, SPECS

WIDTH = 110  # columns of directives
LINE_BYTES = 64  # of data
_MNEMONIC = max(len(spec.name) for spec in SPECS)


def disassemble(binary: Binary, *, data: bool = True) -> str:
    """Return the text of a binary; `asm.assemble` gives the binary back, but for `location_of`.

    Without `data` the constants are left out: a text to read.

    Comments say what each instruction does; they are left out where the program is too wrong to follow.

    Raises:
        ProgramError: a word that is no instruction.
    """
    program = decode(binary.code)
    ops: Sequence[Op] = ()
    with suppress(ProgramError):
        ops = resolve(program)
    parts = (_head(binary), _code(binary, program, ops), *((_data(binary, ops),) if data else ()))
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


# -- directives


def _head(binary: Binary) -> Iterator[str]:
    _, manifest = to_parts(binary)
    yield (
        f"; {binary.model} for {binary.machine.name}: {len(binary.code)} instructions, {len(binary.layers)} layers, "
        f"{binary.constants.size} bytes of constants"
    )
    yield f".model {_text(binary.model)}"
    yield from _directive(".machine", manifest["machine"])
    yield from _directive(".input", manifest["input"])
    for output in manifest["outputs"]:
        yield from _directive(".output", output)
    yield f".dram {binary.dram_bytes}"
    for layer in manifest["layers"]:
        name = layer.pop("name")
        yield f".define {_text(name)} {' '.join(_items(layer))}"
    yield f".dial {binary.dial_macs}"
    for step in binary.dial:
        yield f".step register={step.register} boundary={step.boundary} low_macs={step.low_macs}"
    yield from (f".note {_text(note)}" for note in binary.notes)
    if manifest["host"] is not None:
        yield from _host(manifest["host"])


def _host(host: Mapping[str, Any]) -> Iterator[str]:
    yield f".host {host['macs']}"
    for part in ("nodes", "outputs"):
        for values in host[part]:
            given = {key: value for key, value in values.items() if key != "name" and value is not None}
            directive = "hostnode" if part == "nodes" else "result"
            yield f".{directive} {_text(values['name'])} {' '.join(_items(given))}".rstrip()


def _directive(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a directive with its values on as many lines as it takes."""
    line = name
    for item in _items(values):
        if line != name and len(line) + 1 + len(item) > WIDTH:
            yield line
            line = name
        line += f" {item}"
    yield line


def _items(values: Mapping[str, Any]) -> Iterable[str]:
    return (f"{key}={_text(value)}" for key, value in values.items())


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# -- instructions


def _code(binary: Binary, program: Sequence[Instruction], ops: Sequence[Op]) -> Iterator[str]:
    narrator = Narrator(binary, ops)
    layer = tile = -1
    for index, instruction in enumerate(program):
        at_layer, at_tile = int(binary.layer_of[index]), int(binary.tile_of[index])
        if at_layer != layer:
            layer, tile = at_layer, -1
            yield from ([""] if index else [])
            yield _layer(binary.layers, layer)
        if at_tile != tile:
            tile = at_tile
            yield f".tile {NONE if tile < 0 else tile}"
        line = f"  {_instruction(instruction, int(binary.channel_of[index]))}"
        comment = narrator.describe(ops[index]) if ops else ""
        yield f"{line}  ; {comment}" if comment else line


def _layer(layers: tuple[LayerInfo, ...], number: int) -> str:
    """Return the directive that starts a layer: by name, or by number where several have its name."""
    if number < 0:
        return f".layer {NONE}"
    layer = layers[number]
    unique = sum(other.name == layer.name for other in layers) == 1
    nodes = ", ".join(dict.fromkeys(layer.onnx_nodes)) or "none"
    dial = f"boundary register {layer.register}" if layer.register >= 0 else "no dial"
    return f".layer {_text(layer.name) if unique else number}  ; {layer.out} from ONNX nodes {nodes}; {dial}"


def _instruction(instruction: Instruction, channel: int) -> str:
    words = [instruction.name.ljust(_MNEMONIC)]
    for operand in BY_NAME[instruction.name].operands:
        values = list(operand_values(instruction, operand))
        while values and values[-1] == operand.default:
            values.pop()
        if values:
            shown = [operand.names[v] if operand.names else str(v) for v in values]
            words.append(f"{operand.name}=[{', '.join(shown)}]" if operand.repeat else f"{operand.name}={shown[0]}")
    for name in TOKENS:
        mask = getattr(instruction, name)
        if mask:
            words.append(f"{name}={'+'.join(engine for e, engine in enumerate(ENGINES) if mask >> e & 1)}")
    if channel >= 0:
        words.append(f"{CHANNEL}={channel}")
    return " ".join(words).rstrip()


# -- data


def _data(binary: Binary, ops: Sequence[Op]) -> Iterator[str]:
    if (binary.input.table != np.arange(256)).any():
        yield f"{DATA} table  ; input byte of each pixel value, a channel after the other"
        yield from _hex(binary.input.table.tobytes(), {})
        yield ""
    if binary.host is not None:
        yield f"{DATA} onnx  ; the model that the host runs"
        yield from _hex(binary.host.onnx.tobytes(), {})
        yield ""
    yield f"{DATA} constants"
    yield from _hex(binary.constants.tobytes(), _blocks(binary, ops))


def _blocks(binary: Binary, ops: Sequence[Op]) -> dict[int, str]:
    """Return what begins at an address of the constants, as far as loads tell."""
    found: dict[int, str] = {}
    for op in ops:
        if isinstance(op, Load) and op.memory != Memory.ACT:
            layer = int(binary.layer_of[op.index])
            owner = f" of {binary.layers[layer].name}" if layer >= 0 else ""
            what = "weights" if op.memory == Memory.WEIGHT else "bias table" if op.indexed else "parameters"
            found.setdefault(op.dram_addr, f"{what}{owner}, instruction {op.index}")
    return found


def _hex(data: bytes, blocks: Mapping[int, str]) -> Iterator[str]:
    starts = sorted({0, len(data), *(at for at in blocks if at < len(data))})
    digits = max(4, len(f"{len(data):x}"))
    for first, end in pairwise(starts):
        if first in blocks:
            yield f"; {blocks[first]}"
        for at in range(first, end, LINE_BYTES):
            yield f"{at:0{digits}x}: {data[at : min(at + LINE_BYTES, end)].hex()}"
