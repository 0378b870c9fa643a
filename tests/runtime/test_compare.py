"""The comparison names the first layer, pixel and channel that differ."""

from dataclasses import replace

import numpy as np
import pytest
from npu_isa.errors import DataError
from npu_runtime.session.session import Session
from npu_runtime.verification.comparing import compare


def test_equal_models(digits, session, images):
    session.set_ratio(50)
    rows = compare(digits.quantized, session, images.images[:4], digits.graph)
    assert [r.layer for r in rows] == [layer.name for layer in session.binary.layers]
    assert all(r.differing == 0 and r.first is None for r in rows)
    tensors = digits.quantized.tensors
    assert all(
        r.values == 4 * tensors[r.tensor].height * tensors[r.tensor].width * tensors[r.tensor].channels for r in rows
    )
    assert all(r.float_sqnr_db is None or r.float_sqnr_db > 5 for r in rows)
    assert sum(r.float_sqnr_db is not None for r in rows) >= len(rows) - 1


def test_a_wrong_bias_is_found_where_it_acts(digits, images):
    """Add 2^20 to the bias of one channel of the third layer; all of that channel differs, nothing before it does."""
    quantized = digits.quantized
    victim = quantized.lowerable[1]
    epilogue, lowering = victim.epilogue, victim.lowering
    channel = int(np.flatnonzero(np.array(quantized.tensors[victim.out].channel_map) == 5)[0])
    bias, rows = epilogue.bias.copy(), lowering.bias_rows.copy()
    bias[channel] += 1 << 20
    rows[:, channel] += 1 << 20
    broken = replace(victim, epilogue=replace(epilogue, bias=bias), lowering=replace(lowering, bias_rows=rows))
    graph = replace(quantized, nodes=tuple(broken if n.name == victim.name else n for n in quantized.nodes))
    found = compare(graph, Session(digits.binary), images.images[:2])
    first = next(r for r in found if r.first is not None)
    assert first.layer == victim.name
    assert (first.first.image, first.first.y, first.first.x, first.first.channel) == (0, 0, 0, 5)
    names = [layer.name for layer in digits.binary.layers]
    assert digits.binary.layer_of[first.first.instruction] == names.index(victim.name)
    assert f"layer {victim.name}" in str(first.first)
    assert "channel 5" in str(first.first)


def test_another_network_is_refused(digits, session, images):
    *nodes, last = digits.quantized.nodes
    tensors = {k: v for k, v in digits.quantized.tensors.items() if k != last.out}
    other = replace(
        digits.quantized,
        nodes=tuple(nodes),
        tensors=tensors,
        outputs=(replace(digits.quantized.outputs[0], tensor=nodes[-1].out),),
    )
    with pytest.raises(DataError, match="was not compiled from this network"):
        compare(other, session, images.images[:1])
