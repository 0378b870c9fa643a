"""Where operands lie while a strip is worked on, and the operands of the instructions that bring and take them."""

from dataclasses import dataclass

from npu_isa.machine.config import WORD_BYTES

from npu_compiler.backend.memory import Pitch, words_per_pixel
from npu_compiler.backend.plan import NodePlan, Plan
from npu_compiler.backend.strips import Strip, sliced_words, source_columns
from npu_compiler.backend.tiles import input_axes, input_span, shared
from npu_compiler.qgraph.ir import QFold


@dataclass(frozen=True)
class Operand:
    """Where an operand lies in the activation memory.

    Attributes:
        base: word of pixel (row0, columns.start), word `first` of the pixel.
        row0: first row there.
        columns: pixel columns there.
        first, words: words of each pixel that are there.
        pitch: words from a pixel, and from a row, to the next.
    """

    base: int
    row0: int
    columns: range
    first: int
    words: int
    pitch: Pitch

    def address(self, y: int, x: int, word: int) -> int:
        """Return the word address of a pixel's word; below 0 for pixels far enough before those there."""
        at = self.base + word - self.first
        return at + (y - self.row0) * self.pitch.row + (x - self.columns.start) * self.pitch.pixel

    def origin(self, word: int) -> tuple[int, int]:
        """Return the address that a word of pixel (row, 0) has or would have, and that row: the first one from 0 on.

        Conv and vec count addresses from such a pixel; they read those that are there only.
        """
        at = self.address(self.row0, 0, word)
        rows = max(0, -(at // self.pitch.row))
        return at + rows * self.pitch.row, self.row0 + rows


def operand(plan: Plan, n: NodePlan, role: str, name: str, index: int, strip: Strip) -> Operand:
    """Return where an operand of a node lies during its strip of this index."""
    tensor, view, pitch, moved = plan.graph.tensors[name], plan.views[name], n.pitches[role], n.moved.get(role)
    words = words_per_pixel(tensor)
    if moved is None:
        root = plan.pitches[view.root]
        base = plan.address[view.root] + view.place.y * root.row + view.place.x * root.pixel + view.word
        return Operand(base, 0, range(tensor.width), 0, words, pitch)
    first = 0
    if moved.sliced:
        first, end = (sliced_words(tensor, c, plan.machine) for c in (strip.columns.start, strip.columns.stop))
        words = end - first
    row0, columns = shared(strip.y, tensor.height).start, shared(strip.x, tensor.width)
    if role == "src":
        rows, cols = input_axes(n.node, tensor, plan.graph.tensors[n.node.out])
        row0, columns = input_span(rows, strip.y)[0], source_columns(cols, strip.x)
    return Operand(plan.address[moved.buffers[index % len(moved.buffers)]], row0, columns, first, words, pitch)


def first_word(channel: int, bits: int) -> int:
    """Return the word of a pixel in which a channel begins."""
    return channel // WORD_BYTES * bits // 8


def fold(plan: Plan, node: QFold, image: int, to: Operand, rows: range) -> dict[str, int]:
    """Return the operands of a fold of some output rows and the columns of a strip; `image` is its DRAM address."""
    src, w = plan.graph.tensors[node.src], node.window
    return {
        "dram_addr": image,
        "in_h": src.height,
        "in_w": src.width,
        "channels": src.channels,
        "kernel_h": w.kernel[0],
        "kernel_w": w.kernel[1],
        "stride_y": w.stride[0],
        "stride_x": w.stride[1],
        "pad_top": w.pad_top,
        "pad_left": w.pad_left - to.columns.start * w.stride[1],
        "out_y": rows.start,
        "rows": len(rows),
        "cols": len(to.columns),
        "addr": to.address(rows.start, to.columns.start, 0),
        "row_pitch": to.pitch.row,
        "pixel_pitch": to.pitch.pixel,
    }


def move(plan: Plan, name: str, root: int, at: Operand, rows: range) -> dict[str, int]:
    """Return the operands that a load and a store of some rows of a strip share; whole rows are one run if dense.

    Args:
        plan: the schedule.
        name: the tensor.
        root: DRAM address of its root, pixel after pixel without a gap.
        at: where the strip lies.
        rows: of the tensor.
    """
    view = plan.views[name]
    whole = plan.graph.tensors[view.root]
    pixel = words_per_pixel(whole) * WORD_BYTES
    first = root + (view.place.y * whole.width + view.place.x) * pixel
    row, pixel = view.place.step_y * whole.width * pixel, view.place.step_x * pixel  # of the view
    width, run = len(at.columns), at.words * WORD_BYTES
    dense = run == pixel == at.pitch.pixel * WORD_BYTES
    return {
        "dram_addr": first + rows.start * row + at.columns.start * pixel + (view.word + at.first) * WORD_BYTES,
        "rows": len(rows),
        "cols": 1 if dense else width,
        "run": width * run if dense else run,
        "dram_row_pitch": row,
        "dram_col_pitch": 0 if dense else pixel,
        "addr": at.address(rows.start, at.columns.start, at.first),
        "row_pitch": at.pitch.row,
        "col_pitch": 0 if dense else at.pitch.pixel,
    }
