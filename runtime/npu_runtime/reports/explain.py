"""Why a binary takes the cycles it takes: what 4 bits could save, what they saved, and where the rest is."""

from dataclasses import dataclass, replace
from typing import Any

from npu_sim.counters import MatrixUse, engine_rows, ideal_cycles, matrix_use, spent

from npu_runtime.reports.cycles import report
from npu_runtime.reports.tables import Row
from npu_runtime.session.hosting import host_summary
from npu_runtime.session.session import Session

TOP_LAYERS = 5
PARTS = ("useful", "padding", "bank", "weights", "waiting")
MEANING = {
    "useful": "multiplications of the model",
    "padding": "zeros: unused rows and columns of the array",
    "bank": "two words of a pass in one memory bank",
    "weights": "the array waits for the weights of its next pass",
    "waiting": "the array waits for other engines, or is done",
}
LESS = 2  # dram_latency_cycles is divided by this, every other field multiplied by its number
CHANGES = {
    "weight_rows_per_cycle": 2,
    "vector_taps": 3,
    "dram_bytes_per_cycle": 2,
    "dram_latency_cycles": LESS,
    "act_banks": 2,
    "queue_depth": 2,
    "token_depth": 2,
}


def use_of(session: Session, *, in_8bit: bool = False) -> MatrixUse:
    """Return where the PE-cycles of the matrix engine went at the session's ratio, or at 0 %."""
    timing = session.timing(session.all_8bit if in_8bit else None)
    matrix = next(r for r in engine_rows(timing, session.ops, spent(timing, session.ops)) if r.engine == "matrix")
    low = 0 if in_8bit else session.low_macs
    return matrix_use(session.binary.machine, matrix, matrix_macs(session) - low, low)


def matrix_macs(session: Session) -> int:
    """Return the multiply-accumulates of one image that the matrix engine does."""
    return sum(layer.macs for layer in session.binary.layers if layer.kind == "conv")


@dataclass(frozen=True)
class Speedup:
    """How much faster than in 8 bits, and how much faster it could be.

    Attributes:
        cycles8, cycles: of one inference at 0 % and at the session's ratio.
        real: cycles8 / cycles.
        ideal: the same for an array whose time is its multiply-accumulates: a 4-bit one takes half.
    """

    cycles8: int
    cycles: int
    real: float
    ideal: float


def speedup(session: Session) -> Speedup:
    """Return the speed-up of the session's ratio over 0 %."""
    macs, low = matrix_macs(session), session.low_macs
    cycles8, cycles = session.timing(session.all_8bit).total_cycles, session.timing().total_cycles
    return Speedup(cycles8, cycles, cycles8 / cycles, macs / (macs - low / 2) if macs else 1.0)


def where_it_went(session: Session) -> str:
    """Explain the session's ratio: cycles against the ideal, what held the array up, and the layers that cost most."""
    timing, binary = session.timing(), session.binary
    macs, low = matrix_macs(session), session.low_macs
    ideal = ideal_cycles(binary.machine, macs - low, low)
    gain = speedup(session)
    lines = [
        f"{session.effective_percent:.1f} % of the dial's multiply-accumulates in 4 bits"
        f" ({100 * low / max(macs, 1):.1f} % of the matrix engine's)",
        f"{timing.total_cycles:,} cycles = {session.latency_us():,.2f} us; an array that never stood still and never "
        f"multiplied padding would take {ideal:,.0f}",
        f"speed-up over 8 bits {gain.real:.2f} x, of {gain.ideal:.2f} x that the 4-bit share allows",
        "",
        "what the array did          share    cycles   at 0 %",
    ]
    use, before = use_of(session), use_of(session, in_8bit=True)
    for part in PARTS:
        now, then = (getattr(u, part) / u.total * total for u, total in ((use, gain.cycles), (before, gain.cycles8)))
        lines.append(f"  {part:<10}{now / gain.cycles:>21.1%}{now:>10,.0f}{then:>9,.0f}   {MEANING[part]}")
    return "\n".join([*lines, *_top_layers(session), *_help_lines(session)]) + "\n" + without_host(session)


def without_host(session: Session) -> str:
    """Return a line that says what the host does, in no cycle of a report; "" where it does nothing."""
    host = host_summary(session.binary)
    return f"not in these cycles, on the host: {host}\n" if host else ""


def _top_layers(session: Session) -> list[str]:
    """Name the layers that lose most against their ideal, what held each up, and what would help."""
    rows = sorted(report(session, "layer").rows, key=lambda r: r["ideal_cycles"] - r["cycles"])[:TOP_LAYERS]
    width = max(len(row["layer"]) for row in rows)
    lines = ["", f"{'layers that lose most':<{width + 2}}   cycles    ideal   mostly"]
    for row in rows:
        lines.append(f"  {row['layer']:<{width}}{row['cycles']:>9,}{row['ideal_cycles']:>9,.0f}   {_main_cause(row)}")
    return lines


def what_would_help(session: Session) -> list[tuple[str, int, int, int]]:
    """Time the same program on machines that differ in one field.

    Returns:
        (field, its value, the value tried, cycles then) of each change that helps, best first. A new program for the
        new machine may do better still.
    """
    from npu_sim.fast.time.model import TimingModel

    machine, cycles = session.binary.machine, session.timing().total_cycles
    found = []
    for name, factor in CHANGES.items():
        now = int(getattr(machine, name))
        then = max(now // LESS, 1) if name == "dram_latency_cycles" else now * factor
        if name == "weight_rows_per_cycle" and machine.array_rows % then:
            continue
        changes: dict[str, Any] = {name: then}
        if name == "dram_bytes_per_cycle":
            changes["dram_burst_bytes"] = max(machine.dram_burst_bytes, then)
        other = TimingModel(session.ops, replace(machine, **changes)).simulate(session.boundaries).total_cycles
        found.append((name, now, then, other))
    return sorted((f for f in found if f[3] < cycles), key=lambda f: f[3])


def _help_lines(session: Session) -> list[str]:
    cycles = session.timing().total_cycles
    lines = ["", "the same program on a machine with one thing changed"]
    for name, now, then, other in what_would_help(session):
        lines.append(f"  {name} {now} -> {then}: {other:,} cycles ({100 * (cycles - other) / cycles:.1f} % fewer)")
    return lines if len(lines) > 2 else []


def _main_cause(row: Row) -> str:
    if row["kind"] == "window":
        return "vector"
    parts: dict[str, float] = {
        "padding": row["stream_cycles"] - row["ideal_cycles"],
        "bank": row["bank_cycles"],
        "weights": row["weights_cycles"],
        row["waits_for"]: row["waiting_cycles"],
    }
    return max(parts, key=lambda cause: (parts[cause], cause))
