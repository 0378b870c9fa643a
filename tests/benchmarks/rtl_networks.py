"""RTL of the matrix engine on whole networks: python -m tests.benchmarks.rtl_networks [MODEL.npubin ...].

Every matrix instruction at each ratio: times against the fast simulator, accumulators against the value simulator.
Without a model: the demo network, compiled for npu32.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from npu_isa.binary import Binary
from npu_isa.check import check_binary
from npu_isa.codec import decode
from npu_isa.container import load
from npu_runtime.compiling import compile_file
from npu_sim.fast.timing import TimingModel
from npu_sim.rtl.build import build
from npu_sim.rtl.compare import compare
from npu_sim.rtl.memories import trace
from npu_sim.rtl.run import run

DEMO = Path(__file__).parents[1] / "demo"


def compare_binary(binary: Binary, ratios: list[float], simulator: Path) -> bool:
    """Print a line for each ratio; return whether all agree."""
    ops, machine = check_binary(binary), binary.machine
    program, model = decode(binary.code), TimingModel(ops, machine)
    pixels = np.random.default_rng(0).integers(0, 256, (binary.input.bytes // binary.input.channels, 1), np.uint8)
    image = binary.input.table[np.arange(binary.input.channels), pixels].reshape(-1)
    agree = True
    for ratio in ratios:
        boundaries = binary.boundaries_at(ratio)
        timing = model.simulate(boundaries)
        memories = trace(ops, machine, binary.constants, boundaries, binary.dram_bytes, image, binary.input.address)
        rtl = run(program, machine, timing, memories.writes, boundaries, simulator=simulator)
        found = compare(rtl, ops, machine, timing, memories.sums, boundaries)
        agree &= found.difference is None
        print(
            f"{binary.model} at {ratio:g} %: {found.instructions} matrix instructions, {found.passes} passes, "
            f"{found.cycles} cycles at {found.cycles / rtl.seconds:.0f} cycles/s, {found.times} times and "
            f"{found.values} accumulators compared: {found.difference or '0 differences'}"
        )
    return agree


def main() -> int:
    """Compare each network; 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=".npubin files")
    parser.add_argument("--ratio", default="0,50,100", help="ratios in percent")
    args = parser.parse_args()
    if args.models:
        binaries = [load(name) for name in args.models]
    else:
        binaries = [compile_file(DEMO / "digits.onnx", DEMO / "digits_train.npz", "npu32").binary]
    ratios = [float(r) for r in args.ratio.split(",")]
    agree = [compare_binary(b, ratios, build(b.machine)) for b in binaries]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
