"""A program as the value kernels take it: tables of steps, pools of constants, and the memories of one image.

A row of a table is one operation; every field is int64. Addresses and distances count bytes unless said otherwise.
The fields' names are used in `execute` (`table[row]["field"]`) and `encode`, their meaning stands here.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Row = tuple[int, ...]

VECTOR = 16  # columns whose sums lie side by side in one vector
PARAMS = 6  # rows of `params` of a block
QUAD = 4  # channels added to each sum in one step
OFFSET = 128  # of signed activations in a patch: makes unsigned bytes of them
BYTE_MAX = 255  # largest byte, and the mask of one
WHOLE = BYTE_MAX  # of a group that is not lowered, in place of the positions that it clips


class Code(NamedTuple):
    """Codes of 4 bits: bits kept of a magnitude, least and largest code; see numerics.lower and dynamic_shift."""

    bits: int
    least: int
    most: int


SIGNED, UNSIGNED = Code(3, -8, 7), Code(4, 0, 15)


class Record:
    """The fields of the rows of a table, with their meaning; all int64."""

    def __init__(self, **fields: str) -> None:
        self._names = frozenset(fields)
        self._values_of = itemgetter(*fields)
        self._dtype = np.dtype([(name, np.int64) for name in fields])

    def row(self, **values: int) -> Row:
        """Return a row from the value of each field.

        Raises:
            TypeError: a field has no value, or a value no field.
        """
        if values.keys() != self._names:
            raise TypeError(f"missing or unknown fields: {', '.join(sorted(values.keys() ^ self._names))}")
        row: Row = self._values_of(values)
        return row

    def table(self, rows: Sequence[Row]) -> Array:
        """Return rows as a structured array (rows,)."""
        return np.array(rows, np.int64).reshape(len(rows), len(self._names)).view(self._dtype).reshape(-1)


class Pool:
    """Arrays put one behind the other, flat.

    Args:
        dtype: of all of them.
    """

    def __init__(self, dtype: type[np.generic]) -> None:
        self._parts: list[Array] = [np.zeros(0, dtype)]
        self._size = 0

    def append(self, part: Array) -> int:
        """Return the index of the first element of an array."""
        first = self._size
        self._parts.append(part.reshape(-1))
        self._size += part.size
        return first

    def array(self) -> Array:
        """Return everything as one array."""
        return np.concatenate(self._parts)


def fill(table: Array, rows: Sequence[Mapping[str, int]]) -> None:
    """Set some fields of a table, by name, the same ones in every row."""
    for field in rows[0] if rows else ():
        table[field] = [row[field] for row in rows]


STEP = Record(
    kind="execute.CONV, VEC, LOAD, STORE or FOLD",
    row="its row in the table of that kind",
)

# The patch of a conv holds the input that its tile reads: [rows][cols][places][16] bytes, padded, lowered, and as
# unsigned bytes: signed activations carry an offset of `flip` = 128, which the start values of the sums take back.
# Its rows, like the pixels of a row, are `parts` of `part` each, equally far apart in the input: one part if outputs
# share inputs, one part an output if that takes less room.
CONV = Record(
    patch="first byte of the patch",
    fresh="1: gather the patch; 0: an earlier conv has left it there",
    padded="1: some of it lies outside the image",
    source="byte of the activation memory that input pixel (0, 0), group 0 has or would have",
    source_row="between two input rows",
    source_col="between two input pixels",
    y="input row of the first row of the patch",
    row_parts="parts of its rows",
    row_step="input rows between two parts",
    part_rows="rows of a part",
    part_row_step="input rows between two of them",
    x="input pixel of the first pixel of a row; then the same for pixels of a row",
    col_parts="parts of a row",
    col_step="input pixels between two parts",
    part_cols="pixels of a part",
    part_col_step="input pixels between two of them",
    in_h="input rows",
    in_w="input pixels of a row",
    flip="128 for signed activations, 0 for unsigned ones: also the value of padding",
    places="groups per pixel",
    segment="first row of `segments`",
    segments="their number",
    tile_h="output rows",
    tile_w="output pixels of a row",
    next_y="patch bytes between two output rows",
    next_x="between two output pixels",
    tap_rows="rows of taps of the kernel",
    tap_row="patch bytes between two of them",
    tap_cols="runs of taps in a row: one if the taps adjoin",
    tap_col="patch bytes between two runs",
    run="patch bytes of a run",
    weight="first packed weight",
    start="first start value",
    vectors="vectors of 16 columns computed: 1 or an even number; the columns beyond are zero",
    acc="first accumulator row",
    accumulate="1: add to the accumulators",
)

SEGMENT = Record(
    source="bytes from group 0 of a pixel to the segment's groups, which adjoin",
    target="bytes from the start of a patch pixel",
    run="bytes of the segment in a pixel",
    lowering="first of four rows of `lowering`: half, mask, low and high of each byte; dynamic: of one clip per group",
    span="bytes of such a row, or 16 x clips, after which it is used again; 0: nothing is lowered",
    dynamic="1: each group of a pixel has the position that its values ask for",
)

VEC = Record(
    source="npu_isa.isa.ops.Source",
    tile_h="output rows",
    tile_w="output pixels of a row",
    lanes="channels",
    base="accumulator row of the first pixel, or byte of input pixel (0, 0)",
    row="between two input rows",
    col="between two input pixels",
    out="byte of the first output",
    out_row="between two output rows",
    out_col="between two output pixels",
    residual="1: add a residual",
    product="1: the residual multiplies the sum, nothing is added",
    res="byte of its first pixel",
    res_row="between two of its rows",
    res_col="between two of its pixels",
    res_flip="128 for a signed residual, 0 for an unsigned one",
    leaky="1: the second multiplier below zero",
    wide="1: 16-bit outputs",
    table="first byte of its table in `tables`, -1: no table",
    low="least output",
    high="largest output",
    params="first of six rows of `params`, each of `lanes`: bias, multiplier, shift, second multiplier, offset, leak",
    taps="first weight of a sum: [tap][lane]",
    kernel_h="taps",
    kernel_w="taps",
    stride_y="input rows between two outputs",
    stride_x="input pixels between two outputs",
    dilation_y="input rows between two taps",
    dilation_x="input pixels between two taps",
    y="input row of the first output's first tap",
    x="input pixel of the first output's first tap",
    in_h="input rows",
    in_w="input pixels of a row",
    flip="128 for signed inputs, 0 for unsigned ones",
)

TRANSFER = Record(
    dram="first byte in DRAM",
    dram_row="between two rows",
    dram_col="between two runs of a row",
    act="first byte in the activation memory",
    act_row="between two rows",
    act_col="between two runs of a row",
    rows="rows",
    cols="runs of a row",
    run="bytes of a run",
)

FOLD = Record(
    dram="first byte of the image in DRAM",
    in_h="its rows",
    in_w="its pixels in a row",
    channels="bytes of a pixel",
    kernel_h="rows of a window",
    kernel_w="pixels of a window's row",
    stride_y="image rows between two windows",
    stride_x="image pixels between two windows",
    y="image row of the first window",
    x="image pixel of the first window",
    rows="rows of windows",
    cols="windows of a row",
    act="first byte in the activation memory",
    act_row="between two rows",
    act_col="between two windows",
    words="bytes of a window in whole words; the rest is zero",
)


class Program(NamedTuple):
    """A program for one boundary vector.

    Attributes:
        steps, convs, segments, vecs, transfers, folds: records as above.
        lowering: uint8. Byte q becomes min(max(saturate(q + half) & mask, low), high). Or positions that a group clips,
            WHOLE for 8 bits.
        weights: int8, packed [vector][tap][place, by group][4 quads][16 columns][4 channels], lowered.
        starts: int32, what the sums of each column start from: takes back the offset of signed activations.
        params: int64; offset = bias * multiplier + 2^(shift - 1), leak the same with the second multiplier. Readable
            for a vector beyond the last.
        taps: int32, readable for a vector beyond the last.
        tables: uint8, of 256 bytes each.
        constants: uint8, DRAM from address 0.
        acc_width: int32 sums of an accumulator row, in whole vectors.
    """

    steps: Array
    convs: Array
    segments: Array
    lowering: Array
    weights: Array
    starts: Array
    vecs: Array
    params: Array
    taps: Array
    tables: Array
    transfers: Array
    folds: Array
    constants: Array
    acc_width: int


class Memory(NamedTuple):
    """What one image needs while it runs; another image can use it afterwards.

    Attributes:
        act: uint8, the activation memory, readable for a vector beyond its end.
        acc: int32, both halves of the accumulators.
        dram: uint8, DRAM past the constants.
        patch: uint8, input of convolutions.
        pixels: int64, patch byte of each output pixel of a tile.
        window: int32, values of a row of output pixels, acc_width each.
    """

    act: Array
    acc: Array
    dram: Array
    patch: Array
    pixels: Array
    window: Array
