"""The constants of a binary: weight blocks, parameter blocks and bias tables, as the machine reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from npu_isa.machine.blocks import position_words
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from numpy.typing import NDArray

from npu_compiler.backend.memory import group_order
from npu_compiler.backend.plan import NodePlan, Plan
from npu_compiler.qgraph.ir import GROUP, Epilogue, QConv, QWindow

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
    """

    weights: Mapping[tuple[int, int], tuple[int, int]]
    bias: int
    params: int
    rows: int


def pack(plan: Plan) -> tuple[U8, dict[str, NodeConstants]]:
    """Return the constants segment and where each node's constants lie in it."""
    pieces: list[bytes] = []
    size = 0

    def put(data: bytes) -> int:
        nonlocal size
        at = size
        padded = data + bytes(-len(data) % ALIGN)
        pieces.append(padded)
        size += len(padded)
        return at

    found = {}
    for node_plan in plan.nodes:
        weights = {}
        if isinstance(node_plan.node, QConv):
            for key, block in weight_blocks(plan, node_plan, node_plan.node).items():
                weights[key] = (put(block.tobytes()), block.size // WORD_BYTES)
        bias, params = param_rows(node_plan.node, node_plan.tiling.columns, plan.machine)
        found[node_plan.node.name] = NodeConstants(
            weights, put(bias.tobytes()), put(params.tobytes()), 1 + params.shape[1]
        )
    return np.frombuffer(b"".join(pieces), dtype=np.uint8), found


def weight_blocks(plan: Plan, node_plan: NodePlan, node: QConv) -> dict[tuple[int, int], U8]:
    """Return the weight block of each (column tile, first place) as bytes."""
    machine, tiling = plan.machine, node_plan.tiling
    order = list(group_order(node, plan.graph.tensors[node.src]))
    cols, count = machine.array_cols, tiling.columns
    out_channels, kh, kw, in_channels = node.weight.shape
    weight = np.zeros((count * cols, kh * kw, in_channels // GROUP, GROUP), np.int8)
    weight[:out_channels] = node.weight.reshape(out_channels, kh * kw, -1, GROUP)
    # [column tile][place][tap][16 channels][columns]
    tiles = weight.reshape(count, cols, kh * kw, -1, GROUP)[:, :, :, order].transpose(0, 3, 2, 4, 1)
    shifts = np.zeros((len(order), count * cols), np.uint8)
    if node.lowering is not None:
        shifts[:, :out_channels] = node.lowering.wgt_shift
    nibbles = np.zeros((len(order), count, position_words(machine) * 2 * WORD_BYTES), np.uint8)
    nibbles[:, :, :cols] = shifts.reshape(len(order), count, cols)
    packed = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    blocks = {}
    for column in range(count):
        for first in range(0, len(order), tiling.places):
            span = slice(first, first + tiling.places)
            head = packed[span, column].reshape(-1)
            body = np.ascontiguousarray(tiles[column, span]).reshape(-1).view(np.uint8)
            blocks[column, first] = np.concatenate([head, body])
    return blocks


def param_rows(
    node: QConv | QWindow, columns: int, machine: MachineConfig
) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Return a node's parameter rows for its column tiles.

    Returns:
        bias rows, int32, shape (boundaries, column tiles, columns); the other rows, uint32, shape (column tiles,
        rows, columns): multiplier and shift, second multiplier, depthwise weights of 4 taps each.
    """
    lanes = columns * machine.array_cols
    e: Epilogue = node.epilogue
    lowering = node.lowering if isinstance(node, QConv) else None
    table = lowering.bias_rows if lowering is not None else e.bias[None]
    bias = np.zeros((len(table), lanes), np.int32)
    bias[:, : table.shape[1]] = table
    rows: list[NDArray[Any]] = [_lanes(e.mult, lanes) | _lanes(e.shift, lanes, fill=1) << 16]
    rows.append(_lanes(e.mult2, lanes) if e.mult2 is not None else np.zeros(lanes, np.uint32))
    if isinstance(node, QWindow) and node.weight is not None:
        taps = node.weight.reshape(len(node.weight), -1)
        padded = np.zeros((lanes, -(-taps.shape[1] // 4) * 4), np.int8)
        padded[: taps.shape[0], : taps.shape[1]] = taps
        rows += list(np.ascontiguousarray(padded).view("<u4").T)
    stacked = np.stack(rows).astype("<u4")
    by_tile = stacked.reshape(len(rows), columns, machine.array_cols).transpose(1, 0, 2)
    return bias.reshape(-1, columns, machine.array_cols), np.ascontiguousarray(by_tile)


def _lanes(values: NDArray[np.int32], lanes: int, fill: int = 0) -> NDArray[np.uint32]:
    found = np.full(lanes, fill, np.uint32)
    found[: len(values)] = values
    return found
