"""What each instruction of a binary does, in words: tiles, memory ranges, and the tensors that lie there."""

from collections.abc import Sequence

import numpy as np

from npu_isa.file.binary import Binary, code_address, data_address
from npu_isa.isa.ops import Conv, Load, Memory, Op, Table, Vec
from npu_isa.machine.footprint import Access, footprints


class Narrator:
    """Walks over a program in its order and says what each operation does.

    It remembers which tensor was written last to each word of the activation memory and each byte of DRAM, by
    bounding ranges, so that a read can name what it reads.
    """

    def __init__(self, binary: Binary, ops: Sequence[Op]) -> None:
        self._binary = binary
        self._touched = footprints(ops, binary.machine)
        self._names: list[str] = [""]
        self._act = np.zeros(binary.machine.act_words, np.int32)  # place in _names of each word's tensor
        self._dram: list[tuple[int, int, str]] = [
            (0, binary.constants.size, "constants"),
            (code_address(binary.constants.size), data_address(binary.constants.size, len(binary.code)), "program"),
            *((*output.range, output.name) for output in binary.outputs),
            (*binary.input.range, binary.input.name),
        ]

    def describe(self, op: Op) -> str:
        """Return one line, for the next operation of the program; "" for a setup."""
        accesses = self._touched.of(op.index)
        reads = [a for a in accesses if not a.write]
        writes = [a for a in accesses if a.write]
        if isinstance(op, Table):
            return f"{self._text(reads[0])} -> table"
        if not writes:
            return ""
        source = self._tensors(next((a for a in reads if a.memory in (Memory.ACT, Memory.DRAM)), None))
        sources = [self._text(a) for a in reads]
        made = self._made(op, source)
        for a in writes:
            self._mark(a, made)
        return f"{self._tile(op)}{' + '.join(sources)} -> {', '.join(self._text(a) for a in writes)}"

    def _tile(self, op: Op) -> str:
        if isinstance(op, Conv | Vec):
            y, x = _span(op.out_y, op.out_y + op.tile_h), _span(op.out_x, op.out_x + op.tile_w)
            return f"y {y} x {x}: "
        if isinstance(op, Load) and op.indexed:
            return f"by boundary {op.register}: "
        return ""

    def _made(self, op: Op, source: str) -> str:
        layer = int(self._binary.layer_of[op.index])
        return self._binary.layers[layer].out if isinstance(op, Vec) and layer >= 0 else source

    def _mark(self, a: Access, name: str) -> None:
        if a.memory == Memory.ACT:
            if name not in self._names:
                self._names.append(name)
            self._act[max(a.first, 0) : max(a.end, 0)] = self._names.index(name)
        elif a.memory == Memory.DRAM and not self._tensors(a):
            self._dram.append((a.first, a.end, name))

    def _tensors(self, a: Access | None) -> str:
        """Return the names of what lies in a range, "" if that is not known."""
        if a is None:
            return ""
        if a.memory == Memory.DRAM:
            return next((name for first, end, name in self._dram if a.first < end and first < a.end), "")
        held = np.flatnonzero(np.bincount(self._act[max(a.first, 0) : max(a.end, 0)], minlength=1))
        return ", ".join(self._names[i] for i in held if i)

    def _text(self, a: Access) -> str:
        """Return memory and range, and what is known about it: tensors, and regions of the activation memory."""
        known = [self._tensors(a)] if a.memory in (Memory.ACT, Memory.DRAM) else []
        if a.memory == Memory.ACT:
            words = self._binary.machine.region_words
            first, last = a.first // words, (a.end - 1) // words
            known.append(f"region {first}" if first == last else f"regions {first}..{last}")
        text = f"{a.memory.name.lower()} {_span(a.first, a.end)}"
        known = [k for k in known if k]
        return f"{text} ({', '.join(known)})" if known else text


def _span(first: int, end: int) -> str:
    return f"{first}..{end - 1}"
