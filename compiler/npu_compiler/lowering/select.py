"""In which order the groups of the layers turn 4-bit: random, by value range, greedy, or by evolutionary search.

Whatever the rule, the sets of two ratios are nested: an order per layer, and one place in a global order per group.

The greedy rule lowers first what costs the network's outputs least per multiply-accumulate. How much a layer costs is
measured: the distance of the outputs with all of its groups in 4 bits and nothing else; its groups share that by their
own errors (npu_compiler.lowering.positions). An error in steps of the layer's own output does not tell how much the
layers after it make of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from npu_compiler.lowering.evolve import Budget, Distance, Progress, Search, State, Units, priorities
from npu_compiler.lowering.positions import Positions
from npu_compiler.options import QuantizeOptions
from npu_compiler.qgraph.fast_eval import Evaluator, Mode
from npu_compiler.qgraph.ir import U8, Extraction, QConv, QTensor, QuantizedGraph

SENSITIVITY_IMAGES = 32  # that the cost of a layer is measured on


@dataclass(frozen=True, eq=False)
class LayerStudy:
    """What lowering each group of one layer would cost.

    Attributes:
        node: the convolution; src: the tensor it reads.
        positions: positions, corrections and errors by group.
        macs: multiply-accumulates of each group, shape (groups,).
    """

    node: QConv
    src: QTensor
    positions: Positions
    macs: NDArray[np.int64]

    def mode(self, lowered: NDArray[np.bool_], extract: Extraction) -> Mode:
        """Return the mode in which these groups are lowered, with the layer's own corrections."""
        found = self.positions
        repair = np.rint(found.correction[lowered].sum(axis=0))
        bias = np.clip(self.node.epilogue.bias + repair, -(1 << 31), (1 << 31) - 1).astype(np.int32)
        return Mode(lowered, found.act_shift, found.wgt_shift.astype(np.int8), bias, extract)


@dataclass(frozen=True, eq=False)
class Order:
    """The order of one layer's groups.

    Attributes:
        groups: group at each place; the first b are in 4 bits at boundary b.
        score: of each place; the dial lowers first where the score per multiply-accumulate is least.
    """

    groups: tuple[int, ...]
    score: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that a selection rule may look at.

    Attributes:
        graph: every layer in 8 bits.
        layers: those that may run in 4 bits.
        image_bytes: calibration images after the table.
        fixed_weights: names of layers whose 8-bit weights the model gives (QDQ): they are kept.
    """

    graph: QuantizedGraph
    layers: tuple[LayerStudy, ...]
    image_bytes: U8
    options: QuantizeOptions
    fixed_weights: frozenset[str] = frozenset()

    def units(self) -> Units:
        """Return the groups of all layers, one after the other, with the errors of their own layers as score."""
        count = [len(layer.macs) for layer in self.layers]
        return Units(
            np.repeat(np.arange(len(count)), count),
            np.concatenate([layer.macs for layer in self.layers]),
            np.concatenate([layer.positions.error for layer in self.layers]),
        )

    def with_sensitivity(self, units: Units) -> Units:
        """Return units whose scores are shares of what their layer costs the outputs."""
        images, evaluator = self.image_bytes[:SENSITIVITY_IMAGES], Evaluator(self.graph)
        reference = evaluator.run(images, {})
        modes = {x.node.name: x.mode(np.ones(len(x.macs), np.bool_), self.options.extract) for x in self.layers}
        outputs = evaluator.each_alone(images, modes)
        score = np.empty(len(units.score))
        for number, layer in enumerate(self.layers):
            mine = units.layer == number
            cost, error = squared_distance(outputs[layer.node.name], reference), units.score[mine]
            score[mine] = cost * error / max(float(error.sum()), 1e-30)
        return replace(units, score=score)


def select(
    study: Study, state: State | None = None, observe: Callable[[Progress], None] = lambda progress: None
) -> dict[str, Order]:
    """Return the order of each layer by name, by the rule of the options; see `lower_graph` for state and observe."""
    units = study.units()
    match study.options.selection:
        case "random":
            place = np.random.default_rng(study.options.seed).permutation(len(units.macs)).astype(np.float64)
        case "range":
            errors = np.concatenate([layer.positions.range_error for layer in study.layers])
            place = errors / np.maximum(units.macs, 1)
        case "greedy":
            place = study.with_sensitivity(units).rank
        case "evolutionary":
            units = study.with_sensitivity(units)
            place = priorities(units, _search(study, units, state or State(study.options.seed), observe))
        case _:
            assert_never(study.options.selection)
    return _orders(study, units, place)


def _orders(study: Study, units: Units, place: NDArray[np.float64]) -> dict[str, Order]:
    """Return the orders that lower units by their place in one global order."""
    found = {}
    for number, layer in enumerate(study.layers):
        mine = place[units.layer == number]
        order = np.argsort(mine, kind="stable")
        found[layer.node.name] = Order(tuple(int(g) for g in order), (mine * np.maximum(layer.macs, 1))[order])
    return found


def _search(
    study: Study, units: Units, state: State, observe: Callable[[Progress], None]
) -> dict[int, NDArray[np.bool_]]:
    budget = Budget(study.options.generations, study.options.seconds)
    return Search(units, distance_of(study, units), state, budget, observe).run()


def distance_of(study: Study, units: Units) -> Distance:
    """Return the fitness of the search: mean squared distance of the outputs to those of the 8-bit model."""
    images = study.image_bytes[: study.options.search_images]
    evaluator = Evaluator(study.graph)
    reference = evaluator.run(images, {})
    return partial(_distance, study, units, evaluator, images, reference)


def _distance(
    study: Study,
    units: Units,
    evaluator: Evaluator,
    images: U8,
    reference: Mapping[str, NDArray[np.int16]],
    mask: NDArray[np.bool_],
) -> float:
    modes = {
        layer.node.name: layer.mode(mask[units.layer == number], study.options.extract)
        for number, layer in enumerate(study.layers)
        if mask[units.layer == number].any()
    }
    return squared_distance(evaluator.run(images, modes), reference)


def squared_distance(outputs: Mapping[str, NDArray[np.int16]], reference: Mapping[str, NDArray[np.int16]]) -> float:
    """Return the mean squared distance of outputs from a reference, in squared steps of the first output.

    The distances of several outputs are added as shares of each one's mean square, so that none counts for the size of
    its steps.

    Args:
        outputs, reference: the same tensors by name, each (N, height, width, channels).
    """
    power = [max(float((values.astype(np.float64) ** 2).mean()), 1.0) for values in reference.values()]
    off = [float(((outputs[name].astype(np.float64) - reference[name]) ** 2).mean()) for name in reference]
    return sum(distance * (power[0] / own) for distance, own in zip(off, power, strict=True))
