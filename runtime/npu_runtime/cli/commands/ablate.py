"""npu ablate: what each part of the method gives."""

import argparse

from npu_isa.file.container import write_whole

from npu_runtime.cli.arguments import Subparsers, add_command, add_format, positive, ratio, svg
from npu_runtime.cli.output import first_run_notice, note, put_result
from npu_runtime.cli.paths import InputPath
from npu_runtime.cli.quantizing import add_model, model_arguments


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    text = (
        "Top-1 of conventional INT4 and of each part of the method, each on top of the one before: "
        "selection, positions, scales, bias, grouping and rounding are set by the steps."
    )
    parser = add_command(sub, "ablate", run, "what each part of the method gives", text)
    add_model(parser, parts=False)
    parser.add_argument(
        "--data", type=InputPath.of("data"), metavar="DATA", required=True,
        help="images with labels, not those of --calibration",
    )  # fmt: skip
    parser.add_argument("--limit", type=positive, metavar="N", help="take the first N images of --data only")
    parser.add_argument("--ratio", type=ratio, default=75.0, metavar="P", help="of the ladder (75)")
    parser.add_argument("--plot", type=svg, metavar="FILE.svg", help="also draw it")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Measure what each part of the method gives."""
    from npu_runtime.data.dataset import load_dataset
    from npu_runtime.reports.ablating import ablate
    from npu_runtime.session.compiling import prepare

    given = model_arguments(args)
    ready = prepare(**given)
    geometry, channels = given["preprocess"].geometry, ready.graph.shapes[ready.graph.input][0]
    data = load_dataset(args.data, geometry, args.limit, channels)
    with first_run_notice():
        table = ablate(ready.graph, ready.calibration, data, ready.preprocess, args.ratio, given["options"], note)
    put_result(table, args)
    if args.plot is not None:
        from npu_runtime.reports.plots import ablation_plot

        write_whole(args.plot, ablation_plot(table))
    return 0
