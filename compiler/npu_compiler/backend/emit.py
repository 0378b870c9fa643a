"""From the plan to instructions: loops over strips, column tiles and pixel tiles, written out in program order."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import assert_never

from npu_isa.isa.ops import Instruction, Memory, Source
from npu_isa.isa.tables import RAW
from npu_isa.machine.config import WORD_BYTES, MachineConfig

from npu_compiler.backend.constants import NodeConstants
from npu_compiler.backend.memory import Pitch, conv_geom, group_order, words_per_pixel
from npu_compiler.backend.plan import NodePlan, Plan, strip_pitch
from npu_compiler.backend.tiles import input_rows
from npu_compiler.qgraph.ir import Clamp, Function, Leaky, QConv, QFold, QTensor, QWindow

TABLE: int = RAW["table_entries_per_word"]
NO_DIAL: int = RAW["boundary_registers"] - 1  # hard-wired to 0
DEFAULTS: dict[str, dict[str, int | tuple[int, ...]]] = {
    i["name"]: {o["name"]: (0,) * o["repeat"] if "repeat" in o else 0 for o in i["operands"]}
    for i in RAW["instruction"]
}
WINDOW_SOURCES = {"mac": Source.MAC, "max": Source.MAX, "sum": Source.SUM}


@dataclass(frozen=True)
class Operand:
    """Where an operand lies in the activation memory: word of pixel (row0, 0), first group."""

    base: int
    row0: int
    pitch: Pitch

    def address(self, y: int, x: int, word: int) -> int:
        """Return the word address of a pixel's word."""
        return self.base + (y - self.row0) * self.pitch.row + x * self.pitch.pixel + word


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


class Emitter:
    """Writes the program of one plan; `run` returns the code without tokens."""

    def __init__(self, plan: Plan, constants: dict[str, NodeConstants], dram_base: int, layers: dict[str, int]) -> None:
        self._plan = plan
        self._machine: MachineConfig = plan.machine
        self._constants = constants
        self._dram_base = dram_base
        self._layers = layers
        self._registers = {n.name: i for i, n in enumerate(plan.graph.lowerable)}
        self._weights = Ring(self._machine.weight_words)
        self._params = Ring(self._machine.param_rows)
        self._half = 0
        self.code = Code()

    def run(self) -> Code:
        """Emit every node, then the halt."""
        for node_plan in self._plan.nodes:
            _NodeEmitter(self, node_plan).run()
        self.code.put("halt", -1)
        return self.code

    def tensor(self, name: str) -> QTensor:
        """Return a tensor of the graph."""
        return self._plan.graph.tensors[name]

    @property
    def plan(self) -> Plan:
        """The plan that is written out."""
        return self._plan

    def constants(self, node: str) -> NodeConstants:
        """Return the addresses of a node's constants."""
        return self._constants[node]

    def dram(self, root: str) -> int:
        """Return the DRAM address of the image, the output or a spilled root."""
        return self._dram_base + self._plan.dram[root]

    def register(self, node: str) -> int:
        """Return the boundary register of a node, or the one that is always 0."""
        return self._registers.get(node, NO_DIAL)

    def layer(self, node: str) -> int:
        """Return a node's layer number."""
        return self._layers[node]

    def next_half(self) -> int:
        """Return the accumulator half for the next tile: they alternate."""
        self._half ^= 1
        return self._half

    @property
    def weights(self) -> Ring:
        """The weight memory."""
        return self._weights

    @property
    def params(self) -> Ring:
        """The parameter memory."""
        return self._params


