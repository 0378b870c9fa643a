"""The schedule as data: how every node is tiled, where every tensor lies, which ones pass through DRAM.

`make_plan` decides, `emit` applies; `dump` shows the decisions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from npu_isa.errors import CompileError
from npu_isa.machine.config import WORD_BYTES, MachineConfig

from npu_compiler.backend.memory import Buffer, Pitch, View, choose_pitch, folded, place, views, words_per_pixel
from npu_compiler.backend.tiles import Tiling, conv_tiling, input_rows, window_of, window_tiling
from npu_compiler.qgraph.ir import QConcat, QConv, QFold, QNode, QTensor, QuantizedGraph, QWindow

DRAM_ALIGN = 256
OPERANDS = ("src", "residual", "out")


@dataclass(frozen=True)
class Moved:
    """An operand that passes through DRAM in strips.

    Attributes:
        buffers: names of the strip buffers, one or two (double buffering).
        words: words of one buffer.
    """

    buffers: tuple[str, ...]
    words: int


@dataclass(frozen=True)
class NodePlan:
    """How one node runs.

    Attributes:
        strips: output rows (first, end) of each strip; one strip unless an operand passes through DRAM.
        moved: operands ("src", "residual", "out") that pass through DRAM.
    """

    node: QConv | QWindow
    tiling: Tiling
    strips: tuple[tuple[int, int], ...]
    moved: Mapping[str, Moved]


@dataclass(frozen=True)
class Plan:
    """All decisions of the schedule.

    Attributes:
        views: root and place of every tensor.
        pitches: of every root, in activation memory.
        address: first activation word of every resident root and strip buffer.
        dram: DRAM byte address of every spilled root, relative to the end of the constants.
        dram_bytes: input, output and spilled roots.
        folds: tensors that the load engine gathers from the image, strip by strip.
    """

    graph: QuantizedGraph
    machine: MachineConfig
    views: Mapping[str, View]
    pitches: Mapping[str, Pitch]
    nodes: tuple[NodePlan, ...]
    address: Mapping[str, int]
    dram: Mapping[str, int]
    dram_bytes: int
    folds: Mapping[str, QFold]

    def dump(self) -> str:
        """Return one line a node and one a tensor."""
        lines = [f"schedule {self.graph.name} on {self.machine.name}"]
        for n in self.nodes:
            t = n.tiling
            moved = ", ".join(f"{k} through DRAM" for k in n.moved) or "resident"
            lines.append(
                f"  {n.node.name}: tiles of {t.tile_h}x{t.tile_w} pixels, {t.columns} column tile(s), "
                f"{len(n.strips)} strip(s), {moved}"
            )
        for name in sorted(self.address, key=lambda k: (self.address[k], k)):
            lines.append(f"  act[{self.address[name]}] {name}")
        for name, at in self.dram.items():
            lines.append(f"  dram[+{at}] {name}")
        return "\n".join(lines) + "\n"


def tensor_words(tensor: QTensor, pitch: Pitch, rows: int | None = None) -> int:
    """Return the activation words from a tensor's first to one past its last, or of `rows` of its rows."""
    return ((tensor.height if rows is None else rows) - 1) * pitch.row + tensor.width * pitch.pixel


