"""A random program under construction: its memories, its constants, and the transfers between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from npu_isa.isa.ops import Memory
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import NO_DIAL
from npu_isa.machine.blocks import (
    ParamBlock,
    WeightBlock,
    pack_params,
    pack_table,
    pack_weights,
    param_block_rows,
    position_words,
    table_rows,
)
from npu_isa.machine.config import MachineConfig
from numpy.typing import NDArray

Array = NDArray[Any]

WORD = 16
CONSTANTS_BYTES = 1 << 18
INPUT_BYTES = 3072
SCRATCH_BYTES = 8192
CODE_BYTES = 1 << 16  # room for the program
INPUT = CONSTANTS_BYTES + CODE_BYTES
SCRATCH = INPUT + INPUT_BYTES
OUTPUT = SCRATCH + SCRATCH_BYTES


@dataclass(frozen=True)
class Tensor:
    """Words in the activation memory: pixel (y, x), word g at base + y * row + x * pixel + g."""

    base: int
    h: int
    w: int
    words: int
    row: int
    pixel: int

    @property
    def end(self) -> int:
        """One past its last word."""
        return self.base + (self.h - 1) * self.row + (self.w - 1) * self.pixel + self.words


def aside(rng: np.random.Generator) -> float:
    """Return a number in [0, 1) that is not one of the generator's own: what else a seed makes stays what it is."""
    return float(rng.spawn(1)[0].random())


def beside(rng: np.random.Generator) -> np.random.Generator:
    """Return a generator made from where another one stands, which neither draws nor spawns anything for it."""
    return np.random.default_rng(rng.bit_generator.state["state"]["state"])


def spread(values: Sequence[int], rng: np.random.Generator) -> int:
    """Pick one of `values`; the first is the most likely."""
    return int(values[0]) if rng.random() < 0.5 else int(rng.choice(values))


class Tile(NamedTuple):
    """Outputs that one instruction computes."""

    y: int
    x: int
    height: int
    width: int


