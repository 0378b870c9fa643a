"""What a person touches: compile a model, load and run a binary, turn the dial, read the reports.

The names below are loaded when they are first used, so that importing the package (and `npu --help`) stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npu_isa.machine import load_machine

    from npu_runtime.comparing import compare
    from npu_runtime.compiling import compile_file
    from npu_runtime.data import PreprocessOptions, load_dataset
    from npu_runtime.evaluating import evaluate
    from npu_runtime.explain import what_would_help, where_it_went
    from npu_runtime.report_folder import write_report
    from npu_runtime.reporting import report
    from npu_runtime.session import Session

_HOME = {
    "PreprocessOptions": "npu_runtime.data",
    "Session": "npu_runtime.session",
    "compare": "npu_runtime.comparing",
    "compile_file": "npu_runtime.compiling",
    "evaluate": "npu_runtime.evaluating",
    "load_dataset": "npu_runtime.data",
    "load_machine": "npu_isa.machine",
    "report": "npu_runtime.reporting",
    "what_would_help": "npu_runtime.explain",
    "where_it_went": "npu_runtime.explain",
    "write_report": "npu_runtime.report_folder",
}

__all__ = [
    "PreprocessOptions",
    "Session",
    "compare",
    "compile_file",
    "evaluate",
    "load_dataset",
    "load_machine",
    "report",
    "what_would_help",
    "where_it_went",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
