"""Arguments that several commands take: their types, and the options themselves."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from npu_runtime.cli.paths import InputPath, OutputFile
from npu_runtime.data.preprocess import numbers

RATIOS = "0,25,50,75,100"
Subparsers = Any  # argparse's class is private


class Parser(argparse.ArgumentParser):
    """A parser that reports a wrong call in one line."""

    def error(self, message: str) -> NoReturn:
        """End with the exit code of a wrong call."""
        self.exit(2, f"error: {message}\n  hint: see `{self.prog} --help`\n")


def add_command(
    sub: Subparsers, name: str, run: Callable[[argparse.Namespace], int], brief: str, text: str
) -> argparse.ArgumentParser:
    """Add the parser of a command, which calls `run` with the arguments; they hold the parser too."""
    parser: argparse.ArgumentParser = sub.add_parser(name, help=brief, description=text)
    parser.set_defaults(function=run, parser=parser)
    return parser


def refuse(args: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """End with a wrong call where an option is given that would do nothing."""
    for name in names:
        if getattr(args, name, None) is not None:
            args.parser.error(f"--{name.replace('_', '-')} does nothing {reason}")


# -- types; argparse shows their names


def ratios(text: str) -> tuple[float, ...]:
    """Return percentages, each once, in the order given."""
    found = dict.fromkeys(numbers(text))
    for ratio in found:
        if not 0 <= ratio <= 100:
            raise argparse.ArgumentTypeError(f"{ratio:g} is outside 0..100, the percentage of 4-bit work")
    return tuple(found)


def ratio(text: str) -> float:
    """Return one percentage."""
    found = ratios(text)
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"one percentage, not {text}")
    return found[0]


def names(text: str) -> tuple[str, ...]:
    """Return comma-separated names."""
    return tuple(text.split(","))


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def natural(text: str) -> int:
    """Return a whole number from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def shape(text: str) -> tuple[int, ...]:
    """Return the four sizes of an input."""
    found = tuple(map(int, text.split(",")))
    if len(found) != 4 or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not four sizes: images, channels, height, width")
    return found


def svg(text: str) -> OutputFile:
    """Return the path of a plot."""
    if not text.endswith(".svg"):
        raise argparse.ArgumentTypeError(f"{text}: plots are SVG, name it .svg")
    return OutputFile(text)


def numbers_of(text: str) -> tuple[float, ...]:
    """Return comma-separated numbers."""
    return numbers(text)


ratios.__name__ = "comma-separated percentages"
ratio.__name__ = "percentage"
positive.__name__ = "positive number"
natural.__name__ = "whole number"
shape.__name__ = "sizes N,C,H,W"
numbers_of.__name__ = "comma-separated numbers"


# -- options


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    """Add -o for a result that is printed otherwise."""
    parser.add_argument(
        "-o", "--output", type=OutputFile, metavar="FILE", help=f"write {what} to a file instead of the terminal"
    )


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add --format and -o."""
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="of the result (table)")
    add_output(parser, "the result")


def add_binary(parser: argparse.ArgumentParser, **more: Any) -> None:
    """Add the binary that a command reads."""
    parser.add_argument("binary", type=InputPath.of("npubin"), metavar="FILE.npubin", **more)


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """Add the machine that a model is compiled for."""
    parser.add_argument(
        "--hardware", type=InputPath.of("toml"), default="npu32", metavar="NAME|FILE",
        help="shipped machine or TOML (npu32)",
    )  # fmt: skip


def add_ratios(parser: argparse.ArgumentParser, default: str = RATIOS) -> None:
    """Add the ratios that are tried after each other."""
    parser.add_argument("--ratio", type=ratios, default=ratios(default), metavar="P[,P...]", help=f"({default})")
