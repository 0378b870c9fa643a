"""Run a program on the register-level machine: from instructions to times, causes and final memories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from npu_isa.check.program import check_extraction
from npu_isa.errors import ProgramError
from npu_isa.isa.codec import decode
from npu_isa.isa.program import Instruction
from npu_isa.isa.resolve import resolve
from npu_isa.isa.tables import BY_NAME, ENGINES, TIMING
from npu_isa.machine.config import MachineConfig
from numpy.typing import NDArray

from npu_sim.activity import CAUSES
from npu_sim.register import clock, front
from npu_sim.register.power import power_up
from npu_sim.register.state import TIMES, VECTOR_STAGES, Array, Machine

MOST_CYCLES = 1 << 40
STATES = {
    front.FREE: "waits for room in a token FIFO",
    front.TOKENS: "waits for tokens",
    front.LOADED: "waits for vector tokens",
    front.PORTS: "waits for ports",
}

assert tuple(BY_NAME) == front.KINDS, "the kernels number the instructions in the table's order"
assert ENGINES == ("load", "matrix", "vector", "store"), "the kernels number the engines so"
assert TIMING["vector_pipeline_cycles"] == VECTOR_STAGES, "the vector engine has as many stages as the page says"
assert TIMING["find_position_cycles"] == 1, "positions are found in one stage"


@dataclass(frozen=True, eq=False)
class RegisterRun:
    """What a run left behind; times in cycles from START, one per instruction but the halt.

    Attributes:
        total_cycles: cycle in which the halt was dispatched.
        dispatch, accept, start, issue_end, end: int64 (instructions,), as in isa_spec/MICROARCHITECTURE.md section 4.
        causes: int64 (engines, causes): what each cycle of each engine was spent on; a row adds up to the total.
        memories: final contents: act, weight, param, dram as uint8; acc as int32 (halves, rows, columns).
        double_reads: cycles in which matrix and vector engine read the same half of the accumulators.
    """

    total_cycles: int
    dispatch: Array
    accept: Array
    start: Array
    issue_end: Array
    end: Array
    causes: Array
    memories: Mapping[str, Array]
    double_reads: int


def run(
    program: Sequence[Instruction] | NDArray[np.uint8],
    machine: MachineConfig,
    constants: NDArray[np.uint8],
    boundaries: Sequence[int],
    dram_bytes: int,
    image: NDArray[np.uint8],
    input_address: int,
    most_cycles: int = MOST_CYCLES,
) -> RegisterRun:
    """Clock the machine until the program halts.

    Args:
        program: instructions, or code words of shape (instructions, 32). It must be valid (`npu_isa.check.program`): an
            address outside its memory is not caught here.
        machine: the design point.
        constants: DRAM from address 0.
        boundaries: groups in 4 bits of each boundary register; those beyond read 0.
        dram_bytes: DRAM used in all; the program lies in it behind the constants (`npu_isa.file.binary.code_address`).
        image: input bytes.
        input_address: where they stand in DRAM.
        most_cycles: give up after so many.

    Raises:
        ProgramError: the program cannot go on, has no halt, runs longer than `most_cycles`, or asks for an extraction
            that the machine does not have.
    """
    instructions = decode(program) if isinstance(program, np.ndarray) else tuple(program)
    check_extraction(resolve(instructions), machine)
    state = power_up(instructions, machine, boundaries, constants, dram_bytes, image, input_address)
    status, cycle = clock.run_clock(state, _flush(state), 0, most_cycles)
    if status != clock.HALTED:
        raise _fault(status, int(cycle), instructions, state)
    return _result(int(cycle), instructions, state)


def _flush(state: Machine) -> int:
    """Return how many cycles after a pixel the clock of the array must run for all its registers to be at rest."""
    sizes = state.registers["sizes"][0]
    around = 12  # stages before and behind the array, and to spare
    return int(sizes["segment_rows"] + sizes["segments"] + sizes["cols"]) + around


def _result(total: int, instructions: Sequence[Instruction], state: Machine) -> RegisterRun:
    registers, count = state.registers[0], sum(i.name != "halt" for i in instructions)
    acc_rows, causes = int(registers["sizes"]["acc_rows"]), registers["causes"].copy()
    causes[:, CAUSES.index("idle")] = total - causes.sum(axis=1)
    assert causes.min() >= 0, causes
    memories = {
        **state.memories._asdict(),
        "acc": state.pe.acc[: 2 * acc_rows].reshape(2, acc_rows, -1),
        "dram": state.dma.dram,
    }
    times = {name: state.front.times[:count, i] for i, name in enumerate(TIMES)}
    notes = registers["notes"]
    return RegisterRun(
        total,
        **times,
        causes=causes,
        memories=memories,
        double_reads=int(notes["double_reads"]),
    )


def _fault(status: int, cycle: int, instructions: Sequence[Instruction], state: Machine) -> ProgramError:
    """Return the error for a program that does not end, with the first instruction that cannot go on."""
    waits = {}
    for e, name in enumerate(ENGINES):
        engine = state.registers["engine"][0, e]
        if engine["count"]:
            op = int(state.front.flight[e, engine["head"]]["op"] if engine["blocked"] else engine["op"])
            waits[op] = f"{name} engine {STATES.get(int(engine['state']), 'is at work')}"
    pc = int(state.registers["front"]["pc"][0])
    if not waits and pc >= len(instructions):
        return ProgramError("the program ends without a halt", f"instruction {pc - 1}", "end it with halt")
    front_end = "its words" if pc >= state.registers["fetch"]["there"][0] else "room in a queue"
    first = min(waits, default=min(pc, len(instructions) - 1))
    text = "; ".join(f"instruction {op} ({instructions[op].name}): {why}" for op, why in sorted(waits.items()))
    what = "deadlock: nothing can go on" if status == clock.STUCK else "the program does not end"
    return ProgramError(
        f"{what} at cycle {cycle}: {text or f'the front end waits for {front_end}'}",
        f"instruction {first} ({instructions[first].name})",
        "check the tokens; `npu inspect` says who waits",
    )