@dataclass
class Draft:
    """A program that `npu_sim.random_programs.builder` draws from `rng`, as far as it is.

    Attributes:
        tensors: in the activation memory, valid so far.
        saved: in DRAM, as (address, shape); pitches and base of the shape are bytes.
        legal: boundaries of each register.
        weight_next, param_next: where the next block goes.
        other: what was added later is drawn from here: what `rng` makes stays what it is, as far as that goes.
        tables: whether the vector engine has a table.
    """

    rng: np.random.Generator
    machine: MachineConfig
    code: list[Instruction] = field(default_factory=list)
    constants: bytearray = field(default_factory=bytearray)
    tensors: list[Tensor] = field(default_factory=list)
    saved: list[tuple[int, Tensor]] = field(default_factory=list)
    legal: dict[int, tuple[int, ...]] = field(default_factory=dict)
    weight_next: int = 0
    param_next: int = 0
    tables: bool = False

    def __post_init__(self) -> None:
        self.other = beside(self.rng)

    # -- helpers

    def _chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def _number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def _put(self, name: str, **operands: int | tuple[int, ...]) -> None:
        self.code.append(Instruction(name, operands))

    def _constant(self, data: Array) -> int:
        text = data.tobytes()
        at = self.constants.find(text)
        if at >= 0:
            return at
        at = len(self.constants)
        self.constants += text
        assert len(self.constants) <= CONSTANTS_BYTES
        return at

    def _room(self, size: int, memory_words: int, place: int) -> int:
        """Return where a block goes in a memory that is filled round and round."""
        return place if place + size <= memory_words else 0

    def _new_tensor(self, h: int, w: int, words: int, keep: list[Tensor]) -> Tensor | None:
        """Place a tensor somewhere outside `keep`; what it overlaps is gone."""
        pixel = words + self._number(0, 1)
        row = (w - 1) * pixel + words + self._number(0, 2)
        if self._chance(0.15):  # columns first
            row = words + self._number(0, 1)
            pixel = (h - 1) * row + words + self._number(0, 2)
        for _ in range(30):
            shape = Tensor(0, h, w, words, row, pixel)
            if shape.end > self.machine.act_words:
                return None
            made = replace(shape, base=self._number(0, self.machine.act_words - shape.end))
            if all(made.end <= k.base or k.end <= made.base for k in keep):
                self.tensors = [t for t in self.tensors if t.end <= made.base or made.end <= t.base]
                return made
        return None

    def _pick(self) -> Tensor:
        return self.tensors[self._number(0, len(self.tensors) - 1)]

    # -- transfers

    def start(self) -> None:
        """Load an image or two."""
        for _ in range(2):
            self._load_image()
        if not self.tensors:
            raise AssertionError("an image fits every machine")

    def _load_image(self) -> None:
        h, w, words = self._number(1, 5), self._number(1, 5), self._number(1, 3)
        if self._chance(0.4):
            self._fold(h, w)
            return
        made = self._new_tensor(h, w, words, [])
        if made is None:
            return
        col = self._number(0, 60)
        row = self._number(0, 200)
        span = (h - 1) * row + (w - 1) * col + words * WORD
        at = INPUT + self._number(0, INPUT_BYTES - span)
        self._put_load(made, at, row, col)

    def _put_load(self, to: Tensor, at: int, row: int, col: int) -> None:
        dense = to.pixel == to.words and col == to.words * WORD and self._chance(0.7)
        self._put(
            "load",
            memory=0,
            dram_addr=at,
            rows=to.h,
            cols=1 if dense else to.w,
            run=to.words * WORD * (to.w if dense else 1),
            dram_row_pitch=row,
            dram_col_pitch=0 if dense else col,
            addr=to.base,
            row_pitch=to.row,
            col_pitch=0 if dense else to.pixel,
            indexed=0,
            register=0,
            table_pitch=0,
            table_entries=0,
        )
        self.tensors.append(to)

    def _fold(self, h: int, w: int) -> None:
        kh, kw, channels = self._number(1, 3), self._number(1, 3), self._number(1, 4)
        in_h, in_w = self._number(1, 9), self._number(1, 9)
        made = self._new_tensor(h, w, -(-kh * kw * channels // WORD), [])
        if made is None:
            return
        self._put(
            "fold",
            dram_addr=INPUT + self._number(0, INPUT_BYTES - in_h * in_w * channels),
            in_h=in_h,
            in_w=in_w,
            channels=channels,
            kernel_h=kh,
            kernel_w=kw,
            stride_y=self._number(1, 3),
            stride_x=self._number(1, 3),
            pad_top=self._number(-2, 2),
            pad_left=self._number(-2, 2),
            out_y=self._number(0, 3),
            rows=h,
            cols=w,
            addr=made.base,
            row_pitch=made.row,
            pixel_pitch=made.pixel,
        )
        self.tensors.append(made)

    def _store(self) -> None:
        t = self._pick()
        col = t.words * WORD + spread([0, 5, 16], self.rng)
        row = col * (t.w - 1) + t.words * WORD + spread([0, 3, 32], self.rng)
        span = (t.h - 1) * row + (t.w - 1) * col + t.words * WORD
        if span > SCRATCH_BYTES:
            return
        first = SCRATCH
        at = first + self._number(0, SCRATCH_BYTES - span)
        self.saved = [s for s in self.saved if s[0] + s[1].base <= at or at + span <= s[0]]
        self._put_store(t, at, row, col)
        self.saved.append((at, replace(t, base=span, row=row, pixel=col)))

    def _put_store(self, t: Tensor, at: int, row: int, col: int) -> None:
        self._put(
            "store",
            dram_addr=at,
            rows=t.h,
            cols=t.w,
            run=t.words * WORD,
            dram_row_pitch=row,
            dram_col_pitch=col,
            addr=t.base,
            row_pitch=t.row,
            col_pitch=t.pixel,
        )

    def _reload(self) -> None:
        at, shape = self.saved[self._number(0, len(self.saved) - 1)]
        made = self._new_tensor(shape.h, shape.w, shape.words, [])
        if made is not None:
            self._put_load(made, at, shape.row, shape.pixel)

    # -- constants of a layer

    def _load_constants(
        self, memory: Memory, data: Array, rows: int, addr: int, table: dict[str, int] | None = None
    ) -> None:
        at = self._constant(data)
        self._put(
            "load",
            memory=int(memory),
            dram_addr=at,
            rows=1,
            cols=1,
            run=rows,
            dram_row_pitch=0,
            dram_col_pitch=0,
            addr=addr,
            row_pitch=0,
            col_pitch=0,
            **(table or {"indexed": 0, "register": 0, "table_pitch": 0, "table_entries": 0}),
        )

    def _scales(self, bits: int, residual: Tensor | None) -> tuple[Array, Array, Array]:
        """Return (multipliers, shifts, second multipliers) that bring sums of `bits` bits and residuals into a byte.

        One column in eight has anything, so that clamps are met too.
        """
        cols = self.machine.array_cols
        shift = self.rng.integers(max(bits - 6, 1), max(bits - 6, 1) + 10, cols)
        mult = self.rng.integers(0, 2 << np.clip(shift + 6 - bits, 0, 14))
        second = self.rng.integers(0, 2 << np.clip(shift - (1 if residual else bits - 6), 0, 14))
        odd = self.rng.random(cols) < 1 / 8
        anything = (
            self.rng.integers(0, 32768, cols),
            self.rng.integers(1, 48, cols),
            self.rng.integers(0, 32768, cols),
        )
        first, second, third = (np.where(odd, a, b) for a, b in zip(anything, (mult, shift, second), strict=True))
        below = self.other.random((2, cols)) < self.other.choice([0, 0.3, 1], (2, 1), p=[0.5, 0.3, 0.2])
        signs = np.where(below, -1, 1)
        return first * signs[0], second, third * signs[1]

    def _load_params(self, taps: int, register: int, places: int, bits: int, residual: Tensor | None) -> int:
        """Load one parameter block for sums of about `bits` bits and return its first row."""
        cols, rows = self.machine.array_cols, param_block_rows(taps)
        at = self._room(rows, self.machine.param_rows, self.param_next)
        self.param_next = at + rows
        spread_bits = bits if self._chance(0.8) else self._number(4, 31)
        bias = self.rng.integers(-(1 << spread_bits), 1 << spread_bits, ((places + 1), cols)).astype("<i4")
        mult, shift, second = self._scales(bits, residual)
        quads = self.rng.integers(0, 1 << 32, (rows - param_block_rows(0), cols), dtype=np.uint32)
        weights = quads.astype("<u4")[..., None].view(np.int8).transpose(0, 2, 1).reshape(-1, cols)
        block = pack_params(ParamBlock(bias[0], mult, shift, second, weights))
        if register == NO_DIAL:
            self._load_constants(Memory.PARAM, block, rows * 4 * cols, at)
        else:
            table = {"indexed": 1, "register": register, "table_pitch": 4 * cols, "table_entries": places + 1}
            self._load_constants(Memory.PARAM, bias, 4 * cols, at, table)
            self._load_constants(Memory.PARAM, block[1:], (rows - 1) * 4 * cols, at + 1)
        return at

    def _load_table(self, wrap: bool) -> None:
        """Load a table of noise, if the parameter memory has room, and let the vector engine take it.

        Without `wrap` it goes behind the parameter block in use, or nowhere.
        """
        rows = table_rows(self.machine)
        if rows + (0 if wrap else self.param_next) > self.machine.param_rows:
            return
        at = self._room(rows, self.machine.param_rows, self.param_next)
        self.param_next = at + rows
        table = self.other.integers(0, 256, 256, dtype=np.uint8)
        self._load_constants(Memory.PARAM, pack_table(table, self.machine), rows * 4 * self.machine.array_cols, at)
        for _ in range(2 if self.other.random() < 0.2 else 1):  # a second one waits for no load
            self._put("table", param_addr=at)
        self.tables = True

    def _weight_block(self, places: int, taps: int) -> Array:
        """Return random weights and positions of a conv."""
        cols, head = self.machine.array_cols, position_words(self.machine) * WORD
        positions = self.rng.integers(0, 5, (places, 2 * head), dtype=np.uint8)
        span = self._number(1, 128)
        weights = self.rng.integers(-span, span, (places, taps, WORD, cols)).astype(np.int8)
        return pack_weights(WeightBlock(positions[:, :cols], weights), self.machine)

    def _load_weights(self, block: Array) -> int:
        """Load a weight block and return its address."""
        words = block.size // WORD
        at = self._room(words, self.machine.weight_words, self.weight_next)
        self.weight_next = at + words
        self._load_constants(Memory.WEIGHT, block, block.size, at)
        return at
