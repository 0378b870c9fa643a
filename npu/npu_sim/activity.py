"""What each instruction does, counted: one table that counters and reports read, and from which energy follows.

Counts are those of the machine as the pages describe it: what is addressed, padding and unused rows included; no count
depends on data. A word is 16 bytes; rows of parameters are 4 bytes a lane, those of accumulators int32 a column.
"""

from typing import Any

import numpy as np
from npu_isa.isa.ops import Conv, Memory, Source
from npu_isa.isa.resolve import Ops
from npu_isa.machine import timing as rules
from npu_isa.machine.blocks import param_block_rows, table_rows, weight_block_words
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.footprint import fold_words, load_unit, vec_words
from numpy.typing import NDArray

Array = NDArray[Any]

# int64 each; what is not listed for a kind of instruction is 0
ACTIVITY = np.dtype(
    [
        (name, np.int64)
        for name in (
            "passes",  # conv
            "stream_cycles",  # conv: a cycle per pixel and pass
            "bank_cycles",  # conv: more by bank conflicts
            "short_cycles",  # conv: waits between its passes for weights
            "macs8",  # conv: multiplications of all PEs in 8-bit passes, of zeros too
            "macs4",  # the same in 4-bit passes, two a PE and cycle
            "act_reads",  # activation words: conv and vec windows and residuals, store
            "act_writes",  # vec, fold, load
            "weight_reads",  # words: conv
            "weight_writes",  # load
            "param_reads",  # rows: vec, table
            "param_writes",  # load
            "acc_reads",  # rows: vec, conv that adds
            "acc_writes",  # conv
            "table_reads",  # lookups of a byte: vec, a lane and pixel each
            "table_writes",  # rows of parameters, to the copies of all lanes: table
            "dram_bursts",  # load, fold, store
        )
    ]
)
# what an engine spends its cycles on: MICROARCHITECTURE.md section 5
CAUSES = (
    *("stream", "bank", "busy", "setup", "weights", "dram", "port"),
    *("token_load", "token_matrix", "token_vector", "token_store"),
    *("token_full", "drain", "fetch", "queue", "idle"),
)
WORK = ("macs8", "macs4", *(n for n in ACTIVITY.names or () if n.endswith(("_reads", "_writes"))))


def fixed_activity(ops: Ops, machine: MachineConfig) -> Array:
    """Return the activity that no boundary changes, ACTIVITY (operations,): all but convs and DRAM bursts."""
    found = np.zeros(len(ops), ACTIVITY)
    vec, load, fold, store = ops.vec, ops.load, ops.fold, ops.store
    at, pixels, words = vec["index"], vec["tile_h"] * vec["tile_w"], vec_words(vec)
    window = vec["source"] != Source.ACC
    taps = vec["kernel_h"] * vec["kernel_w"]
    found["act_reads"][at] = pixels * words * (np.where(window, taps, 0) + vec["residual"])
    found["act_writes"][at] = pixels * words * (1 + vec["wide"])
    found["param_reads"][at] = param_block_rows(np.where(vec["source"] == Source.MAC, taps, 0))
    found["acc_reads"][at] = np.where(window, 0, pixels)
    found["table_reads"][at] = pixels * vec["lanes"] * vec["table"]
    for name in ("param_reads", "table_writes"):
        found[name][ops.table["index"]] = table_rows(machine)
    at, runs = load["index"], load["rows"] * load["cols"]
    words = -(-load["run"] // load_unit(load["memory"], machine))
    for memory, name in ((Memory.ACT, "act"), (Memory.WEIGHT, "weight"), (Memory.PARAM, "param")):
        found[f"{name}_writes"][at] = np.where(load["memory"] == memory, runs * words, 0)
    found["act_writes"][fold["index"]] = fold["rows"] * fold["cols"] * fold_words(fold)
    found["act_reads"][store["index"]] = store["rows"] * store["cols"] * -(-store["run"] // WORD_BYTES)
    return found


def conv_activity(op: Conv, boundary: int, machine: MachineConfig) -> tuple[int, ...]:
    """Return the activity of a conv at a boundary, a row of ACTIVITY."""
    factors, words = rules.conv_passes(op, boundary, machine), rules.conv_pass_words(op, boundary, machine)
    count, pixels = len(factors), op.pixels
    low = rules.low_passes(op, boundary, machine)
    pes = machine.array_rows * machine.array_cols
    gaps = sum(max(rules.pass_interval(pixels, k, machine) - pixels * k, 0) for k in factors[:-1])
    row = dict.fromkeys(ACTIVITY.names or (), 0) | {
        "passes": count,
        "stream_cycles": pixels * count,
        "bank_cycles": pixels * (sum(factors) - count),
        "short_cycles": gaps,
        "macs8": pixels * (count - low) * pes,
        "macs4": pixels * low * 2 * pes,
        "act_reads": pixels * sum(words),
        "weight_reads": weight_block_words(machine, op.group_count, op.taps),
        "acc_reads": pixels * (count - 1 + op.accumulate),
        "acc_writes": pixels * count,
    }
    return tuple(row.values())
