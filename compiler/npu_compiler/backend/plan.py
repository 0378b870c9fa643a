"""The schedule as data: how every node is tiled, where every tensor lies, which ones pass through DRAM.

`make_plan` decides, `emit` applies; `dump` shows the decisions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from npu_isa.errors import CompileError
from npu_isa.machine.config import WORD_BYTES, MachineConfig

from npu_compiler.backend.memory import MOST, Buffer, Pitch, View, choose_pitch, folded, place, views, words_per_pixel
from npu_compiler.backend.strips import Job, Passing, Strip, buffer_words, choose_cut, held, strips_of
from npu_compiler.backend.tiles import Tiling, tiling_of
from npu_compiler.qgraph.ir import Assembled, QConv, QFold, QNode, QTensor, QuantizedGraph, QWindow

DRAM_ALIGN = 256


@dataclass(frozen=True)
class Moved:
    """The strip buffers of an operand that passes through DRAM.

    Attributes:
        buffers: their names, one or two (double buffering).
        words: of one buffer.
        sliced: a buffer holds the channels of its strip's column tiles only, not all.
    """

    buffers: tuple[str, ...]
    words: int
    sliced: bool


@dataclass(frozen=True)
class NodePlan:
    """How one node runs.

    Attributes:
        strips: parts of the output that are made one after the other; one unless an operand passes through DRAM.
        moved: operands ("src", "residual", "out") that pass through DRAM.
        pitches: of every operand where the node reads or writes it.
    """

    node: QConv | QWindow
    tiling: Tiling
    strips: tuple[Strip, ...]
    moved: Mapping[str, Moved]
    pitches: Mapping[str, Pitch]


@dataclass(frozen=True)
class Plan:
    """All decisions of the schedule.

    Attributes:
        views: root and place of every tensor.
        pitches: of every root, in activation memory.
        address: first activation word of every resident root and strip buffer.
        dram: DRAM byte address of every spilled root, relative to the end of the constants.
        dram_bytes: input, outputs and spilled roots.
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
            t, s = n.tiling, n.strips[0]
            moved = ", ".join(f"{k} through DRAM" for k in n.moved) or "resident"
            of = f" of {len(s.y)}x{len(s.x)} pixels, {len(s.columns)} column tile(s)" if len(n.strips) > 1 else ""
            lines.append(
                f"  {n.node.name}: tiles of {t.tile_h}x{t.tile_w} pixels, {t.columns} column tile(s), "
                f"{len(n.strips)} strip(s){of}, {moved}"
            )
        for name in sorted(self.address, key=lambda k: (self.address[k], k)):
            lines.append(f"  act[{self.address[name]}] {name}")
        for name, at in self.dram.items():
            lines.append(f"  dram[+{at}] {name}")
        return "\n".join(lines) + "\n"


def make_plan(graph: QuantizedGraph, machine: MachineConfig) -> Plan:
    """Decide tiling and memory for every node.

    Roots start resident. While the activation memory cannot hold them with the strip buffers, the largest root alive
    at the place of failure goes to DRAM; buffers that fail with nothing alive beside them are packed.

    Raises:
        CompileError: a node's smallest strip, or a block of its weights or parameters, does not fit its memory; the
            message says how much is needed, and which key of the machine to raise.
    """
    where = views(graph)
    folds = folded(graph)
    roots = sorted({v.root for name, v in where.items() if name not in folds})
    users = _root_users(graph, where)
    pitches = {r: choose_pitch(graph.tensors[r], users[r], machine) for r in roots}
    pitches |= {f: choose_pitch(graph.tensors[f], users.get(f, []), machine) for f in folds}
    index = {n.name: i for i, n in enumerate(graph.nodes)}
    planner = _Planner(graph, machine, where, pitches, folds, index, _lifetimes(graph, where))
    spilled, packed = {where[t].root for t in graph.output_tensors}, set[str]()
    spilled |= {v.root for v in where.values() if v.root in pitches and not pitches[v.root].of(v).in_reach}
    while True:
        plans = [planner.node(n, spilled) for n in graph.computed]
        buffers = _buffers(planner, plans, spilled, packed)
        placed = place(buffers, machine)
        if isinstance(placed, dict):
            break
        alive = [b for b in buffers if b.name in planner.life and b.first <= placed.last and placed.first <= b.last]
        if alive:
            spilled.add(max(alive, key=lambda b: (b.words, b.name)).name)
        else:
            strips = [b.name for b in buffers if b.first == placed.first]
            assert not packed & set(strips), placed
            packed |= set(strips)
    _check_reach(graph, where, spilled)
    dram, total = _dram_layout(graph, sorted(spilled), where)
    return Plan(graph, machine, where, pitches, tuple(plans), placed, dram, total, folds)


