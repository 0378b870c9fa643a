"""The .npubin file: round trip, every kind of damage, every field out of its range, and writing whole or not at all."""

import copy
import os

import numpy as np
import pytest
from hypothesis import given, settings
from npu_isa.errors import ContainerError
from npu_isa.file.binary import data_address
from npu_isa.file.container import HEAD, MAGIC, VERSION, from_bytes, load, save, seal, to_bytes, unseal, write_whole
from npu_isa.file.manifest import ARRAYS

from tests.binaries import any_binaries, same_binary, small_binary

BINARY = small_binary(0)  # 4 layers, one of them with a dial of two steps
DATA = to_bytes(BINARY)


def remade(change) -> bytes:
    """The file with its manifest and arrays changed and the checksum right."""
    arrays, manifest = unseal(DATA, MAGIC, VERSION, "")
    arrays, manifest = dict(arrays), copy.deepcopy(manifest)
    change(arrays, manifest)
    return seal(MAGIC, VERSION, arrays, manifest)


def refused(data: bytes) -> str:
    with pytest.raises(ContainerError) as error:
        from_bytes(data, "x.npubin")
    assert error.value.where == "x.npubin"
    return error.value.message


@settings(max_examples=60)
@given(any_binaries())
def test_round_trip(binary):
    data = to_bytes(binary)
    again = from_bytes(data, "")
    assert same_binary(again, binary)
    assert to_bytes(again) == data


def test_file_round_trip_and_equal_bytes(tmp_path):
    save(BINARY, tmp_path / "a.npubin")
    again = load(tmp_path / "a.npubin")
    assert same_binary(again, BINARY)
    save(small_binary(0), tmp_path / "b.npubin")
    assert (tmp_path / "a.npubin").read_bytes() == (tmp_path / "b.npubin").read_bytes() == DATA


def test_every_truncation_is_refused():
    lengths = [*range(HEAD + 64), *range(HEAD + 64, len(DATA), 97), len(DATA) - 1]
    for length in lengths:
        refused(DATA[:length])
    assert refused(DATA[:20]) == "20 bytes: the file is cut short"
    assert refused(DATA + b"\0") == "the checksum does not match: the file is damaged"


