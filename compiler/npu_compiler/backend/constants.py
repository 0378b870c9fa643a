"""The constants of a binary: weight blocks, parameter blocks and bias tables, as the machine reads them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from npu_isa.machine.blocks import (
    ParamBlock,
    WeightBlock,
    pack_params,
    pack_table,
    pack_weights,
    param_block_rows,
    table_rows,
    weight_block_words,
)
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from numpy.typing import NDArray

from npu_compiler.backend.memory import group_order
from npu_compiler.backend.plan import NodePlan, Plan
from npu_compiler.backend.tiles import taps_of
from npu_compiler.qgraph.ir import GROUP, Lookup, QConv, QWindow

ALIGN = 256
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class NodeConstants:
    """DRAM addresses (bytes) of one node's constants.

    Attributes:
        weights: address and words of the block of each (column tile, first place).
        bias: address of the bias rows: [boundary 0..groups][column tile][columns] int32 (one boundary without a dial).
        params: address of the other parameter rows: [column tile][rows][columns] of 4 bytes.
        rows: parameter rows of a block, the bias included.
        table: address of the table of a curve, in whole parameter rows; None without one.
    """

    weights: Mapping[tuple[int, int], tuple[int, int]]
    bias: int
    params: int
    rows: int
    table: int | None


def layout(plan: Plan) -> tuple[dict[str, NodeConstants], int]:
    """Return where each node's constants lie, and the bytes of all; no value of a weight is looked at."""
    machine, size = plan.machine, 0

    def put(nbytes: int) -> int:
        nonlocal size
        at = size
        size += -(-nbytes // ALIGN) * ALIGN
        return at

    found = {}
    for n in plan.nodes:
        kh, kw = n.node.window.kernel
        weights = {}
        for column, span in _chunks(plan, n):
            words = weight_block_words(machine, len(span), kh * kw)
            weights[column, span.start] = (put(words * WORD_BYTES), words)
        lowering = n.node.lowering if isinstance(n.node, QConv) else None
        row_bytes = 4 * machine.array_cols * n.tiling.columns
        rows = param_block_rows(taps_of(n.node))
        bias = put((1 if lowering is None else len(lowering.bias_rows)) * row_bytes)
        params = put((rows - 1) * row_bytes)
        looks_up = isinstance(n.node.epilogue.function, Lookup)
        table = put(table_rows(machine) * 4 * machine.array_cols) if looks_up else None
        found[n.node.name] = NodeConstants(weights, bias, params, rows, table)
    return found, size


def pack(plan: Plan) -> tuple[U8, dict[str, NodeConstants]]:
    """Return the constants segment and where each node's constants lie in it."""
    places, size = layout(plan)
    segment = np.zeros(size, np.uint8)

    def put(at: int, data: NDArray[np.generic]) -> None:
        segment[at : at + data.nbytes] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)

    for n in plan.nodes:
        at = places[n.node.name]
        for key, block in weight_blocks(plan, n):
            put(at.weights[key][0], block)
        bias, params = param_rows(n.node, n.tiling.columns, plan.machine)
        put(at.bias, bias)
        put(at.params, params)
        if isinstance(n.node.epilogue.function, Lookup):
            assert at.table is not None
            put(at.table, pack_table(n.node.epilogue.function.table, plan.machine))
    return segment, places


def _chunks(plan: Plan, n: NodePlan) -> Iterator[tuple[int, range]]:
    """Yield (column tile, places) of every weight block."""
    if isinstance(n.node, QConv):
        groups, places = plan.graph.tensors[n.node.src].groups, n.tiling.places
        for column in range(n.tiling.columns):
            for first in range(0, groups, places):
                yield column, range(first, min(first + places, groups))


def weight_blocks(plan: Plan, n: NodePlan) -> Iterator[tuple[tuple[int, int], U8]]:
    """Yield (column tile, first place) and the bytes of every weight block."""
    node, machine = n.node, plan.machine
    if not isinstance(node, QConv):
        return
    order = list(group_order(node, plan.graph.tensors[node.src]))
    cols, count = machine.array_cols, n.tiling.columns
    out_channels, kh, kw, in_channels = node.weight.shape
    weight = np.zeros((count * cols, kh * kw, in_channels // GROUP, GROUP), np.int8)
    weight[:out_channels] = node.weight.reshape(out_channels, kh * kw, -1, GROUP)
    # [column tile][place][tap][16 channels][columns]
    tiles = weight.reshape(count, cols, kh * kw, -1, GROUP)[:, :, :, order].transpose(0, 3, 2, 4, 1)
    shifts = np.zeros((len(order), count * cols), np.uint8)
    if node.lowering is not None:
        shifts[:, :out_channels] = node.lowering.wgt_shift
    by_column = shifts.reshape(len(order), count, cols)
    for column, span in _chunks(plan, n):
        at = slice(span.start, span.stop)
        yield (column, span.start), pack_weights(WeightBlock(by_column[at, column], tiles[column, at]), machine)


def param_rows(
    node: QConv | QWindow, columns: int, machine: MachineConfig
) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Return a node's parameter rows for its column tiles.

    Returns:
        bias rows, int32, shape (boundaries, column tiles, columns); the other rows, uint32, shape (column tiles,
        rows, columns): multiplier and shift, second multiplier, depthwise weights of 4 taps each.
    """

    def lanes(values: NDArray[np.generic], fill: int = 0) -> NDArray[np.int32]:
        """Return values of shape (..., out channels) as (..., column tiles, columns)."""
        found = np.full((*values.shape[:-1], columns * machine.array_cols), fill, np.int32)
        found[..., : values.shape[-1]] = values
        return found.reshape(*values.shape[:-1], columns, machine.array_cols)

    e = node.epilogue
    lowering = node.lowering if isinstance(node, QConv) else None
    bias = lanes(e.bias[None] if lowering is None else lowering.bias_rows)
    mult2 = lanes(np.zeros(0, np.int32) if e.mult2 is None else e.mult2)
    weight = node.weight if isinstance(node, QWindow) and node.weight is not None else np.zeros((0, 0, 0), np.int8)
    taps = lanes(weight.reshape(len(weight), taps_of(node)).T).swapaxes(0, 1)  # (column tiles, taps, columns)
    rows = pack_params(ParamBlock(bias[0], lanes(e.mult), lanes(e.shift, fill=1), mult2, taps))
    return bias, np.ascontiguousarray(rows[:, 1:])
