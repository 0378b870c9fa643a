"""npu disasm: binary to assembly."""

import argparse

from npu_isa.file.container import load

from npu_runtime.cli.arguments import Subparsers, add_binary, add_command, add_output
from npu_runtime.cli.output import put


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    parser = add_command(sub, "disasm", run, "binary to assembly", "Print a binary as assembly.")
    add_binary(parser)
    add_output(parser, "the assembly")


def run(args: argparse.Namespace) -> int:
    """Print a binary as assembly."""
    from npu_isa.asm.disasm import disassemble

    put(disassemble(load(args.binary)), args.output)
    return 0
