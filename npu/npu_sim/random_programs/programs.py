"""Random valid programs.

They use every instruction, strides, dilations, paddings and crops, loose pitches, accumulation, residuals (in place and
broadcast too), products, tables, leaky and wide outputs, all sources, multipliers of both signs, stores and reloads,
folds, bias tables, and tokens from true conflicts beside some that are not needed. Layers' tiles overlap in time as far
as the tokens allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from npu_isa.check.program import check_program
from npu_isa.file.binary import data_address
from npu_isa.isa.ops import Op, Vec
from npu_isa.isa.program import Instruction
from npu_isa.isa.resolve import Ops, resolve
from npu_isa.machine.config import MachineConfig
from numpy.typing import NDArray

from npu_sim.random_programs.builder import Builder
from npu_sim.random_programs.draft import CONSTANTS_BYTES, INPUT, INPUT_BYTES, OUTPUT, WORD
from npu_sim.random_programs.tokens import random_tokens, with_tokens


@dataclass(frozen=True)
class RandomProgram:
    """A program and what it runs with; the image is INPUT_BYTES of anything."""

    machine: MachineConfig
    instructions: tuple[Instruction, ...]
    constants: NDArray[np.uint8]
    dram_bytes: int
    input_range: tuple[int, int]
    output_range: tuple[int, int]
    registers: int
    legal: dict[int, tuple[int, ...]]

    @property
    def ops(self) -> Ops:
        """The program with its state resolved."""
        return resolve(self.instructions)

    def check(self, ops: Sequence[Op] | None = None) -> None:
        """Check the program, or other operations in its place, as a binary is checked.

        Raises:
            ProgramError: the first fault.
        """
        check_program(
            self.ops if ops is None else ops,
            self.machine,
            constants_bytes=len(self.constants),
            dram_bytes=self.dram_bytes,
            input_range=self.input_range,
            output_ranges=(self.output_range,),
            registers=self.registers,
            legal=self.legal,
            constants=self.constants,
        )

    def boundaries(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Return a legal boundary for each register."""
        return tuple(int(rng.choice(self.legal[r])) for r in range(self.registers))

    def images(self, rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
        """Return images, (count, input bytes): words of noise, of few large values, of negative powers of two.

        Of 16 bytes of plain noise nearly always several have the highest bit: positions would not depend on any one.
        """
        size = self.input_range[1] - self.input_range[0]
        noise = rng.integers(0, 256, (count, size), dtype=np.uint8)
        other = rng.spawn(1)[0]
        shift = np.where(other.random(noise.shape) < 1 / 8, other.integers(0, 7, noise.shape), 7).astype(np.int8)
        signed, powers = noise.view(np.int8) >> shift, np.int8(-128) >> shift
        kind = np.repeat(other.integers(0, 4, (count, -(-size // WORD))), WORD, axis=1)[:, :size]
        return np.choose(kind, (noise, noise >> shift.view(np.uint8), signed.view(np.uint8), powers.view(np.uint8)))


def random_program(rng: np.random.Generator, machine: MachineConfig, layers: int = 3, words: int = 0) -> RandomProgram:
    """Return a valid program of about `layers` layers and a few dozen instructions, or of `words` if that is more."""
    builder = Builder(rng, machine)
    builder.start()
    for _ in range(layers):
        builder.layer()
    output_bytes = builder.finish()
    code = longer(with_tokens(builder.code, machine, rng), words, rng)
    assert data_address(CONSTANTS_BYTES, len(code)) <= INPUT, f"{len(code)} instructions have no room in DRAM"
    constants = np.zeros(CONSTANTS_BYTES, np.uint8)
    constants[: len(builder.constants)] = np.frombuffer(bytes(builder.constants), np.uint8)
    return RandomProgram(
        machine=machine,
        instructions=code,
        constants=constants,
        dram_bytes=OUTPUT + output_bytes,
        input_range=(INPUT, INPUT + INPUT_BYTES),
        output_range=(OUTPUT, OUTPUT + output_bytes),
        registers=len(builder.legal),
        legal=builder.legal,
    )


def longer(code: tuple[Instruction, ...], words: int, rng: np.random.Generator) -> tuple[Instruction, ...]:
    """Return the program with setups put in before equal ones until it has so many words: it does the same.

    They are dispatched faster than the bus brings them, so that the front end waits for words.
    """
    setups = np.array([i for i, ins in enumerate(code) if ins.name in ("geom", "groups", "vgeom")])
    more = np.zeros(len(code), int)
    while len(setups) and len(code) + more.sum() < words:
        more[rng.choice(setups)] += int(rng.integers(1, words - len(code) - more.sum() + 1))
    return tuple(
        one
        for ins, copies in zip(code, more.tolist(), strict=True)
        for one in (*(replace(ins, pop=0, push=0),) * copies, ins)
    )


def scrambled(p: RandomProgram, rng: np.random.Generator, token_depth: int = 2) -> RandomProgram:
    """Return the program with other tokens, often many, and other FIFOs: its values mean nothing, its times do."""
    machine = replace(p.machine, token_depth=token_depth)

    def changed(ins: Instruction, op: Op) -> Instruction:
        operands = {**ins.operands, "fence": int(op.fence)} if isinstance(op, Vec) else ins.operands
        return replace(ins, pop=op.pop, push=op.push, operands=operands)

    ops = random_tokens(p.ops, machine, rng)
    return replace(p, machine=machine, instructions=tuple(map(changed, p.instructions, ops)))