def _check_reach(graph: QuantizedGraph, where: Mapping[str, View], spilled: set[str]) -> None:
    """Raise CompileError if pixels of a tensor lie further apart in DRAM than instructions can count."""
    for name, view in where.items():
        apart = words_per_pixel(graph.tensors[view.root]) * view.place.step_x * WORD_BYTES
        if view.root in spilled and apart > MOST["dram_col_pitch"]:
            raise CompileError(
                f"its pixels lie {apart} bytes apart in DRAM, as every {view.place.step_x}th of {view.root!r}; "
                f"instructions count to {MOST['dram_col_pitch']}",
                f"tensor {name}",
                "use fewer channels, or a smaller factor, where an image is put together",
            )


def _root_users(graph: QuantizedGraph, where: Mapping[str, View]) -> dict[str, list[tuple[QNode, QTensor]]]:
    """Return per root the nodes that read it, each with the tensor it reads."""
    users: dict[str, list[tuple[QNode, QTensor]]] = {v.root: [] for v in where.values()}
    for node in graph.computed:
        users[where[node.src].root].append((node, graph.tensors[node.src]))
    return users


def _lifetimes(graph: QuantizedGraph, where: Mapping[str, View]) -> dict[str, tuple[int, int]]:
    """Return per root the first and last node index at which it must exist."""
    life: dict[str, tuple[int, int]] = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node, Assembled):
            continue
        for tensor in (*node.inputs, node.out):
            if tensor == graph.input:
                continue
            root = where[tensor].root
            life[root] = (life.get(root, (index, index))[0], index)
    return life


@dataclass(frozen=True)
class _Planner:
    """Decides on single nodes; what it found for a set of operands that pass through DRAM is kept.

    Attributes:
        index: place of every node.
        life: first and last place at which each root must exist.
        tilings: of the nodes as a whole.
        found: node plans by node name and operands.
    """

    graph: QuantizedGraph
    machine: MachineConfig
    where: Mapping[str, View]
    pitches: Mapping[str, Pitch]
    folds: Mapping[str, QFold]
    index: Mapping[str, int]
    life: Mapping[str, tuple[int, int]]
    tilings: dict[str, Tiling] = field(default_factory=dict)
    found: dict[tuple[str, ...], NodePlan] = field(default_factory=dict)

    def node(self, node: QConv | QWindow, spilled: set[str]) -> NodePlan:
        """Return how a node runs when these roots are in DRAM."""
        moved = [(r, t) for r, t in operands(node) if t in self.folds or self.where[t].root in spilled]
        key = (node.name, *(role for role, _ in moved))
        if key not in self.found:
            self.found[key] = self._cut(node, tuple(self._passing(node, role, name) for role, name in moved))
        return self.found[key]

    def _resident(self, name: str) -> Pitch:
        """Return the pitches of a tensor where its root is in the activation memory."""
        return self.pitches[name] if name in self.folds else self.pitches[self.where[name].root].of(self.where[name])

    def _passing(self, node: QConv | QWindow, role: str, name: str) -> Passing:
        """Return an operand on its way through DRAM: with its root's pitches, or dense when it is a part of one."""
        tensor, root = self.graph.tensors[name], self.where[name].root
        words = words_per_pixel(tensor)
        whole = name in self.folds or root == name
        pitch = self.pitches[name] if whole else Pitch(words, words * tensor.width)
        sliced = role != "src" or (isinstance(node, QWindow) and name not in self.folds)
        fold, line = self.folds.get(name), 0
        if fold is not None:
            image = self.graph.tensors[fold.src]
            line = image.width * image.channels * min(fold.window.stride[0], fold.window.kernel[0])
        apart = words_per_pixel(self.graph.tensors[root]) * self.where[name].place.step_x
        return Passing(role, tensor, apart, pitch, sliced, line)

    def _cut(self, node: QConv | QWindow, passing: tuple[Passing, ...]) -> NodePlan:
        src, out, machine = self.graph.tensors[node.src], self.graph.tensors[node.out], self.machine
        pitches = {role: self._resident(name) for role, name in operands(node)}
        if node.name not in self.tilings:
            self.tilings[node.name] = tiling_of(node, src, out, pitches["src"], machine)
        tiling = self.tilings[node.name]
        job = Job(node, tiling, src, out, passing, machine)
        cut = choose_cut(job)
        moved = {}
        for p in passing:
            part, pitch = held(job, cut, p)
            names = tuple(f"{node.name}.{p.role}{i}" for i in range(cut.buffers))
            moved[p.role], pitches[p.role] = Moved(names, buffer_words(part, pitch), p.sliced), pitch
        if cut.dense or (cut.cols, cut.columns) != (out.width, tiling.columns):  # tiles that suit the strip
            tiling = tiling_of(node, src, replace(out, height=cut.rows, width=cut.cols), pitches["src"], machine)
        return NodePlan(node, tiling, strips_of(job, cut), moved, pitches)


