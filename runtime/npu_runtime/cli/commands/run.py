"""npu run: accuracy and cycles of a binary."""

import argparse

from npu_runtime.cli.arguments import Subparsers, add_binary, add_command, add_format, add_ratios, positive, refuse
from npu_runtime.cli.output import first_run_notice, note, progress, put_result
from npu_runtime.cli.paths import InputPath, OutputFolder


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    parser = add_command(sub, "run", run, "accuracy and cycles of a binary", "Run a binary on a data set.")
    add_binary(parser)
    parser.add_argument(
        "--data", type=InputPath.of("data"), metavar="DATA",
        help=".npz, folder or zip; without it only time is simulated",
    )  # fmt: skip
    add_ratios(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="take the first N images only")
    parser.add_argument(
        "--classes", metavar="NAME",
        help="output that labels belong to; else the only one, or the first that is a vector",
    )  # fmt: skip
    parser.add_argument(
        "--float", type=InputPath.of("onnx"), metavar="MODEL.onnx",
        help="also compare the outputs with those of the float model that was compiled",
    )  # fmt: skip
    parser.add_argument(
        "--report",
        type=OutputFolder,
        metavar="FOLDER",
        help="also write a page with plots, tables and a Perfetto trace",
    )
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate a binary at several ratios."""
    from npu_runtime.data.dataset import load_dataset
    from npu_runtime.data.geometry import Geometry
    from npu_runtime.reports.evaluating import evaluate
    from npu_runtime.session.session import Session

    if args.data is None:
        refuse(args, ("limit", "classes", "float"), "without --data")
    session = Session(args.binary)
    info = session.binary.input
    dataset = None
    if args.data is not None:
        dataset = load_dataset(args.data, Geometry(info.resize, info.crop), args.limit, info.channels)
    total = 0 if dataset is None else len(dataset) * len(args.ratio)
    with first_run_notice(), progress("images", total) as bar:
        runs = evaluate(session, dataset, args.ratio, bar, classes=args.classes, float_model=args.float)
    put_result(runs, args)
    if args.report is not None:
        from npu_runtime.reports.folder import write_report

        note(f"report: {write_report(args.report, session, runs)}")
    return 0