class _NodeEmitter:
    """Writes one node."""

    def __init__(self, parent: Emitter, node_plan: NodePlan) -> None:
        self.p = parent
        self.np = node_plan
        self.node = node_plan.node
        self.src = parent.tensor(self.node.src)
        self.out = parent.tensor(self.node.out)
        self.cols = parent.plan.machine.array_cols
        self.layer = parent.layer(self.node.name)
        self.tile_number = -1
        self.operands: dict[str, Operand] = {}
        self.fetched: dict[str, int] = {}
        self.stored = 0

    def put(self, name: str, channel: int = -1, **operands: int | tuple[int, ...]) -> None:
        self.p.code.put(name, self.layer, self.tile_number, channel, **operands)

    def run(self) -> None:
        if isinstance(self.node, QConv):
            self._put_geometry(self.node)
        self._put_vgeom()
        for index, (first, end) in enumerate(self.np.strips):
            self._open_strip(index, first, end)
            for batch in self._param_batches():
                for tile, column, last in self._tiles(first, end, batch):
                    self._fetch(tile)
                    params = self._load_params(batch) + (column - batch.start) * self._param_rows
                    if isinstance(self.node, QConv):
                        self._conv_tile(self.node, tile, column, params)
                    else:
                        self._put_vec(tile, column, params, half=0)
                    if last:
                        self._store(tile)

    @property
    def _param_rows(self) -> int:
        return self.p.constants(self.node.name).rows

    # -- loops

    def _param_batches(self) -> list[range]:
        """Cut the column tiles so that a batch's parameters fit the memory, or half of it when there are several."""
        columns, capacity = self.np.tiling.columns, self.p.plan.machine.param_rows
        if columns * self._param_rows <= capacity:
            return [range(columns)]
        size = max(1, capacity // 2 // self._param_rows)
        return [range(i, min(i + size, columns)) for i in range(0, columns, size)]

    def _tiles(self, first: int, end: int, batch: range) -> Iterator[tuple[tuple[int, int, int, int], int, bool]]:
        """Yield ((y, x, height, width), column tile, is it the last column tile) in program order.

        A convolution keeps its weights for all pixels of the strip; a window node finishes pixels first, so that the
        next layer can start.
        """
        t = self.np.tiling
        spots = [
            (y, x, min(t.tile_h, end - y), min(t.tile_w, self.out.width - x))
            for y in range(first, end, t.tile_h)
            for x in range(0, self.out.width, t.tile_w)
        ]
        pairs = (
            ((s, c) for c in batch for s in spots)
            if isinstance(self.node, QConv)
            else ((s, c) for s in spots for c in batch)
        )
        for spot, column in pairs:
            self.tile_number += 1
            row_done = spot[1] + spot[3] == self.out.width
            yield spot, column, row_done and column == t.columns - 1

    # -- operands

    def _open_strip(self, index: int, first: int, end: int) -> None:
        plan = self.p.plan
        self.stored = first
        for role, name in (("src", self.node.src), ("residual", self.node.residual), ("out", self.node.out)):
            if name is None:
                continue
            moved = self.np.moved.get(role)
            view = plan.views[name]
            if moved is None:
                self.operands[role] = Operand(plan.address[view.root] + view.word, 0, plan.pitches[view.root])
                continue
            base = plan.address[moved.buffers[index % len(moved.buffers)]]
            row0 = first
            if role == "src":
                row0, _ = input_rows(self.node.window, first, end, self.src.height)
            pitch = strip_pitch(plan.graph, name, plan.views, plan.pitches, plan.folds)
            self.operands[role] = Operand(base, row0, pitch)
            self.fetched[role] = row0

    def _fetch(self, tile: tuple[int, int, int, int]) -> None:
        """Load the rows of the moved operands that this tile is the first to need."""
        y, _, height, _ = tile
        needs = {"src": input_rows(self.node.window, y, y + height, self.src.height)[1], "residual": y + height}
        for role, name in (("src", self.node.src), ("residual", self.node.residual)):
            if name is None or role not in self.np.moved or needs[role] <= self.fetched[role]:
                continue
            first, self.fetched[role] = self.fetched[role], needs[role]
            fold = self.p.plan.folds.get(name)
            if fold is not None:
                self._put_fold(fold, self.operands[role], first, needs[role])
            else:
                self._put_move("load", name, self.operands[role], first, needs[role])

    def _store(self, tile: tuple[int, int, int, int]) -> None:
        """Store the finished rows of a moved output."""
        if "out" in self.np.moved:
            end = tile[0] + tile[2]
            self._put_move("store", self.node.out, self.operands["out"], self.stored, end)
            self.stored = end

    def _put_fold(self, fold: QFold, to: Operand, first: int, end: int) -> None:
        image, made, w = self.p.tensor(fold.src), self.p.tensor(fold.out), fold.window
        self.put(
            "fold",
            dram_addr=self.p.dram(fold.src),
            in_h=image.height,
            in_w=image.width,
            channels=image.channels,
            kernel_h=w.kernel[0],
            kernel_w=w.kernel[1],
            stride_y=w.stride[0],
            stride_x=w.stride[1],
            pad_top=w.pad_top,
            pad_left=w.pad_left,
            out_y=first,
            rows=end - first,
            cols=made.width,
            addr=to.address(first, 0, 0),
            row_pitch=to.pitch.row,
            pixel_pitch=to.pitch.pixel,
        )

    def _put_move(self, name: str, tensor_name: str, at: Operand, first: int, end: int) -> None:
        """Copy rows of a spilled tensor between DRAM (dense) and its strip buffer; whole rows are one run if dense."""
        tensor = self.p.tensor(tensor_name)
        view = self.p.plan.views[tensor_name]
        words, root_words = words_per_pixel(tensor), words_per_pixel(self.p.tensor(view.root))
        dense = words == root_words == at.pitch.pixel
        row_bytes = tensor.width * root_words * WORD_BYTES
        self.put(
            name,
            **({"memory": int(Memory.ACT)} if name == "load" else {}),
            dram_addr=self.p.dram(view.root) + first * row_bytes + view.word * WORD_BYTES,
            rows=end - first,
            cols=1 if dense else tensor.width,
            run=(tensor.width if dense else 1) * words * WORD_BYTES,
            dram_row_pitch=row_bytes,
            dram_col_pitch=0 if dense else root_words * WORD_BYTES,
            addr=at.address(first, 0, 0),
            row_pitch=at.pitch.row,
            col_pitch=0 if dense else at.pitch.pixel,
        )

    # -- parameters and weights

    def _load_params(self, batch: range) -> int:
        """Return the first parameter row of a batch of column tiles, loading it if the memory does not hold it."""
        constants = self.p.constants(self.node.name)
        rows, row_bytes = constants.rows, 4 * self.cols
        base, fresh = self.p.params.get((self.node.name, batch.start), len(batch) * rows)
        if not fresh:
            return base
        columns = self.np.tiling.columns
        dial = self.p.register(self.node.name)
        table = {}
        if isinstance(self.node, QConv) and self.node.lowering is not None:
            pitch, entries = columns * row_bytes, len(self.node.lowering.bias_rows)
            table = {"indexed": 1, "register": dial, "table_pitch": pitch, "table_entries": entries}
        self.put(
            "load",
            memory=int(Memory.PARAM),
            dram_addr=constants.bias + batch.start * row_bytes,
            rows=1,
            cols=len(batch),
            run=row_bytes,
            dram_col_pitch=row_bytes,
            addr=base,
            col_pitch=rows,
            **table,
        )
        static = (rows - 1) * row_bytes
        self.put(
            "load",
            memory=int(Memory.PARAM),
            dram_addr=constants.params + batch.start * static,
            rows=1,
            cols=len(batch),
            run=static,
            dram_col_pitch=static,
            addr=base + 1,
            col_pitch=rows,
        )
        return base

    def _load_weights(self, column: int, first: int) -> int:
        """Return the weight memory address of a block, loading it if the memory does not hold it."""
        dram, words = self.p.constants(self.node.name).weights[column, first]
        base, fresh = self.p.weights.get((self.node.name, column, first), words)
        if fresh:
            self.put(
                "load", memory=int(Memory.WEIGHT), dram_addr=dram, rows=1, cols=1, run=words * WORD_BYTES, addr=base
            )
        return base

    # -- computation

    def _put_geometry(self, node: QConv) -> None:
        pitch = self._pitch("src", node.src)
        geom = conv_geom(node, self.src, pitch, self.p.register(node.name), self.np.tiling.tap_fastest)
        self.put("geom", **asdict(geom))
        order = group_order(node, self.src)
        shifts = node.lowering.act_shift if node.lowering else (0,) * len(order)
        for first in range(0, len(order), TABLE):
            fill = (0,) * (TABLE - len(order[first : first + TABLE]))
            self.put(
                "groups",
                first=first,
                group=(*order[first : first + TABLE], *fill),
                shift=(*shifts[first : first + TABLE], *fill),
            )

    def _pitch(self, role: str, name: str) -> Pitch:
        plan = self.p.plan
        if role in self.np.moved:
            return strip_pitch(plan.graph, name, plan.views, plan.pitches, plan.folds)
        return plan.pitches[plan.views[name].root]

    def _put_vgeom(self) -> None:
        node, out = self.node, self.out
        values = {"kernel_h": 1, "kernel_w": 1, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1}
        values |= {"in_h": 1, "in_w": 1}
        if isinstance(node, QWindow):
            w, pitch = node.window, self._pitch("src", node.src)
            values = {
                "source": int(WINDOW_SOURCES[node.kind]),
                "kernel_h": w.kernel[0],
                "kernel_w": w.kernel[1],
                "stride_y": w.stride[0],
                "stride_x": w.stride[1],
                "dilation_y": w.dilation[0],
                "dilation_x": w.dilation[1],
                "pad_top": w.pad_top,
                "pad_left": w.pad_left,
                "in_h": self.src.height,
                "in_w": self.src.width,
                "row_pitch": pitch.row,
                "pixel_pitch": pitch.pixel,
                "src_unsigned": int(not self.src.signed),
            }
        to = self._pitch("out", node.out)
        values |= {"out_row_pitch": to.row, "out_pixel_pitch": to.pixel, "wide": int(out.bits == 16)}
        if node.residual is not None:
            res = self._pitch("residual", node.residual)
            values |= {"residual": 1, "res_row_pitch": res.row, "res_pixel_pitch": res.pixel}
            values["res_unsigned"] = int(not self.p.tensor(node.residual).signed)
        e = node.epilogue
        values |= _function(e.function)
        self.put("vgeom", **values)

    def _conv_tile(self, node: QConv, tile: tuple[int, int, int, int], column: int, params: int) -> None:
        y, x, height, width = tile
        half, src, places = self.p.next_half(), self.operands["src"], self.np.tiling.places
        count = self.src.groups
        for first in range(0, count, places):
            self.put(
                "conv",
                channel=column * self.cols,
                act_base=src.base,
                act_row0=src.row0,
                out_y=y,
                out_x=x,
                tile_h=height,
                tile_w=width,
                acc_half=half,
                accumulate=int(first > 0),
                weight_addr=self._load_weights(column, first),
                group_first=first,
                group_count=min(places, count - first),
            )
        self._put_vec(tile, column, params, half)

    def _put_vec(self, tile: tuple[int, int, int, int], column: int, params: int, half: int) -> None:
        y, x, height, width = tile
        channel = column * self.cols
        group, byte = divmod(channel, WORD_BYTES)
        values = {}
        if isinstance(self.node, QWindow):
            src = self.operands["src"]
            values = {"src_base": src.base + group, "src_row0": src.row0}
        if "residual" in self.operands:
            values["res_base"] = self.operands["residual"].address(y, x, group)
        wide = self.out.bits // 8
        self.put(
            "vec",
            channel=channel,
            acc_half=half,
            out_y=y,
            out_x=x,
            tile_h=height,
            tile_w=width,
            out_base=self.operands["out"].address(y, x, group * wide),
            out_byte=byte,
            param_addr=params,
            lanes=min(self.cols, self.out.channels - channel),
            **values,
        )


def with_tokens(code: Code, instructions: tuple[Instruction, ...]) -> Code:
    """Return the code with its instructions replaced, one for one."""
    assert len(instructions) == len(code.instructions)
    return replace(code, instructions=list(instructions))


def _function(f: Function) -> dict[str, int]:
    """Return the operands of vgeom that say what an epilogue's function does."""
    match f:
        case Clamp():
            return {"leaky": 0, "clamp_low": f.low, "clamp_high": f.high}
        case Leaky():
            return {"leaky": 1, "clamp_low": f.low, "clamp_high": f.high}
    assert_never(f)
