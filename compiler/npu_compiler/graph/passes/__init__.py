"""Passes over the float graph: each takes a valid graph and returns a valid graph with the same meaning."""

from collections.abc import Callable

from npu_compiler.graph.ir import Graph
from npu_compiler.graph.passes.fold_activation import fold_activation
from npu_compiler.graph.passes.fold_batchnorm import fold_batchnorm
from npu_compiler.graph.passes.fold_pad import fold_pad
from npu_compiler.graph.passes.fuse_curves import fuse_curves
from npu_compiler.graph.passes.fuse_residual import fuse_residual
from npu_compiler.graph.passes.prune import prune
from npu_compiler.graph.passes.sink_into_parts import sink_into_parts
from npu_compiler.graph.passes.split_pools import split_pools
from npu_compiler.graph.passes.verify import verify

GraphPass = Callable[[Graph], Graph]
PASSES: tuple[GraphPass, ...] = (
    prune,
    fuse_curves,
    sink_into_parts,
    fold_pad,
    fold_batchnorm,
    fold_activation,
    fuse_residual,
    split_pools,
)


def optimize(graph: Graph, observe: Callable[[str, Graph], None] = lambda name, graph: None) -> Graph:
    """Apply the passes in order, verifying before the first and after each; `observe` sees each result."""
    verify(graph, "import")
    for graph_pass in PASSES:
        graph = graph_pass(graph)
        verify(graph, graph_pass.__name__)
        observe(graph_pass.__name__, graph)
    return graph
