"""What the quantizer found and chose: unused bits, positions, expected errors, groups in 4 bits at each ratio."""

from typing import Any

import numpy as np
from npu_compiler.lowering.fit import walk_of_all_groups
from npu_compiler.qgraph.ir import GROUP, QConv, QuantizedGraph
from npu_isa.errors import DataError
from numpy.typing import NDArray

from npu_runtime.reports.tables import Row, Table

RATIOS = (25, 50, 75, 100)
LAYERS_SCHEMA = "npu.explain.layers/1"
GROUPS_SCHEMA = "npu.explain.groups/1"


def explain_layers(graph: QuantizedGraph) -> Table:
    """Return a row per layer with a dial.

    Bits are those of magnitudes: of 8 for unsigned activations, of 7 for signed ones and weights. `unused` is what the
    largest magnitude of a group (weights: of a group and output channel) leaves unused, averaged. Errors are root mean
    squares in output steps with every group in 4 bits: of the positions chosen, and of the top 4 bits without rounding.
    """
    at = {ratio: walk_of_all_groups(graph, ratio) for ratio in RATIOS}
    rows = []
    for number, node in enumerate(graph.lowerable):
        lowering, src = node.lowering, graph.tensors[node.src]
        assert lowering is not None
        evidence = lowering.evidence
        rows.append(
            {
                "layer": node.name,
                "groups": src.groups,
                "unused_act_bits": round(float(np.mean(unused_act_bits(graph, node))), 2),
                "unused_wgt_bits": round(float(np.mean(unused_wgt_bits(node))), 2),
                "act_shifts": " ".join(map(str, lowering.act_shift)),
                "mean_wgt_shift": round(float(lowering.wgt_shift.mean()), 2),
                "error_steps": _rms(evidence.error if evidence else ()),
                "truncation_error_steps": _rms(evidence.truncation if evidence else ()),
                **{f"groups_at_{ratio}": at[ratio][number] for ratio in RATIOS},
            }
        )
    if not rows:
        raise DataError(
            "no layer of the network can run in 4 bits", graph.name, "quantize with --lower-first, -last or -small"
        )
    return Table(LAYERS_SCHEMA, _provenance(graph), tuple(rows))


def explain_groups(graph: QuantizedGraph, layer: str) -> Table:
    """Return a row per group of one layer, in the order in which they turn 4-bit.

    Raises:
        DataError: no such layer has a dial.
    """
    names = [n.name for n in graph.lowerable]
    if layer not in names:
        raise DataError(f"no layer {layer!r} with a dial", graph.name, f"one of {', '.join(names)}")
    number = names.index(layer)
    node = graph.lowerable[number]
    lowering, src = node.lowering, graph.tensors[node.src]
    assert lowering is not None
    vectors = [walk_of_all_groups(graph, ratio)[number] for ratio in range(101)]
    act, wgt = unused_act_bits(graph, node), unused_wgt_bits(node)
    rows: list[Row] = []
    for place, group in enumerate(lowering.order):
        channels = src.channel_map[group * GROUP : (group + 1) * GROUP]
        shifts = lowering.wgt_shift[place]
        evidence = lowering.evidence
        rows.append(
            {
                "place": place,
                "group": group,
                "channels": " ".join(str(c) for c in channels if c >= 0),
                "from_ratio": next((r for r, b in enumerate(vectors) if b > place), None),
                "unused_act_bits": None if evidence is None else int(act[place]),
                "unused_wgt_bits": round(float(wgt[group].mean()), 2),
                "act_shift": lowering.act_shift[place],
                "wgt_shifts": " ".join(f"{s}:{int((shifts == s).sum())}" for s in range(5) if (shifts == s).any()),
                "error_steps": None if evidence is None else _rms(evidence.error[place : place + 1]),
            }
        )
    return Table(GROUPS_SCHEMA, _provenance(graph) | {"layer": layer}, tuple(rows))


def unused_act_bits(graph: QuantizedGraph, node: QConv) -> NDArray[Any]:
    """Return the unused bits of the activations of the group at each place; nan where calibration left no evidence."""
    lowering = node.lowering
    assert lowering is not None
    if lowering.evidence is None:
        return np.full(len(lowering.order), np.nan)
    whole = 7 if graph.tensors[node.src].signed else 8
    return whole - np.array(lowering.evidence.act_bits)


def unused_wgt_bits(node: QConv) -> NDArray[Any]:
    """Return the unused bits of the weights of each group and output channel that has weights, (groups, outputs)."""
    integers = node.weight.astype(np.int64)
    magnitude = np.where(integers < 0, ~integers, integers)
    used = magnitude.reshape(len(integers), -1, integers.shape[3] // GROUP, GROUP).max(axis=(1, 3)).T
    real = integers.any(axis=(1, 2, 3))
    return np.asarray(7 - np.ceil(np.log2(used[:, real] + 1)).astype(np.int64))


def _rms(squares: tuple[float, ...]) -> float | None:
    return None if not squares else round(float(np.sqrt(max(sum(squares), 0.0))), 3)


def _provenance(graph: QuantizedGraph) -> dict[str, str]:
    import hashlib

    from npu_compiler.qgraph.npuq import to_bytes

    kinds = {n.lowering.extract for n in graph.lowerable if n.lowering is not None}
    extract = ", ".join(sorted(kinds)) or "none"
    return {"model": graph.name, "extract": extract, "quantized_sha256": hashlib.sha256(to_bytes(graph)).hexdigest()}
