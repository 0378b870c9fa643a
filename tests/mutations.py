"""Random damage to .npubin files, with the checksum repaired or not, and what becomes of a damaged file.

A damaged file is refused with an `NpuError`, or its program runs to a defined end. Anything else is a bug.
"""

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from npu_isa.errors import NpuError
from npu_isa.file.container import HEAD, MAGIC, VERSION, from_bytes, seal, unseal
from npu_isa.file.manifest import PER_INSTRUCTION
from npu_isa.isa.tables import BY_OPCODE, header_field

Rng = np.random.Generator
Arrays = dict[str, np.ndarray]
STRANGE = [None, True, "", "x", [], {}, 0.5, -1, 0, 1, 255, 256, 1 << 16, 1 << 31, 1 << 32, 1 << 70, 10**400, 1e308]


def mutate(data: bytes, rng: Rng) -> tuple[str, bytes]:
    """Return what was done to a valid file, and the damaged file."""
    kinds: list[tuple[Callable[..., bytes], float]] = [(flip, 1), (cut, 1), (grow, 1), (flip_payload, 1)]
    kinds += [(alter_fields, 5), (alter_words, 2), (alter_manifest, 2), (alter_arrays, 1), (alter_constants, 1)]
    weights = np.array([weight for _, weight in kinds])
    made, _ = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    return made.__name__, made(data, rng)


def outcome(data: bytes, rng: Rng) -> str:
    """Return the class of the error that refuses a file, or "ran" if it ran at every ratio tried."""
    from npu_runtime.session.session import Session
    from npu_sim.counters import engine_rows, layer_cycles, spent

    try:
        session = Session(from_bytes(data, "x.npubin"))
    except NpuError as error:
        return type(error).__name__
    info, layers = session.binary.input, session.binary.layers
    pixels = rng.integers(0, 256, (1, info.height, info.width, info.channels), np.uint8)
    for ratio in (0, 50, 100):
        assert 0 <= session.set_ratio(ratio) <= 100
        timing = session.timing()
        rows = engine_rows(timing, session.ops, spent(timing, session.ops))  # asserts that the parts add up
        assert {row.total_cycles for row in rows} == {timing.total_cycles}
        assert layer_cycles(timing, session.binary.layer_of, len(layers)).min(initial=0) >= 0
        assert session.run_integers(pixels).shape == (1, *session.binary.outputs[0].shape)
    return "ran"


# -- bytes


def flip(data: bytes, rng: Rng) -> bytes:
    """Change up to eight bytes anywhere."""
    changed = bytearray(data)
    for at in rng.integers(0, len(data), int(rng.integers(1, 9))):
        changed[at] ^= int(rng.integers(1, 256))
    return bytes(changed)


def cut(data: bytes, rng: Rng) -> bytes:
    """Cut the file short, half of the time with the checksum of what is left."""
    shorter = data[: int(rng.integers(0, len(data)))]
    return _resealed(shorter) if rng.random() < 0.5 else shorter


def grow(data: bytes, rng: Rng) -> bytes:
    """Put bytes behind or into the file, half of the time with the checksum of the whole."""
    at = len(data) if rng.random() < 0.5 else int(rng.integers(0, len(data)))
    longer = data[:at] + rng.bytes(int(rng.integers(1, 100))) + data[at:]
    return _resealed(longer) if rng.random() < 0.5 else longer


def flip_payload(data: bytes, rng: Rng) -> bytes:
    """Change a byte behind the checksum, half of the time in the header of the payload, and repair the checksum."""
    header = int.from_bytes(data[HEAD : HEAD + 8], "little")
    last = HEAD + 8 + header if rng.random() < 0.5 else len(data)
    changed = bytearray(data)
    changed[int(rng.integers(HEAD, last))] = int(rng.integers(0, 256))
    return _resealed(bytes(changed))


def _resealed(data: bytes) -> bytes:
    return data[: len(MAGIC) + 4] + hashlib.sha256(data[HEAD:]).digest() + data[HEAD:]


# -- parts, with the checksum repaired


def _remade(data: bytes, change: Callable[[Arrays, dict[str, Any]], None]) -> bytes:
    arrays, manifest = unseal(data, MAGIC, VERSION, "")
    arrays, manifest = {name: array.copy() for name, array in arrays.items()}, copy.deepcopy(manifest)
    change(arrays, manifest)
    return seal(MAGIC, VERSION, arrays, manifest)


