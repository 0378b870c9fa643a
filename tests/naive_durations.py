"""How long operations work, from isa_spec/MICROARCHITECTURE.md section 4 by plain enumeration; for `naive_timing`."""

from collections import Counter
from itertools import pairwise

from npu_isa.isa.ops import Conv, Fold, Load, Source, Store, Vec
from npu_isa.machine.config import MachineConfig

GROUP = 16
BLOCK_BYTES = 1024


def chunks(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def bank_cycles(words: list[int], banks: int) -> int:
    """Return the cycles in which the banks deliver some words: a word that is wanted twice is read once."""
    return max(Counter(word % banks for word in set(words)).values())


def passes(op: Conv, boundary: int, machine: MachineConfig) -> list[int]:
    """Return the cycles per pixel of each pass of a conv, at a boundary in groups."""
    g = op.geom
    low = [place for place in range(op.group_count) if op.group_first + place < boundary]
    high = [place for place in range(op.group_count) if op.group_first + place >= boundary]

    def entries(places: list[int]) -> list[int]:
        """Word offsets of the (tap, group) list."""
        taps = [(ky, kx) for ky in range(g.kernel_h) for kx in range(g.kernel_w)]
        if g.tap_fastest:
            pairs = [(tap, place) for place in places for tap in taps]
        else:
            pairs = [(tap, place) for tap in taps for place in places]
        return [
            ky * g.dilation_y * g.row_pitch + kx * g.dilation_x * g.pixel_pitch + op.groups[place]
            for (ky, kx), place in pairs
        ]

    rows = machine.array_rows
    channels_4bit, channels_8bit = 2 * rows, rows  # of a pass
    found = []
    for places, channels in ((low, channels_4bit), (high, channels_8bit)):
        part = min(channels, GROUP if places is low else GROUP // 2)  # channels that stand in one segment
        parts = [word for word in entries(places) for _ in range(GROUP // part)]
        found += [bank_cycles(words, machine.act_banks) for words in chunks(parts, channels // part)]
    return found


def vec_script(op: Vec, machine: MachineConfig) -> list[str]:
    """Return one entry per cycle in which a vec issues: parameter rows, then pixels."""
    g = op.geom
    weight_rows = -(-g.kernel_h * g.kernel_w // 4) if g.source == Source.MAC else 0
    pixel = ["accumulator row"]
    if g.source != Source.ACC:
        pixel = []
        for _ in range(g.kernel_h):
            for taps in chunks(list(range(g.kernel_w)), machine.vector_taps):
                words = [kx * g.dilation_x * g.pixel_pitch + i for kx in taps for i in range(op.words)]
                pixel += ["taps"] * bank_cycles(words, machine.act_banks)
        pixel += ["residual"] * g.residual
    pixel += ["high bytes"] * g.wide
    return ["parameters"] * (3 + weight_rows) + pixel * (op.tile_h * op.tile_w)


def table_cycles(machine: MachineConfig) -> int:
    """Return the cycles in which the rows of a table are read, each as wide as the array has columns."""
    return len(chunks(list(range(256)), 4 * machine.array_cols))


def blocks(op: Load | Fold | Store, boundary: int, machine: MachineConfig) -> list[int]:
    """Return the bus cycles of each block that a transfer asks for.

    A run is widened to whole bursts.
    """
    burst = machine.dram_burst_bytes
    bursts = sum((end - 1) // burst - start // burst + 1 for start, end in runs(op, boundary))
    part = chunks([burst] * bursts, BLOCK_BYTES // burst)
    return [-(-sum(block) // machine.dram_bytes_per_cycle) for block in part]


def code_cycles(words: int, machine: MachineConfig) -> int:
    """Return the bus cycles of some words of the program, from the beginning of a burst on."""
    bursts = {byte // machine.dram_burst_bytes for byte in range(32 * words)}
    return len(bursts) * machine.dram_burst_bytes // machine.dram_bytes_per_cycle


def runs(op: Load | Fold | Store, boundary: int) -> list[tuple[int, int]]:
    """Return the runs of DRAM bytes of a transfer, [first, end), in its order."""
    if isinstance(op, Fold):
        first, last = op.image_rows
        line = op.in_w * op.channels
        return [(op.dram_addr + first * line, op.dram_addr + last * line)] if last > first else []
    start = op.dram_addr
    if isinstance(op, Load) and op.indexed:
        start += boundary * op.table_pitch
    lines = []
    for r in range(op.rows):
        at = [start + r * op.dram_row_pitch + c * op.dram_col_pitch for c in range(op.cols)]
        lines.append(joined([(first, first + op.run) for first in at]))
    if all(len(line) == 1 for line in lines):
        return joined([line[0] for line in lines])
    return [run for line in lines for run in line]


def joined(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return one run if all parts follow each other without a gap, else the parts."""
    whole = all(a[1] == b[0] for a, b in pairwise(parts))
    return [(parts[0][0], parts[-1][1])] if whole else parts


def fold_beats(op: Fold, machine: MachineConfig) -> list[int]:
    """Return how many bus cycles of a fold must be over, or under way, before each of its pixels is made."""
    read = runs(op, 255)
    first = read[0][0] // machine.dram_burst_bytes * machine.dram_burst_bytes if read else 0
    found = []
    for y in range(op.out_y, op.out_y + op.rows):
        for x in range(op.cols):
            rows = [y * op.stride_y - op.pad_top + ky for ky in range(op.kernel_h)]
            cols = [x * op.stride_x - op.pad_left + kx for kx in range(op.kernel_w)]
            pixels = [(r, c) for r in rows for c in cols if 0 <= r < op.in_h and 0 <= c < op.in_w]
            last = [op.dram_addr + (r * op.in_w + c + 1) * op.channels - 1 for r, c in pixels]
            found.append(max(((at - first) // machine.dram_bytes_per_cycle + 1 for at in last), default=0))
    return found
