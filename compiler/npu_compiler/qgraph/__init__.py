"""The quantized graph: its types, its rules, its file, its golden model and a fast one equal to it."""

from npu_compiler.qgraph.ir import QuantizedGraph

__all__ = ["QuantizedGraph"]
