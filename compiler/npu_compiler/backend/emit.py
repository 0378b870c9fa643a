"""From the plan to instructions: loops over strips, column tiles and pixel tiles, written out in program order."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count, cycle
from typing import assert_never

from npu_isa.isa.ops import Memory, Source
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import NO_DIAL, RAW
from npu_isa.machine.blocks import table_rows
from npu_isa.machine.config import WORD_BYTES, MachineConfig

from npu_compiler.backend.constants import NodeConstants
from npu_compiler.backend.memory import conv_geom, group_order
from npu_compiler.backend.plan import NodePlan, Plan, operands
from npu_compiler.backend.strips import Strip
from npu_compiler.backend.tiles import input_axes, input_span, pieces, shared
from npu_compiler.backend.transfers import Operand, first_word, fold, move, operand
from npu_compiler.qgraph.ir import Clamp, Factor, Function, Leaky, Lookup, QConv, QTensor, QWindow

TABLE: int = RAW["table_entries_per_word"]
DEFAULTS: dict[str, dict[str, int | tuple[int, ...]]] = {
    i["name"]: {o["name"]: (0,) * o["repeat"] if "repeat" in o else 0 for o in i["operands"]}
    for i in RAW["instruction"]
}


class Ring:
    """A memory filled round and round; what is overwritten must be loaded again."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._next = 0
        self._held: dict[object, tuple[int, int]] = {}

    def get(self, key: object, size: int) -> tuple[int, bool]:
        """Return the address of `key` and whether it must be loaded there now."""
        if key in self._held:
            return self._held[key][0], False
        start = self._next if self._next + size <= self._capacity else 0
        self._held = {k: (a, b) for k, (a, b) in self._held.items() if b <= start or a >= start + size}
        self._held[key] = (start, start + size)
        self._next = start + size
        return start, True


@dataclass
class Code:
    """Instructions with their places in the network; the lists have one entry per instruction."""

    instructions: list[Instruction] = field(default_factory=list)
    layer: list[int] = field(default_factory=list)
    tile: list[int] = field(default_factory=list)
    channel: list[int] = field(default_factory=list)

    def put(self, name: str, layer: int, tile: int = -1, channel: int = -1, **operands: int | tuple[int, ...]) -> None:
        """Append an instruction; operands that are left out are 0."""
        assert operands.keys() <= DEFAULTS[name].keys(), (name, operands)
        self.instructions.append(Instruction(name, DEFAULTS[name] | operands))
        self.layer.append(layer)
        self.tile.append(tile)
        self.channel.append(channel)


@dataclass(frozen=True)
class Context:
    """What every node is written with; code, rings and halves move on as instructions are written.

    Attributes:
        constants: of every node.
        dram_base: DRAM byte address behind the constants.
        layers: number of every node.
        registers: boundary register of every node with a dial.
        halves: accumulator half of the next tile: they alternate.
    """

    plan: Plan
    constants: Mapping[str, NodeConstants]
    dram_base: int
    layers: Mapping[str, int]
    registers: Mapping[str, int]
    code: Code
    weights: Ring
    params: Ring
    halves: Iterator[int]

    @property
    def machine(self) -> MachineConfig:
        """The machine that the plan is for."""
        return self.plan.machine

    def tensor(self, name: str) -> QTensor:
        """Return a tensor of the graph."""
        return self.plan.graph.tensors[name]

    def dram(self, root: str) -> int:
        """Return the DRAM address of the image, an output or a spilled root."""
        return self.dram_base + self.plan.dram[root]

    def register(self, node: str) -> int:
        """Return the boundary register of a node, or the one that is always 0."""
        return self.registers.get(node, NO_DIAL)


