"""Normalization that a network does itself, moved into the table that turns pixels into bytes."""

from dataclasses import replace

import numpy as np

from npu_compiler.graph.ir import Affine, Graph, Identity
from npu_compiler.qgraph.ir import Preprocess


def absorb_normalization(graph: Graph, preprocess: Preprocess) -> tuple[Graph, Preprocess]:
    """Drop a per-channel factor and shift that is all that reads the image, and change the preprocessing instead.

    The network then starts with its first convolution, which can gather the image's windows while they are loaded.
    Padding stays right: it is zero after the normalization, as it is in the new input. A factor of zero or less is left
    alone, for std must be above zero, and so is an image whose quantization is fixed.

    Args:
        graph: optimized.
        preprocess: mean and std with one value per channel.

    Returns:
        the graph whose input is the normalized image, and the preprocessing that makes it.
    """
    users = graph.users(graph.input)
    first = users[0] if len(users) == 1 else None
    given = graph.output_tensors
    if not isinstance(first, Affine) or first.act != Identity() or first.out in given or graph.input in given:
        return graph, preprocess
    if graph.input in graph.quant or not (first.scale > 0).all():
        return graph, preprocess
    std = np.array(preprocess.std) / first.scale.astype(np.float64)
    mean = np.array(preprocess.mean) - first.shift * std
    made = replace(
        graph,
        nodes=tuple(n for n in graph.nodes if n is not first),
        shapes={t: s for t, s in graph.shapes.items() if t != graph.input},
        input=first.out,
    )
    return made, replace(preprocess, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
