"""Which channels share a group of 16: those of like magnitude, so that one position suits them all.

Channels may stand in any order as long as all tensors tied by additions, window operations and concatenations agree
(machine-why 16): producers write and consumers read them where they stand, at no cost at run time.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

import networkx as nx
import numpy as np

from npu_compiler.graph.ir import Act, Add, Affine, Channels, Concat, Conv, Crop, Graph, Mosaic, Mul, Pool, inputs
from npu_compiler.qgraph.ir import GROUP
from npu_compiler.quantize.calibrate import F64
from npu_compiler.quantize.prepare import Map, Prepared, is_depthwise, joined_map


def group_channels(prepared: Prepared, mean_square: Mapping[str, F64]) -> Prepared:
    """Return the network with the channels of each tensor in order of their magnitude.

    Args:
        prepared: with channels in their own order.
        mean_square: of each channel's values, for the tensors that 4-bit layers read, shape (channels,). Tied tensors
            follow the geometric mean of theirs.
    """
    graph = prepared.graph
    tied = _tied(graph)
    concats: dict[str, list[Concat]] = {}
    for node in graph.nodes:
        if isinstance(node, Concat):
            concats.setdefault(tied[node.out], []).append(node)
    fixed = _fixed(graph, tied, concats)
    size = _sizes(graph, tied, concats, mean_square)
    maps: dict[str, Map] = {}

    def map_of(name: str) -> Map:
        if name not in maps:
            channels = graph.shapes[name][0]
            if name in concats:
                maps[name] = joined_map([(map_of(tied[s]), graph.shapes[s][0]) for s in concats[name][0].srcs])
            else:
                own = np.zeros(channels) if name in fixed else np.broadcast_to(size[name], channels)
                order = np.argsort(own, kind="stable")
                maps[name] = tuple(int(c) for c in order) + (-1,) * (-channels % GROUP)
        return maps[name]

    return replace(prepared, maps={t: map_of(tied[t]) for t in prepared.maps})


def _fixed(graph: Graph, tied: Mapping[str, str], concats: Mapping[str, list[Concat]]) -> set[str]:
    """Return the ties whose channels keep their order: the image's, the outputs', and those of two concats or more."""
    fixed: set[str] = set()

    def fix(name: str) -> None:
        fixed.add(name)
        for node in concats.get(name, []):
            for src in node.srcs:
                fix(tied[src])

    shared = (n for n, found in concats.items() if len(found) > 1)
    for name in {tied[graph.input], *(tied[t] for t in graph.output_tensors), *shared}:
        fix(name)
    return fixed


def _sizes(
    graph: Graph, tied: Mapping[str, str], concats: Mapping[str, list[Concat]], mean_square: Mapping[str, F64]
) -> dict[str, F64]:
    """Return the sum of the logarithms of each channel's mean squares over tied tensors; zero where none is known."""
    size = dict.fromkeys(tied.values(), np.zeros(1))

    def add(name: str, values: F64) -> None:
        size[name] = size[name] + values
        for node in concats.get(name, []):
            at = np.cumsum([0, *(graph.shapes[s][0] for s in node.srcs)])
            for src, first, end in zip(node.srcs, at, at[1:], strict=False):
                add(tied[src], values[first:end])

    for tensor, values in mean_square.items():
        add(tied[tensor], np.log(values / max(float(values.max()), 1e-30) + 1e-9))
    return size


def _tied(graph: Graph) -> dict[str, str]:
    """Return a representative of the tensors that must have their channels in the same order, for each tensor."""
    ties: nx.Graph = nx.Graph()
    ties.add_nodes_from([graph.input, *graph.shapes])
    for node in graph.nodes:
        match node:
            case Concat() | Channels():
                pass
            case Conv() if not is_depthwise(node):
                if node.residual is not None:
                    ties.add_edge(node.out, node.residual)
            case Conv() | Affine() | Act() | Add() | Mul() | Pool() | Mosaic() | Crop():
                nx.add_star(ties, [node.out, *inputs(node)])
            case _:
                assert_never(node)
    return {t: min(members) for members in nx.connected_components(ties) for t in members}
