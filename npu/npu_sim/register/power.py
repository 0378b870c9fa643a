"""The machine at START: memories and registers in the sizes of a design point, program and boundaries in place."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import BY_NAME, ENGINES, RAW, TIMING
from npu_isa.machine.config import ACT_REGIONS, SEGMENT_ROWS, MachineConfig
from numpy.typing import NDArray

from npu_sim.register import front
from npu_sim.register.state import (
    BEAT,
    EIGHT,
    ENTRY,
    FETCH,
    FLIGHT,
    GROUP,
    INSTRUCTION,
    OPERANDS,
    PIXEL_RING,
    REGISTERS,
    REWIND,
    SEGMENT,
    TIMES,
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
    instructions: Sequence[Instruction], machine: MachineConfig, boundaries: Sequence[int], dram: NDArray[np.uint8]
) -> Machine:
    """Return the machine at START: program and boundary registers in place."""
    words, table = _instruction_memory(instructions)
    vgeom, fold = (words[words["kind"] == front.KINDS.index(name)] for name in ("vgeom", "fold"))
    taps = vgeom["kernel_h"] * vgeom["kernel_w"]
    state = _build(
        machine,
        words,
        table,
        dram,
        weight_rows=-(-int(taps.max(initial=0)) // 4),
        kernel_w=int(vgeom["kernel_w"].max(initial=1)),
        line_bytes=int((fold["in_h"] * fold["in_w"] * fold["channels"]).max(initial=0)),
    )
    registers = state.registers["boundary"][0]
    count = min(len(boundaries), len(registers) - 1)  # the last one is hard-wired to 0
    registers[:count] = boundaries[:count]
    return state


def _instruction_memory(instructions: Sequence[Instruction]) -> tuple[Array, Array]:
    """Return decoded words, INSTRUCTION, and the repeated operands of groups, int64 (instructions, 2, entries)."""
    words = np.zeros(len(instructions), INSTRUCTION)
    table = np.zeros((len(instructions), 2, int(RAW["table_entries_per_word"])), np.int64)
    for i, instruction in enumerate(instructions):
        word, engine = words[i], BY_NAME[instruction.name].engine
        word["kind"] = front.KINDS.index(instruction.name)
        word["engine"] = ENGINES.index(engine) if engine in ENGINES else -1
        word["pop"], word["push"] = instruction.pop, instruction.push
        for name, value in instruction.operands.items():
            if name in OPERANDS:
                word[name] = value
            else:
                table[i, ("group", "shift").index(name)] = value
    return words, table


def _sizes(machine: MachineConfig) -> tuple[int, ...]:
    rows = machine.array_rows
    return (
        rows,
        machine.array_cols,
        min(SEGMENT_ROWS, rows),
        max(1, rows // SEGMENT_ROWS),
        machine.weight_rows_per_cycle,
        machine.act_banks,
        machine.act_region_bytes // GROUP,
        machine.acc_rows,
        machine.vector_taps,
        machine.dram_bytes_per_cycle,
        machine.dram_latency_cycles,
        machine.dram_burst_bytes,
        TIMING["dma_block_bytes"],
        machine.queue_depth,
        machine.token_depth,
        -(-machine.array_cols // (2 * GROUP)) * GROUP,
        TIMING["shadow_free_cycles"],
        TIMING["param_rows"],
        machine.dynamic_extraction,
    )


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
    program: Array,
    table: Array,
    dram: Array,
    *,
    weight_rows: int,
    kernel_w: int,
    line_bytes: int,
) -> Machine:
    """Return the machine at START, all registers and memories zero but the program and DRAM.

    Args:
        machine: the design point.
        program: instruction memory, INSTRUCTION.
        table: int64 (instructions, 2, 16): the repeated operands of groups.
        dram: uint8; written by stores.
        weight_rows: most rows of depthwise weights of one vec.
        kernel_w: widest window of a vec.
        line_bytes: most image bytes of one fold.
    """
    r, cols, batch = np.zeros(1, REGISTERS), machine.array_cols, machine.weight_rows_per_cycle
    r["sizes"] = _sizes(machine)
    r["read"]["param"] = r["read"]["acc_row"] = r["read"]["residual"] = -1
    r["unit"]["walk_op"] = -1
    r["bus"]["owner"], r["bus"]["last"] = -1, 1  # load goes first at the beginning
    sizes, latency = r["sizes"][0], machine.dram_latency_cycles
    rows, segment_rows, segments = (int(sizes[name]) for name in ("rows", "segment_rows", "segments"))
    beat = np.zeros((2, latency), BEAT)
    beat["op"] = -1
    flights = latency + rows + cols + 64  # an engine accepts at most one a cycle, and its pipeline is shorter
    return Machine(
        registers=r,
        front=Front(
            program,
            table,
            np.zeros((len(ENGINES), machine.queue_depth), np.int64),
            np.zeros((len(ENGINES), flights), FLIGHT),
            np.full((len(program), len(TIMES)), -1, np.int64),
        ),
        matrix=_matrix(segments, cols, batch, machine.dynamic_extraction),
        pe=_pe(rows, cols, segment_rows, segments, batch, machine.acc_rows),
        vector=Vector(
            np.zeros((2, max(kernel_w, machine.vector_taps)), np.int64),
            np.zeros((2, kernel_w, cols // GROUP + 2), np.int64),
            np.zeros((14, cols), np.int64),
            np.zeros((max(weight_rows, 1), cols), np.int64),
        ),
        dma=Dma(
            beat,
            np.zeros((2, latency, machine.dram_bytes_per_cycle), np.uint8),
            np.zeros(max(line_bytes, 1), np.uint8),
            dram,
        ),
        memories=Memories(
            np.zeros(ACT_REGIONS * machine.act_region_bytes, np.uint8),
            np.zeros(machine.weight_memory_bytes, np.uint8),
            np.zeros(machine.param_memory_bytes, np.uint8),
        ),
    )