@dataclass(frozen=True)
class Tile:
    """One tile of one node: output pixels for one column tile, and where the operands of its strip lie.

    Attributes:
        node: name of the node; number: of the tile in it.
        batch: column tiles whose parameters are loaded together.
        operands: by role.
    """

    node: str
    number: int
    strip: Strip
    y: range
    x: range
    batch: range
    column: int
    operands: Mapping[str, Operand]

    @property
    def shape(self) -> dict[str, int]:
        """Operands of conv and vec that name the pixels."""
        return {"out_y": self.y.start, "out_x": self.x.start, "tile_h": len(self.y), "tile_w": len(self.x)}

    @property
    def opens_rows(self) -> bool:
        """Whether it is the first tile of its strip that needs its rows."""
        return self.x.start == self.strip.x.start and self.column == self.strip.columns.start

    @property
    def closes_rows(self) -> bool:
        """Whether its rows of the strip are finished with it."""
        return self.x.stop == self.strip.x.stop and self.column == self.strip.columns.stop - 1


def emit(plan: Plan, constants: Mapping[str, NodeConstants], dram_base: int, layers: Mapping[str, int]) -> Code:
    """Return the program of a plan, without tokens.

    Args:
        plan: the schedule.
        constants: where every node's constants lie.
        dram_base: DRAM byte address of the input image.
        layers: number of every node.
    """
    registers = {n.name: i for i, n in enumerate(plan.graph.lowerable)}
    rings = Ring(plan.machine.weight_words), Ring(plan.machine.param_rows)
    ctx = Context(plan, constants, dram_base, layers, registers, Code(), *rings, cycle((1, 0)))
    for n in plan.nodes:
        _put_node(ctx, n)
    ctx.code.put("halt", -1)
    return ctx.code


def _put_node(ctx: Context, n: NodePlan) -> None:
    node = n.node
    if isinstance(node, QConv):
        _put_geometry(ctx, n, node)
    ctx.code.put("vgeom", ctx.layers[node.name], **_vector_geometry(ctx, n))
    _load_table(ctx, node)
    for tile in _tiles(ctx, n):
        if tile.opens_rows:
            _load_rows(ctx, n, tile)
        params = _load_params(ctx, n, tile)
        half = 0
        if isinstance(node, QConv):
            half = next(ctx.halves)
            _put_conv(ctx, n, node, tile, half)
        _put_vec(ctx, n, tile, params, half)
        if tile.closes_rows and "out" in n.moved:
            to = move(ctx.plan, node.out, ctx.dram(ctx.plan.views[node.out].root), tile.operands["out"], tile.y)
            _put(ctx, tile, "store", **to)


def _put(ctx: Context, tile: Tile, name: str, channel: int = -1, **values: int | tuple[int, ...]) -> None:
    ctx.code.put(name, ctx.layers[tile.node], tile.number, channel, **values)


# -- loops


def _tiles(ctx: Context, n: NodePlan) -> Iterator[Tile]:
    """Yield the tiles of a node in program order.

    A convolution keeps its weights for all pixels of a strip; a window node finishes pixels first, so that the next
    layer can start.
    """
    numbers, t = count(), n.tiling
    for index, strip in enumerate(n.strips):
        at = {role: operand(ctx.plan, n, role, name, index, strip) for role, name in operands(n.node)}
        spots = [(y, x) for y in pieces(strip.y, t.tile_h) for x in pieces(strip.x, t.tile_w)]
        for batch in _param_batches(ctx, n, strip.columns):
            pairs = [(s, c) for c in batch for s in spots]
            if isinstance(n.node, QWindow):
                pairs = [(s, c) for s in spots for c in batch]
            for (y, x), column in pairs:
                yield Tile(n.node.name, next(numbers), strip, y, x, batch, column, at)


