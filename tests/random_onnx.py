"""Random small convolutional networks in ONNX, drawn by hypothesis, so that a failure shrinks to a short one."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.onnx_models import Net

Draw = Any
Tensor = tuple[str, int, int, int]  # name, channels, height, width


@st.composite
def networks(draw: Draw, steps: int = 8) -> tuple[Net, str]:
    """Draw a network of up to `steps` nodes and a head; return it and its output."""
    opset = draw(st.sampled_from([11, 13, 17, 18, 21]))
    shape = draw(st.integers(1, 4)), draw(st.integers(3, 9)), draw(st.integers(3, 9))
    net = Net(shape, opset, seed=draw(st.integers(0, 99)))
    pool: list[Tensor] = [("x", *shape)]
    for _ in range(draw(st.integers(1, steps))):
        made = draw(st.sampled_from(STEPS))(net, draw, pool)
        if made is not None:
            pool.append(made)
    return net, draw(st.sampled_from([_flat_head, _pooled_head, _no_head]))(net, draw, pool[-1])


def _recent(draw: Draw, pool: list[Tensor]) -> Tensor:
    return draw(st.sampled_from(pool[-3:][::-1]))


def _window(draw: Draw, height: int, width: int, kernels: tuple[int, ...]) -> tuple[dict[str, Any], int, int]:
    """Draw kernel, strides and pads smaller than the kernel; return attributes and output size."""
    kernel = draw(st.sampled_from(kernels)), draw(st.sampled_from(kernels))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    pads = [draw(st.integers(0, (k - 1) // 2)) for k in (*kernel, *kernel)]
    sizes = [(n + pads[a] + pads[a + 2] - kernel[a]) // stride[a] + 1 for a, n in enumerate((height, width))]
    return {"kernel_shape": list(kernel), "strides": list(stride), "pads": pads}, sizes[0], sizes[1]


def _conv(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor | None:
    src, c, h, w = _recent(draw, pool)
    outs = c if draw(st.booleans()) else draw(st.integers(1, 20))
    group = draw(st.sampled_from([1, 1, c] if outs == c else [1]))
    window, oh, ow = _window(draw, h, w, (1, 3))
    if min(oh, ow) < 1:
        return None
    return net.conv(src, c, outs, tuple(window["kernel_shape"]), group, **window), outs, oh, ow


def _batchnorm(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    scale = [net.constant(net.rng.uniform(0.5, 1.5, c)), net.weight(c), net.weight(c)]
    return net.node("BatchNormalization", src, *scale, net.constant(net.rng.uniform(0.5, 2, c))), c, h, w


def _activation(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    kind = draw(st.sampled_from(["Relu", "Clip", "LeakyRelu"]))
    more = (net.constant(0.0), net.constant(1.0)) if kind == "Clip" else ()
    return net.node(kind, src, *more), c, h, w


def _pool(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor | None:
    src, c, h, w = _recent(draw, pool)
    window, oh, ow = _window(draw, h, w, (1, 2, 3))
    if min(oh, ow) < 1:
        return None
    if draw(st.booleans()):
        return net.node("MaxPool", src, **window), c, oh, ow
    return net.node("AveragePool", src, count_include_pad=1, **window), c, oh, ow


def _add(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    other = draw(st.sampled_from([t for t in pool if t[1:] == (c, h, w)]))
    return net.node("Add", src, other[0]), c, h, w


def _residual(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    branch = net.conv(src, c, c, (3, 3), pads=[1, 1, 1, 1])
    added = net.node("Add", *((branch, src) if draw(st.booleans()) else (src, branch)))
    return net.node("Relu", added), c, h, w


def _concat(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    _, _, h, w = _recent(draw, pool)
    fitting = [t for t in pool if t[2:] == (h, w)]
    parts = draw(st.lists(st.sampled_from(fitting), min_size=2, max_size=3))
    return net.node("Concat", *(p[0] for p in parts), axis=1), sum(p[1] for p in parts), h, w


def _constant(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    value = net.constant(net.rng.uniform(0.5, 1.5, (c, 1, 1)))
    return net.node(draw(st.sampled_from(["Add", "Mul", "Sub", "Div"])), src, value), c, h, w


def _pad(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor | None:
    src, c, h, w = _recent(draw, pool)
    pads = [0, draw(st.integers(0, 2)), draw(st.integers(-1, 2)), draw(st.integers(-1, 2))]
    pads += [0, draw(st.integers(0, 2)), draw(st.integers(-1, 2)), draw(st.integers(-1, 2))]
    size = [n + pads[a] + pads[a + 4] for a, n in enumerate((1, c, h, w))]
    if min(size) < 1:
        return None
    return net.node("Pad", src, net.constant(pads, np.int64)), size[1], size[2], size[3]


def _slice(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    axis = draw(st.integers(1, 3))
    size = (1, c, h, w)[axis]
    start, step = draw(st.integers(0, size - 1)), draw(st.integers(1, 3))
    kept = [c, h, w]
    kept[axis - 1] = len(range(start, size, step))
    given = [net.constant([v], np.int64) for v in (start, size, axis, step)]
    return net.node("Slice", src, *given), kept[0], kept[1], kept[2]


STEPS = (_conv, _conv, _batchnorm, _activation, _pool, _add, _residual, _concat, _constant, _pad, _slice)


def _no_head(net: Net, draw: Draw, last: Tensor) -> str:
    return net.node("Relu", last[0])  # a network must compute something


def _flat_head(net: Net, draw: Draw, last: Tensor) -> str:
    src, c, h, w = last
    return net.node("Gemm", net.node("Flatten", src), net.weight(c * h * w, 5, spread=(c * h * w) ** -0.5))


def _pooled_head(net: Net, draw: Draw, last: Tensor) -> str:
    src, c, _, _ = last
    pooled = net.node("Flatten", net.node("GlobalAveragePool", src))
    return net.node("Gemm", pooled, net.weight(7, c), net.weight(7), transB=1)
