"""The command line."""

from npu_runtime.cli.main import main

__all__ = ["main"]
