"""Which networks compile for which machines: python -m tests.benchmarks.networks [--names a,b] [--hardware x,y].

The trained convolutional models of ../shared/data and the graphs of real exporters there, whose weights are filled with
seeded values. Weights matter little here, so quantization takes the quickest ways: two images of noise, positions by
range. Per network and machine: instructions, cycles at 0 and 100 %, cycles in which the front end waited for
instructions at 100 % (`fetch`), CPU seconds to compile without quantizing and to check; or the refusal. Exit code 1 if
any is refused.
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
from npu_isa.check import check_binary
from npu_isa.errors import NpuError
from npu_isa.machine.config import load_machine
from npu_sim.fast.time.model import TimingModel

from tests.benchmarks.models import DATA, catalogue
from tests.exported import EXPORTED, write_exported

QUICK = QuantizeOptions(rounding="nearest", selection="range", positions="range", bias_correction="none", max_images=2)
IMAGENET = Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (), ())


@dataclass(frozen=True)
class Row:
    """One network on one machine."""

    instructions: int
    cycles: tuple[int, int]
    fetch: int
    compile_seconds: float
    check_seconds: float


def quantized(path: Path, preprocess: Preprocess) -> QuantizedGraph:
    """Return a network quantized on noise."""
    graph = import_model(path)
    channels, height, width = graph.shapes[graph.input]
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    return quantize_graph(graph, images, preprocess, QUICK)


def exported(name: str) -> QuantizedGraph:
    """Return a network of a real exporter, its weights filled in."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        write_exported(name, path)
        return quantized(path, IMAGENET)


def measure(graph: QuantizedGraph, machine: str) -> Row:
    """Compile, check and time a network on a machine."""
    config, start = load_machine(machine), time.process_time()
    binary = compile_quantized(graph, config)
    compiled = time.process_time()
    ops = check_binary(binary)
    checked = time.process_time()
    model = TimingModel(ops, config)
    low, high = (model.simulate(binary.boundaries_at(ratio)) for ratio in (0, 100))
    waits = int((high.fetch_waits[:, 1] - high.fetch_waits[:, 0]).sum())
    return Row(len(ops), (low.total_cycles, high.total_cycles), waits, compiled - start, checked - compiled)


def networks(names: list[str]) -> Iterator[tuple[str, QuantizedGraph]]:
    """Yield the networks of these names, or all."""
    for name in EXPORTED:
        if not names or name in names:
            yield name, exported(name)
    for name, model in catalogue().items():
        if not names or name in names:
            yield name, quantized(model.path, model.preprocess)


def main() -> int:
    """Print the table; 1 if anything is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", help="comma-separated networks; all if left out")
    parser.add_argument("--hardware", default="npu16,npu32,npu128", help="comma-separated machines")
    args = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: the data folder {DATA} is not there", file=sys.stderr)
        return 0
    machines, refused = args.hardware.split(","), False
    head = f"{'instr.':>7} {'0 %':>10} {'100 %':>10} {'fetch':>7} {'compile s':>9} {'check s':>8}"
    print(f"{'network':31} {'machine':8} {head}")
    for name, graph in networks(args.names.split(",") if args.names else []):
        for machine in machines:
            try:
                r = measure(graph, machine)
            except NpuError as error:
                refused = True
                print(f"{name:31} {machine:8} refused: {error.where}: {error.message}", flush=True)
                continue
            print(
                f"{name:31} {machine:8} {r.instructions:7} {r.cycles[0]:10,} {r.cycles[1]:10,} {r.fetch:7,} "
                f"{r.compile_seconds:9.2f} {r.check_seconds:8.2f}",
                flush=True,
            )
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
