"""Pool a large window in two steps, so that no machine must hold all of it at once."""

from dataclasses import replace

from npu_compiler.graph.ir import Graph, Node, Pool, unique

MOST_TAPS = 2048  # words of a group: a quarter of the activation memory of npu16
MOST_SIDE = 255  # taps that an instruction can count


def split_pools(graph: Graph) -> Graph:
    """Make two of a pooling whose windows do not overlap and are too large: first some rows of each, then the results.

    Expects poolings with their averages' divisors. A maximum keeps its values; an average is rounded once more when it
    is quantized. Left alone is what has padding, dilation, or a height that cannot be divided.
    """
    nodes: list[Node] = []
    shapes = dict(graph.shapes)
    names, taken = {n.name for n in graph.nodes}, set(graph.shapes)
    for node in graph.nodes:
        kernel = _first_kernel(graph, node) if isinstance(node, Pool) else None
        if kernel is None:
            nodes.append(node)
            continue
        assert isinstance(node, Pool)
        channels, height, width = shapes[node.src]
        (kh, kw), (rows, cols) = node.kernel, kernel
        out = unique(f"{node.out}.part", taken)
        shapes[out] = (channels, height // rows, width // cols)
        first = replace(
            node, name=unique(f"{node.name}.part", names), out=out, kernel=kernel, stride=kernel, count=None
        )
        then = (kh // rows, kw // cols)
        nodes += [first, replace(node, src=out, kernel=then, stride=then)]
    return replace(graph, nodes=tuple(nodes), shapes=shapes)


def _first_kernel(graph: Graph, node: Pool) -> tuple[int, int] | None:
    """Return the largest part of a pooling's window, by whole rows or within one, that is not too large; or None."""
    kh, kw = node.kernel
    size = graph.shapes[node.src][1:]
    alone = node.stride == node.kernel or node.kernel == size
    plain = not any(node.pads) and node.dilation == (1, 1) and node.count is None
    if (kh * kw <= MOST_TAPS and max(kh, kw) <= MOST_SIDE) or not (alone and plain) or size[0] % kh or size[1] % kw:
        return None
    rows = [r for r in range(1, min(kh, MOST_SIDE) + 1) if kh % r == 0 and r * kw <= MOST_TAPS and kw <= MOST_SIDE]
    cols = [c for c in range(1, min(kw, MOST_SIDE) + 1) if kw % c == 0]
    return (max(rows), kw) if rows else (1, max(cols))
