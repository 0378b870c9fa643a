"""What the innermost kernels do and take: the contract of the sets `llvm`, `loops` and `plain`.

Each kernel takes a tuple of arrays, described in `tables`, and a record of int64: elements of the arrays and their
numbers. Bytes of activations are read with an offset: 0 for unsigned ones, 128 for signed ones. The static check has
proved every address, so nothing is checked.

    copy                    Copy          target, source
    fill                    Fill          target
    dot_narrow, dot_wide    Dot           patch, pixels, weights, starts, acc
    window_sum              Window        act, taps, window
    window_largest          Window        act, taps, window
    scale                   Scale         acc or window, params, act, window
    scale_leaky             Scale         the same; the second multiplier below zero
    scale_residual          Scale         the same; a residual times the second multiplier is added
    scale_residual_leaky    Scale         both
    scale_product           Scale         the same; the residual multiplies the sum
    look_up                 LookUp        window, tables
    write_bytes             Write         window, act
    write_wide              Write         window, act; as a word of low bytes and a word of high bytes per group
    lower_dynamic           Lower         act, patch, lowering
"""

from typing import NamedTuple

NARROW, WIDE = (16, 1), (8, 2)  # pixels x vectors of a block of sums; 16 vectors stay in registers


class Copy(NamedTuple):
    """Copy bytes.

    Attributes:
        target, source: first byte.
        size: bytes.
    """

    target: int
    source: int
    size: int


class Fill(NamedTuple):
    """Fill bytes with a value.

    Attributes:
        target: first byte.
        size: bytes.
        value: 0..255.
    """

    target: int
    size: int
    value: int


class Dot(NamedTuple):
    """Compute pixels x vectors of a convolution's sums, NARROW or WIDE of them.

    Attributes:
        first: first pixel.
        pixels: pixels wanted; a kernel may compute all of its block.
        weight: first weight.
        start: first start value.
        row: first sum written.
        width: sums between two pixels.
        accumulate: 1: add to the sums so far.
        tap_rows, tap_row, tap_cols, tap_col, run: as in `tables.CONV`.
    """

    first: int
    pixels: int
    weight: int
    start: int
    row: int
    width: int
    accumulate: int
    tap_rows: int
    tap_row: int
    tap_cols: int
    tap_col: int
    run: int


class Window(NamedTuple):
    """Reduce the taps of one pixel, lane by lane, to their largest or weighted sum.

    Attributes:
        lanes: lanes wanted; a kernel may write whole vectors.
        offset: of the inputs.
        target: first element written.
        source: byte of the first tap.
        weight: its first weight.
        tap_rows: rows of taps.
        source_row, weight_row: bytes and weights between two of them.
        tap_cols: taps of a row.
        source_col, weight_col: bytes and weights between two of them.
    """

    lanes: int
    offset: int
    target: int
    source: int
    weight: int
    tap_rows: int
    source_row: int
    weight_row: int
    tap_cols: int
    source_col: int
    weight_col: int


class Scale(NamedTuple):
    """Requantize a row of output pixels; the values are left in `window`, from its start.

    Attributes:
        lanes: lanes wanted; a kernel may write whole vectors.
        pixels: output pixels.
        first: first sum.
        width: sums between two pixels, and values.
        params: first parameter.
        low, high: least and largest value.
        res: byte of the first residual.
        res_col: bytes between two of them.
        res_offset: of residuals.
    """

    lanes: int
    pixels: int
    first: int
    width: int
    params: int
    low: int
    high: int
    res: int
    res_col: int
    res_offset: int


class LookUp(NamedTuple):
    """Replace the values of a row of output pixels in `window`, from its start, by what a table has for their bytes.

    Attributes:
        lanes: lanes wanted; a kernel may look up whole vectors.
        pixels: output pixels.
        width: values between two of them.
        table: first byte of the table.
    """

    lanes: int
    pixels: int
    width: int
    table: int


class Write(NamedTuple):
    """Write a row of output pixels from `window`, from its start, to `act`.

    Attributes:
        lanes: lanes, in whole vectors.
        pixels: output pixels.
        width: values between two of them.
        out: byte of the first.
        out_col: bytes between two of them.
    """

    lanes: int
    pixels: int
    width: int
    out: int
    out_col: int


class Lower(NamedTuple):
    """Copy bytes to a patch, each group lowered at the position that its values ask for (numerics.dynamic_shift).

    Attributes:
        source, target: first byte.
        size: bytes, in whole groups.
        flip: offset of the source's values, which those of the patch get.
        clips: first clip of a group in `lowering`.
        span: 16 x clips, after which they are used again.
    """

    source: int
    target: int
    size: int
    flip: int
    clips: int
    span: int
