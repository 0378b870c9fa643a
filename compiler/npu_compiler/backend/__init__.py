"""`QuantizedGraph` and a machine -> `Plan` -> program -> `Binary`."""

from npu_compiler.backend.fit import check_fit
from npu_compiler.backend.link import compile_quantized
from npu_compiler.backend.plan import Plan, make_plan

__all__ = ["Plan", "check_fit", "compile_quantized", "make_plan"]
