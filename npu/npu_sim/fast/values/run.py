"""The value simulator: a checked program executed in program order, image by image, several images at once.

Program order is a legal order (the static check has excluded races). A mixed layer is one product of lowered 8-bit
operands; the sums equal those of the segments, by distributivity. Each thread has one set of memories, small enough
for a core's cache, and takes the next images when it is done.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import numpy as np
from npu_isa.isa.ops import Op, Vec
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from numba import config
from numpy.typing import NDArray

from npu_sim.fast.values import execute
from npu_sim.fast.values.encode import Encoder
from npu_sim.fast.values.tables import VECTOR, Memory

U8 = NDArray[np.uint8]
Array = NDArray[Any]
Observe = Callable[[Vec, Array], None]

MAX_BATCH = 16  # images that a thread takes at once
NOTHING = np.empty((1, 0), np.uint8), np.empty((0, 2), np.int64)  # no outputs, and no places of any


class Values:
    """A program prepared for one boundary vector.

    Args:
        ops: the resolved program, accepted by npu_isa.check.program.
        machine: the design point.
        constants: uint8, DRAM from address 0.
        boundaries: groups in 4 bits per boundary register; registers beyond the vector read 0.
        dram_bytes: DRAM used in all.
    """

    def __init__(
        self,
        ops: Sequence[Op],
        machine: MachineConfig,
        constants: U8,
        boundaries: Sequence[int],
        dram_bytes: int,
    ) -> None:
        self._machine = machine
        self._encoder = Encoder(ops, machine, constants)
        self._program = self._encoder.program(boundaries)
        self._scratch_bytes = dram_bytes - constants.size
        self._idle: list[Memory] = []

    def at(self, boundaries: Sequence[int]) -> "Values":
        """Return the same program prepared for another boundary vector; much of the preparation is shared."""
        other = copy(self)
        other._program = self._encoder.program(boundaries)
        return other

    def run(
        self,
        images: U8,
        input_address: int,
        output_ranges: Sequence[tuple[int, int]],
        observe: Observe | None = None,
    ) -> U8:
        """Execute the program for each image.

        Args:
            images: uint8 (N, bytes), written to DRAM at `input_address`.
            input_address: DRAM byte address.
            output_ranges: DRAM bytes [first, end) of each output.
            observe: called after each vec with the values that it wrote, int32 (N, tile_h, tile_w, lanes); every
                image then has memories of its own.

        Returns:
            uint8 (N, output bytes): the bytes of the outputs in DRAM, one output after the other.
        """
        images = np.require(images, np.uint8, ["C", "W"])
        base = self._program.constants.size
        places = np.array([(first - base, end - first) for first, end in output_ranges], np.int64).reshape(-1, 2)
        outputs = np.empty((len(images), int(places[:, 1].sum())), np.uint8)
        end = len(self._program.steps)

        def run_part(memory: Memory, part: slice, first: int, end: int) -> None:
            execute.run(self._program, memory, first, end, images[part], input_address - base, outputs[part], places)

        if observe is not None:
            self._observed(len(images), run_part, observe)
            return outputs
        threads = min(config.NUMBA_NUM_THREADS, max(len(images), 1))  # type: ignore[attr-defined]
        size = min(MAX_BATCH, -(-len(images) // (4 * threads)))
        parts = iter([slice(i, i + size) for i in range(0, len(images), max(size, 1))])

        def work(_: int) -> None:
            memory = self._idle.pop() if self._idle else self._memory()
            for part in parts:  # the threads share the iterator
                run_part(memory, part, 0, end)
            self._idle.append(memory)

        if threads == 1:
            work(0)
            return outputs
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        return outputs

    def memories(self, image: U8, input_address: int) -> tuple[U8, U8]:
        """Execute the program for one image.

        Args:
            image: uint8 (bytes,), written to DRAM at `input_address`.
            input_address: DRAM byte address.

        Returns:
            what the program leaves: DRAM behind the constants, and the activation memory, uint8 (bytes,).
        """
        memory = self._memory()
        at = input_address - self._program.constants.size
        images = np.require(image.reshape(1, -1), np.uint8, ["C", "W"])
        execute.run(self._program, memory, 0, len(self._program.steps), images, at, *NOTHING)
        return memory.dram, memory.act[: self._machine.act_words * WORD_BYTES]

    def steps(self, image: U8, input_address: int) -> Iterator[tuple[Op, U8, Array]]:
        """Execute the program for one image, operation by operation; setups and loads of constants are left out.

        Args:
            image: uint8 (bytes,), written to DRAM at `input_address`.
            input_address: DRAM byte address.

        Yields:
            the operation, the activation memory after it, uint8 (bytes,), and the accumulators, int32 (halves, rows,
            columns): views of memories that go on changing. Columns without a weight are left as they were.
        """
        machine, memory = self._machine, self._memory()
        acc = memory.acc.reshape(2, machine.acc_rows, -1)[..., : machine.array_cols]
        at = input_address - self._program.constants.size
        images = np.require(image[None], np.uint8, ["C", "W"])
        for i, op in enumerate(self._encoder.ops):
            execute.run(self._program, memory, i, i + 1, images, at, *NOTHING)
            yield op, memory.act[: machine.act_words * WORD_BYTES], acc

    def _observed(self, count: int, run_part: Callable[[Memory, slice, int, int], None], observe: Observe) -> None:
        """Execute vec by vec, all images up to the same one."""
        memories = [self._memory() for _ in range(count)]
        ends = [i + 1 for i, op in enumerate(self._encoder.ops) if isinstance(op, Vec)]
        first = 0
        for end in [*ends, len(self._encoder.ops)]:
            for i, memory in enumerate(memories):
                run_part(memory, slice(i, i + 1), first, end)
            op = self._encoder.ops[end - 1]
            if first < end and isinstance(op, Vec):
                observe(op, _written(op, memories))
            first = end

    def _memory(self) -> Memory:
        machine, width = self._machine, self._program.acc_width
        return Memory(
            act=np.zeros(machine.act_words * WORD_BYTES + VECTOR, np.uint8),
            acc=np.zeros(2 * machine.acc_rows * width, np.int32),
            dram=np.zeros(self._scratch_bytes, np.uint8),
            patch=np.zeros(self._encoder.patch_bytes, np.uint8),
            pixels=np.zeros(machine.acc_rows, np.int64),
            window=np.zeros(self._encoder.row_pixels * width, np.int32),
        )


def _written(op: Vec, memories: Sequence[Memory]) -> Array:
    """Return the values that a vec has just written, int32 (memories, tile_h, tile_w, lanes).

    They are signed if the clamp is; bytes from a table are 0..255.
    """
    g = op.geom
    lane = op.out_byte + np.arange(op.lanes)
    spread = (1 + g.wide) * (lane // WORD_BYTES) * WORD_BYTES + lane % WORD_BYTES
    rows = np.arange(op.tile_h)[:, None, None] * g.out_row_pitch
    cols = np.arange(op.tile_w)[:, None] * g.out_pixel_pitch
    at = (op.out_base + rows + cols) * WORD_BYTES + spread
    found = np.stack([m.act[at] for m in memories]).astype(np.int32)
    if g.wide:
        found |= np.stack([m.act[at + WORD_BYTES] for m in memories]).astype(np.int32) << 8
    if g.table:
        return found  # only who made the table knows what its bytes stand for
    bits = 16 if g.wide else 8
    if g.clamp_high < 1 << (bits - 1):
        found = (found << (32 - bits)) >> (32 - bits)
    return found
