"""The front end's fetch unit, its buffer and its decoder: kernels, one clock cycle each.

It asks the bus for the next block of the program whenever the buffer has room for a whole one. A beat of code leaves
the pipe `latency` cycles later; with a block's last beat its words can be dispatched.
"""

from typing import Any

import numpy as np

from npu_sim.kernel import inlined, kernel
from npu_sim.register.state import WORD_BYTES, Array, Dma, Front, copy

FETCHING = 2  # client of the bus, behind load and store
NOBODY = -1


@inlined
def asking(r: Any, f: Front) -> bool:
    """Return whether words are left to be fetched and the buffer has room for a whole block."""
    fetch, sizes = r["fetch"], r["sizes"]
    held = fetch["asked"] - r["front"]["pc"]
    return bool(fetch["asked"] < len(f.program) and held + sizes["fetch_words"] <= sizes["buffer_words"])


@inlined
def begin_block(r: Any, f: Front) -> None:
    """Point the bus to the next block, which is granted now: the last one has as many bursts as its words need."""
    fetch, sizes = r["fetch"], r["sizes"]
    words = min(sizes["fetch_words"], len(f.program) - fetch["asked"])
    fetch["asked"] += words
    r["bus"]["block_bursts"] = (words * WORD_BYTES + sizes["burst_bytes"] - 1) // sizes["burst_bytes"]


@kernel
def move_code(t: int, r: Any, f: Front, dma: Dma) -> None:
    """Move one beat of a block from the bus into the pipe; only the bytes of the program count."""
    fetch, sizes, bus = r["fetch"], r["sizes"], r["bus"]
    slot = t % sizes["latency"]
    beat = dma.beat[FETCHING, slot]
    beat["op"], beat["last"] = NOBODY, 0
    if bus["owner"] != FETCHING:
        return
    beat["op"], beat["dram"] = FETCHING, fetch["base"] + fetch["moved"]
    beat["count"] = max(min(sizes["bus_bytes"], len(f.program) * WORD_BYTES - fetch["moved"]), 0)
    copy(dma.data[FETCHING, slot], 0, dma.dram, beat["dram"], beat["count"])
    fetch["moved"] += sizes["bus_bytes"]
    fetch["until"] = t + sizes["latency"]
    if fetch["moved"] % sizes["burst_bytes"] == 0:
        bus["block_bursts"] -= 1
    if bus["block_bursts"] == 0:
        beat["last"] = 1
        bus["owner"] = NOBODY


@kernel
def code_arrives(t: int, r: Any, f: Front, dma: Dma) -> None:
    """Put the beat that leaves the pipe in this cycle into the buffer; with its last beat a block is there."""
    fetch, slot = r["fetch"], t % r["sizes"]["latency"]
    beat = dma.beat[FETCHING, slot]
    if beat["op"] != FETCHING:
        return
    copy(f.buffer, fetch["written"] % len(f.buffer), dma.data[FETCHING, slot], 0, beat["count"])
    fetch["written"] += beat["count"]
    if beat["last"]:
        fetch["there"] = fetch["written"] // WORD_BYTES


@inlined
def next_word(r: Any, f: Front) -> bool:
    """Return whether the next word is in the buffer; decode it."""
    pc, fetch = r["front"]["pc"], r["fetch"]
    if pc >= fetch["there"]:
        return False
    if fetch["decoded"] == pc:
        decode(pc, f)
        fetch["decoded"] = pc + 1
    return True


@kernel
def decode(pc: int, f: Front) -> None:
    """Decode a word of the buffer."""
    at = pc * WORD_BYTES % len(f.buffer)
    fields = f.fields[f.buffer[at]]
    for column in range(len(fields)):
        f.decoded[pc, column] = field(f.buffer, at, fields[column, 0], fields[column, 1], fields[column, 2])
    entries = f.entries[f.buffer[at]]
    for name in range(len(entries)):
        for i in range(f.table.shape[2]):
            low, width = entries[name, 0] + i * entries[name, 1], entries[name, 1]
            f.table[pc, name, i] = field(f.buffer, at, low, width, 0)


@kernel
def field(buffer: Array, at: int, low: int, width: int, signed: int) -> Any:
    """Return `width` bits of the word at a byte of the buffer, from bit `low` on; of no bits, `low`."""
    if width == 0:
        return low
    value: Any = 0
    for b in range(low // 8, (low + width + 7) // 8):
        value |= np.int64(buffer[at + b]) << 8 * (b - low // 8)
    value = value >> low % 8 & (1 << width) - 1
    return value - (1 << width) if signed and value >> width - 1 else value
