"""The machine at START: memories and registers in the sizes of a design point, DRAM and boundaries in place."""

from collections.abc import Sequence
from functools import cache
from math import prod

import numpy as np
from npu_isa.file.binary import code_address
from npu_isa.isa.codec import encode
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import ENGINES, RAW, SPECS, TIMING, header_field
from npu_isa.machine.config import ACT_REGIONS, BLOCK_BYTES, FETCH_WORDS, SEGMENT_ROWS, MachineConfig
from numpy.typing import NDArray

from npu_sim.register import front
from npu_sim.register.dma import CLIENTS
from npu_sim.register.fetch import FETCHING, NOBODY
from npu_sim.register.state import (
    BEAT,
    EIGHT,
    ENTRY,
    FETCH,
    FLIGHT,
    GROUP,
    INSTRUCTION,
    PIXEL_RING,
    REGISTERS,
    REWIND,
    SEGMENT,
    TABLE_BYTES,
    TIMES,
    WORD_BYTES,
    Array,
    Dma,
    Front,
    Machine,
    Matrix,
    Memories,
    Pe,
    Vector,
)


def power_up(
    instructions: Sequence[Instruction],
    machine: MachineConfig,
    boundaries: Sequence[int],
    constants: NDArray[np.uint8],
    dram_bytes: int,
    image: NDArray[np.uint8],
    input_address: int,
) -> Machine:
    """Return the machine at START: constants, program, image and boundary registers in place; see `machine.run`."""
    code, at = encode(instructions), code_address(constants.size)
    dram = np.zeros(max(dram_bytes, at + code.size), np.uint8)
    dram[input_address : input_address + image.size] = image.reshape(-1)
    dram[: constants.size] = constants
    dram[at : at + code.size] = code.reshape(-1)
    state = _build(
        machine,
        len(code),
        dram,
        weight_rows=-(-_most(instructions, "vgeom", "kernel_h", "kernel_w") // 4),
        kernel_w=max(_most(instructions, "vgeom", "kernel_w"), 1),
        line_bytes=_most(instructions, "fold", "in_h", "in_w", "channels"),
    )
    state.registers["fetch"]["base"] = at
    registers = state.registers["boundary"][0]
    count = min(len(boundaries), len(registers) - 1)  # the last one is hard-wired to 0
    registers[:count] = boundaries[:count]
    return state


def _most(instructions: Sequence[Instruction], name: str, *operands: str) -> int:
    """Return the largest product of some operands of the instructions of a name, 0 without any."""
    found = [[int(i.operands[o]) for o in operands] for i in instructions if i.name == name]  # type: ignore[arg-type]
    return max(map(prod, found), default=0)


@cache
def _decoder() -> tuple[Array, Array]:
    """Return what a decoder takes from a word of each opcode: `Front.fields` and `Front.entries`."""
    columns = INSTRUCTION.names or ()
    fields, entries = np.zeros((256, len(columns), 3), np.int64), np.zeros((256, 2, 2), np.int64)
    for spec in SPECS:
        of = {o.name: (o.low, o.width, o.signed) for o in spec.operands if not o.repeat}
        of |= {name: (*header_field(name), False) for name in ("pop", "push")}
        of["kind"] = front.KINDS.index(spec.name), 0, False
        of["engine"] = ENGINES.index(spec.engine) if spec.engine in ENGINES else -1, 0, False
        for name, field in of.items():
            fields[spec.opcode, columns.index(name)] = field
        for o in spec.operands:
            if o.repeat:
                entries[spec.opcode, ("group", "shift").index(o.name)] = o.low, o.width
    return fields, entries


def _sizes(machine: MachineConfig) -> dict[str, int]:
    rows = machine.array_rows
    return {
        "rows": rows,
        "cols": machine.array_cols,
        "segment_rows": min(SEGMENT_ROWS, rows),
        "segments": max(1, rows // SEGMENT_ROWS),
        "weight_rows": machine.weight_rows_per_cycle,
        "banks": machine.act_banks,
        "region_words": machine.act_region_bytes // GROUP,
        "acc_rows": machine.acc_rows,
        "taps": machine.vector_taps,
        "bus_bytes": machine.dram_bytes_per_cycle,
        "latency": machine.dram_latency_cycles,
        "burst_bytes": machine.dram_burst_bytes,
        "block_bytes": BLOCK_BYTES,
        "queue_depth": machine.queue_depth,
        "token_depth": machine.token_depth,
        "position_bytes": -(-machine.array_cols // (2 * GROUP)) * GROUP,
        "shadow_free": TIMING["shadow_free_cycles"],
        "param_rows": TIMING["param_rows"],
        "table_rows": -(-TABLE_BYTES // (4 * machine.array_cols)),
        "finds": machine.dynamic_extraction,
        "fetch_words": FETCH_WORDS,
        "buffer_words": machine.instruction_words,
    }


@cache
def _extraction_unit() -> Array:
    """Return what an extraction unit makes of a byte, int16 (2, positions + 1, 256): see `Matrix.unit`."""
    byte = np.arange(256)
    found = np.zeros((2, EIGHT + 1, 256), np.int16)
    for unsigned, (low, high) in enumerate(((-8, 7), (0, 15))):
        value = byte if unsigned else byte.astype(np.uint8).view(np.int8).astype(np.int64)
        for s in range(EIGHT):  # positions are 0..4; four bits can hold more
            found[unsigned, s] = np.clip(value + (1 << s >> 1) >> s, low, high)
        found[unsigned, EIGHT] = value
    return found


def _matrix(segments: int, cols: int, batch: int, finds: bool) -> Matrix:
    fetch = np.zeros((2 + finds, batch), FETCH)
    fetch["row"] = -1
    return Matrix(
        entry=np.zeros((2, segments), ENTRY),
        fetch=fetch,
        raw=np.zeros((batch, 3 * cols), np.uint8),
        segment=np.zeros((PIXEL_RING, segments), SEGMENT),
        word=np.zeros((1 + finds, segments, GROUP), np.uint8),
        unit=_extraction_unit(),
    )


def _pe(rows: int, cols: int, segment_rows: int, segments: int, batch: int, acc_rows: int) -> Pe:
    n, s, deep = rows * cols, segments * cols, 1 << (segment_rows + segments + 2).bit_length()
    skew_control, control = np.zeros((deep, 3), np.int32), np.zeros(REWIND + 3 * (cols + 2), np.int32)
    skew_control[:, 0] = control[: cols + 2] = 2 * acc_rows
    lines = cols + segments + 2
    return Pe(
        act=np.zeros(REWIND + 2 * n, np.int16),
        psum=np.zeros((2, s + n), np.int32),
        weight=np.zeros((2, n), np.int16),
        shadow=np.zeros(n, np.int16),
        swap=np.zeros((lines, 2), np.int64),
        skew_act=np.zeros((deep, 2 * rows), np.int16),
        skew_shift=np.zeros((deep, segments), np.int16),
        skew_control=skew_control,
        line=np.zeros((lines, batch, 2, cols), np.int16),
        line_to=np.zeros((lines, batch, 3), np.int64),
        line_born=np.zeros(lines, np.int64),
        s_act=np.zeros(REWIND + s, np.int16),
        shift=np.zeros((2, s), np.int16),
        total=np.zeros((2, s + cols), np.int32),
        control=control,
        stage=np.zeros((3, cols), np.int32),
        acc=np.zeros((2 * acc_rows + 1, cols), np.int32),
    )


def _build(
    machine: MachineConfig,
    words: int,
    dram: Array,
    *,
    weight_rows: int,
    kernel_w: int,
    line_bytes: int,
) -> Machine:
    """Return the machine at START, all registers and memories zero but DRAM.

    Args:
        machine: the design point.
        words: of the program.
        dram: uint8; written by stores.
        weight_rows: most rows of depthwise weights of one vec.
        kernel_w: widest window of a vec.
        line_bytes: most image bytes of one fold.
    """
    r, cols, batch = np.zeros(1, REGISTERS), machine.array_cols, machine.weight_rows_per_cycle
    for name, size in _sizes(machine).items():
        r["sizes"][name] = size
    r["read"]["param"] = r["read"]["acc_row"] = r["read"]["residual"] = -1
    r["unit"]["walk_op"] = -1
    r["bus"]["owner"], r["bus"]["last"] = NOBODY, FETCHING  # load goes first at the beginning
    program = np.zeros(words, INSTRUCTION)
    sizes, latency = r["sizes"][0], machine.dram_latency_cycles
    rows, segment_rows, segments = (int(sizes[name]) for name in ("rows", "segment_rows", "segments"))
    beat = np.zeros((CLIENTS, latency), BEAT)
    beat["op"] = -1
    flights = latency + rows + cols + 64  # an engine accepts at most one a cycle, and its pipeline is shorter
    return Machine(
        registers=r,
        front=Front(
            np.zeros(machine.instruction_words * WORD_BYTES, np.uint8),
            *_decoder(),
            program,
            program.view(np.int64).reshape(words, -1),
            np.zeros((words, 2, int(RAW["table_entries_per_word"])), np.int64),
            np.zeros((len(ENGINES), machine.queue_depth), np.int64),
            np.zeros((len(ENGINES), flights), FLIGHT),
            np.full((words, len(TIMES)), -1, np.int64),
        ),
        matrix=_matrix(segments, cols, batch, machine.dynamic_extraction),
        pe=_pe(rows, cols, segment_rows, segments, batch, machine.acc_rows),
        vector=Vector(
            np.zeros((2, max(kernel_w, machine.vector_taps)), np.int64),
            np.zeros((2, kernel_w, cols // GROUP + 2), np.int64),
            np.zeros((15, cols), np.int64),
            np.zeros((max(weight_rows, 1), cols), np.int64),
            np.zeros((cols, TABLE_BYTES), np.uint8),
        ),
        dma=Dma(
            beat,
            np.zeros((CLIENTS, latency, machine.dram_bytes_per_cycle), np.uint8),
            np.zeros(max(line_bytes, 1), np.uint8),
            dram,
        ),
        memories=Memories(
            np.zeros(ACT_REGIONS * machine.act_region_bytes, np.uint8),
            np.zeros(machine.weight_memory_bytes, np.uint8),
            np.zeros(machine.param_memory_bytes, np.uint8),
        ),
    )
