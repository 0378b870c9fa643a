"""Layouts of the blocks in weight and parameter memory (MICROARCHITECTURE.md section 3), packed and unpacked.

The register-level model, the RTL and the naive models of the tests read blocks by code of their own: twins on purpose.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from npu_isa.isa.tables import RAW, TIMING
from npu_isa.machine.config import WORD_BYTES, MachineConfig

U8 = NDArray[np.uint8]
Ints = NDArray[Any]
Count = TypeVar("Count", int, Ints)

TAPS_PER_ROW = 4  # depthwise weights, a byte each, in a parameter row
HEAD_ROWS: int = TIMING["param_rows"]  # bias | multiplier and shift | second multiplier
MULTIPLIER_BITS, SHIFT_AT, SHIFT_MASK = 16, 16, 0x3F  # multipliers are two's complement
TABLE_BYTES: int = RAW["table_bytes"]


def position_words(machine: MachineConfig) -> int:
    """Return the 16-byte words of one place's s_wgt row: 4 bits per column, even columns in the low half-byte."""
    return -(-machine.array_cols // (2 * WORD_BYTES))


def weight_block_words(machine: MachineConfig, places: Count, taps: Count) -> Count:
    """Return the words of a conv's weight block: the s_wgt rows, then [place][tap][16 channels][columns] bytes.

    Counts are numbers, or arrays of them.
    """
    words: Count = places * (position_words(machine) + taps * machine.array_cols)
    return words


class WeightBlock(NamedTuple):
    """What a weight block holds.

    Attributes:
        shifts: s_wgt, uint8 (places, columns).
        weights: int8 (places, taps, 16 channels, columns).
    """

    shifts: Ints
    weights: Ints


def pack_weights(block: WeightBlock, machine: MachineConfig) -> U8:
    """Return the bytes of a weight block, uint8 (words x 16,)."""
    places, cols = block.shifts.shape
    nibbles = np.zeros((places, 2 * WORD_BYTES * position_words(machine)), np.uint8)
    nibbles[:, :cols] = block.shifts
    head = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
    body = np.ascontiguousarray(block.weights, np.int8).reshape(-1).view(np.uint8)
    return np.concatenate([head.reshape(-1), body])


def unpack_weights(data: U8, machine: MachineConfig, places: int, taps: int) -> WeightBlock:
    """Return what the bytes of a weight block hold."""
    shifts = unpack_positions(data, machine, places)
    head = places * position_words(machine) * WORD_BYTES
    body = data[head:].view(np.int8)
    return WeightBlock(shifts, body.reshape(places, taps, WORD_BYTES, machine.array_cols))


def unpack_positions(data: U8, machine: MachineConfig, places: int) -> U8:
    """Return s_wgt of each place and column, uint8 (places, columns), from the beginning of a weight block."""
    codes = data[: places * position_words(machine) * WORD_BYTES].reshape(places, -1)
    return np.stack([codes & 15, codes >> 4], axis=-1).reshape(places, -1)[:, : machine.array_cols]


def param_block_rows(taps: Count) -> Count:
    """Return the rows of a parameter block: bias, multiplier and shift, second multiplier, then 4 weight taps each."""
    return TIMING["param_rows"] + -(-taps // TAPS_PER_ROW)


class ParamBlock(NamedTuple):
    """What a parameter block holds; arrays have shape (..., lanes).

    Attributes:
        bias: int32 range.
        mult, shift, mult2: first multiplier, its shift, second multiplier (residual or below zero); multipliers are
            -32767..32767.
        taps: depthwise weights, int8 (..., taps, lanes).
    """

    bias: Ints
    mult: Ints
    shift: Ints
    mult2: Ints
    taps: Ints


def pack_params(block: ParamBlock) -> NDArray[np.uint32]:
    """Return the rows of a parameter block, uint32 (..., rows, lanes), a little-endian number of 4 bytes per lane."""
    taps = np.asarray(block.taps, np.int8)
    padded = np.zeros((*taps.shape[:-2], -(-taps.shape[-2] // TAPS_PER_ROW) * TAPS_PER_ROW, taps.shape[-1]), np.int8)
    padded[..., : taps.shape[-2], :] = taps
    quads = padded.view(np.uint8).reshape(*taps.shape[:-2], -1, TAPS_PER_ROW, taps.shape[-1]).astype("<u4")
    tail = sum(quads[..., k, :] << 8 * k for k in range(TAPS_PER_ROW))
    mult, second = (np.asarray(m).astype("<i2").view("<u2").astype("<u4") for m in (block.mult, block.mult2))
    scale = mult | np.asarray(block.shift).astype("<u4") << SHIFT_AT
    head = np.stack([np.asarray(block.bias).astype("<i4").view("<u4"), scale, second], axis=-2)
    return np.concatenate([head, np.asarray(tail, "<u4")], axis=-2)


def unpack_params(rows: Ints, taps: int) -> ParamBlock:
    """Return what parameter rows, uint32 (..., rows, lanes), hold; `taps` depthwise weights."""
    rows = np.asarray(rows, "<u4")
    scale, second = rows[..., 1, :].astype(np.int64), rows[..., 2, :].astype(np.int64)
    quads = [(rows[..., HEAD_ROWS:, :] >> 8 * k & 0xFF).astype(np.uint8).view(np.int8) for k in range(TAPS_PER_ROW)]
    weights = np.stack(quads, axis=-2)  # (..., row, tap of the row, lane)
    weights = weights.reshape(*weights.shape[:-3], -1, weights.shape[-1])[..., :taps, :]
    return ParamBlock(
        bias=rows[..., 0, :].view("<i4").astype(np.int64),
        mult=_multiplier(scale),
        shift=scale >> SHIFT_AT & SHIFT_MASK,
        mult2=_multiplier(second),
        taps=weights,
    )


def _multiplier(words: Ints) -> Ints:
    """Return the multipliers in the low bits of parameter words."""
    bits = words & ((1 << MULTIPLIER_BITS) - 1)
    return np.asarray(bits - ((bits >> (MULTIPLIER_BITS - 1)) << MULTIPLIER_BITS))


def table_rows(machine: MachineConfig) -> int:
    """Return the rows of parameter memory that a table takes, from the beginning of the first one on."""
    return -(-TABLE_BYTES // (4 * machine.array_cols))


def pack_table(table: U8, machine: MachineConfig) -> U8:
    """Return the bytes of whole parameter rows that hold a table, uint8 (256,), and zeros behind it."""
    rows = np.zeros(table_rows(machine) * 4 * machine.array_cols, np.uint8)
    rows[:TABLE_BYTES] = table
    return rows