def operands(node: QConv | QWindow) -> list[tuple[str, str]]:
    """Return role and tensor of what a node reads and writes."""
    roles = (("src", node.src), ("residual", node.residual), ("out", node.out))
    return [(role, name) for role, name in roles if name is not None]


def _buffers(planner: _Planner, plans: list[NodePlan], spilled: set[str], packed: set[str]) -> list[Buffer]:
    """Return every buffer wanted, each with the buffers whose ports it would disturb in the same region."""
    graph, life = planner.graph, planner.life
    clash: dict[str, set[str]] = {}
    strips: list[tuple[str, int, int, int]] = []
    for plan in plans:
        names: dict[str, tuple[str, ...]] = {role: (planner.where[name].root,) for role, name in operands(plan.node)}
        names |= {role: m.buffers for role, m in plan.moved.items()}
        # readers of one region wait for each other, writers too: source and residual; source and stored output;
        # loaded strips and output
        for a, b in (("src", "residual"), ("src", "out"), ("residual", "out")):
            for x in names.get(a, ()):
                clash.setdefault(x, set()).update(names.get(b, ()))
        at = planner.index[plan.node.name]
        strips += [(name, m.words, at, at) for m in plan.moved.values() for name in m.buffers]
    resident = [
        (r, buffer_words(graph.tensors[r], planner.pitches[r]), *life[r])
        for r in sorted(life)
        if r not in spilled and r not in planner.folds
    ]
    return [Buffer(*b, frozenset(clash.get(b[0], ())), b[0] in packed) for b in resident + strips]


def _dram_layout(graph: QuantizedGraph, spilled: list[str], where: Mapping[str, View]) -> tuple[dict[str, int], int]:
    """Return byte offsets after the constants: the input image, the outputs, then the other spilled roots."""
    image = graph.tensors[graph.input]
    at = _align(image.height * image.width * image.channels)
    layout = {graph.input: 0}
    outputs = [where[t].root for t in graph.output_tensors]
    for root in [*outputs, *(r for r in spilled if r not in outputs)]:
        tensor = graph.tensors[root]
        layout[root] = at
        at = _align(at + tensor.height * tensor.width * words_per_pixel(tensor) * WORD_BYTES)
    return layout, at


def _align(size: int) -> int:
    return -(-size // DRAM_ALIGN) * DRAM_ALIGN
