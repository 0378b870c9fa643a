"""npu --print-completion SHELL: completion of commands, options and paths, made by shtab from the parsers."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from npu_isa.errors import NpuError

from npu_runtime.cli.output import put

SHELLS = ("bash", "zsh", "tcsh")
PATHS = re.compile("FILE|FOLDER|DATA|MODEL")  # in the help they stand for paths


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add the option; what it prints is loaded by `eval "$(npu --print-completion bash)"`."""
    parser.add_argument(
        "--print-completion", action=_Print, choices=SHELLS, help="print completion for a shell (needs shtab)"
    )


class _Print(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print and end, as --help does."""
        try:
            import shtab
        except ImportError:
            raise NpuError("shtab, which makes the completion, is not installed", hint="pip install shtab") from None
        _complete_paths(parser, shtab.FILE)
        put(shtab.complete(parser, str(values)) + "\n")
        parser.exit()


def _complete_paths(parser: argparse.ArgumentParser, complete: Any) -> None:
    """Let the shell complete the arguments that are paths."""
    for action in parser._actions:
        if isinstance(action.metavar, str) and PATHS.search(action.metavar):
            action.complete = complete  # type: ignore[attr-defined]  # shtab reads it
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_paths(inner, complete)
