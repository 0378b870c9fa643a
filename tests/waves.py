"""What stands in the registers of the register-level machine, cycle by cycle, as text."""

from collections.abc import Sequence

import numpy as np
from npu_isa.machine.config import MachineConfig
from npu_runtime.verification.models import Workload
from npu_sim.register import clock, state
from npu_sim.register.machine import _flush
from npu_sim.register.power import power_up

WIDTH = 5  # least characters of a cycle
VECTOR_STAGES = {  # registers behind the stages of the vector engine, the first behind the second cycle of a slot
    "sum": state.SUM1,
    "biased": state.BIASED,
    "multiplied": state.PRODUCT,
    "added": state.ADDED,
    "clamped": state.CLAMPED,
    "looked up": state.RESULT,
}
Signals = dict[str, dict[int, str]]  # name to cycle to what stands there


def record(work: Workload, boundaries: Sequence[int], image: np.ndarray, first: int, end: int) -> Signals:
    """Clock a program and return what the registers hold in the cycles first..end - 1."""
    memory = work.constants, work.dram_bytes, image, work.input_address
    m = power_up(work.instructions, work.machine, boundaries, *memory)
    pixels: dict[int, int] = {}  # cycle in which a pixel was complete to its number
    seen: Signals = {}

    def note(name: str, t: int, value: object) -> None:
        seen.setdefault(name, {})[t] = "" if value is None else str(value)

    for t in range(end):
        held = registers(m, work.machine, t, pixels)
        status, _ = clock.run_clock(m, _flush(m), t, t + 1)
        if status == clock.HALTED:
            break
        wires(m, t, pixels, held)
        for name, value in held.items() if t >= first else ():
            note(name, t, value)
    return seen


def registers(m: state.Machine, machine: MachineConfig, t: int, pixels: dict[int, int]) -> dict[str, object]:
    """Return what the registers hold before the clock edge of cycle t; None where no pixel is."""
    r, pe, lanes = m.registers[0], m.pe, m.vector.lanes
    rows, cols, head, old = machine.array_rows, machine.array_cols, int(r["wave"]["head"]), t & 1
    short = min(8, rows)
    assert rows <= 8, "the drawings are of one segment"
    held: dict[str, object] = {f"shadow {i},0": f"{pe.shadow[i * cols] & 255:02x}" for i in range(rows)}
    held |= {f"weight {i},0": weight(pe, i * cols) for i in range(rows)}
    for i in range(rows):
        for c in range(cols):
            here = t - 3 - i - c in pixels
            held[f"act {i},{c}"] = act(pe, head + i * cols + c, rows * cols, r) if here else None
    for c in range(cols):
        here = t - 3 - short - c in pixels
        held[f"psum {c}"] = int(pe.psum[old, cols + (rows - 1) * cols + c]) if here else None
        held[f"total {c}"] = int(pe.total[old, cols + c]) if t - 4 - short - c in pixels else None
        row = int(pe.control[head + c + 2])
        held[f"write {c}"] = f"{row}:{pe.stage[2, c]}" if row < 2 * machine.acc_rows else None
    for back, (name, row) in zip((2, 3, 4, 5, 6, 7), VECTOR_STAGES.items(), strict=True):
        control = r["control"][(t - back) % state.CONTROL_RING]
        row_of_table = f"T{control['row'] - 1}" if control["row"] and name != "looked up" else None
        held[name] = int(lanes[row, 0]) if control["go"] else row_of_table
    return held


def weight(pe: state.Pe, x: int) -> str:
    """Return a processing element's active weights; the second is 0 in 8-bit form."""
    even, odd = int(pe.weight[0, x]), int(pe.weight[1, x])
    return f"{even},{odd}" if odd else str(even)


def act(pe: state.Pe, x: int, count: int, r: np.void) -> str:
    """Return a processing element's activation: a value, or two codes while 4-bit pixels are in the array."""
    return f"{pe.act[x]},{pe.act[x + count]}" if r["wave"]["odd"] else str(pe.act[x])


def wires(m: state.Machine, t: int, pixels: dict[int, int], held: dict[str, object]) -> None:
    """Add what is addressed in cycle t."""
    r = m.registers[0]
    pixel, read = r["pixel"][t % state.PIXEL_RING], r["read"]
    if r["wave"]["load"] == t + 3:
        rows = [int(row) for row in m.matrix.fetch[0]["row"] if row >= 0]
        held["row"] = "-".join(map(str, sorted({rows[0], rows[-1]})))
    else:
        held["row"] = None
    held["pixel"] = None
    if pixel["go"]:
        pixels[t] = int(pixel["row"])
        held["pixel"] = pixels[t]
    held["slot"] = None
    if read["param"] >= 0:
        held["slot"] = f"{'T' if read['raw'] else 'P'}{read['index']}"
    elif read["acc_row"] >= 0:
        held["slot"] = int(read["acc_row"])
    elif read["taps"]:
        held["slot"] = f"t{read['tap']}"
    elif read["residual"] >= 0:
        held["slot"] = "res"
    control = r["control"][(t - 7) % state.CONTROL_RING]
    held["out"] = int(control["out"]) if control["go"] else None


def draw(seen: Signals, lines: Sequence[tuple[str, str]], first: int, end: int) -> str:
    """Return a drawing: a line of cycles, then a line for each (title, signal)."""
    rows = [("cycle", [str(t) for t in range(first, end)])]
    rows += [(title, [seen.get(s, {}).get(t) or "." for t in range(first, end)]) for title, s in lines]
    margin = max(len(title) for title, _ in rows) + 1
    width = max(WIDTH, 1 + max(len(cell) for _, cells in rows for cell in cells))
    return "".join(
        (title.ljust(margin) + "".join(c.rjust(width) for c in cells)).rstrip() + "\n" for title, cells in rows
    )
