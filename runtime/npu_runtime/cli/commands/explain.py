"""npu explain: what the quantizer found and chose."""

import argparse

from npu_isa.file.container import write_whole

from npu_runtime.cli.arguments import Subparsers, add_command, add_format
from npu_runtime.cli.output import note, put_result
from npu_runtime.cli.paths import InputPath, OutputFolder


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    text = "Unused bits, extraction positions, expected errors, and the groups in 4 bits at each ratio."
    parser = add_command(sub, "explain", run, "what the quantizer found and chose", text)
    parser.add_argument("model", type=InputPath.of("npuq"), metavar="MODEL.npuq")
    parser.add_argument("--layer", metavar="NAME", help="the groups of one layer instead of all layers")
    parser.add_argument(
        "--plots", type=OutputFolder, metavar="FOLDER", help="also draw unused bits, and the error of the top 4 bits"
    )
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Explain what the quantizer found and chose."""
    from npu_compiler.qgraph import npuq

    from npu_runtime.reports.choices import explain_groups, explain_layers
    from npu_runtime.reports.folder import make_folder

    graph = npuq.load(args.model)
    table = explain_layers(graph) if args.layer is None else explain_groups(graph, args.layer)
    put_result(table, args)
    if args.plots is not None:
        from npu_runtime.reports.plots import extraction_plot, unused_bits_plot

        folder = make_folder(args.plots)
        write_whole(folder / "unused_bits.svg", unused_bits_plot(graph))
        write_whole(folder / "extraction.svg", extraction_plot(explain_layers(graph)))
        note(f"plots: {folder}")
    return 0
