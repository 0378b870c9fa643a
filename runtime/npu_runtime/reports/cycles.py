"""Where the cycles go: tables by layer, engine and instruction."""

import numpy as np
from npu_isa.file.binary import LayerInfo
from npu_isa.isa.ops import Engine
from npu_isa.machine.config import MachineConfig
from npu_sim.activity import CAUSES, WORK
from npu_sim.counters import engine_rows, ideal_cycles, layer_cycles, spent

from npu_runtime.reports.tables import Row, Table
from npu_runtime.session.provenance import provenance
from npu_runtime.session.session import Session

REPORT_SCHEMA = "npu.report.{by}/2"


def report(session: Session, by: str) -> Table:
    """Return the cycle report of a session at its present boundaries.

    Args:
        session: the binary and its ratio.
        by: "layer", "engine" or "instruction".

    Returns:
        one row per layer (in program order), engine, or instruction. Cycles by cause add up exactly: asserted.
    """
    makers = {"layer": _by_layer, "engine": _by_engine, "instruction": _by_instruction}
    head = provenance(session) | {
        "effective_percent": f"{session.effective_percent:.2f}",
        "total_cycles": str(session.timing().total_cycles),
        "fetch_bytes": str(session.timing().fetch_bytes),
    }
    return Table(REPORT_SCHEMA.format(by=by), head, tuple(makers[by](session)), hidden=("onnx_nodes",))


def _by_layer(session: Session) -> list[Row]:
    timing, binary = session.timing(), session.binary
    own = layer_cycles(timing, binary.layer_of, len(binary.layers))
    by_cause = spent(timing, session.ops)
    layer_of = binary.layer_of[: len(timing.table)]
    engine_of = np.array([op.engine for op in session.ops[: len(timing.table)]])
    low = session.layer_low_macs
    rows = []
    for i, layer in enumerate(binary.layers):
        mine = layer_of == i
        causes = dict(zip(CAUSES, by_cause[mine & (engine_of == Engine.MATRIX)].sum(axis=0).tolist(), strict=True))
        waits = {k: v for k, v in causes.items() if k not in ("stream", "bank", "weights")}
        rows.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "boundary_groups": session.boundaries[layer.register] if layer.has_dial else 0,
                "groups": layer.groups,
                "macs": layer.macs,
                "macs_4bit": low[i],
                "cycles": int(own[i]),
                "ideal_cycles": round(_ideal(binary.machine, layer, low[i]), 1),
                "stream_cycles": causes["stream"],
                "bank_cycles": causes["bank"],
                "weights_cycles": causes["weights"],
                "waiting_cycles": sum(waits.values()),
                "waits_for": max(waits, key=lambda cause: waits[cause]) if any(waits.values()) else "",
                "vector_cycles": int(by_cause[mine & (engine_of == Engine.VECTOR)][:, CAUSES.index("busy")].sum()),
                "dram_bytes": int(timing.dram_bytes[mine].sum()),
                "passes": int(timing.activity["passes"][mine].sum()),
                "onnx_nodes": " ".join(layer.onnx_nodes),
            }
        )
    assert sum(r["cycles"] for r in rows) == timing.total_cycles
    return rows


def _ideal(machine: MachineConfig, layer: LayerInfo, low: int) -> float:
    """Return the cycles of a layer whose engine does nothing but its multiplications, on every PE or lane."""
    if layer.kind == "conv":
        return ideal_cycles(machine, layer.macs - low, low)
    return layer.macs / (machine.array_cols * machine.vector_taps)


def _by_engine(session: Session) -> list[Row]:
    timing = session.timing()
    rows = engine_rows(timing, session.ops, spent(timing, session.ops))
    return [
        {
            "engine": r.engine,
            "instructions": r.instructions,
            "total_cycles": r.total_cycles,
            **{f"{cause}_cycles": cycles for cause, cycles in zip(CAUSES, r.cycles, strict=True)},
            "dram_bytes": r.dram_bytes,
        }
        for r in rows
    ]


def _by_instruction(session: Session) -> list[Row]:
    timing, binary = session.timing(), session.binary
    by_cause = spent(timing, session.ops)
    rows = []
    for op in session.ops[: len(timing.table)]:
        i = op.index
        layer = int(binary.layer_of[i])
        rows.append(
            {
                "instruction": i,
                "name": getattr(op, "name", type(op).__name__.lower()),
                "engine": op.engine.name.lower(),
                "layer": binary.layers[layer].name if layer >= 0 else "",
                "tile": int(binary.tile_of[i]),
                "passes": int(timing.activity["passes"][i]),
                "dispatch_cycle": int(timing.dispatch[i]),
                "accept_cycle": int(timing.accept[i]),
                "start_cycle": int(timing.start[i]),
                "issue_end_cycle": int(timing.issue_end[i]),
                "end_cycle": int(timing.end[i]),
                "dram_bytes": int(timing.dram_bytes[i]),
                **{name: int(timing.activity[name][i]) for name in WORK},
                **{f"{c}_cycles": int(v) for c, v in zip(CAUSES, by_cause[i], strict=True) if c != "idle"},
            }
        )
    return rows
