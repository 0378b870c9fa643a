"""Random small convolutional networks in ONNX, drawn by hypothesis, so that a failure shrinks to a short one."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.onnx_models import Net

Draw = Any
Tensor = tuple[str, int, int, int]  # name, channels, height, width
MOST = 3000  # values of a tensor that is built upon


@st.composite
def networks(draw: Draw, steps: int = 8, every: bool = False) -> tuple[Net, str]:
    """Draw a network of up to `steps` nodes and a head; return it and its output.

    Args:
        draw: hypothesis gives it.
        steps: the most.
        every: of all operators, not convolutions and their like alone.
    """
    kinds = STEPS + MORE if every else STEPS
    opset = draw(st.sampled_from([11, 13, 17, 18, 21]))
    shape = draw(st.integers(1, 4)), draw(st.integers(3, 9)), draw(st.integers(3, 9))
    net = Net(shape, opset, seed=draw(st.integers(0, 99)))
    pool: list[Tensor] = [("x", *shape)]
    for _ in range(draw(st.integers(1, steps))):
        made = draw(st.sampled_from(kinds))(net, draw, pool)
        if made is not None and made[1] * made[2] * made[3] <= MOST:
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


# -- the rest of the operators; none lets values grow without bounds


def _ints(net: Net, *values: int) -> str:
    return net.constant(values, np.int64)


def _axes(net: Net, operator: str, src: str, axes: list[int], since: int) -> str:
    """Append a node whose axes are an input from an opset on, an attribute before."""
    if net.opset >= since:
        return net.node(operator, src, _ints(net, *axes))
    return net.node(operator, src, axes=axes)


def _curve(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    kinds = ["Sigmoid", "Tanh", "Erf", "Abs", "Neg", "Softplus", "Softsign", "HardSigmoid", "Elu", "Selu"]
    kinds += ["Celu"] * (net.opset >= 12)
    kinds += ["HardSwish"] * (net.opset >= 14) + ["Mish"] * (net.opset >= 18) + ["Gelu"] * (net.opset >= 20)
    return net.node(draw(st.sampled_from(kinds)), src), c, h, w


def _bent(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    match draw(st.sampled_from(["PRelu", "Clip", "Pow", "Sqrt", "Div", "Log", "Exp"])):
        case "PRelu":
            made = net.node("PRelu", src, net.weight(c, 1, 1))
        case "Clip":
            made = net.node("Clip", src, net.constant(0.25), net.constant(1.5))
        case "Pow":
            made = net.node("Pow", net.node("Tanh", src), net.constant(2.0))
        case "Exp":
            made = net.node("Exp", net.node("Clip", src, "", net.constant(1.0)))
        case "Div":
            made = net.node("Div", net.constant(0.5), net.node("Add", net.node("Abs", src), net.constant(0.5)))
        case kind:
            made = net.node(kind, net.node("Add", net.node("Abs", src), net.constant(0.5)))
    return made, c, h, w


def _broadcast(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    """A tensor and what it is gated by, or added to: of one channel, one pixel, one row, in either order."""
    src, c, h, w = _recent(draw, pool)
    match draw(st.sampled_from(["vector", "map", "row", "value"])):
        case "vector":
            gate = net.node("GlobalAveragePool", src)
        case "map":
            gate = net.conv(src, c, 1, (1, 1))
        case "row":
            gate = _axes(net, "ReduceMean", src, [2], 18)
        case _:
            gate = _axes(net, "ReduceMean", src, [1, 2, 3], 18)
    operator = draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"]))
    gate = net.node("Sigmoid", gate) if operator == "Mul" else gate
    return net.node(operator, *((src, gate) if draw(st.booleans()) else (gate, src))), c, h, w


def _several(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    others = draw(st.lists(st.sampled_from([t for t in pool if t[1:] == (c, h, w)]), max_size=2))
    return net.node(draw(st.sampled_from(["Sum", "Mean", "Max", "Min"])), src, *(o[0] for o in others)), c, h, w


def _transposed(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor | None:
    src, c, h, w = _recent(draw, pool)
    kernel, stride, dilation = ([draw(st.integers(1, most)) for _ in "hw"] for most in (4, 3, 2))
    pads = [draw(st.integers(0, 1)) for _ in range(4)]
    extra = [draw(st.integers(0, s - 1)) for s in stride]
    size = [
        (n - 1) * stride[a] + (kernel[a] - 1) * dilation[a] + 1 + extra[a] - pads[a] - pads[a + 2]
        for a, n in enumerate((h, w))
    ]
    if min(size) < 1:
        return None
    group = draw(st.sampled_from([1, c]))
    outs = c if group > 1 else draw(st.integers(1, 8))
    weight = net.weight(c, outs // group, *kernel, spread=(c // group * kernel[0] * kernel[1]) ** -0.5)
    attrs = {"strides": stride, "dilations": dilation, "pads": pads, "output_padding": extra, "group": group}
    return net.node("ConvTranspose", src, weight, net.weight(outs), **attrs), outs, size[0], size[1]


def _resize(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor | None:
    src, c, h, w = _recent(draw, pool)
    scales = [draw(st.sampled_from([0.5, 1.0, 2.0, 3.0, 1.5])) for _ in "hw"]
    size = int(h * scales[0]), int(w * scales[1])
    if min(size) < 1:
        return None
    mode = draw(st.sampled_from(["half_pixel", "asymmetric", "pytorch_half_pixel"]))
    attrs = {"mode": draw(st.sampled_from(["nearest", "linear"])), "coordinate_transformation_mode": mode}
    made = net.node("Resize", src, net.constant([]), net.constant([1, 1, *scales]), **attrs)
    return made, c, *size


def _average(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor | None:
    src, c, h, w = _recent(draw, pool)
    window, oh, ow = _window(draw, h, w, (2, 3, 4))
    if min(oh, ow) < 1:
        return None
    return net.node("AveragePool", src, **window), c, oh, ow


def _reduce(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, *size = _recent(draw, pool)
    axes = draw(st.sampled_from([[1], [2], [3], [1, 3], [2, 3]]))
    kind = draw(st.sampled_from(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"]))
    c, h, w = (1 if a in axes else n for a, n in enumerate(size, 1))
    return _axes(net, kind, src, axes, 18), c, h, w


def _normal(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    return net.node("LRN", src, size=draw(st.sampled_from([1, 3, 5])), alpha=0.5, bias=1.0), c, h, w


def _depth(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor | None:
    src, c, h, w = _recent(draw, pool)
    block = draw(st.integers(2, 3))
    if draw(st.booleans()):
        if h % block or w % block:
            return None
        return net.node("SpaceToDepth", src, blocksize=block), c * block * block, h // block, w // block
    if c % (block * block):
        src, c = net.conv(src, c, block * block, (1, 1)), block * block
    mode = draw(st.sampled_from(["DCR", "CRD"]))
    made = net.node("DepthToSpace", src, blocksize=block, mode=mode)
    return made, c // (block * block), h * block, w * block


def _permuted(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor | None:
    """Channels and rows split in two, all of these parts put in another order, and joined again."""
    src, c, h, w = _recent(draw, pool)
    parts = [
        2 if c % 2 == 0 else 1,
        c // 2 if c % 2 == 0 else c,
        2 if h % 2 == 0 else 1,
        h // 2 if h % 2 == 0 else h,
        w,
    ]
    perm = draw(st.permutations(range(5)))
    if parts[0] * parts[2] > 4 or c * h * w > 400:
        return None
    x = net.node("Transpose", net.node("Reshape", src, _ints(net, 0, *parts)), perm=[0, *(1 + p for p in perm)])
    sizes = [parts[p] for p in perm]
    size = (sizes[0] * sizes[1], sizes[2] * sizes[3], sizes[4])
    return net.node("Reshape", x, _ints(net, 0, *size)), *size


def _tokens(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    """A matrix over the channels of tokens."""
    src, c, h, w = _recent(draw, pool)
    outs = draw(st.integers(1, 8))
    tokens = net.node("Transpose", net.node("Reshape", src, _ints(net, 0, c, h * w)), perm=[0, 2, 1])
    made = net.node("Add", net.node("MatMul", tokens, net.weight(c, outs, spread=c**-0.5)), net.weight(outs))
    back = net.node("Transpose", made, perm=[0, 2, 1])
    return net.node("Reshape", back, _ints(net, 0, outs, h, w)), outs, h, w


def _gather(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, *size = _recent(draw, pool)
    axis = draw(st.integers(1, 3))
    n = size[axis - 1]
    chosen = draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=6))
    c, h, w = (len(chosen) if a == axis else m for a, m in enumerate(size, 1))
    return net.node("Gather", src, _ints(net, *chosen), axis=axis), c, h, w


def _split(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor | None:
    src, *size = _recent(draw, pool)
    axis = draw(st.integers(1, 3))
    n = size[axis - 1]
    if n < 2:
        return None
    first = draw(st.integers(1, n - 1))
    if net.opset >= 13:
        made = net.node("Split", src, _ints(net, first, n - first), axis=axis, outputs=2)
    else:
        made = net.node("Split", src, split=[first, n - first], axis=axis, outputs=2)
    c, h, w = (n - first if a == axis else m for a, m in enumerate(size, 1))
    return f"{made}.1", c, h, w


def _beside(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    axis = draw(st.integers(2, 3))
    fitting = [t for t in pool if t[1] == c and t[5 - axis] == (h, w)[3 - axis]]
    parts = draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2))
    total = (h, w)[axis - 2] + sum(p[axis] for p in parts)
    made = net.node("Concat", src, *(p[0] for p in parts), axis=axis)
    return (made, c, total, w) if axis == 2 else (made, c, h, total)


def _surround(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
    pads = [0, 0, *(draw(st.integers(0, min(2, n - 1))) for n in (h, w))]
    pads += [0, 0, *(draw(st.integers(0, min(2, n - 1))) for n in (h, w))]
    more = [net.constant(-1.5)] if mode == "constant" else []
    made = net.node("Pad", src, _ints(net, *pads), *more, mode=mode)
    return made, c, h + pads[2] + pads[6], w + pads[3] + pads[7]


def _repeat(net: Net, draw: Draw, pool: list[Tensor]) -> Tensor:
    src, c, h, w = _recent(draw, pool)
    times = [draw(st.integers(1, 2)) for _ in "chw"]
    return net.node("Tile", src, _ints(net, 1, *times)), c * times[0], h * times[1], w * times[2]


MORE = (
    *(
        _curve,
        _bent,
        _broadcast,
        _several,
        _transposed,
        _resize,
        _average,
        _reduce,
        _normal,
        _depth,
        _permuted,
        _tokens,
    ),
    *(_gather, _split, _beside, _surround, _repeat),
)


def _no_head(net: Net, draw: Draw, last: Tensor) -> str:
    src, c, _, _ = last
    return net.conv(src, c, draw(st.integers(1, 5)), (1, 1))  # a network must compute something, in an image's order


def _flat_head(net: Net, draw: Draw, last: Tensor) -> str:
    src, c, h, w = last
    return net.node("Gemm", net.node("Flatten", src), net.weight(c * h * w, 5, spread=(c * h * w) ** -0.5))


def _pooled_head(net: Net, draw: Draw, last: Tensor) -> str:
    src, c, _, _ = last
    pooled = net.node("Flatten", net.node("GlobalAveragePool", src))
    return net.node("Gemm", pooled, net.weight(7, c), net.weight(7), transB=1)