def make_plan(graph: QuantizedGraph, machine: MachineConfig) -> Plan:
    """Decide tiling and memory for every node.

    Roots start resident; while the activation memory cannot hold them with the strip buffers, the largest root alive
    at the place of failure goes to DRAM, and then strips shrink.

    Raises:
        CompileError: even single rows do not fit.
    """
    where = views(graph)
    folds = folded(graph)
    roots = sorted({v.root for name, v in where.items() if name not in folds})
    users = _root_users(graph, where)
    pitches = {r: choose_pitch(graph.tensors[r], users[r], machine) for r in roots}
    pitches |= {f: choose_pitch(graph.tensors[f], users.get(f, []), machine) for f in folds}
    tilings = {n.name: _tiling(graph, n, where, pitches, machine) for n in _computed(graph)}
    life = _lifetimes(graph, where)
    spilled = {where[graph.output].root}
    budget = machine.act_words // 2
    while True:
        plans = [
            _node_plan(graph, n, tilings[n.name], where, pitches, folds, spilled, budget) for n in _computed(graph)
        ]
        buffers = _buffers(graph, plans, where, pitches, life, spilled)
        placed = place(buffers, machine)
        if isinstance(placed, dict):
            break
        alive = [b for b in buffers if b.name in life and b.first <= placed.last and placed.first <= b.last]
        if alive:
            spilled.add(max(alive, key=lambda b: (b.words, b.name)).name)
        elif budget > 1:
            budget //= 2
        else:
            raise CompileError(
                f"{placed.words * WORD_BYTES} bytes for {placed.name} do not fit the activation memory of "
                f"{machine.act_words * WORD_BYTES} bytes beside what is in use",
                f"machine {machine.name}",
                "raise act_region_bytes, or give the model a smaller image (--resize)",
            )
    dram, total = _dram_layout(graph, sorted(spilled), where)
    return Plan(graph, machine, where, pitches, tuple(plans), placed, dram, total, folds)


def _computed(graph: QuantizedGraph) -> list[QConv | QWindow]:
    return list(graph.computed)


def _root_users(graph: QuantizedGraph, where: Mapping[str, View]) -> dict[str, list[tuple[QNode, QTensor]]]:
    """Return per root the nodes that read it, each with the tensor it reads."""
    users: dict[str, list[tuple[QNode, QTensor]]] = {v.root: [] for v in where.values()}
    for node in graph.computed:
        users[where[node.src].root].append((node, graph.tensors[node.src]))
    return users


def _tiling(
    graph: QuantizedGraph,
    node: QConv | QWindow,
    where: Mapping[str, View],
    pitches: Mapping[str, Pitch],
    machine: MachineConfig,
) -> Tiling:
    src, out = graph.tensors[node.src], graph.tensors[node.out]
    if isinstance(node, QConv):
        return conv_tiling(node, src, out, pitches[where[node.src].root], machine)
    return window_tiling(node, src, out, machine)


def _lifetimes(graph: QuantizedGraph, where: Mapping[str, View]) -> dict[str, tuple[int, int]]:
    """Return per root the first and last node index at which it must exist."""
    life: dict[str, tuple[int, int]] = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node, QConcat):
            continue
        for tensor in (*node.inputs, node.out):
            if tensor == graph.input:
                continue
            root = where[tensor].root
            life[root] = (life.get(root, (index, index))[0], index)
    return life


def _moved_operands(
    graph: QuantizedGraph,
    node: QConv | QWindow,
    where: Mapping[str, View],
    folds: Mapping[str, QFold],
    spilled: set[str],
) -> dict[str, str]:
    """Return the operands that pass through DRAM: role -> tensor."""
    roles = {"src": node.src, "residual": node.residual, "out": node.out}
    return {r: t for r, t in roles.items() if t is not None and (t in folds or where[t].root in spilled)}


def _strip_rows(graph: QuantizedGraph, node: QConv | QWindow, role: str, tensor: str, rows: int) -> int:
    """Return the most rows of an operand that any strip of `rows` output rows touches."""
    if role != "src":
        return rows
    out_h, src = graph.tensors[node.out].height, graph.tensors[tensor]
    most = 0
    for first in range(0, out_h, rows):
        a, b = input_rows(window_of(node), first, min(first + rows, out_h), src.height)
        most = max(most, b - a)
    return max(most, 1)


