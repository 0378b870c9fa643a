"""npu report: where the cycles go."""

import argparse

from npu_runtime.cli.arguments import Subparsers, add_binary, add_command, add_format, ratio
from npu_runtime.cli.output import first_run_notice, put_result


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    parser = add_command(sub, "report", run, "where the cycles go", "Cycles by layer, engine or instruction.")
    add_binary(parser)
    parser.add_argument("--ratio", type=ratio, default=0.0, metavar="P", help="one percentage (0)")
    parser.add_argument("--by", choices=("layer", "engine", "instruction"), default="layer", help="(layer)")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Print a cycle report at one ratio."""
    from npu_runtime.reports.cycles import report
    from npu_runtime.reports.explain import where_it_went, without_host
    from npu_runtime.session.session import Session

    session = Session(args.binary)
    session.set_ratio(args.ratio)
    with first_run_notice():
        more = without_host(session) if args.by == "instruction" else "\n" + where_it_went(session)
        put_result(report(session, args.by), args, more if args.format == "table" else "")
    return 0
