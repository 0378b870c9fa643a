"""Writes random valid programs, layer by layer, without tokens."""

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
    weight_block_words,
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
class Builder:
    """Draws a program from `rng`: `start`, `layer` a few times, `finish`; then `code`, `constants`, `legal` are whole.

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

    # -- layers

    def layer(self) -> None:
        """Add a convolution or a window layer, and perhaps transfers."""
        if self._chance(0.25):
            self._load_image()
        if self._chance(0.25):
            self._store()
        if self.saved and self._chance(0.3):
            self._reload()
        if len(self.constants) > CONSTANTS_BYTES // 2:
            return
        if self._chance(0.6):
            self._conv_layer()
        else:
            self._window_layer()

    def _axis(self, size: int, *, inside: bool) -> tuple[int, int, int, int, int]:
        """Return (kernel, stride, dilation, pad, outputs); with `inside` every output has a tap in the image."""
        inside = inside or self._chance(0.8)  # values of nothing but padding tell little
        while True:
            kernel, stride, dilation = self._number(1, 3), spread([1, 2, 3], self.rng), spread([1, 2], self.rng)
            pad, count = self._number(-1, 2), self._number(1, 5)
            taps = [[0 <= o * stride - pad + k * dilation < size for k in range(kernel)] for o in range(count)]
            if not inside or all(any(t) for t in taps):
                return kernel, stride, dilation, pad, count

    def _tiles(self, h: int, w: int, most: int, limit: int) -> list[Tile]:
        """Cut h x w outputs into one or more tiles of at most `most` pixels, if possible at most `limit`."""
        tw = min(w, most) if self._chance(0.7) else self._number(1, min(w, most))
        th = self._number(1, min(h, max(1, most // tw)))
        while -(-h // th) * -(-w // tw) > limit and (th + 1) * tw <= most:
            th += 1
        return [Tile(y, x, min(th, h - y), min(tw, w - x)) for y in range(0, h, th) for x in range(0, w, tw)]

    def _output(
        self, h: int, w: int, groups: int, wide: int, keep: list[Tensor], product: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return (output, residual): the residual may be None, or the output itself; it may have pitches of zero."""
        fits = [t for t in self.tensors if t.h >= h and t.w >= w and t.words >= groups]
        residual = fits[self._number(0, len(fits) - 1)] if fits and self._chance(0.5) else None
        if residual is not None and residual not in keep and not wide and self._chance(0.4):
            exact = replace(residual, h=h, w=w, words=groups)
            self.tensors = [t for t in self.tensors if t.end <= exact.base or exact.end <= t.base]
            return exact, exact
        residual = self._broadcast(residual, groups, 0.8 if product else 0.15)
        made = self._new_tensor(h, w, groups * (1 + wide), keep + ([residual] if residual else []))
        return made, residual

    def _broadcast(self, residual: Tensor | None, groups: int, chance: float) -> Tensor | None:
        """Return a residual all of whose pixels, rows or columns are one, sometimes also where none was drawn."""
        wanted = self.other.random()
        if residual is None:
            fits = [t for t in self.tensors if t.words >= groups]
            if wanted >= chance or not fits:
                return None
            residual = fits[int(self.other.integers(len(fits)))]
            return replace(residual, h=1, w=1, row=0, pixel=0)
        if wanted < 0.3:
            return replace(residual, **({"row": 0, "pixel": 0}, {"row": 0}, {"pixel": 0})[int(wanted * 10)])
        return residual

    def _put_vgeom(
        self,
        source: int,
        window: dict[str, int],
        src: Tensor | None,
        out: Tensor,
        res: Tensor | None,
        wide: int,
        product: bool = False,
    ) -> None:
        """Put a vgeom, and perhaps a table before it."""
        if self.other.random() < 0.4:
            self._load_table(wrap=True)
        low, high = [(-128, 127), (0, 255), (0, 60), (-7, 127), (3, 200), (-100, -2)][self._number(0, 5)]
        if wide:
            low, high = [(-32768, 32767), (-300, 5000)][self._number(0, 1)]
        self._put(
            "vgeom",
            source=source,
            **window,
            row_pitch=src.row if src else 0,
            pixel_pitch=src.pixel if src else 0,
            out_row_pitch=out.row,
            out_pixel_pitch=out.pixel,
            res_row_pitch=res.row if res else 0,
            res_pixel_pitch=res.pixel if res else 0,
            src_unsigned=self._number(0, 1),
            residual=int(res is not None),
            res_unsigned=self._number(0, 1),
            leaky=int(res is None and self._chance(0.3)),
            wide=wide,
            clamp_low=low,
            clamp_high=high,
            product=int(product),
            table=int(self.tables and not wide and self.other.random() < 0.75),
        )

    def _put_vec(
        self,
        tile: Tile,
        column: int,
        groups: int,
        wide: int,
        out: Tensor,
        res: Tensor | None,
        **operands: int | tuple[int, ...],
    ) -> None:
        y, x, th, tw = tile
        cols = self.machine.array_cols
        if self.tables and self.other.random() < 0.1:
            self._load_table(wrap=False)
        group, byte = divmod(column * cols, WORD)
        self._put(
            "vec",
            **operands,
            out_y=y,
            out_x=x,
            tile_h=th,
            tile_w=tw,
            out_base=out.base + y * out.row + x * out.pixel + group * (1 + wide),
            out_byte=byte,
            res_base=res.base + y * res.row + x * res.pixel + group if res else 0,
            lanes=min(cols, groups * WORD - column * cols),
            fence=0,
        )

    def _columns(self, groups: int) -> int:
        return -(-groups * WORD // self.machine.array_cols)

    def _window_layer(self) -> None:
        src = self._pick()
        source = self._number(1, 3)
        kh, sy, dy, pad_top, h = self._axis(src.h, inside=source == 2)
        kw, sx, dx, pad_left, w = self._axis(src.w, inside=source == 2)
        groups, wide = self._number(1, src.words), int(self._chance(0.15))
        product = bool(self.other.random() < (0.6 if source == 3 else 0.1))
        if product:
            source, kh, kw = 3, 1, 1
        out, res = self._output(h, w, groups, wide, [src], product)
        if out is None:
            return
        product = product and res is not None
        window = dict(kernel_h=kh, kernel_w=kw, stride_y=sy, stride_x=sx, dilation_y=dy, dilation_x=dx)
        window |= dict(pad_top=pad_top, pad_left=pad_left, in_h=src.h, in_w=src.w)
        self._put_vgeom(source, window, src, out, res, wide, product)
        row0 = self._number(-min(2, src.base // src.row), 3)
        for column in range(self._columns(groups)):
            bits = 13 + (kh * kw).bit_length() // 2 if source == 1 else 14 if product else 7
            params = self._load_params(kh * kw if source == 1 else 0, NO_DIAL, 0, bits, res)
            for tile in self._tiles(h, w, 25, 4):
                base = src.base + row0 * src.row + column * self.machine.array_cols // WORD
                place = {"src_base": base, "src_row0": row0, "acc_half": 0, "param_addr": params}
                self._put_vec(tile, column, groups, wide, out, res, **place)
        self.tensors.append(out)

    def _conv_layer(self) -> None:
        src = self._pick()
        kh, sy, dy, pad_top, h = self._axis(src.h, inside=False)
        kw, sx, dx, pad_left, w = self._axis(src.w, inside=False)
        unit = weight_block_words(self.machine, 1, kh * kw)
        most = self.machine.weight_words // unit
        if most == 0:
            return
        places = spread([self._number(1, 4), 18 if kh * kw == 1 else 5], self.rng)
        groups, wide = self._number(1, 2 if self.machine.array_cols > 4 else 1), int(self._chance(0.15))
        out, res = self._output(h, w, groups, wide, [src])
        if out is None:
            return
        register = self._new_register(places) if self._chance(0.7) else NO_DIAL
        self._put(
            "geom",
            register=register,
            kernel_h=kh,
            kernel_w=kw,
            stride_y=sy,
            stride_x=sx,
            dilation_y=dy,
            dilation_x=dx,
            pad_top=pad_top,
            pad_left=pad_left,
            in_h=src.h,
            in_w=src.w,
            row_pitch=src.row,
            pixel_pitch=src.pixel,
            unsigned=self._number(0, 1),
            tap_fastest=self._number(0, 1),
            dynamic=int(self.machine.dynamic_extraction and aside(self.rng) < 0.7),
        )
        self._put_groups(places, src.words)
        ones = dict.fromkeys(("kernel_h", "kernel_w", "stride_y", "stride_x", "dilation_y", "dilation_x"), 1)
        self._put_vgeom(0, ones | dict(pad_top=0, pad_left=0, in_h=1, in_w=1), None, out, res, wide)
        step = min(places, most, self._number(1, places) if self._chance(0.4) else places)
        row0 = self._number(-min(2, src.base // src.row), 3)
        pending: tuple[Tile, dict[str, int]] | None = None  # a vec that comes after the next tile's convs
        half, columns = 0, self._columns(groups)
        for column in range(columns):
            params = self._load_params(0, register, places, 11 + (places * kh * kw * WORD).bit_length() // 2, res)
            blocks = [(f, self._weight_block(min(step, places - f), kh * kw)) for f in range(0, places, step)]
            at = None
            for tile in self._tiles(h, w, min(25, self.machine.acc_rows), 3 if columns < 4 else 1):
                half ^= 1
                acc_row = self._number(0, self.machine.acc_rows - tile[2] * tile[3])
                for first, block in blocks:
                    if len(blocks) > 1 or at is None:
                        at = self._load_weights(block)
                    self._put_conv(src, row0, tile, half, acc_row, first, min(step, places - first), at)
                place = {"src_base": acc_row, "src_row0": 0, "acc_half": half, "param_addr": params}
                vecs = [pending, (tile, place)]
                pending = vecs.pop() if self._chance(0.3) else None
                for vec in vecs:
                    if vec is not None:
                        self._put_vec(vec[0], column, groups, wide, out, res, **vec[1])
            if pending is not None:
                self._put_vec(pending[0], column, groups, wide, out, res, **pending[1])
                pending = None
        self.tensors.append(out)

    def _new_register(self, places: int) -> int:
        register = len(self.legal)
        some = [b for b in range(1, places + 1) if self._chance(0.6)]
        self.legal[register] = (0, *some)
        return register

    def _put_groups(self, places: int, words: int) -> None:
        """Fill the table with groups in any order; a group may stand at several places."""
        for first in range(0, places, 16):
            group = tuple(self._number(0, words - 1) for _ in range(16))
            shift = tuple(self._number(0, 4) for _ in range(16))
            self._put("groups", first=first, group=group, shift=shift)

    def _put_conv(
        self, src: Tensor, row0: int, tile: Tile, half: int, acc_row: int, first: int, count: int, at: int
    ) -> None:
        y, x, th, tw = tile
        self._put(
            "conv",
            act_base=src.base + row0 * src.row,
            act_row0=row0,
            out_y=y,
            out_x=x,
            tile_h=th,
            tile_w=tw,
            acc_half=half,
            acc_row=acc_row,
            accumulate=int(first > 0),
            weight_addr=at,
            group_first=first,
            group_count=count,
        )

    def finish(self) -> int:
        """Store one tensor as the output and end the program; return the output's bytes."""
        t = self._pick()
        col = t.words * WORD
        self._put_store(t, OUTPUT, col * t.w, col)
        self.code.append(Instruction("halt", {}))
        return col * t.w * t.h
