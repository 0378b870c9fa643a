"""The evolutionary search of the paper (section "channel selection"): which groups turn 4-bit at each ratio.

A chromosome holds one flag per channel group. Fitness is the mean squared distance between the outputs of the mixed and
of the 8-bit model on calibration images, in squared steps of the first; less is better. Mutation swaps flags inside a
layer; crossover takes each layer from either parent, which moves the low-bit share between layers. The sets are nested:
50 % is searched first, 25 % inside it, 75 % around it.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from npu_isa.errors import DataError
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
RATIOS = (50, 25, 75)  # in the order of the search
POPULATION = 16
ELITE = 4  # the best of a generation live on
TOURNAMENT = 3
SWAP_SHARE = 0.5  # of the children mutate by swaps inside layers, the others after a crossover


@dataclass(frozen=True, eq=False)
class Units:
    """The groups of all layers that have a dial, one after the other.

    Attributes:
        layer: number of the layer of each, shape (units,).
        macs: multiply-accumulates of each.
        score: expected error of lowering each alone.
    """

    layer: NDArray[np.int64]
    macs: NDArray[np.int64]
    score: NDArray[np.float64]

    @property
    def rank(self) -> NDArray[np.float64]:
        """Score per multiply-accumulate: the greedy order."""
        return self.score / np.maximum(self.macs, 1)


@dataclass(frozen=True)
class Progress:
    """The search so far.

    Attributes:
        ratio: percentage that is searched now.
        generation: of this ratio, from 0.
        best: least distance found at this ratio; `greedy`: that of the greedy choice.
    """

    ratio: int
    generation: int
    best: float
    greedy: float


@dataclass
class State:
    """What a search needs to go on: kept as JSON, so that an interrupted search can be resumed.

    Attributes:
        done: mask of each ratio searched to its end.
        ratio, generation, population: of the ratio in work.
    """

    seed: int
    done: dict[int, list[int]] = field(default_factory=dict)
    ratio: int | None = None
    generation: int = 0
    population: list[list[int]] = field(default_factory=list)
    greedy: float = 0.0

    def to_json(self) -> str:
        """Return the state as JSON; sets are lists of unit numbers."""
        return json.dumps(self.__dict__) + "\n"


def state_from_json(text: str, where: str) -> State:
    """Read a state.

    Raises:
        DataError: not a state.
    """
    try:
        raw = json.loads(text)
        state = State(
            int(raw["seed"]),
            {int(k): [int(u) for u in v] for k, v in raw["done"].items()},
            None if raw["ratio"] is None else int(raw["ratio"]),
            int(raw["generation"]),
            [[int(u) for u in v] for v in raw["population"]],
            float(raw["greedy"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError("not the state of a search", where, "start anew with another --state") from None
    if not {*state.done, state.ratio} <= {None, *RATIOS} or min(state.generation, state.seed) < 0:
        raise DataError("not the state of a search", where, "start anew with another --state")
    return state


@dataclass(frozen=True)
class Budget:
    """When a search ends: after generations at each ratio, or after seconds in all, whatever it has found by then."""

    generations: int = 10
    seconds: float | None = None


Distance = Callable[[Mask], float]


class Search:
    """One search; `run` can be interrupted and resumed from `state`."""

    def __init__(
        self,
        units: Units,
        distance: Distance,
        state: State,
        budget: Budget,
        observe: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.units, self.state, self.budget = units, state, budget
        self._observe = observe
        self._distance = distance
        self._known: dict[bytes, float] = {}
        known = [u for found in [*state.done.values(), *state.population] for u in found]
        if known and not 0 <= min(known) <= max(known) < len(units.macs):
            raise DataError("the search's state belongs to another network", hint="start anew with another --state")
        self._end = None if budget.seconds is None else time.monotonic() + budget.seconds

    def run(self) -> dict[int, Mask]:
        """Search every ratio; returns the best mask of each.

        An interruption (KeyboardInterrupt) ends the search early: ratios not searched to their end get the best so far.
        """
        try:
            for place, ratio in enumerate(RATIOS):
                if ratio not in self.state.done:
                    self._ratio(ratio, (place + 1) / len(RATIOS))
        except KeyboardInterrupt:
            pass
        return {ratio: self._found(ratio) for ratio in RATIOS}

    def _found(self, ratio: int) -> Mask:
        if ratio in self.state.done:
            return self._mask(self.state.done[ratio])
        if ratio == self.state.ratio and self.state.population:
            return self._mask(self.state.population[0])
        return self._greedy(ratio)

    # -- one ratio

    def _ratio(self, ratio: int, share: float) -> None:
        state = self.state
        if state.ratio != ratio:
            greedy = self._greedy(ratio)
            state.ratio, state.generation, state.greedy = ratio, 0, self._value(greedy)
            state.population = [np.flatnonzero(greedy).tolist()]
        while not self._over(share):
            rng = np.random.default_rng([state.seed, ratio, state.generation])  # resuming repeats nothing
            parents = [self._mask(p) for p in state.population]
            children = [self._child(parents, ratio, rng) for _ in range(POPULATION)]
            ranked = sorted({m.tobytes(): m for m in [*parents, *children]}.values(), key=self._value)
            state.population = [np.flatnonzero(m).tolist() for m in ranked[: max(ELITE, POPULATION // 2)]]
            state.generation += 1
            self._observe(Progress(ratio, state.generation, self._value(ranked[0]), state.greedy))
        state.done[ratio] = state.population[0]
        state.ratio, state.generation, state.population = None, 0, []

    def _over(self, share: float) -> bool:
        if self._end is not None and self.budget.seconds is not None:
            return time.monotonic() > self._end - self.budget.seconds * (1 - share)
        return self.state.generation >= self.budget.generations

    def _limits(self, ratio: int) -> tuple[Mask, Mask]:
        """Return which units must, and which may, be lowered at a ratio: the sets are nested."""
        count = len(self.units.macs)
        must, may = np.zeros(count, np.bool_), np.ones(count, np.bool_)
        for other, units in self.state.done.items():
            if other < ratio:
                must |= self._mask(units)
            elif other > ratio:
                may &= self._mask(units)
        return must, may

    def _mask(self, units: Sequence[int]) -> Mask:
        mask = np.zeros(len(self.units.macs), np.bool_)
        mask[list(units)] = True
        return mask

    def _value(self, mask: Mask) -> float:
        key = mask.tobytes()
        if key not in self._known:
            self._known[key] = self._distance(mask)
        return self._known[key]

    # -- chromosomes

    def _greedy(self, ratio: int) -> Mask:
        must, may = self._limits(ratio)
        return self._to_ratio(must, ratio, must, may, self.units.rank)

    def _to_ratio(self, mask: Mask, ratio: int, must: Mask, may: Mask, cost: NDArray[np.float64]) -> Mask:
        """Lower the cheapest units, or raise the dearest, until the ratio is met as nearly as can be."""
        macs = self.units.macs
        target, mask = macs.sum() * ratio / 100, mask.copy()
        order = np.argsort(cost, kind="stable")
        for unit in order:
            if may[unit] and not mask[unit] and mask @ macs + macs[unit] / 2 <= target:
                mask[unit] = True
        for unit in order[::-1]:
            if mask[unit] and not must[unit] and mask @ macs - macs[unit] / 2 >= target:
                mask[unit] = False
        return mask

    def _child(self, parents: Sequence[Mask], ratio: int, rng: np.random.Generator) -> Mask:
        must, may = self._limits(ratio)
        child = self._pick(parents, rng).copy()
        if rng.random() >= SWAP_SHARE:
            other = self._pick(parents, rng)
            from_other = rng.random(int(self.units.layer.max()) + 1) < 0.5
            child = np.where(from_other[self.units.layer], other, child)
            flips = rng.random(len(child)) < 1.5 / len(child)  # and now and then a share moves that neither has
            child = (child ^ flips) & may | must
        for _ in range(1 + rng.geometric(0.5)):
            self._swap(child, must, may, rng)
        cost = self.units.rank * np.exp(rng.normal(0, 0.5, len(child)))
        return self._to_ratio(child, ratio, must, may, cost)

    def _pick(self, parents: Sequence[Mask], rng: np.random.Generator) -> Mask:
        return parents[int(rng.integers(0, len(parents), TOURNAMENT).min())]  # parents stand in order of fitness

    def _swap(self, mask: Mask, must: Mask, may: Mask, rng: np.random.Generator) -> None:
        """Exchange a lowered and an 8-bit unit of one layer, where a layer has both."""
        free = may & ~must
        layers = np.unique(self.units.layer[free & mask])
        both = [g for g in layers if (free & ~mask & (self.units.layer == g)).any()]
        if not both:
            return
        mine = self.units.layer == rng.choice(both)
        mask[rng.choice(np.flatnonzero(mine & free & mask))] = False
        mask[rng.choice(np.flatnonzero(mine & free & ~mask))] = True


def priorities(units: Units, found: dict[int, Mask]) -> NDArray[np.float64]:
    """Return the place of each unit in one total order, 0 to below 4: the band of its ratio, then the greedy rank."""
    band = np.full(len(units.macs), 3)
    for number, ratio in ((2, 75), (1, 50), (0, 25)):
        band[found[ratio]] = number
    place = np.zeros(len(band))
    for number in range(4):
        mine = np.flatnonzero(band == number)
        order = mine[np.argsort(units.rank[mine], kind="stable")]
        place[order] = number + np.arange(len(order)) / max(len(order), 1)
    return place
