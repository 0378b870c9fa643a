"""Operations: instructions with the state that they depend on, a dataclass each; whole programs are in `resolve`."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import ClassVar

from npu_isa.isa.tables import RAW

GROUP: int = RAW["group_channels"]
MAX_GROUPS: int = RAW["max_groups"]


class Engine(IntEnum):
    """The four engines, numbered as in the pop and push masks."""

    LOAD = 0
    MATRIX = 1
    VECTOR = 2
    STORE = 3


class Source(IntEnum):
    """What a vec instruction reduces."""

    ACC = 0
    MAC = 1
    MAX = 2
    SUM = 3


class Memory(IntEnum):
    """Memories, with the unit in which they are addressed."""

    ACT = 0  # words of 16 bytes
    WEIGHT = 1  # units of 16 bytes
    PARAM = 2  # rows of 4 bytes per lane
    ACC0 = 3  # rows of int32 per column
    ACC1 = 4
    DRAM = 5  # bytes


@dataclass(frozen=True)
class Geom:
    """Operands of `geom`."""

    register: int
    kernel_h: int
    kernel_w: int
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    pad_top: int
    pad_left: int
    in_h: int
    in_w: int
    row_pitch: int
    pixel_pitch: int
    unsigned: int
    tap_fastest: int
    dynamic: int


@dataclass(frozen=True)
class VGeom:
    """Operands of `vgeom`."""

    source: int
    kernel_h: int
    kernel_w: int
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    pad_top: int
    pad_left: int
    in_h: int
    in_w: int
    row_pitch: int
    pixel_pitch: int
    out_row_pitch: int
    out_pixel_pitch: int
    res_row_pitch: int
    res_pixel_pitch: int
    src_unsigned: int
    residual: int
    res_unsigned: int
    leaky: int
    wide: int
    clamp_low: int
    clamp_high: int
    product: int
    table: int


@dataclass(frozen=True)
class _Row:
    """An operation: its place in the program and its tokens."""

    index: int
    pop: int
    push: int


@dataclass(frozen=True)
class Halt(_Row):
    """End of the program; the front end's own."""

    @property
    def engine(self) -> Engine:
        """None of the four: asking for it is a mistake."""
        raise TypeError("halt runs on no engine")


@dataclass(frozen=True)
class Setup(_Row):
    """A geom, groups or vgeom: one cycle of its engine."""

    name: str
    on: Engine

    @property
    def engine(self) -> Engine:
        """Return the engine that executes the operation."""
        return self.on


@dataclass(frozen=True)
class Conv(_Row):
    """A conv with its geometry and the entries of the group table that it covers, in order."""

    geom: Geom
    groups: tuple[int, ...]  # input group of each place covered
    shifts: tuple[int, ...]  # s_act of each place covered; with geom.dynamic what it clips
    act_base: int
    act_row0: int
    out_y: int
    out_x: int
    tile_h: int
    tile_w: int
    acc_half: int
    acc_row: int
    accumulate: int
    weight_addr: int
    group_first: int
    group_count: int

    engine: ClassVar[Engine] = Engine.MATRIX

    @property
    def pixels(self) -> int:
        """Output pixels of the tile."""
        return self.tile_h * self.tile_w

    @cached_property
    def taps(self) -> int:
        """Taps of the kernel."""
        return self.geom.kernel_h * self.geom.kernel_w

    def low_places(self, boundary: int) -> int:
        """Return how many of the places covered lie below the boundary (in groups) and so run in 4 bits."""
        return min(max(boundary - self.group_first, 0), self.group_count)


@dataclass(frozen=True)
class Vec(_Row):
    """A vec with its geometry."""

    geom: VGeom
    src_base: int
    src_row0: int
    acc_half: int
    out_y: int
    out_x: int
    tile_h: int
    tile_w: int
    out_base: int
    out_byte: int
    res_base: int
    param_addr: int
    lanes: int
    fence: int

    engine: ClassVar[Engine] = Engine.VECTOR

    @property
    def pixels(self) -> int:
        """Output pixels of the tile."""
        return self.tile_h * self.tile_w

    @property
    def words(self) -> int:
        """Words that one pixel of the tile spans in a tensor of bytes."""
        return -(-(self.out_byte + self.lanes) // GROUP)


@dataclass(frozen=True)
class Table(_Row):
    """A load of the vector engine's table from parameter memory."""

    param_addr: int

    engine: ClassVar[Engine] = Engine.VECTOR


@dataclass(frozen=True)
class Load(_Row):
    """A strided copy from DRAM."""

    memory: int
    dram_addr: int
    rows: int
    cols: int
    run: int
    dram_row_pitch: int
    dram_col_pitch: int
    addr: int
    row_pitch: int
    col_pitch: int
    indexed: int
    register: int
    table_pitch: int
    table_entries: int

    engine: ClassVar[Engine] = Engine.LOAD


@dataclass(frozen=True)
class Fold(_Row):
    """A gather of image windows from DRAM."""

    dram_addr: int
    in_h: int
    in_w: int
    channels: int
    kernel_h: int
    kernel_w: int
    stride_y: int
    stride_x: int
    pad_top: int
    pad_left: int
    out_y: int
    rows: int
    cols: int
    addr: int
    row_pitch: int
    pixel_pitch: int

    engine: ClassVar[Engine] = Engine.LOAD

    @property
    def words(self) -> int:
        """Words of one output pixel: kernel_h x kernel_w x channels bytes, in whole groups."""
        return -(-self.kernel_h * self.kernel_w * self.channels // GROUP)

    @property
    def image_rows(self) -> tuple[int, int]:
        """First and one past the last image row that is read; equal when all lie in the padding."""
        first = max(self.out_y * self.stride_y - self.pad_top, 0)
        last = min((self.out_y + self.rows - 1) * self.stride_y - self.pad_top + self.kernel_h, self.in_h)
        return (first, last) if last > first else (0, 0)


@dataclass(frozen=True)
class Store(_Row):
    """A strided copy to DRAM."""

    dram_addr: int
    rows: int
    cols: int
    run: int
    dram_row_pitch: int
    dram_col_pitch: int
    addr: int
    row_pitch: int
    col_pitch: int

    engine: ClassVar[Engine] = Engine.STORE


Op = Halt | Setup | Conv | Vec | Table | Load | Fold | Store


def name_of(op: Op) -> str:
    """Return an operation's mnemonic."""
    return op.name if isinstance(op, Setup) else type(op).__name__.lower()
