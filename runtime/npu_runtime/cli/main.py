"""The command line: `npu COMMAND ...`. Each command parses, calls one public function and prints.

Results go to stdout, diagnostics to stderr. Exit code 0: done; 1: the input is wrong (one `error:` line, a hint);
2: the call is wrong. Heavy modules are imported by the commands that need them.
"""

import os
import sys
from collections.abc import Sequence
from importlib import metadata

from npu_isa.errors import NpuError

from npu_runtime.cli.arguments import Parser
from npu_runtime.cli.commands import (
    ablate,
    asm,
    compare,
    compile,
    disasm,
    explain,
    hardware,
    inspect,
    quantize,
    report,
    run,
    verify,
)
from npu_runtime.cli.completion import add_completion
from npu_runtime.cli.output import put
from npu_runtime.cli.paths import check_paths

COMMANDS = (quantize, explain, ablate, compile, run, report, compare, verify, disasm, asm, inspect, hardware)
MEMORY_HINT = "take fewer or smaller images (--limit, --max-images), or a computer with more memory"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        the exit code.
    """
    try:
        code = _run(argv)
        put("")  # what argparse has printed too
        return code
    except NpuError as error:
        return _fail(error)
    except MemoryError as error:
        return _fail(NpuError(f"not enough memory: {str(error) or 'none is left'}", hint=MEMORY_HINT))
    except BrokenPipeError:  # the reader has gone, as in `npu disasm x.npubin | head`
        _forget_output()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(argv)
        check_paths(args)
        return int(args.function(args))
    except SystemExit as stop:  # argparse: help, version, wrong call
        return int(stop.code or 0)


def _fail(error: NpuError) -> int:
    print(f"error: {error}", file=sys.stderr)
    _forget_output()
    return 1


def _forget_output() -> None:
    """Send what stdout still holds nowhere: it cannot be written, and Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> Parser:
    """Return the parser of all commands."""
    made = Parser(prog="npu", description="Compile ONNX vision models for an NPU and simulate it, cycle by cycle.")
    made.add_argument("--version", action="version", version=f"npu-stack {metadata.version('npu-stack')}")
    add_completion(made)
    sub = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(sub)
    return made
