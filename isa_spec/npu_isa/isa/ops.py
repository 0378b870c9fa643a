"""Operations: instructions with the state they depend on resolved.

`geom`, `groups` and `vgeom` set state that later instructions use. `resolve` walks a program once and gives each
instruction everything it needs, so that timing, footprints, checks and simulators never track that state themselves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from npu_isa.errors import ProgramError

GROUP = 16  # channels
OUTSIDE = -1


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


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction word.

    Attributes:
        name: mnemonic, as in isa.toml.
        operands: value of each operand; a tuple for a repeated one.
        pop: bit e set: wait for a token of engine e.
        push: bit e set: give a token to engine e.
    """

    name: str
    operands: Mapping[str, int | tuple[int, ...]]
    pop: int = 0
    push: int = 0


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


@dataclass(frozen=True)
class Op:
    """An operation: its place in the program and its tokens."""

    index: int
    pop: int
    push: int

    @property
    def engine(self) -> Engine:
        """Return the engine that executes the operation."""
        raise TypeError(f"{type(self).__name__} runs on no engine")


@dataclass(frozen=True)
class Halt(Op):
    """End of the program; the front end's own."""


@dataclass(frozen=True)
class Setup(Op):
    """A geom, groups or vgeom: one cycle of its engine."""

    name: str
    on: Engine

    @property
    def engine(self) -> Engine:
        """Return the engine that executes the operation."""
        return self.on


@dataclass(frozen=True)
class Conv(Op):
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

    @property
    def engine(self) -> Engine:
        """Return the engine that executes the operation."""
        return Engine.MATRIX

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
class Vec(Op):
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

    @property
    def engine(self) -> Engine:
        """Return the engine that executes the operation."""
        return Engine.VECTOR

    @property
    def pixels(self) -> int:
        """Output pixels of the tile."""
        return self.tile_h * self.tile_w

    @property
    def words(self) -> int:
        """Words that one pixel of the tile spans in a tensor of bytes."""
        return -(-(self.out_byte + self.lanes) // GROUP)


@dataclass(frozen=True)
class Load(Op):
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

    @property
    def engine(self) -> Engine:
        """Return the engine that executes the operation."""
        return Engine.LOAD


@dataclass(frozen=True)
class Fold(Op):
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

    @property
    def engine(self) -> Engine:
        """Return the engine that executes the operation."""
        return Engine.LOAD

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
class Store(Op):
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

    @property
    def engine(self) -> Engine:
        """Return the engine that executes the operation."""
        return Engine.STORE


_PLAIN: dict[str, type[Op]] = {"load": Load, "fold": Fold, "store": Store}


def resolve(program: Iterable[Instruction]) -> tuple[Op, ...]:
    """Return the operations of a program, one per instruction and in its order.

    Raises:
        ProgramError: a conv without geom or with places that no groups instruction filled; a vec without vgeom.
    """
    geom: Geom | None = None
    table: dict[int, tuple[int, int]] = {}
    vgeom: VGeom | None = None
    ops: list[Op] = []
    for index, instruction in enumerate(program):
        head = (index, instruction.pop, instruction.push)
        args: dict[str, int] = {k: v for k, v in instruction.operands.items() if isinstance(v, int)}
        match instruction.name:
            case "halt":
                ops.append(Halt(*head))
            case "geom":
                geom, table = Geom(**args), {}
                ops.append(Setup(*head, "geom", Engine.MATRIX))
            case "groups":
                group, shift = instruction.operands["group"], instruction.operands["shift"]
                assert isinstance(group, tuple)
                assert isinstance(shift, tuple)
                entries = zip(group, shift, strict=True)
                table = table | {args["first"] + i: pair for i, pair in enumerate(entries)}
                ops.append(Setup(*head, "groups", Engine.MATRIX))
            case "vgeom":
                vgeom = VGeom(**args)
                ops.append(Setup(*head, "vgeom", Engine.VECTOR))
            case "conv":
                if geom is None:
                    raise ProgramError("conv before any geom", f"instruction {index}", "put a geom before it")
                places = range(args["group_first"], args["group_first"] + args["group_count"])
                missing = [p for p in places if p not in table]
                if missing:
                    raise ProgramError(
                        f"conv covers places {places.start}..{places.stop - 1} of the group table, "
                        f"place {missing[0]} is not set since the last geom",
                        f"instruction {index}",
                        "put groups instructions between geom and conv",
                    )
                ops.append(
                    Conv(
                        *head,
                        geom=geom,
                        groups=tuple(table[p][0] for p in places),
                        shifts=tuple(table[p][1] for p in places),
                        **args,
                    )
                )
            case "vec":
                if vgeom is None:
                    raise ProgramError("vec before any vgeom", f"instruction {index}", "put a vgeom before it")
                ops.append(Vec(*head, geom=vgeom, **args))
            case name:
                ops.append(_PLAIN[name](*head, **args))
    return tuple(ops)
