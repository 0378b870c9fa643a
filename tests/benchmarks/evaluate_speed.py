"""Images per second of the value simulator beside onnxruntime in float: python -m tests.benchmarks.evaluate_speed.

For each model at 0, 50 and 100 %: the time of a session on its images against that of the float model on the same
images, both with the same number of threads, in turns in one run, the best of several rounds each. Also what a new
ratio costs once, and the time of one image.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from npu_compiler.quantize.calibrate import pixel_values
from npu_runtime.session.session import Session
from numba import config

from tests.benchmarks.models import Model, chosen_models, compile_one

RATIOS = (0, 50, 100)
BATCH = 64  # images that onnxruntime takes at once
PAUSE_SECONDS = 0.1
Timed = Callable[[], object]


def seconds(what: Timed) -> float:
    """Return the time of a call, when the threads of the one before have stopped waiting for more work."""
    time.sleep(PAUSE_SECONDS)
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def best_seconds(calls: dict[object, Timed], rounds: int) -> dict[object, float]:
    """Return the least time of each call, after a first one that does not count; the calls take turns."""
    for call in calls.values():
        call()
    times = [{key: seconds(call) for key, call in calls.items()} for _ in range(rounds)]
    return {key: min(t[key] for t in times) for key in calls}


def float_run(model: Model, images: np.ndarray, threads: int) -> Timed:
    """Return the evaluation of the float model on images that are already floating point numbers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
    table = pixel_values(model.preprocess).astype(np.float32)
    x = np.ascontiguousarray(table[np.arange(3), images].transpose(0, 3, 1, 2))
    parts = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    return lambda: [session.run(None, {"input": part}) for part in parts]


def report(model: Model, session: Session, images: np.ndarray, rounds: int, threads: int) -> None:
    """Print the rows of a model."""

    def at(ratio: int, part: np.ndarray) -> Timed:
        return lambda: (session.set_ratio(ratio), session.run_integers(part))

    first = seconds(at(0, images[:1]))
    calls: dict[object, Timed] = {
        name: float_run(model, images[:count], threads) for name, count in (("float", None), ("float one", 1))
    }
    for ratio in RATIOS:  # the first call comes from another ratio, the next ones do not
        calls |= {("turn", ratio): at(ratio, images[:1]), ("one", ratio): at(ratio, images[:1])}
        calls[ratio] = at(ratio, images)
    best = best_seconds(calls, rounds)
    macs = sum(layer.macs for layer in session.binary.layers)
    reference = len(images) / best["float"]
    print(f"{model.name}: {macs / 1e6:.1f} M multiply-accumulates, first image after {first:.2f} s")
    print(f"  float     {reference:8.0f} images/s {macs * reference / 1e9:7.1f} GMAC/s        "
          f"one image {best['float one'] * 1e3:7.2f} ms")  # fmt: skip
    for ratio in RATIOS:
        rate = len(images) / best[ratio]
        turn = best["turn", ratio] - best["one", ratio]
        print(f"  {ratio:3} %     {rate:8.0f} images/s {macs * rate / 1e9:7.1f} GMAC/s {rate / reference:5.2f} x "
              f"one image {best['one', ratio] * 1e3:7.2f} ms, turning the dial {turn * 1e3:.0f} ms")  # fmt: skip


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet20_cifar10", help="comma-separated names")
    parser.add_argument("--binary", type=Path, help="a compiled binary of the one model, to save its compilation")
    parser.add_argument("--hardware", default="npu32")
    parser.add_argument("--calibration", type=int, default=64, help="calibration images")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    models = chosen_models(parser, args.models)
    if args.binary and len(models) > 1:
        parser.error("--binary goes with one model")
    config.NUMBA_NUM_THREADS = args.threads
    print(f"{args.threads} threads, {args.images} images, best of {args.rounds} rounds")
    for model in models:
        session = Session(args.binary) if args.binary else compile_one(model, args.hardware, args.calibration).session
        report(model, session, model.labelled_images(args.images).images, args.rounds, args.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
