"""Writes random valid programs, layer by layer, without tokens."""

from dataclasses import replace

from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import NO_DIAL
from npu_isa.machine.blocks import weight_block_words

from npu_sim.random_programs.draft import CONSTANTS_BYTES, OUTPUT, WORD, Draft, Tensor, Tile, aside, spread


class Builder(Draft):
    """Draws a program: `start`, `layer` a few times, `finish`; then `code`, `constants`, `legal` are whole."""

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