def _node_plan(
    graph: QuantizedGraph,
    node: QConv | QWindow,
    tiling: Tiling,
    where: Mapping[str, View],
    pitches: Mapping[str, Pitch],
    folds: Mapping[str, QFold],
    spilled: set[str],
    budget: int,
) -> NodePlan:
    height = graph.tensors[node.out].height
    operands = _moved_operands(graph, node, where, folds, spilled)

    def sizes(rows: int) -> dict[str, int]:
        found = {}
        for role, tensor in operands.items():
            pitch = strip_pitch(graph, tensor, where, pitches, folds)
            found[role] = tensor_words(graph.tensors[tensor], pitch, _strip_rows(graph, node, role, tensor, rows))
        return found

    rows = height
    if operands:
        steps = sorted({min(height, tiling.tile_h * i) for i in range(1, -(-height // tiling.tile_h) + 1)})
        options = [r for r in [*range(1, tiling.tile_h), *steps] if r <= height]
        fitting = [r for r in options if sum(sizes(r).values()) * (1 if r == height else 2) <= budget]
        rows = max(fitting, default=1)
    strips = tuple((y, min(y + rows, height)) for y in range(0, height, rows))
    count = 1 if len(strips) == 1 else 2
    moved = {
        role: Moved(tuple(f"{node.name}.{role}{i}" for i in range(count)), words) for role, words in sizes(rows).items()
    }
    return NodePlan(node, tiling, strips, moved)


def strip_pitch(
    graph: QuantizedGraph,
    tensor: str,
    where: Mapping[str, View],
    pitches: Mapping[str, Pitch],
    folds: Mapping[str, QFold],
) -> Pitch:
    """Return the pitches of a tensor's strip buffer: the root's, or those of the part alone when it is a part."""
    root = where[tensor].root
    if tensor in folds or root == tensor:
        return pitches[tensor]
    words = words_per_pixel(graph.tensors[tensor])
    return Pitch(words, words * graph.tensors[tensor].width)


def _buffers(
    graph: QuantizedGraph,
    plans: list[NodePlan],
    where: Mapping[str, View],
    pitches: Mapping[str, Pitch],
    life: Mapping[str, tuple[int, int]],
    spilled: set[str],
) -> list[Buffer]:
    """Return every buffer wanted, each with the buffers whose ports it would disturb in the same region."""
    index = {n.name: i for i, n in enumerate(graph.nodes)}
    clash: dict[str, set[str]] = {}
    strips: list[Buffer] = []
    for plan in plans:
        names = {role: m.buffers for role, m in plan.moved.items()}
        for role, tensor in (("src", plan.node.src), ("residual", plan.node.residual), ("out", plan.node.out)):
            if tensor is not None and role not in names:
                names[role] = (where[tensor].root,)
        # readers of one region wait for each other, writers too: source and residual; source and stored output;
        # loaded strips and output
        for a, b in (("src", "residual"), ("src", "out"), ("residual", "out")):
            for x in names.get(a, ()):
                clash.setdefault(x, set()).update(names.get(b, ()))
        at = index[plan.node.name]
        strips += [Buffer(name, m.words, at, at) for m in plan.moved.values() for name in m.buffers]
    resident = [
        Buffer(r, tensor_words(graph.tensors[r], pitches[r]), *life[r]) for r in sorted(life) if r not in spilled
    ]
    resident = [b for b in resident if not isinstance(_producer(graph, b.name), QFold)]
    return [Buffer(b.name, b.words, b.first, b.last, frozenset(clash.get(b.name, ()))) for b in resident + strips]


def _producer(graph: QuantizedGraph, tensor: str) -> QNode:
    return next(n for n in graph.nodes if n.out == tensor)


def _dram_layout(graph: QuantizedGraph, spilled: list[str], where: Mapping[str, View]) -> tuple[dict[str, int], int]:
    """Return byte offsets after the constants: the input image, the output, then the other spilled roots."""
    image = graph.tensors[graph.input]
    at = _align(image.height * image.width * image.channels)
    layout = {graph.input: 0}
    output = where[graph.output].root
    for root in [output, *(r for r in spilled if r != output)]:
        tensor = graph.tensors[root]
        layout[root] = at
        at = _align(at + tensor.height * tensor.width * words_per_pixel(tensor) * WORD_BYTES)
    return layout, at


def _align(size: int) -> int:
    return -(-size // DRAM_ALIGN) * DRAM_ALIGN
