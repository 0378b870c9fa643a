"""What one order of groups per residual stream would cost: python -m tests.benchmarks.shared_order [--models a,b].

Here every layer has its own order in which the groups of its input turn 4-bit: the table of groups in its instructions
says where each stands in memory. A layout that permutes channels in memory instead, so that each ratio is a prefix,
forces one order upon all layers that read tensors tied by additions and window operations. For each model the greedy
orders are compared with those that the layers of a stream share: by the sum of their expected errors.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace

import networkx as nx
import numpy as np
from npu_compiler.lowering.lower import lower_in_order, study
from npu_compiler.lowering.select import LayerStudy, Order, select
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model
from npu_compiler.qgraph.ir import QConv, QuantizedGraph, QWindow
from npu_compiler.quantize.quantize import quantize8
from npu_runtime.reports.ablating import divergence_nats, outputs_at

from tests.benchmarks.accuracy import EFFORTS
from tests.benchmarks.models import Model, chosen_models, float_outputs, positive

RATIOS = (25, 50, 75)  # at 0 and 100 % no order matters but to learned rounding
MODELS = "resnet20_cifar10,resnet44_cifar10,mobilenetv2_cifar10_96,resnet50v2_stage123_cifar10_96"


def streams(graph: QuantizedGraph, layers: tuple[LayerStudy, ...]) -> list[list[str]]:
    """Return the names of layers that read tied tensors of several groups, where there are at least two of them."""
    ties: nx.Graph = nx.Graph()
    ties.add_nodes_from(graph.tensors)
    for node in graph.nodes:
        if isinstance(node, QConv | QWindow) and node.residual is not None:
            ties.add_edge(node.out, node.residual)
        if isinstance(node, QWindow):
            ties.add_edge(node.out, node.src)
    readers = [[x.node.name for x in layers if x.node.src in part] for part in nx.connected_components(ties)]
    groups = {x.node.name: x.src.groups for x in layers}
    return [names for names in readers if len(names) > 1 and groups[names[0]] > 1]


def shared(orders: Mapping[str, Order], names: list[str]) -> dict[str, Order]:
    """Return one order for all of these layers: by the sum of what their groups cost."""
    cost = {name: orders[name].score[np.argsort(orders[name].groups)] for name in names}  # by group
    order = np.argsort(np.sum(list(cost.values()), axis=0), kind="stable")
    return {name: Order(tuple(int(g) for g in order), cost[name][order]) for name in names}


def measure(model: Model, images: int | None, extract: str) -> None:
    """Print both rows of a model."""
    calibration = model.calibration_images(256)
    data = model.labelled_images(images or EFFORTS[calibration.shape[1]].images)
    reference = float_outputs(model, data.images).astype(np.float64)
    options = replace(QuantizeOptions(), extract=extract)
    found = study(quantize8(import_model(model.path), calibration, model.preprocess, options), options)
    own = select(found)
    tied = streams(found.graph, found.layers)
    one = {name: order for names in tied for name, order in shared(own, names).items()}
    changed = sum(own[name].groups != order.groups for name, order in one.items())
    print(
        f"{model.name}: {len(data)} images; {len(tied)} streams with {len(one)} layers of {len(own)}, "
        f"{changed} of them in another order than their own",
        flush=True,
    )
    for title, orders in (("own orders", own), ("one per stream", {**own, **one})):
        graph = lower_in_order(found, orders)
        cells = []
        for ratio in RATIOS:
            scores = outputs_at(graph, data.images, ratio)
            top1 = 100 * float(np.mean(scores.argmax(axis=1) == data.labels))
            cells.append(f"{ratio} %: {top1:6.2f} ({divergence_nats(reference, scores):.4f})")
        print(f"  {title:16} {'   '.join(cells)}", flush=True)


def main() -> int:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS, help="names, split by commas")
    parser.add_argument("--images", type=positive, help="measured on, instead of what the model's size allows")
    parser.add_argument("--extract", choices=("static", "dynamic"), default="static")
    args = parser.parse_args()
    for model in chosen_models(parser, args.models):
        measure(model, args.images, args.extract)
    return 0


if __name__ == "__main__":
    sys.exit(main())
