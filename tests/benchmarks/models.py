"""Compile and run every convolutional model of ../shared/data: python -m tests.benchmarks.models [--models a,b].

For each model: compile, check the binary, compare every tensor that the simulator writes with the golden model at
0, 50 and 100 %; with --accuracy also the top-1 of labelled images at the five ratios, beside the float model under
onnxruntime. Exit code 1 on any difference.
"""

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import compile_model
from npu_compiler.qgraph.ir import Preprocess, QuantizedGraph
from npu_compiler.quantize.calibrate import pixel_values
from npu_isa.errors import NpuError
from npu_isa.file.container import to_bytes
from npu_isa.machine.config import load_machine
from npu_runtime.data.dataset import Dataset, load_dataset
from npu_runtime.data.geometry import Geometry
from npu_runtime.reports.evaluating import evaluate
from npu_runtime.session.session import Session

from tests.equality import compare

DATA = Path(__file__).parents[3] / "shared" / "data"
COMPARED = (0, 50, 100)
RATIOS = (0, 25, 50, 75, 100)
FLOAT_BATCH = 64


@dataclass(frozen=True)
class Model:
    """A row of models.json: the file, how images become its input, and which images belong to it."""

    name: str
    path: Path
    preprocess: Preprocess
    calibration: tuple[str, Geometry]
    labelled: tuple[str, Geometry]

    def calibration_images(self, limit: int | None) -> np.ndarray:
        """Return uint8 (N, height, width, 3)."""
        return load_dataset(DATA / self.calibration[0], self.calibration[1], limit).images

    def labelled_images(self, limit: int | None) -> Dataset:
        """Return images that were not used for calibration, with labels."""
        return load_dataset(DATA / self.labelled[0], self.labelled[1], limit)


def catalogue() -> dict[str, Model]:
    """Return the convolutional models by name, with the geometry that the data's README states."""
    found = {}
    for row in json.loads((DATA / "models" / "models.json").read_text())["models"]:
        if row["name"].startswith(("vit", "deit", "swin")):
            continue
        entry, side = row["input"], row["input"]["shape"][2]
        if row["dataset"] == "cifar10":
            resized = Geometry() if side == 32 else Geometry(resize=(side, side))
            sets = [(f"cifar10/cifar10_{name}.npz", resized) for name in ("train_batch1", "test")]
        else:
            crop = (side, side)
            sets = [
                ("imagenet/imagenet_sample_mod4eq0.zip", Geometry(resize=(256,), crop=crop)),
                ("imagenet/imagenet_val_227_part0.zip", Geometry(crop=crop)),
            ]
        pre = Preprocess(entry["scale"], tuple(entry["mean"]), tuple(entry["std"]), (), ())
        found[row["name"]] = Model(row["name"], DATA / "models" / row["file"], pre, sets[0], sets[1])
    return found


def chosen_models(parser: argparse.ArgumentParser, names: str | None) -> list[Model]:
    """Return the models of these names, split by commas, or all; ends the program where one or the data are missing."""
    if not DATA.is_dir():
        print(f"skipped: the data folder {DATA} is not there", file=sys.stderr)
        sys.exit(0)
    known = catalogue()
    asked = names.split(",") if names else list(known)
    if unknown := [name for name in asked if name not in known]:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in asked]


def positive(text: str) -> int:
    """Return a number of the command line that is at least 1; argparse reports others."""
    if int(text) < 1:
        raise ValueError
    return int(text)


@dataclass(frozen=True)
class Compiled:
    """One model on one machine."""

    model: Model
    graph: QuantizedGraph
    session: Session
    seconds: float


def compile_one(model: Model, machine: str, calibration: int | None) -> Compiled:
    """Compile a model and check its binary."""
    options = QuantizeOptions()
    if calibration is not None:
        options = replace(options, max_images=calibration)
    images = model.calibration_images(options.max_images)
    start = time.perf_counter()
    graph, binary = compile_model(model.path, load_machine(machine), images, model.preprocess, options)
    seconds = time.perf_counter() - start
    return Compiled(model, graph, Session(binary), seconds)


