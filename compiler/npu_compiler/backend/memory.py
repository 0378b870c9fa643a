"""Where tensors live: pitches, activation memory by liveness, and what goes to DRAM.

A *root* is a tensor that owns memory; the operands of a concat or mosaic are views of its result. A root is resident in
the activation memory from its producer to its last reader, or spilled to DRAM and moved in strips.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from npu_isa.isa.ops import Geom
from npu_isa.isa.tables import BY_NAME
from npu_isa.machine import timing
from npu_isa.machine.config import ACT_REGIONS, MachineConfig

from npu_compiler.qgraph.ir import Place, QConcat, QConv, QFold, QMosaic, QNode, QTensor, QuantizedGraph, QWindow

WHOLE = Place()
MOST = {o.name: o.most for name in ("vgeom", "store") for o in BY_NAME[name].operands}  # values of operands


@dataclass(frozen=True)
class View:
    """A tensor as a part of a root.

    Attributes:
        root: its name.
        word: first word inside each pixel of the root.
        place: where the tensor's pixels stand among those of the root.
    """

    root: str
    word: int
    place: Place = WHOLE


@dataclass(frozen=True)
class Pitch:
    """Words from a pixel, and from a row, to the next."""

    pixel: int
    row: int

    def of(self, view: View) -> "Pitch":
        """Return the pitches of a view of a root that has these."""
        return Pitch(self.pixel * view.place.step_x, self.row * view.place.step_y)

    @property
    def in_reach(self) -> bool:
        """Whether instructions can count as far."""
        return self.pixel <= MOST["out_pixel_pitch"] and self.row <= MOST["out_row_pitch"]


@dataclass(frozen=True)
class Buffer:
    """A range of activation memory wanted from step `first` to step `last`, both inclusive.

    Attributes:
        avoid: names of buffers better kept in other regions, since their ports are used at the same time.
        packed: at the lowest address, whatever else would be better: the buffers of its step fill the memory.
    """

    name: str
    words: int
    first: int
    last: int
    avoid: frozenset[str] = frozenset()
    packed: bool = False


def words_per_pixel(tensor: QTensor) -> int:
    """Return the 16-byte words of one pixel: a word per group, two when values have 16 bits."""
    return tensor.groups * tensor.bits // 8


def views(graph: QuantizedGraph) -> dict[str, View]:
    """Return the root and the place in it of every tensor but the input image."""
    found: dict[str, View] = {}
    for node in reversed(graph.nodes):  # a concat comes after its operands: results are placed first
        own = found.setdefault(node.out, View(node.out, 0))
        if isinstance(node, QConcat):
            word = own.word
            for src in node.srcs:
                found[src] = View(own.root, word, own.place)
                word += words_per_pixel(graph.tensors[src])
        elif isinstance(node, QMosaic):
            for src, place in zip(node.srcs, node.places, strict=True):
                found[src] = View(own.root, own.word, _inside(own.place, place))
    return found


def _inside(whole: Place, part: Place) -> Place:
    """Return the place in a root of a part of what has a place in it."""
    y, x = whole.y + part.y * whole.step_y, whole.x + part.x * whole.step_x
    return Place(y, x, whole.step_y * part.step_y, whole.step_x * part.step_x)


def conv_geom(node: QConv, src: QTensor, pitch: Pitch, register: int, tap_fastest: int) -> Geom:
    """Return the geom instruction's operands for a convolution that reads `src` with these pitches."""
    w = node.window
    return Geom(
        register=register,
        kernel_h=w.kernel[0],
        kernel_w=w.kernel[1],
        stride_y=w.stride[0],
        stride_x=w.stride[1],
        dilation_y=w.dilation[0],
        dilation_x=w.dilation[1],
        pad_top=w.pad_top,
        pad_left=w.pad_left,
        in_h=src.height,
        in_w=src.width,
        row_pitch=pitch.row,
        pixel_pitch=pitch.pixel,
        unsigned=int(not src.signed),
        tap_fastest=tap_fastest,
        dynamic=int(node.lowering is not None and node.lowering.extract == "dynamic"),
    )


def group_order(node: QConv, src: QTensor) -> tuple[int, ...]:
    """Return the input group of each place of the group table."""
    return node.lowering.order if node.lowering else tuple(range(src.groups))


