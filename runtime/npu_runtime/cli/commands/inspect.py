"""npu inspect: what a binary holds."""

import argparse
from pathlib import Path

from npu_isa.file.container import load

from npu_runtime.cli.arguments import Subparsers, add_binary, add_command
from npu_runtime.cli.output import put


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    parser = add_command(sub, "inspect", run, "what a binary holds", "Summarize and check a binary.")
    add_binary(parser)


def run(args: argparse.Namespace) -> int:
    """Summarize a binary and check it; raises what is wrong with the program."""
    from npu_runtime.reports.inspecting import summary

    binary = load(args.binary)
    text, fault = summary(binary, Path(args.binary).stat().st_size)
    put(text)
    if fault is not None:
        raise fault
    return 0
