"""npu quantize: ONNX model to quantized graph."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from npu_isa.errors import DataError
from npu_isa.file.container import write_whole

from npu_runtime.cli.arguments import Subparsers, add_command, refuse
from npu_runtime.cli.output import first_run_notice, note, progress, put_host, put_notes
from npu_runtime.cli.paths import OutputFile
from npu_runtime.cli.quantizing import add_model, model_arguments

if TYPE_CHECKING:
    from npu_compiler.lowering.evolve import State


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    text = "Quantize an ONNX model and choose its 4-bit groups: one file for every machine."
    parser = add_command(sub, "quantize", run, "ONNX model to quantized graph", text)
    add_model(parser)
    parser.add_argument(
        "--state", type=OutputFile, metavar="FILE", help="keep the search's state here, and go on from it if it exists"
    )
    parser.add_argument("-o", "--output", type=OutputFile, metavar="FILE.npuq", required=True)


def run(args: argparse.Namespace) -> int:
    """Quantize an ONNX model."""
    from npu_compiler.lowering.evolve import RATIOS, Progress, State
    from npu_compiler.qgraph import npuq

    from npu_runtime.session.compiling import quantize_file
    from npu_runtime.session.hosting import host_lines

    arguments = model_arguments(args)
    options = arguments["options"]
    if options.selection != "evolutionary":
        refuse(args, ("state",), "without --select evolutionary")
    state = State(options.seed) if args.state is None else _search_state(args.state, options.seed)
    total = len(RATIOS) * options.generations if options.seconds is None else None
    with first_run_notice(), progress("search", total) as bar:

        def observe(found: Progress) -> None:
            if args.state is not None:
                write_whole(args.state, state.to_json().encode())
            bar(1, f"{found.ratio} %: distance {found.best:,.4g}, greedy {found.greedy:,.4g}")

        _, graph = quantize_file(**arguments, state=state, progress=observe)
    put_notes(graph.notes)
    put_host(host_lines(graph.host, sum(getattr(node, "macs", 0) for node in graph.nodes)))
    npuq.save(graph, args.output)
    groups = sum(graph.tensors[n.src].groups for n in graph.lowerable)
    note(f"{args.output}: {len(graph.lowerable)} layers of {groups} groups can run in 4 bits")
    return 0


def _search_state(path: str, seed: int) -> "State":
    from npu_compiler.lowering.evolve import State, state_from_json

    if not Path(path).exists():
        return State(seed)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"cannot read: {reason}", path, "give another --state") from None
    state = state_from_json(text, path)
    if state.seed != seed:
        raise DataError(
            f"the search was begun with --seed {state.seed}, not {seed}", path, "give that seed, or another --state"
        )
    return state