def conv_conflicts(node: QConv, src: QTensor, pitch: Pitch, machine: MachineConfig, limit: float) -> float:
    """Return the extra cycles per pixel that bank conflicts cost, summed over all boundaries; at most `limit`.

    The passes' entries are in the better of their two orders (`tap_fastest`).
    """
    order = group_order(node, src)
    lows = range(len(order) + 1) if node.lowering else (0,)
    orders = (0, 1) if node.window.kernel != (1, 1) else (0,)  # one tap leaves no order to choose
    geoms = (conv_geom(node, src, pitch, 0, tap_fastest) for tap_fastest in orders)
    return min(limit, *(timing.conv_conflicts(geom, order, lows, machine) for geom in geoms))


def choose_pitch(tensor: QTensor, users: Iterable[tuple[QNode, QTensor]], machine: MachineConfig) -> Pitch:
    """Return the pitches with the fewest bank conflicts for the readers of a root, densest first.

    A pixel pitch of up to 3 words more and any row pitch modulo the banks are tried (machine-why 12).
    """
    words = words_per_pixel(tensor)
    convs = [(n, t) for n, t in users if isinstance(n, QConv)]
    windows = [n for n, _ in users if isinstance(n, QWindow) and n.window.kernel[1] > 1]
    least, best = math.inf, Pitch(words, words * tensor.width)
    tall = any(n.window.kernel[0] > 1 for n, _ in convs)
    for pixel in range(words, words + 4):
        for extra in range(machine.act_banks if tall else 1):
            pitch = Pitch(pixel, tensor.width * pixel + extra)
            cost: float = sum(_window_conflicts(n, pitch, machine) for n in windows)
            for node, src in convs:
                cost += conv_conflicts(node, src, pitch, machine, least - cost)
            if cost < least:
                least, best = cost, pitch
            if cost == 0:
                return pitch
    return best


def _window_conflicts(node: QWindow, pitch: Pitch, machine: MachineConfig) -> int:
    """Return 1 where a step of the window reads two words of one bank."""
    taps = min(machine.vector_taps, node.window.kernel[1])
    words = [t * node.window.dilation[1] * pitch.pixel + g for t in range(taps) for g in range(machine.tile_groups)]
    return int(len({w % machine.act_banks for w in words}) < len(set(words)))


def place(buffers: Iterable[Buffer], machine: MachineConfig) -> dict[str, int] | Buffer:
    """Give every buffer its first word, or return the first buffer that found no room.

    Larger buffers first; each goes to the region whose neighbours in time disturb its ports least, lowest address
    first, and across regions only when none has room.
    """
    placed: dict[str, tuple[int, Buffer]] = {}
    for buffer in sorted(buffers, key=lambda b: (-b.words, b.first, b.name)):
        live = [
            (start, start + other.words, other)
            for start, other in placed.values()
            if other.first <= buffer.last and buffer.first <= other.last
        ]
        best: tuple[tuple[int, int], int] | None = None
        for start in _gaps(buffer.words, [(a, b) for a, b, _ in live], machine):
            regions = range(start // machine.region_words, (start + buffer.words - 1) // machine.region_words + 1)
            disturbed = sum(
                other.name in buffer.avoid or buffer.name in other.avoid
                for a, b, other in live
                if a // machine.region_words in regions or (b - 1) // machine.region_words in regions
            )
            cost = (0 if buffer.packed else disturbed + 4 * (len(regions) > 1), start)
            if best is None or cost < best[0]:
                best = (cost, start)
        if best is None:
            return buffer
        placed[buffer.name] = (best[1], buffer)
    return {name: start for name, (start, _) in placed.items()}


def _gaps(words: int, used: list[tuple[int, int]], machine: MachineConfig) -> list[int]:
    """Return candidate first words: the start of each region and the end of each used range, where `words` fit."""
    starts = {r * machine.region_words for r in range(ACT_REGIONS)} | {end for _, end in used}
    return [
        s for s in sorted(starts) if s + words <= machine.act_words and all(s + words <= a or s >= b for a, b in used)
    ]


def folded(graph: QuantizedGraph) -> dict[str, QFold]:
    """Return the tensors that the load engine makes from the image, by name."""
    return {n.out: n for n in graph.nodes if isinstance(n, QFold)}
