"""npu compare: first difference between golden model and simulator."""

import argparse
from typing import Any

from npu_isa.file.container import load
from npu_isa.machine.config import load_machine

from npu_runtime.cli.arguments import Subparsers, add_command, add_format, add_hardware, add_ratios, positive, refuse
from npu_runtime.cli.output import first_run_notice, note, put_result
from npu_runtime.cli.paths import InputPath
from npu_runtime.cli.quantizing import add_model, model_arguments

SCHEMA = "npu.compare/1"


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    text = "Compare the golden model with the simulator layer by layer and name the first value that differs."
    parser = add_command(sub, "compare", run, "first difference between two models of a network", text)
    add_model(parser)
    add_hardware(parser)
    parser.set_defaults(hardware=None)  # a binary has its machine
    parser.add_argument(
        "--binary",
        type=InputPath.of("npubin"),
        metavar="FILE.npubin",
        help="simulate this binary (default: a fresh one)",
    )
    parser.add_argument(
        "--data", type=InputPath.of("data"), metavar="DATA", help="images to run (the calibration images)"
    )
    add_ratios(parser, "0,50,100")
    parser.add_argument("--limit", type=positive, default=8, metavar="N", help="images (8)")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Compare golden model and simulator; 1 if any value differs."""
    from dataclasses import asdict

    from npu_compiler.backend.link import compile_quantized
    from npu_compiler.pipeline import quantize_graph

    from npu_runtime.data.dataset import load_dataset
    from npu_runtime.data.geometry import Geometry
    from npu_runtime.reports.tables import Table
    from npu_runtime.session.compiling import prepare
    from npu_runtime.session.provenance import provenance
    from npu_runtime.session.session import Session
    from npu_runtime.verification.comparing import compare

    if args.binary is not None:
        refuse(args, ("hardware",), "with --binary, which has its machine")
    given = model_arguments(args)
    binary = None if args.binary is None else load(args.binary)
    machine = load_machine(args.hardware or "npu32") if binary is None else binary.machine
    ready = prepare(**given, machine=machine if binary is None else None)
    geometry = given["preprocess"].geometry if binary is None else Geometry(binary.input.resize, binary.input.crop)
    channels = ready.graph.shapes[ready.graph.input][0]
    images = load_dataset(args.data or args.calibration, geometry, args.limit, channels).images
    rows: list[dict[str, Any]] = []
    first = None
    with first_run_notice():
        quantized = quantize_graph(ready.graph, ready.calibration.images, ready.preprocess, given["options"])
        session = Session(compile_quantized(quantized, machine) if binary is None else binary)
        for ratio in args.ratio:
            session.set_ratio(ratio)
            for layer in compare(quantized, session, images, ready.graph):
                rows.append(
                    {"ratio_percent": ratio, **asdict(layer), "first": "" if layer.first is None else str(layer.first)}
                )
                first = first or layer.first
    table = Table(SCHEMA, provenance(session) | {"images": str(len(images))}, tuple(rows), hidden=("first",))
    values, differing = (sum(r[k] for r in rows) for k in ("values", "differing"))
    total = f"\n{values:,} values of {len(images)} images at {len(args.ratio)} ratios: {differing:,} differ\n"
    put_result(table, args, total if args.format == "table" else "")
    if first is not None:
        note(f"first difference: {first}")
    return int(first is not None)
