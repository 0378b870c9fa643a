"""The dial of compiled networks: legal boundaries are each cheaper, ratios nest, and cycles never rise."""

from itertools import pairwise

import numpy as np
import pytest
from npu_compiler.backend.boundaries import legal_boundaries
from npu_compiler.backend.link import compile_quantized
from npu_compiler.backend.plan import make_plan
from npu_compiler.backend.tiles import conv_cycles
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model, quantize_graph
from npu_compiler.qgraph.dial import dial_steps, low_macs
from npu_isa.check.program import check_binary
from npu_isa.machine.config import load_machine
from npu_sim.fast.time.model import TimingModel

from tests.onnx_models import PIXELS, Net, images, save

MACHINES = ("npu16", "npu32", "npu128")


def residual_net():
    net = Net((3, 12, 12), seed=2)
    x = net.node("Relu", net.conv("x", 3, 64, (3, 3), pads=[1] * 4))
    for _ in range(3):
        inner = net.node("Relu", net.conv(x, 64, 64, (3, 3), pads=[1] * 4))
        x = net.node("Relu", net.node("Add", net.conv(inner, 64, 64, (3, 3), pads=[1] * 4), x))
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model(net.node("Gemm", flat, net.weight(64, 10)))


def mobile_net():
    """Expanding, depthwise and projecting layers: 1x1 layers gain only where a pass is saved."""
    net = Net((3, 12, 12), seed=3)
    x = net.conv("x", 3, 32, (3, 3), pads=[1] * 4)
    for expanded, stride in ((96, 1), (144, 2), (192, 1)):
        wide = net.node("Relu", net.conv(x, 32, expanded, (1, 1)))
        deep = net.conv(wide, expanded, expanded, (3, 3), expanded, pads=[1] * 4, strides=[stride] * 2)
        x = net.conv(net.node("Relu", deep), expanded, 32, (1, 1))
    return net.model(net.conv(x, 32, 5, (1, 1)))


def fire_net():
    """Squeeze, two expanding branches and a concat, channels that fill no group."""
    net = Net((3, 12, 12), seed=4)
    x = net.node("Relu", net.conv("x", 3, 48, (3, 3), strides=[2, 2]))
    for wide in (40, 72):
        small = net.node("Relu", net.conv(x, 48 if wide == 40 else 80, 24, (1, 1)))
        parts = [net.node("Relu", net.conv(small, 24, wide, k, pads=[k[0] // 2] * 4)) for k in ((1, 1), (3, 3))]
        x = net.node("Concat", *parts, axis=1)
    return net.model(net.conv(x, 144, 10, (3, 3)))


@pytest.fixture(scope="module", params=[residual_net, mobile_net, fire_net], ids=["residual", "mobile", "fire"])
def quantized(request, tmp_path_factory):
    path = save(request.param(), tmp_path_factory.mktemp("net"))
    return quantize_graph(import_model(path), images(8), PIXELS, QuantizeOptions(bias_correction="layer"))


@pytest.mark.parametrize("machine", MACHINES)
def test_every_legal_boundary_is_cheaper_than_the_one_before(machine, quantized):
    """On the matrix engine, layer by layer; the last one is the cheapest of all."""
    plan = make_plan(quantized, load_machine(machine))
    legal = legal_boundaries(plan, plan.machine)
    assert legal.keys() == {n.name for n in quantized.lowerable}
    for node_plan in plan.nodes:
        node = node_plan.node
        if node.name not in legal:
            continue
        src, out = quantized.tensors[node.src], quantized.tensors[node.out]
        pitch = node_plan.pitches["src"]
        cost = [conv_cycles(node, src, pitch, node_plan.tiling, out, b, plan.machine) for b in range(src.groups + 1)]
        chosen = legal[node.name]
        assert chosen[0] == 0
        assert all(a < b and cost[b] < cost[a] for a, b in pairwise(chosen))
        assert cost[chosen[-1]] == min(cost)


@pytest.mark.parametrize("machine", MACHINES)
def test_cycles_never_rise_with_the_ratio(machine, quantized):
    """Whole inferences, exact cycles, every whole ratio; all boundaries nest, and 100 % is the last step."""
    binary = compile_quantized(quantized, load_machine(machine))
    model = TimingModel(check_binary(binary), binary.machine)
    vectors = [binary.boundaries_at(ratio) for ratio in range(101)]
    assert set(vectors[0]) == {0}
    assert vectors[-1] == tuple(layer.boundaries[-1] for layer in binary.layers if layer.register >= 0)
    cycles = {v: model.simulate(v).total_cycles for v in dict.fromkeys(vectors)}
    for a, b in pairwise(vectors):
        assert all(x <= y for x, y in zip(a, b, strict=True))
        assert cycles[b] <= cycles[a]
    assert cycles[vectors[-1]] < cycles[vectors[0]]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_ratio_reached_is_the_nearest_of_all_steps(machine, quantized):
    binary = compile_quantized(quantized, load_machine(machine))
    reached = [0.0] + [100.0 * step.low_macs / binary.dial_macs for step in binary.dial]
    for ratio in range(101):
        found = binary.effective_percent(ratio)
        assert found in reached
        assert abs(found - ratio) == pytest.approx(min(abs(r - ratio) for r in reached))


def test_steps_go_by_error_per_multiply_accumulate(quantized):
    """Every step is the cheapest in error of those that the layers offer next; sums of macs are those of the layers."""
    legal = {n.name: tuple(range(quantized.tensors[n.src].groups + 1)) for n in quantized.lowerable}
    steps, total = dial_steps(quantized, legal)
    nodes = quantized.lowerable
    macs = [low_macs(n, quantized.tensors[n.src]) for n in nodes]
    assert total == sum(n.macs for n in nodes)
    now = [0] * len(nodes)

    def price(register):
        place = now[register]
        moved = macs[register][place + 1] - macs[register][place]
        return nodes[register].lowering.score[place] / max(moved, 1)

    for step in steps:
        assert step.boundary == now[step.register] + 1
        offered = [price(r) for r in range(len(nodes)) if now[r] < len(macs[r]) - 1]
        assert price(step.register) == min(offered)
        now[step.register] += 1
        assert step.low_macs == sum(m[b] for m, b in zip(macs, now, strict=True))
    assert now == [len(m) - 1 for m in macs]


def test_padding_channels_are_not_counted(quantized):
    for node in quantized.lowerable:
        src = quantized.tensors[node.src]
        real = [sum(c >= 0 for c in src.channel_map[16 * g : 16 * g + 16]) for g in node.lowering.order]
        wanted = [node.macs * int(s) // sum(real) for s in np.cumsum([0, *real])]
        assert low_macs(node, src) == wanted
