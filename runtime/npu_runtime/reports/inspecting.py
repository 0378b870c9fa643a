"""What a binary holds, in words."""

from collections import Counter

from npu_isa.check.program import check_binary
from npu_isa.errors import NpuError
from npu_isa.file.binary import Binary
from npu_isa.isa.codec import decode
from npu_isa.isa.tables import ISA_HASH

from npu_runtime.session.hosting import host_of


def summary(binary: Binary, file_bytes: int) -> tuple[str, NpuError | None]:
    """Return the summary of a binary, and what the static check found wrong with its program, if anything.

    Args:
        binary: as loaded.
        file_bytes: size of its file.
    """
    fault: NpuError | None = None
    try:
        check_binary(binary)
    except NpuError as error:
        fault = error
    return "\n".join([*_facts(binary, file_bytes), "", *_layers(binary), "", *_program(binary, fault)]) + "\n", fault


def _facts(binary: Binary, file_bytes: int) -> list[str]:
    machine, into = binary.machine, binary.input
    norm = f"((pixel * {into.pixel_scale:.6g}) - {_numbers(into.mean)}) / {_numbers(into.std)}"
    geometry = [f"resize {_numbers(into.resize)}" * bool(into.resize), f"crop {_numbers(into.crop)}" * bool(into.crop)]
    facts = {
        "model": binary.model,
        "machine": f"{machine.name}, {machine.array_rows}x{machine.array_cols} array, hash {machine.hash()[:16]}",
        "instruction set": ISA_HASH[:16],
        "file": f"{file_bytes:,} bytes",
        "code": f"{len(binary.code)} instructions, {binary.code.size:,} bytes",
        "constants": f"{len(binary.constants):,} bytes (8-bit weights once, parameters, a bias row per boundary)",
        "DRAM": f"{binary.dram_bytes:,} of {machine.dram_bytes:,} bytes",
        "input": f"{into.name}: {into.height}x{into.width}x{into.channels} "
        f"{'int8' if into.signed else 'uint8'}, step {into.scale:.6g}",
        "preprocessing": ", ".join([*filter(None, geometry), norm]),
        "dial": f"{binary.registers} layers, {len(binary.dial)} steps, {binary.dial_macs:,} multiply-accumulates",
    }
    rows = list(facts.items())
    rows[-1:-1] = [
        ("output", f"{out.name}: {'x'.join(map(str, out.shape))} int{out.bits}, step {out.scale:.6g}")
        for out in binary.outputs
    ]
    rows += [("note", note) for note in binary.notes] + [("host", line) for line in host_of(binary)]
    return [f"{key:<16}{value}" for key, value in rows]


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:g}" for v in values)


def _layers(binary: Binary) -> list[str]:
    width = max([len(layer.name) for layer in binary.layers] + [5])
    lines = [f"{'layer':<{width}}  kind    multiply-accumulates  legal boundaries (of groups)"]
    for layer in binary.layers:
        dial = f"{' '.join(map(str, layer.boundaries))} (of {layer.groups})" if layer.has_dial else "always 8 bits"
        lines.append(f"{layer.name:<{width}}  {layer.kind:<6}{layer.macs:>22,}  {dial}")
    return lines


def _program(binary: Binary, fault: NpuError | None) -> list[str]:
    if fault is not None:
        return [f"check: the program is wrong: {fault.message}"]
    counts = Counter(instruction.name for instruction in decode(binary.code))
    return [
        "instructions: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())),
        "check: no deadlock, race, read before write or access outside a memory at any legal boundary",
    ]