def float_outputs(model: Model, images: np.ndarray) -> np.ndarray:
    """Return the outputs of the float model under onnxruntime, (N, classes)."""
    session = onnxruntime.InferenceSession(model.path)
    table = pixel_values(model.preprocess).astype(np.float32)
    found = []
    for first in range(0, len(images), FLOAT_BATCH):
        x = table[np.arange(3), images[first : first + FLOAT_BATCH]].transpose(0, 3, 1, 2)
        found.append(session.run(None, {"input": np.ascontiguousarray(x)})[0])
    return np.concatenate(found).reshape(len(images), -1)


def report_equality(found: Compiled, count: int) -> bool:
    """Print a model's row of the first table; return whether nothing differs."""
    images = found.model.labelled_images(count).images
    binary, session = found.session.binary, found.session
    expected = float_outputs(found.model, images).argmax(axis=1)
    cycles, values, differences, agree = [], 0, [], []
    for ratio in COMPARED:
        result = compare(found.graph, session, images, binary.boundaries_at(ratio))
        cycles.append(result.cycles)
        values += result.values
        differences += [f"at {ratio} %: {result.difference}"] if result.difference else []
        top1 = session.run_integers(images).reshape(len(images), -1).argmax(axis=1)
        agree.append(f"{int((top1 == expected).sum())}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{found.model.name:31} {found.seconds:8.1f} {memory:7} {len(session.ops):7} {len(to_bytes(binary)):9} "
        f"{cycles[0]:8} {cycles[1]:8} {cycles[2]:8} {cycles[0] / cycles[-1]:7.2f} {values:12} "
        f"{'DIFFERS' if differences else '0':>7} {'/'.join(agree)} of {len(images)}",
        flush=True,
    )
    for difference in differences:
        print(f"  {difference}")
    return not differences


def report_accuracy(found: Compiled, count: int) -> None:
    """Print a model's row of the second table."""
    data = found.model.labelled_images(count)
    assert data.labels is not None
    real = 100.0 * float((float_outputs(found.model, data.images).argmax(axis=1) == data.labels).mean())
    rows = evaluate(found.session, data, RATIOS).rows
    cells = " ".join(f"{row.top1_percent:6.2f} ({row.effective_percent:3.0f} %)" for row in rows)
    print(f"{found.model.name:31} {len(data):6} {real:6.2f} {cells}", flush=True)


def main() -> int:
    """Run the benchmark; 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="comma-separated names; all convolutional ones if left out")
    parser.add_argument("--images", type=int, default=8, help="images compared with the golden model")
    parser.add_argument("--hardware", default="npu32", help="comma-separated machines")
    parser.add_argument("--calibration", type=int, help="calibration images; the compiler's default if left out")
    parser.add_argument("--accuracy", type=int, default=0, metavar="N", help="labelled images for the top-1 table")
    args = parser.parse_args()
    models = chosen_models(parser, args.models)
    equal, compiled = True, []
    for machine in args.hardware.split(","):
        print(
            f"{machine:31} {'compile s':>8} {'MiB':>6} {'instr.':>7} {'bytes':>9} {'0 %':>8} {'50 %':>8} {'100 %':>8} "
            f"{'speedup':>7} {'values':>12} {'differ':>7} top-1 as float at 0/50/100 %"
        )
        for model in models:
            try:
                compiled.append(compile_one(model, machine, args.calibration))
            except NpuError as error:
                print(f"{model.name:31} refused: {error}", flush=True)
                equal = False
                continue
            equal &= report_equality(compiled[-1], args.images)
    if args.accuracy:
        print(f"\n{'top-1 in %':31} {'images':>6} {'float':>6} " + " ".join(f"{f'{r} %':>14}" for r in RATIOS))
        for found in compiled[: len(models)]:
            report_accuracy(found, args.accuracy)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
