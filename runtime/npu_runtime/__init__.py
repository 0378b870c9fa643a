"""What a person touches: compile a model, load and run a binary, turn the dial, read the reports.

The names below are loaded when they are first used, so that importing the package (and `npu --help`) stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npu_isa.machine.config import load_machine

    from npu_runtime.data.dataset import PreprocessOptions, load_dataset
    from npu_runtime.reports.cycles import report
    from npu_runtime.reports.evaluating import evaluate
    from npu_runtime.reports.explain import what_would_help, where_it_went
    from npu_runtime.reports.folder import write_report
    from npu_runtime.session.compiling import compile_file
    from npu_runtime.session.session import Session
    from npu_runtime.verification.comparing import compare

_HOME = {
    "PreprocessOptions": "npu_runtime.data.dataset",
    "Session": "npu_runtime.session.session",
    "compare": "npu_runtime.verification.comparing",
    "compile_file": "npu_runtime.session.compiling",
    "evaluate": "npu_runtime.reports.evaluating",
    "load_dataset": "npu_runtime.data.dataset",
    "load_machine": "npu_isa.machine.config",
    "report": "npu_runtime.reports.cycles",
    "what_would_help": "npu_runtime.reports.explain",
    "where_it_went": "npu_runtime.reports.explain",
    "write_report": "npu_runtime.reports.folder",
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
