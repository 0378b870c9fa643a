"""npu asm: assembly to binary."""

import argparse
import sys
from pathlib import Path

from npu_isa.errors import DataError
from npu_isa.file.container import save

from npu_runtime.cli.arguments import Subparsers, add_command
from npu_runtime.cli.paths import STDIN, InputPath, OutputFile


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    parser = add_command(sub, "asm", run, "assembly to binary", "Assemble a program.")
    parser.add_argument("source", type=InputPath.of("asm"), metavar="FILE.s", help=f"{STDIN} for standard input")
    parser.add_argument("-o", "--output", type=OutputFile, metavar="FILE.npubin", required=True)


def run(args: argparse.Namespace) -> int:
    """Assemble a program, check it and write the binary."""
    from npu_isa.asm.assemble import assemble
    from npu_isa.check.program import check_binary

    try:
        text = sys.stdin.read() if args.source == STDIN else Path(args.source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(
            f"cannot read: {reason}", args.source, "give an assembly file, as `npu disasm` writes it"
        ) from None
    binary = assemble(text, args.source)
    check_binary(binary)
    save(binary, args.output)
    return 0
