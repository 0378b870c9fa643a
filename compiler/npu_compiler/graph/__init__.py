"""The float graph, its passes (`Graph` -> `Graph`), and what it computes in floating point."""

from npu_compiler.graph.ir import Graph
from npu_compiler.graph.passes import optimize

__all__ = ["Graph", "optimize"]