def test_every_flipped_bit_is_refused():
    rng = np.random.default_rng(0)
    places = [*range(8 * HEAD), *rng.integers(8 * HEAD, 8 * len(DATA), 300).tolist()]
    for place in places:
        changed = bytearray(DATA)
        changed[place // 8] ^= 1 << place % 8
        refused(bytes(changed))


def test_another_kind_of_file_and_another_version():
    assert refused(b"PK\3\4" + DATA) == "not a npubin file"
    assert refused(MAGIC + (1).to_bytes(4, "little") + DATA[12:]) == "file version 1, this tool reads version 3"


def test_payload_that_cannot_be_read():
    import hashlib

    def sealed(payload: bytes) -> bytes:
        return DATA[:12] + hashlib.sha256(payload).digest() + payload

    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    for payload in (b"", b"\xff" * 40, len(header).to_bytes(8, "little") + header + b"\0"):
        assert "the payload cannot be read" in refused(sealed(payload))
    nested = b"[" * 100_000
    text = b'{"__metadata__":{"manifest":"' + nested + b'"}}'
    assert "the payload cannot be read" in refused(sealed(len(text).to_bytes(8, "little") + text))
    assert refused(seal(MAGIC, VERSION, {}, [])) == "the manifest is not an object"


LONG = "x" * 1001
DEFAULTS = {"machine.dynamic_extraction"}
BASE = data_address(BINARY.constants.size, len(BINARY.code))
FIELDS = [
    ("isa_hash", "0" * 64, "made for the instruction set 000000000000"),
    ("isa_hash", None, "isa_hash = None: must be a printable text"),
    ("machine", [], "machine is not an object"),
    ("machine.array_rows", 3, "array_rows = 3: must be 2, 4 or a multiple of 8"),
    ("machine.acc_rows", 128, "machine_hash does not belong to the machine"),
    ("machine.colour", 1, "unknown key 'colour'"),
    ("machine.clock_hz", 10**400, "clock_hz = inf"),
    ("machine.dram_latency_cycles", 10**30, "dram_latency_cycles"),
    ("machine_hash", "", "machine_hash does not belong"),
    ("model", LONG, "model = 'xxx"),
    ("model", "a\nb", "model = 'a\\nb': must be a printable text"),
    ("dram_bytes", BASE - 1, f"dram_bytes = {BASE - 1}: must be a whole number in {BASE}.."),
    ("dram_bytes", BINARY.machine.dram_bytes + 1, "dram_bytes"),
    ("dram_bytes", True, "dram_bytes = True: must be a whole number"),
    ("dram_bytes", 1e4, "dram_bytes = 10000.0: must be a whole number"),
    ("dial_macs", -1, "dial_macs"),
    ("dial_macs", 0, "dial_macs = 0: a dial has multiply-accumulates to count"),
    ("dial_macs", 1, "dial step 0 reaches"),
    ("notes", "x", "notes = 'x': must be a list of printable texts"),
    ("notes", [5], "notes = [5]: must be a list of printable texts"),
    ("notes", ["x"] * 10_000, "notes"),
    ("layers", {}, "layers = {}: must be a list"),
    ("layers", [], "layer_of names a layer that is not there"),
    ("layers.0", 5, "layers[0] is not an object"),
    ("input", 5, "input is not an object"),
    ("input.name", 5, "input.name = 5"),
    ("input.address", -1, "input.address = -1"),
    ("input.address", BASE - 1, f"the input lies before {BASE:#x}, in the constants or the program"),
    ("input.address", 1 << 32, "the input ends beyond dram_bytes"),
    ("input.height", 0, "input.height = 0"),
    ("input.width", (1 << 16) + 1, "input.width = 65537"),
    ("input.channels", 0, "input.channels = 0"),
    ("input.channels", BINARY.input.channels + 1, "table has shape"),
    ("input.signed", 1, "input.signed = 1: must be true or false"),
    ("input.scale", 0, "input.scale = 0: must be a finite positive number"),
    ("input.scale", float("inf"), "input.scale = inf: must be a finite positive number"),
    ("input.scale", float("nan"), "input.scale = nan: must be a finite positive number"),
    ("input.pixel_scale", "1", "input.pixel_scale = '1': must be a finite number"),
    ("input.pixel_scale", 10**400, "input.pixel_scale"),
    ("input.mean", [], "input.mean = []: must be 1..4096 finite numbers"),
    ("input.std", [1, None], "input.std = [1, None]"),
    ("input.resize", [1, 2, 3], "input.resize = [1, 2, 3]: must be 0..2 whole numbers in 1..65536"),
    ("input.crop", [0], "input.crop = [0]"),
    ("outputs.0", None, "outputs[0] is not an object"),
    ("outputs", [], "no outputs"),
    ("host", 1, "host = 1: must be null or an object"),
    ("host", {}, "no model for the host"),
    ("outputs", {}, "outputs = {}: must be a list"),
    ("outputs.0.name", "\x00", "outputs[0].name"),
    (
        "outputs.0.address",
        0,
        f"output {BINARY.outputs[0].name} lies before {BASE:#x}, in the constants or the program",
    ),
    ("outputs.0.address", BINARY.dram_bytes, f"output {BINARY.outputs[0].name} ends beyond dram_bytes"),
    ("outputs.0.address", BINARY.input.address, f"the input and output {BINARY.outputs[0].name} overlap"),
    ("outputs.0.height", 0, "outputs[0].height = 0"),
    ("outputs.0.width", 1.0, "outputs[0].width = 1.0"),
    ("outputs.0.channels", 24, "outputs[0].channels = 24: must be whole groups of 16"),
    ("outputs.0.bits", 32, "outputs[0].bits = 32: must be 8 or 16"),
    ("outputs.0.signed", None, "outputs[0].signed = None"),
    ("outputs.0.scale", -1.0, "outputs[0].scale = -1.0"),
    ("outputs.0.channel_map", [0], "outputs[0].channel_map = [0]: must be"),
    (
        "outputs.0.channel_map",
        [0] * BINARY.outputs[0].channels,
        "outputs[0].channel_map does not name each channel once",
    ),
    (
        "outputs.0.channel_map",
        [-1] * BINARY.outputs[0].channels,
        "outputs[0].channel_map does not name each channel once",
    ),
    ("outputs.0.shape", [1 << 32] * 8, "outputs[0].shape has"),
    ("outputs.0.shape", [], "outputs[0].shape = []: must be 1..8 whole numbers"),
    ("layers.0.name", None, "layers[0].name = None"),
    ("layers.0.onnx_nodes", [None], "layers[0].onnx_nodes = [None]"),
    ("layers.0.kind", "fold", "layers[0].kind = 'fold': must be conv or window"),
    ("layers.0.kind", [], "layers[0].kind = []: must be conv or window"),
    ("layers.0.register", 255, "layers[0].register = 255: must be a whole number in -1..254"),
    ("layers.0.register", 7, "boundary registers ["),
    ("layers.0.groups", 257, "layers[0].groups = 257"),
    ("layers.0.boundaries", [], "layers[0].boundaries = []"),
    ("layers.0.boundaries", [1], "layers[0].boundaries"),
    ("layers.0.macs", -1, "layers[0].macs = -1"),
    ("layers.0.out", LONG, "layers[0].out"),
]


@pytest.mark.parametrize(("path", "value", "message"), FIELDS, ids=lambda x: x[:30] if isinstance(x, str) else "")
def test_field_out_of_range(path, value, message):
    def change(arrays, manifest):
        *parents, key = [int(k) if k.isdigit() else k for k in path.split(".")]
        for parent in parents:
            manifest = manifest[parent]
        manifest[key] = value

    assert message in refused(remade(change))


def paths(value, path: str = "") -> list[str]:
    """Every field of a manifest, lists of layers entered at their first."""
    if isinstance(value, dict):
        return [p for key, part in value.items() for p in paths(part, f"{path}.{key}" if path else key)]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return paths(value[0], f"{path}.0")
    return [path]


def test_every_field_of_the_manifest_has_a_case():
    _, manifest = unseal(DATA, MAGIC, VERSION, "")
    named = {path for path, _, _ in FIELDS}
    machine = {p for p in paths(manifest) if p.startswith("machine.")}  # their rules: test_machine
    assert set(paths(manifest)) - machine - named == set()


@pytest.mark.parametrize("path", [p for p in paths(unseal(DATA, MAGIC, VERSION, "")[1]) if p not in DEFAULTS])
def test_missing_field(path):
    def change(arrays, manifest):
        *parents, key = [int(k) if k.isdigit() else k for k in path.split(".")]
        for parent in parents:
            manifest = manifest[parent]
        del manifest[key]

    assert path.split(".")[-1] in refused(remade(change))


def test_a_stored_machine_may_lack_what_has_a_default():
    without = remade(lambda arrays, manifest: manifest["machine"].pop("dynamic_extraction"))
    assert same_binary(from_bytes(without, ""), BINARY)


def wrong_boundaries(arrays, manifest):
    layer = next(x for x in manifest["layers"] if x["register"] < 0)
    layer["groups"], layer["boundaries"] = 4, [0, 2]


def falling_boundaries(arrays, manifest):
    layer = next(x for x in manifest["layers"] if x["register"] >= 0)
    layer["groups"], layer["boundaries"] = 9, [0, 2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [(wrong_boundaries, "boundaries need a register"), (falling_boundaries, "boundaries do not rise from 0 on")],
)
def test_boundaries(change, message):
    assert message in refused(remade(change))


COUNT = len(BINARY.code)
WRONG_ARRAYS = [
    ("code", BINARY.code[:0], "no instructions: a program has a halt at least"),
    ("code", BINARY.code[:, :31], f"code has shape ({COUNT}, 31), must be (instructions, 32)"),
    ("code", BINARY.code.reshape(-1), f"code has shape ({32 * COUNT},), must be (instructions, 32)"),
    ("code", BINARY.code.view(np.int8), "code holds int8, must be uint8"),
    ("constants", BINARY.constants.reshape(1, -1), "constants has shape (1,"),
    ("table", BINARY.input.table[:, :255], "table has shape"),
    ("table", BINARY.input.table.astype(np.int16), "table holds int16, must be uint8"),
    ("onnx", np.zeros(1, np.uint8), "a model for the host, and no host"),
    ("onnx", np.zeros(1, np.int8), "onnx holds int8, must be uint8"),
    ("dial", np.zeros((1, 2), np.int64), "dial has shape (1, 2), must be (steps, 3)"),
    ("dial", np.array([[9, 1, 0]]), "dial step 0: boundary 1 of register 9 is not its next legal one"),
    ("dial", np.array([[0, 200, 0]]), "dial step 0: boundary 200 of register 0 is not its next legal one"),
    ("dial", np.array([[0, 1, 5], [0, 1, 6]]), "dial step 1: boundary 1 of register 0 is not its next legal one"),
    ("dial", np.array([[0, 1, -1]]), "dial step 0 reaches -1 multiply-accumulates"),
    ("layer_of", np.full(COUNT, 99, np.int32), "layer_of names a layer that is not there"),
    ("layer_of", np.full(COUNT, -2, np.int32), "layer_of has a number below -1"),
    ("layer_of", np.zeros(COUNT, np.int64), "layer_of holds int64, must be int32"),
    ("tile_of", np.zeros(COUNT + 1, np.int32), f"tile_of has shape ({COUNT + 1},), must be ({COUNT},)"),
    ("channel_of", np.full(COUNT, -2, np.int32), "channel_of has a number below -1"),
    ("location_of", np.full(COUNT, -2, np.int32), "location_of has a number below -1"),
]


@pytest.mark.parametrize(("name", "array", "message"), WRONG_ARRAYS)
def test_wrong_array(name, array, message):
    assert message in refused(remade(lambda arrays, manifest: arrays.update({name: array})))


def test_arrays_are_these():
    assert "arrays are" in refused(remade(lambda arrays, manifest: arrays.pop("dial")))
    assert "arrays are" in refused(remade(lambda arrays, manifest: arrays.update(more=np.zeros(1))))
    assert {name for name, _, _ in WRONG_ARRAYS} == set(ARRAYS)


def test_write_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.npubin"
    write_whole(path, b"old")
    assert oct(path.stat().st_mode)[-3:] == "644"

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ContainerError) as error:
        write_whole(path, b"new")
    assert str(error.value) == (
        f"{path}: cannot write: No space left on device\n  hint: give a path in a writable folder"
    )
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.npubin"]


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "chmod", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x.npubin", b"new")
    assert os.listdir(tmp_path) == []


def test_folder_or_file_that_is_not_there(tmp_path):
    with pytest.raises(ContainerError, match="cannot write: No such file or directory"):
        write_whole(tmp_path / "none" / "x.npubin", b"")
    with pytest.raises(ContainerError, match="cannot read: No such file or directory"):
        load(tmp_path / "none.npubin")


def test_a_link_stays_and_its_target_is_written(tmp_path):
    target, link = tmp_path / "real.npubin", tmp_path / "link.npubin"
    for _ in range(2):  # the target is not there, and is there
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        write_whole(link, b"new")
        assert (link.is_symlink(), target.read_bytes()) == (True, b"new")


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, b"through")
    assert os.read(reader, 100) == b"through"
    assert pipe.is_fifo()
    os.close(reader)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ContainerError, match="cannot write: Is a directory"):
        write_whole(tmp_path, b"")
    with pytest.raises(ContainerError, match="cannot read: Is a directory"):
        load(tmp_path)
