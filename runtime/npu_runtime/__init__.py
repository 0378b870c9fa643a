"""What a person touches: quantize and compile a model, load and run a binary, turn the dial, read the reports.

The names below are loaded when they are first used, so that importing the package (and `npu --help`) stays light.
docs/python.md has a line on each.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npu_compiler.backend.link import compile_quantized
    from npu_compiler.options import QuantizeOptions
    from npu_compiler.qgraph.ir import QuantizedGraph
    from npu_compiler.qgraph.npuq import load as load_quantized
    from npu_compiler.qgraph.npuq import save as save_quantized
    from npu_isa.asm.assemble import assemble
    from npu_isa.asm.disasm import disassemble
    from npu_isa.errors import (
        AsmError,
        CompileError,
        ContainerError,
        DataError,
        MachineError,
        ModelError,
        NpuError,
        ProgramError,
        UnsupportedError,
    )
    from npu_isa.file.binary import Binary
    from npu_isa.file.container import load as load_binary
    from npu_isa.file.container import save as save_binary
    from npu_isa.machine.config import MachineConfig, load_machine

    from npu_runtime.data.dataset import Dataset, load_dataset
    from npu_runtime.data.geometry import Geometry
    from npu_runtime.data.preprocess import PreprocessOptions
    from npu_runtime.reports.choices import explain_groups, explain_layers
    from npu_runtime.reports.cycles import report
    from npu_runtime.reports.evaluating import evaluate
    from npu_runtime.reports.explain import what_would_help, where_it_went
    from npu_runtime.reports.folder import write_report
    from npu_runtime.session.compiling import Compiled, compile_file, quantize_file
    from npu_runtime.session.session import Session
    from npu_runtime.verification.comparing import compare
    from npu_runtime.verification.verify import verify

__all__ = [
    "AsmError",
    "Binary",
    "CompileError",
    "Compiled",
    "ContainerError",
    "DataError",
    "Dataset",
    "Geometry",
    "MachineConfig",
    "MachineError",
    "ModelError",
    "NpuError",
    "PreprocessOptions",
    "ProgramError",
    "QuantizeOptions",
    "QuantizedGraph",
    "Session",
    "UnsupportedError",
    "assemble",
    "compare",
    "compile_file",
    "compile_quantized",
    "disassemble",
    "evaluate",
    "explain_groups",
    "explain_layers",
    "load_binary",
    "load_dataset",
    "load_machine",
    "load_quantized",
    "quantize_file",
    "report",
    "save_binary",
    "save_quantized",
    "verify",
    "what_would_help",
    "where_it_went",
    "write_report",
]

_HOMES = {
    "npu_compiler.backend.link": ("compile_quantized",),
    "npu_compiler.options": ("QuantizeOptions",),
    "npu_compiler.qgraph.ir": ("QuantizedGraph",),
    "npu_isa.asm.assemble": ("assemble",),
    "npu_isa.asm.disasm": ("disassemble",),
    "npu_isa.errors": tuple(name for name in __all__ if name.endswith("Error")),
    "npu_isa.file.binary": ("Binary",),
    "npu_isa.machine.config": ("MachineConfig", "load_machine"),
    "npu_runtime.data.dataset": ("Dataset", "load_dataset"),
    "npu_runtime.data.geometry": ("Geometry",),
    "npu_runtime.data.preprocess": ("PreprocessOptions",),
    "npu_runtime.reports.choices": ("explain_groups", "explain_layers"),
    "npu_runtime.reports.cycles": ("report",),
    "npu_runtime.reports.evaluating": ("evaluate",),
    "npu_runtime.reports.explain": ("what_would_help", "where_it_went"),
    "npu_runtime.reports.folder": ("write_report",),
    "npu_runtime.session.compiling": ("Compiled", "compile_file", "quantize_file"),
    "npu_runtime.session.session": ("Session",),
    "npu_runtime.verification.comparing": ("compare",),
    "npu_runtime.verification.verify": ("verify",),
}
_HOME = {name: f"{module}:{name}" for module, names in _HOMES.items() for name in names} | {
    "load_binary": "npu_isa.file.container:load",
    "save_binary": "npu_isa.file.container:save",
    "load_quantized": "npu_compiler.qgraph.npuq:load",
    "save_quantized": "npu_compiler.qgraph.npuq:save",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(_HOME[name])


def __dir__() -> list[str]:
    return sorted(__all__)
