"""Golden model against simulator on random networks, ratios and machines: for a test and a long script."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from npu_compiler.backend.link import compile_quantized
from npu_compiler.lowering.order import order_groups
from npu_compiler.qgraph.ir import Assembled, QFold, QuantizedGraph
from npu_isa.file.binary import Binary
from npu_isa.machine.config import MachineConfig, load_machine
from npu_runtime.session.session import Session
from npu_runtime.verification.comparing import compare as compare_layers
from npu_sim.random_programs.draft import aside

from tests.qgraphs import random_images, random_qgraph, with_dynamic_positions


def random_machine(rng: np.random.Generator) -> MachineConfig:
    """Return a consistent machine, from a shipped one or with sizes of its own."""
    base = load_machine(str(rng.choice(["npu16", "npu32", "npu128"])))
    if rng.random() < 0.4:
        return base
    rows, cols = int(rng.choice([2, 4, 8, 16, 24, 32, 64])), int(rng.choice([2, 4, 8, 16, 32, 48]))
    banks = int(max(rows // 4, -(-cols // 16), rng.choice([1, 4, 8])))
    bytes_per_cycle = int(rng.choice([b for b in (4, 16, 64) if b <= banks * 16]))
    return replace(
        base,
        name="random",
        array_rows=rows,
        array_cols=cols,
        weight_rows_per_cycle=int(rng.choice([w for w in (1, 2, 4) if rows % w == 0])),
        act_banks=banks,
        act_region_bytes=banks * 16 * int(rng.choice([64, 256, 1024])),
        weight_memory_bytes=int(rng.choice([65536, 131072])),
        param_memory_bytes=max(256, 4 * cols * int(rng.choice([16, 64, 256]))),  # a table fits
        acc_rows=int(rng.choice([16, 64, 512])),
        vector_taps=int(rng.choice([1, 3, 9])),
        dram_bytes_per_cycle=bytes_per_cycle,
        dram_burst_bytes=64,
        queue_depth=int(rng.choice([2, 4, 16])),
        token_depth=int(rng.choice([2, 4, 64])),
    ).check()


def tiny_machine(rng: np.random.Generator, times: int = 1) -> MachineConfig:
    """Return a consistent machine whose activation memory holds a few pixels: most operands pass through DRAM.

    Args:
        rng: chooses the machine.
        times: as large as this the activation memory, where a network needs more than the few pixels.
    """
    machine = random_machine(rng)
    unit = machine.act_banks * 16
    region = unit * max(1, int(rng.choice([64, 128, 256, 512, 1024, 2048])) // unit)
    acc_rows = int(rng.choice([8, 16, 64]))
    return replace(machine, name="tiny", act_region_bytes=times * region, acc_rows=acc_rows).check()


@dataclass(frozen=True)
class Comparison:
    """What was compared, and the first difference in words, if any."""

    values: int
    tensors: int
    instructions: int
    cycles: int
    difference: str | None


def boundary_vectors(binary: Binary, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Yield the vectors of the five ratios and one of random legal boundaries."""
    for ratio in (0, 25, 50, 75, 100):
        yield binary.boundaries_at(ratio)
    legal = [layer.boundaries for layer in sorted(binary.layers, key=lambda x: x.register) if layer.register >= 0]
    yield tuple(int(rng.choice(b)) for b in legal)


def compare(graph: QuantizedGraph, session: Session, images: np.ndarray, boundaries: tuple[int, ...]) -> Comparison:
    """Compare every tensor that the simulator writes with the golden model's."""
    session.set_boundaries(boundaries)
    rows = compare_layers(graph, session, images)
    first = next((r.first for r in rows if r.first is not None), None)
    computed = {n.out for n in graph.nodes if not isinstance(n, QFold | Assembled)}
    difference = None if first is None else str(first)
    if {r.tensor for r in rows} != computed:
        difference = f"not compared: {sorted(computed - {r.tensor for r in rows})}"
    cycles = session.timing().total_cycles
    return Comparison(sum(r.values for r in rows), len(rows), len(session.ops), cycles, difference)


def random_case(
    seed: int, draw: Callable[[np.random.Generator], MachineConfig] = random_machine
) -> tuple[list[Comparison], list[int], str]:
    """Build, compile, check and compare one random network on one random machine, which `draw` makes.

    Returns:
        the comparisons, the cycles at the five ratios, and a line that names the case.
    """
    rng = np.random.default_rng(seed)
    graph = random_qgraph(rng)
    if rng.random() < 0.7:
        graph = order_groups(graph)
    machine = draw(rng)
    if aside(rng) < 0.4:
        graph, machine = with_dynamic_positions(graph), replace(machine, dynamic_extraction=True)
    binary = compile_quantized(graph, machine)
    session = Session(binary)
    images = random_images(rng, graph, 2)
    found = [compare(graph, session, images, b) for b in boundary_vectors(binary, rng)]
    text = (
        f"seed {seed}: {len(graph.nodes)} nodes, {machine.array_rows}x{machine.array_cols}, "
        f"{len(session.ops)} instructions"
    )
    return found, [c.cycles for c in found[:5]], text
