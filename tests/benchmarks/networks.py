"""Which networks compile for which machines: python -m tests.benchmarks.networks [--names a,b] [--hardware x,y].

The graphs of real exporters of ../shared/data, whose weights are filled with seeded values, and the trained
convolutional models there. Weights matter little here, so quantization takes the quickest ways: two images of noise,
positions by range. Per network and machine: instructions, cycles at 0, 50 and 100 %; at 0 and 100 % the share of the
bound in the cycles, and the engine that is at work for the most of them, with its share; CPU seconds to compile without
quantizing and to check; or the refusal. The bound is the larger of two times: all multiply-accumulates at the array's
peak, a 4-bit one taking half, and all bytes on the DRAM bus at its peak.

--equal compares every tensor of one image with the golden model at 0, 50 and 100 %; --register N then runs the N
networks of the fewest cycles on the register-level machine, whole, at 0 and 100 %. Exit code 1 if any is refused or
differs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from npu_compiler.backend import compile_quantized
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model, quantize_graph
from npu_compiler.qgraph.ir import Preprocess, QuantizedGraph
from npu_isa.errors import NpuError
from npu_isa.file.binary import Binary
from npu_isa.machine.config import load_machine
from npu_runtime.session.session import Session
from npu_runtime.verification.verify import verify
from npu_sim.activity import CAUSES
from npu_sim.counters import AT_WORK, engine_rows, ideal_cycles, spent

from tests.benchmarks.models import COMPARED, DATA, catalogue
from tests.equality import compare
from tests.exported import EXPORTED, write_exported

QUICK = QuantizeOptions(rounding="nearest", selection="range", positions="range", bias_correction="none", max_images=2)
IMAGENET = Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (), ())
ENDS = (COMPARED[0], COMPARED[-1])


@dataclass(frozen=True)
class Use:
    """One network on one machine at one ratio: shares of the cycles, in percent."""

    bound_percent: float
    busiest: str
    busy_percent: float

    def __str__(self) -> str:
        """Return the cells of the table."""
        return f"{self.bound_percent:6.1f} {self.busiest:>7} {self.busy_percent:5.1f}"


def quantized(path: Path, preprocess: Preprocess) -> QuantizedGraph:
    """Return a network quantized on noise."""
    graph = import_model(path)
    return quantize_graph(graph, noise(graph.shapes[graph.input], 2), preprocess, QUICK)


def noise(shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray:
    """Return random pixels for an input of (channels, height, width), uint8 (count, height, width, channels)."""
    channels, height, width = shape
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def exported(name: str) -> QuantizedGraph:
    """Return a network of a real exporter, its weights filled in."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        write_exported(name, path)
        return quantized(path, IMAGENET)


def use_at(session: Session, ratio: int) -> Use:
    """Return what the cycles of a binary at a ratio were used for."""
    session.set_ratio(ratio)
    timing, machine = session.timing(), session.binary.machine
    total, low = timing.total_cycles, session.low_macs
    macs = sum(layer.macs for layer in session.binary.layers)
    bound = max(ideal_cycles(machine, macs - low, low), timing.total_dram_bytes / machine.dram_bytes_per_cycle)
    rows = engine_rows(timing, session.ops, spent(timing, session.ops))
    at_work = {row.engine: sum(row.cycles[CAUSES.index(cause)] for cause in AT_WORK) for row in rows}
    busiest = max(at_work, key=lambda engine: at_work[engine])
    return Use(100 * bound / total, busiest, 100 * at_work[busiest] / total)


def networks(names: list[str]) -> Iterator[tuple[str, QuantizedGraph]]:
    """Yield the networks of these names, or all."""
    for name in EXPORTED:
        if not names or name in names:
            yield name, exported(name)
    for name, model in catalogue().items():
        if not names or name in names:
            yield name, quantized(model.path, model.preprocess)


def report(name: str, graph: QuantizedGraph, machine: str) -> Session:
    """Compile, check and time a network on a machine and print its row."""
    config, start = load_machine(machine), time.process_time()
    binary = compile_quantized(graph, config)
    compiled = time.process_time()
    session = Session(binary)
    checked = time.process_time()
    cycles = " ".join(f"{session.timing(binary.boundaries_at(ratio)).total_cycles:11,}" for ratio in COMPARED)
    uses = " ".join(str(use_at(session, ratio)) for ratio in ENDS)
    print(
        f"{name:37} {machine:8} {len(session.ops):7,} {cycles} {uses} {compiled - start:9.2f} "
        f"{checked - compiled:8.2f}",
        flush=True,
    )
    return session


def equal(graph: QuantizedGraph, session: Session) -> bool:
    """Compare every tensor of an image with the golden model; return whether nothing differs."""
    image = graph.tensors[graph.input]
    images = noise((image.channels, image.height, image.width), 1, 1)
    found = [compare(graph, session, images, session.binary.boundaries_at(ratio)) for ratio in COMPARED]
    differences = [f"at {r} %: {c.difference}" for r, c in zip(COMPARED, found, strict=True) if c.difference]
    print(f"  golden = fast: {sum(c.values for c in found):,} values, {'; '.join(differences) or '0 differences'}")
    return not differences


def register_level(name: str, binary: Binary) -> bool:
    """Compare a whole run of the register-level machine with the fast simulators."""
    start = time.perf_counter()
    found = verify(binary, [binary.boundaries_at(ratio) for ratio in ENDS])
    print(f"{name}, {binary.machine.name}, {time.perf_counter() - start:.0f} s: {found}", flush=True)
    return found.difference is None


def main() -> int:
    """Print the table; 1 if anything is refused or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", help="comma-separated networks; all if left out")
    parser.add_argument("--hardware", default="npu16,npu32,npu128", help="comma-separated machines")
    parser.add_argument("--equal", action="store_true", help="compare every tensor with the golden model")
    parser.add_argument("--register", type=int, default=0, metavar="N", help="run the N shortest register by register")
    args = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: the data folder {DATA} is not there", file=sys.stderr)
        return 0
    well, done = True, []
    use = f"{'bound':>6} {'busiest':>13}"
    head = f"{'instr.':>7} {'0 %':>11} {'50 %':>11} {'100 %':>11} {use} {use} {'compile s':>9} {'check s':>8}"
    print(f"{'network':37} {'machine':8} {head}")
    for name, graph in networks(args.names.split(",") if args.names else []):
        for machine in args.hardware.split(","):
            try:
                session = report(name, graph, machine)
            except NpuError as error:
                well = False
                print(f"{name:37} {machine:8} refused: {error.where}: {error.message}", flush=True)
                continue
            well &= not args.equal or equal(graph, session)
            done.append((session.timing(session.all_8bit).total_cycles, name, session.binary))
    for _, name, binary in sorted(done, key=lambda row: row[0])[: args.register]:
        well &= register_level(name, binary)
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