def alter_fields(data: bytes, rng: Rng) -> bytes:
    """Change one to three fields of instructions, tokens and opcode among them."""

    def change(arrays: Arrays, manifest: dict[str, Any]) -> None:
        for _ in range(int(rng.integers(1, 4))):
            _field(arrays["code"], rng)

    return _remade(data, change)


def _field(code: np.ndarray, rng: Rng) -> None:
    row = code[int(rng.integers(len(code)))]
    word = int.from_bytes(row.tobytes(), "little")
    spec = BY_OPCODE.get(word & 0xFF)
    places = [header_field(name) for name in ("opcode", "pop", "push")]
    if spec is not None and spec.operands and rng.random() < 0.85:
        places = [(o.low + o.width * i, o.width) for o in spec.operands for i in range(o.elements)]
    low, width = places[int(rng.integers(len(places)))]
    old = word >> low & ((1 << width) - 1)
    anything = int(rng.integers(1 << min(width, 62)))
    choices = [
        old + 1,
        old - 1,
        old * 2,
        old // 2,
        old ^ 1 << int(rng.integers(width)),
        0,
        1,
        (1 << width) - 1,
        anything,
    ]
    value = choices[int(rng.integers(len(choices)))] & ((1 << width) - 1)
    word ^= (old ^ value) << low
    row[:] = np.frombuffer(word.to_bytes(len(row), "little"), np.uint8)


def alter_words(data: bytes, rng: Rng) -> bytes:
    """Swap, repeat, remove or overwrite an instruction; the debug map follows, mostly."""

    def change(arrays: Arrays, manifest: dict[str, Any]) -> None:
        order = list(range(len(arrays["code"])))
        a, b = (int(i) for i in rng.integers(len(order), size=2))
        match int(rng.integers(4)):
            case 0:
                order[a], order[b] = order[b], order[a]
            case 1:
                order.insert(a, b)
            case 2:
                del order[a]
            case _:
                order[a] = b
        for name in ("code", *PER_INSTRUCTION):
            if name == "code" or rng.random() < 0.98:
                arrays[name] = arrays[name][order]

    return _remade(data, change)


def alter_manifest(data: bytes, rng: Rng) -> bytes:
    """Change one value of the manifest, to a neighbour or to something strange; the machine's hash is repaired."""

    def change(arrays: Arrays, manifest: dict[str, Any]) -> None:
        holder, key = _leaf(manifest, rng)
        old = holder[key]
        near = [old + 1, old - 1, old * 2, old // 2, -old] if isinstance(old, int | float) else [None]
        choices = near if rng.random() < 0.6 else STRANGE
        holder[key] = choices[int(rng.integers(len(choices)))]
        _rehash(manifest)

    return _remade(data, change)


def _leaf(value: Any, rng: Rng) -> tuple[Any, Any]:
    """Return a random place of a nest of objects and lists."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[int(rng.integers(len(keys)))]
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.05:
            return value, key
        value = inner


def _rehash(manifest: dict[str, Any]) -> None:
    from npu_isa.machine.config import machine_from_dict

    try:
        manifest["machine_hash"] = machine_from_dict(manifest["machine"], "").hash()
    except (NpuError, TypeError, KeyError):
        return  # the machine itself will be refused


def alter_arrays(data: bytes, rng: Rng) -> bytes:
    """Change numbers of the dial, the debug map or the input table, or their type."""

    def change(arrays: Arrays, manifest: dict[str, Any]) -> None:
        name = str(rng.choice(["dial", "table", *PER_INSTRUCTION]))
        array = arrays[name]
        if rng.random() < 0.2:
            arrays[name] = array.astype(rng.choice(["int8", "uint8", "int64", "float32"]))
        elif array.size:
            flat = array.reshape(-1)
            info = np.iinfo(array.dtype)
            choices = [0, 1, 2, info.max, info.min, int(rng.integers(info.max))]
            flat[int(rng.integers(flat.size))] = choices[int(rng.integers(len(choices)))]
        if name == "dial" and rng.random() < 0.3:
            arrays[name] = array[rng.permutation(len(array))]

    return _remade(data, change)


def alter_constants(data: bytes, rng: Rng) -> bytes:
    """Change bytes of the constants, or their number."""

    def change(arrays: Arrays, manifest: dict[str, Any]) -> None:
        held = arrays["constants"]
        for at in rng.integers(len(held), size=int(rng.integers(1, 200))):
            held[at] = rng.integers(256)
        if rng.random() < 0.1:
            arrays["constants"] = held[: int(rng.integers(len(held)))]

    return _remade(data, change)