def _param_batches(ctx: Context, n: NodePlan, columns: range) -> list[range]:
    """Cut column tiles so that a batch's parameters fit the memory, or half of it when there are several."""
    rows, capacity = ctx.constants[n.node.name].rows, ctx.machine.param_rows
    if len(columns) * rows <= capacity:
        return [columns]
    return pieces(columns, max(1, capacity // 2 // rows))


# -- operands that pass through DRAM


def _load_rows(ctx: Context, n: NodePlan, tile: Tile) -> None:
    """Load the rows of the moved operands that this tile is the first of its strip to need."""
    node, plan = n.node, ctx.plan
    rows, _ = input_axes(node, ctx.tensor(node.src), ctx.tensor(node.out))
    before = range(tile.strip.y.start, tile.y.start)
    have = max(tile.operands["src"].row0, input_span(rows, before)[1] if before else 0)
    needs = {"src": range(have, input_span(rows, tile.y)[1])}
    if node.residual is not None:
        height = ctx.tensor(node.residual).height
        needs["residual"] = shared(tile.y, height) if height > 1 or not before else range(0)
    for role, name in operands(node):
        at, wanted = tile.operands[role], needs.get(role, range(0))
        if role not in n.moved or not wanted or not at.columns:
            continue
        if name in plan.folds:
            made = plan.folds[name]
            _put(ctx, tile, "fold", **fold(plan, made, ctx.dram(made.src), at, wanted))
        else:
            to = move(plan, name, ctx.dram(plan.views[name].root), at, wanted)
            _put(ctx, tile, "load", memory=int(Memory.ACT), **to)


# -- parameters and weights


def _load_params(ctx: Context, n: NodePlan, tile: Tile) -> int:
    """Return the first parameter row of a tile, loading those of its batch if the memory does not hold them."""
    node, batch, constants = n.node, tile.batch, ctx.constants[n.node.name]
    rows, row_bytes = constants.rows, 4 * ctx.machine.array_cols
    base, fresh = ctx.params.get((node.name, batch), len(batch) * rows)
    if fresh:
        table = {}
        if isinstance(node, QConv) and node.lowering is not None:
            pitch, entries = n.tiling.columns * row_bytes, len(node.lowering.bias_rows)
            dial = ctx.register(node.name)
            table = {"indexed": 1, "register": dial, "table_pitch": pitch, "table_entries": entries}
        static = (rows - 1) * row_bytes
        _put_params(ctx, tile, constants.bias, row_bytes, base, rows, **table)
        _put_params(ctx, tile, constants.params, static, base + 1, rows)
    return base + (tile.column - batch.start) * rows


def _load_table(ctx: Context, node: QConv | QWindow) -> None:
    """Bring the table of a node's curve to the vector engine."""
    at, layer, rows = ctx.constants[node.name].table, ctx.layers[node.name], table_rows(ctx.machine)
    if at is None:
        return
    base, fresh = ctx.params.get((node.name, "table"), rows)
    assert fresh, "a node loads its table once"
    run = rows * 4 * ctx.machine.array_cols
    ctx.code.put("load", layer, memory=int(Memory.PARAM), dram_addr=at, rows=1, cols=1, run=run, addr=base)
    ctx.code.put("table", layer, param_addr=base)


def _put_params(ctx: Context, tile: Tile, dram: int, run: int, addr: int, rows: int, **table: int) -> None:
    """Load a run of parameter rows of each column tile of a batch, `rows` apart."""
    batch = tile.batch
    values = {"dram_addr": dram + batch.start * run, "rows": 1, "cols": len(batch), "run": run, "dram_col_pitch": run}
    _put(ctx, tile, "load", memory=int(Memory.PARAM), addr=addr, col_pitch=rows, **values, **table)


def _load_weights(ctx: Context, tile: Tile, first: int) -> int:
    """Return the weight memory address of a tile's block, loading it if the memory does not hold it."""
    dram, words = ctx.constants[tile.node].weights[tile.column, first]
    base, fresh = ctx.weights.get((tile.node, tile.column, first), words)
    if fresh:
        values = {"dram_addr": dram, "rows": 1, "cols": 1, "run": words * WORD_BYTES, "addr": base}
        _put(ctx, tile, "load", memory=int(Memory.WEIGHT), **values)
    return base


# -- computation


def _put_geometry(ctx: Context, n: NodePlan, node: QConv) -> None:
    src, layer = ctx.tensor(node.src), ctx.layers[node.name]
    geom = conv_geom(node, src, n.pitches["src"], ctx.register(node.name), n.tiling.tap_fastest)
    ctx.code.put("geom", layer, **asdict(geom))
    order = group_order(node, src)
    shifts = node.lowering.act_shift if node.lowering else (0,) * len(order)
    for first in range(0, len(order), TABLE):
        fill = (0,) * (TABLE - len(order[first : first + TABLE]))
        group, shift = (*order[first : first + TABLE], *fill), (*shifts[first : first + TABLE], *fill)
        ctx.code.put("groups", layer, first=first, group=group, shift=shift)


def _vector_geometry(ctx: Context, n: NodePlan) -> dict[str, int]:
    """Return the operands of a node's vgeom."""
    node, out, e = n.node, ctx.tensor(n.node.out), n.node.epilogue
    values = {"kernel_h": 1, "kernel_w": 1, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1}
    values |= {"in_h": 1, "in_w": 1}
    if isinstance(node, QWindow):
        w, src, pitch = node.window, ctx.tensor(node.src), n.pitches["src"]
        values = {
            "source": int(Source[node.kind.upper()]),
            "kernel_h": w.kernel[0],
            "kernel_w": w.kernel[1],
            "stride_y": w.stride[0],
            "stride_x": w.stride[1],
            "dilation_y": w.dilation[0],
            "dilation_x": w.dilation[1],
            "pad_top": w.pad_top,
            "pad_left": w.pad_left,
            "in_h": src.height,
            "in_w": src.width,
            "row_pitch": pitch.row,
            "pixel_pitch": pitch.pixel,
            "src_unsigned": int(not src.signed),
        }
    to = n.pitches["out"]
    values |= {"out_row_pitch": to.row, "out_pixel_pitch": to.pixel, "wide": int(out.bits == 16)}
    if node.residual is not None:
        res = n.pitches["residual"]
        second = ctx.tensor(node.residual)
        values |= {"residual": 1, "product": int(isinstance(e.operand, Factor))}
        values |= {"res_row_pitch": res.row * (second.height > 1), "res_pixel_pitch": res.pixel * (second.width > 1)}
        values["res_unsigned"] = int(not second.signed)
    return values | _function(e.function)


def _function(f: Function) -> dict[str, int]:
    """Return the operands of vgeom that say what an epilogue's function does."""
    match f:
        case Clamp():
            return {"leaky": 0, "clamp_low": f.low, "clamp_high": f.high}
        case Leaky():
            return {"leaky": 1, "clamp_low": f.low, "clamp_high": f.high}
        case Lookup():
            return {"table": 1, "clamp_low": f.low, "clamp_high": f.high}
    assert_never(f)


def _put_conv(ctx: Context, n: NodePlan, node: QConv, tile: Tile, half: int) -> None:
    """Write the convs of a tile: one for each chunk of input groups whose weights fit."""
    base, row0 = tile.operands["src"].origin(0)
    groups, places = ctx.tensor(node.src).groups, n.tiling.places
    for first in range(0, groups, places):
        values = {"act_base": base, "act_row0": row0, "acc_half": half, "accumulate": int(first > 0)}
        values |= {"weight_addr": _load_weights(ctx, tile, first)}
        values |= {"group_first": first, "group_count": min(places, groups - first)}
        _put(ctx, tile, "conv", tile.column * ctx.machine.array_cols, **tile.shape, **values)


def _put_vec(ctx: Context, n: NodePlan, tile: Tile, params: int, half: int) -> None:
    out, at, cols = ctx.tensor(n.node.out), tile.operands, ctx.machine.array_cols
    channel, y, x = tile.column * cols, tile.y.start, tile.x.start
    values = {"acc_half": half, "param_addr": params, "lanes": min(cols, out.channels - channel)}
    if isinstance(n.node, QWindow):
        values["src_base"], values["src_row0"] = at["src"].origin(first_word(channel, 8))
    if n.node.residual is not None:
        second = ctx.tensor(n.node.residual)
        row, col = (shared(range(i, i + 1), size).start for i, size in ((y, second.height), (x, second.width)))
        values["res_base"] = at["residual"].address(row, col, first_word(channel, 8))
    values["out_base"] = at["out"].address(y, x, first_word(channel, out.bits))
    _put(ctx, tile, "vec", channel, **tile.shape, out_byte=channel % WORD_BYTES, **values)
