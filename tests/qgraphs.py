"""Random small quantized graphs that use every kind of node, and images for them."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from npu_compiler.outputs import Output
from npu_compiler.qgraph.ir import (
    Assembled,
    Clamp,
    Epilogue,
    Factor,
    Leaky,
    Lookup,
    Lowering,
    Place,
    Preprocess,
    QConcat,
    QConv,
    QFold,
    QMosaic,
    QNode,
    QTensor,
    QuantizedGraph,
    QWindow,
    Residual,
    Window,
)
from npu_compiler.quantize.prepare import dense_map

IDENTITY = (1 << 14, 14)


def random_images(rng: np.random.Generator, graph: QuantizedGraph, count: int) -> np.ndarray:
    """Return input bytes, uint8, shape (count, height, width, channels)."""
    image = graph.tensors[graph.input]
    return rng.integers(0, 256, (count, image.height, image.width, image.channels), dtype=np.uint8)


def random_qgraph(rng: np.random.Generator, *, steps: int | None = None, outputs: int = 1) -> QuantizedGraph:
    """Return a valid network of up to about `steps` + 4 nodes: image, convolution, random nodes, heads.

    It covers folds of a whole kernel and of columns alone, strides, dilation, odd sizes, channels that fill no group,
    residuals added and subtracted, products, one value for all rows or columns of a second operand, depthwise, pooling,
    crops, LeakyReLU of any slope, tables, concat, mosaics, and layers with and without a dial.
    """
    build = _Builder(rng)
    build.stem()
    for _ in range(int(rng.integers(1, 8)) if steps is None else steps):
        step: Any = rng.choice(
            [build.conv, build.conv, build.conv, build.residual_conv, build.depthwise, build.pooling, build.elementwise,
             build.add, build.concat, build.concat, build.crop, build.copy_channels, build.product, build.shared,
             build.mosaic, build.mosaic]
        )  # fmt: skip
        step()
    return build.finish(outputs)


def with_dynamic_positions(graph: QuantizedGraph, clips: tuple[int, ...] = (0, 1, 2, 3, 4)) -> QuantizedGraph:
    """Return the network with positions of activations found at run time; places clip as `clips` has it, in turn."""

    def dynamic(node: QNode) -> QNode:
        if not isinstance(node, QConv) or node.lowering is None:
            return node
        count = len(node.lowering.order)
        shifts = tuple(clips[place % len(clips)] for place in range(count))
        return replace(node, lowering=replace(node.lowering, extract="dynamic", act_shift=shifts))

    return replace(graph, nodes=tuple(map(dynamic, graph.nodes)))


class _Builder:
    """Nodes and tensors so far; `pool` has the tensors that may be read."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.tensors: dict[str, QTensor] = {}
        self.nodes: list[QNode] = []
        self.pool: list[str] = []

    # -- choices

    def flip(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def number(self, low: int, high: int) -> int:
        """Return a whole number in low..high, both inclusive."""
        return int(self.rng.integers(low, high + 1))

    def recent(self) -> QTensor:
        """Return a tensor of the pool, most likely the last one."""
        name = self.pool[-1] if self.flip(0.6) else str(self.rng.choice(self.pool))
        return self.tensors[name]

    def window(self, height: int, width: int, kernels: list[int], *, outside: bool = True) -> tuple[Window, int, int]:
        """Return a window that fits the image, and the output's height and width.

        outside: some windows may lie wholly in the padding.
        """
        while True:
            kernel = (self.some(kernels), self.some(kernels)) if self.flip(0.2) else (self.some(kernels),) * 2
            dilation = (self.number(1, 2), self.number(1, 3)) if outside and self.flip(0.15) else (1, 1)
            stride = (self.some([1, 1, 1, 2, 3]),) * 2 if self.flip(0.8) else (self.number(1, 3), self.number(1, 3))
            reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
            same = self.flip(0.6)
            pads = [(r // 2, (r - 1) // 2) if same else (self.number(0, r - 1), self.number(0, r - 1)) for r in reach]
            out = [
                (size + sum(p) - r) // s + 1 for size, p, r, s in zip((height, width), pads, reach, stride, strict=True)
            ]
            if min(out) >= 1:
                return Window(kernel, stride, dilation, pads[0][0], pads[1][0]), out[0], out[1]

    def some(self, choices: list[int]) -> int:
        return int(self.rng.choice(choices))

    # -- parts of nodes

    def tensor(self, prefix: str, height: int, width: int, channel_map: tuple[int, ...], **more: Any) -> QTensor:
        name = f"{prefix}{len(self.nodes)}"
        signed = more.pop("signed", self.flip(0.4))
        self.tensors[name] = QTensor(name, height, width, len(channel_map), 1.0, signed, channel_map, **more)
        return self.tensors[name]

    def epilogue(self, out: QTensor, spread: float, residual: str | None) -> Epilogue:
        """Return multipliers that bring sums of this standard deviation into the output's range; some are leaky."""
        leaky = residual is None and self.flip(0.15)
        real = np.array(out.channel_map) >= 0
        target = 9000.0 if out.bits == 16 else 70.0
        shift = np.empty(out.channels, np.int32)
        mult = np.empty(out.channels, np.int32)
        for c in range(out.channels):
            ratio = target / max(spread, 1.0) * self.rng.uniform(0.5, 2.0)
            shift[c] = max(1, min(47, int(np.floor(np.log2(32767 / ratio)))))
            mult[c] = max(0, min(32767, round(ratio * 2.0 ** int(shift[c]))))
        bias = np.where(real, self.rng.normal(0, spread, out.channels), 0).astype(np.int32)
        low, high = out.limits
        if self.flip(0.3) and out.bits == 8:
            low, high = self.number(low, 0), self.number(high // 2, high)
        if self.flip(0.1):
            mult = -mult
        if leaky:
            below = (mult * self.rng.uniform(-1, 1, out.channels)).astype(np.int32)
            return Epilogue(bias, mult, shift, Leaky(low, high, below))
        function: Clamp | Lookup = Clamp(low, high)
        if out.bits == 8 and self.flip(0.25):
            function = self.lookup()
        if residual is not None:
            added = np.minimum(32767, (2.0 ** np.minimum(shift, 15) * self.rng.uniform(0, 1)).astype(np.int64))
            added *= self.some([1, 1, -1])
            return Epilogue(bias, mult, shift, function, Residual(residual, added.astype(np.int32)))
        return Epilogue(bias, mult, shift, function)

    def lookup(self) -> Lookup:
        """Return a table of anything, looked up by signed or by unsigned bytes."""
        limits = (-128, 127) if self.flip(0.5) else (0, 255)
        low, high = (self.number(limits[0], 0), self.number(0, limits[1])) if self.flip(0.3) else limits
        return Lookup(low, high, self.rng.integers(0, 256, 256, dtype=np.uint8), 1.0)

    def weight(self, out: QTensor, kernel: tuple[int, int], src_map: tuple[int, ...]) -> np.ndarray:
        shape = (out.channels, *kernel, len(src_map))
        values = np.clip(np.round(self.rng.normal(0, self.some([5, 20, 60]), shape)), -127, 127)
        values[np.array(out.channel_map) < 0] = 0
        values[..., np.array(src_map) < 0] = 0
        return values.astype(np.int8)

    def lowering(self, out: QTensor, groups: int, bias: np.ndarray, spread: float) -> Lowering:
        real = np.array(out.channel_map) >= 0
        steps = np.where(real, self.rng.normal(0, spread / 4, (groups, out.channels)), 0).astype(np.int32)
        return Lowering(
            order=tuple(int(i) for i in self.rng.permutation(groups)),
            act_shift=tuple(int(i) for i in self.rng.integers(0, 5, groups)),
            wgt_shift=self.rng.integers(0, 5, (groups, out.channels)).astype(np.int8),
            bias_rows=np.concatenate([bias[None], bias + np.cumsum(steps, axis=0, dtype=np.int32)]),
            score=np.sort(self.rng.random(groups)),
        )

    def add_conv(
        self, src: QTensor, out: QTensor, window: Window, *, dial: float = 0.75, residual: str | None = None
    ) -> None:
        weight = self.weight(out, window.kernel, src.channel_map)
        spread = float(np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(1, 2, 3)).max()) * 70)
        e = self.epilogue(out, spread, residual)
        lowering = self.lowering(out, src.groups, e.bias, spread) if self.flip(dial) else None
        real_in, real_out = (sum(c >= 0 for c in t.channel_map) for t in (src, out))
        macs = out.height * out.width * window.kernel[0] * window.kernel[1] * real_in * real_out
        self.put(QConv(self.name("conv"), out.name, (), src.name, window, e, weight, lowering, macs))

    def add_window(
        self, src: QTensor, out: QTensor, kind: Any, window: Window, spread: float, residual: str | None = None
    ) -> None:
        weight, macs = None, 0
        if kind == "mac":
            real = np.array(out.channel_map)[:, None, None] >= 0
            values = np.where(real, self.rng.integers(-127, 128, (out.channels, *window.kernel)), 0)
            weight = values.astype(np.int8)
            macs = out.height * out.width * int(np.count_nonzero(real)) * window.kernel[0] * window.kernel[1]
        e = self.epilogue(out, spread, residual)
        self.put(QWindow(self.name(kind), out.name, (), src.name, window, e, kind, weight, macs))

    def name(self, prefix: str) -> str:
        return f"{prefix}_{len(self.nodes)}"

    def put(self, node: QNode) -> None:
        self.nodes.append(node)
        self.pool.append(node.out)

    # -- steps

    def stem(self) -> None:
        height, width, channels = self.number(4, 17), self.number(4, 17), self.some([1, 3, 3, 4])
        image = QTensor("image", height, width, channels, 0.02, self.flip(0.5), tuple(range(channels)))
        self.tensors[image.name] = image
        window, out_h, out_w = self.window(height, width, [1, 3, 3, 5, 7], outside=False)
        kh, kw = window.kernel
        if kh * kw * channels <= 32:
            fold, after, rows = window, Window(), out_h
        else:
            fold = Window((1, kw), (1, window.stride[1]), pad_left=window.pad_left)
            after, rows = Window((kh, 1), (window.stride[0], 1), pad_top=window.pad_top), height
        taps = fold.kernel[0] * fold.kernel[1] * channels
        folded = self.tensor("folded", rows, out_w, dense_map(taps), signed=image.signed)
        self.nodes.append(QFold(self.name("fold"), folded.name, (), image.name, fold))
        out = self.tensor("t", out_h, out_w, dense_map(self.number(1, 40)))
        self.add_conv(folded, out, after, dial=0.2)

    def conv(self) -> None:
        src = self.recent()
        window, h, w = self.window(src.height, src.width, [1, 1, 3, 3, 5])
        self.add_conv(src, self.tensor("t", h, w, dense_map(self.number(1, 50))), window)

    def residual_conv(self) -> None:
        to, k = self.recent(), self.some([1, 3])
        fitting = [n for n in self.pool if self.size(n) == self.size(to.name)]
        src = self.tensors[str(self.rng.choice(fitting))]
        out = self.tensor("t", to.height, to.width, to.channel_map)
        self.add_conv(src, out, Window((k, k), pad_top=k // 2, pad_left=k // 2), residual=to.name)

    def size(self, name: str) -> tuple[int, int]:
        return self.tensors[name].height, self.tensors[name].width

    def depthwise(self) -> None:
        src = self.recent()
        window, h, w = self.window(src.height, src.width, [1, 3, 3, 5])
        self.add_window(src, self.tensor("t", h, w, src.channel_map), "mac", window, 15000.0)

    def pooling(self) -> None:
        src = self.recent()
        if self.flip(0.2):
            window, h, w = Window((src.height, src.width)), 1, 1
        else:
            window, h, w = self.window(src.height, src.width, [2, 3], outside=False)
        kind = "max" if self.flip(0.5) else "sum"
        spread = 70.0 if kind == "max" else 70.0 * window.kernel[0] * window.kernel[1] ** 0.5
        self.add_window(src, self.tensor("t", h, w, src.channel_map, signed=src.signed), kind, window, spread)

    def elementwise(self) -> None:
        src = self.recent()
        self.add_window(src, self.tensor("t", src.height, src.width, src.channel_map), "sum", Window(), 70.0)

    def crop(self) -> None:
        src = self.recent()
        stride = (self.number(1, 2), self.number(1, 2))
        pads = (self.number(-2, 1), self.number(-2, 1))
        h, w = ((s + p + st - 1) // st for s, p, st in zip(self.size(src.name), pads, stride, strict=True))
        if min(h, w) >= 1:
            out = self.tensor("t", h, w, src.channel_map, signed=src.signed)
            self.add_window(src, out, "sum", Window(stride=stride, pad_top=pads[0], pad_left=pads[1]), 70.0)

    def add(self) -> None:
        a = self.recent()
        fitting = [n for n in self.pool if self.like(n, a) and n != a.name]
        if fitting:
            out = self.tensor("t", a.height, a.width, a.channel_map)
            self.add_window(a, out, "sum", Window(), 100.0, residual=str(self.rng.choice(fitting)))

    def like(self, name: str, other: QTensor) -> bool:
        t = self.tensors[name]
        return (t.height, t.width, t.channel_map) == (other.height, other.width, other.channel_map)

    def product(self) -> None:
        a = self.recent()
        fitting = [n for n in self.pool if self.like(n, a)]
        if self.flip(0.5):
            fitting = [self.reduced(a).name]
        out = self.tensor("t", a.height, a.width, a.channel_map)
        e = self.epilogue(out, 5000.0, None)
        if not isinstance(e.function, Leaky):
            e = replace(e, operand=Factor(str(self.rng.choice(fitting))))
        self.put(QWindow(self.name("mul"), out.name, (), a.name, Window(), e, "sum"))

    def shared(self) -> None:
        """Add one value for all rows, all columns, or both."""
        a = self.recent()
        second = self.reduced(a).name
        out = self.tensor("t", a.height, a.width, a.channel_map)
        self.add_window(a, out, "sum", Window(), 100.0, residual=second)

    def reduced(self, a: QTensor) -> QTensor:
        """Append a maximum over rows, columns or both."""
        kernel = [(a.height, a.width), (a.height, 1), (1, a.width)][self.number(0, 2)]
        size = a.height // kernel[0], a.width // kernel[1]
        out = self.tensor("t", *size, a.channel_map, signed=a.signed)
        self.add_window(a, out, "max", Window(kernel), 70.0)
        return out

    def mosaic(self) -> None:
        """Put an image together: by phases of what is made of one tensor, or of images below each other."""
        a, (sy, sx) = self.recent(), (self.number(1, 3), self.number(1, 3))
        if sy == sx == 1:
            sy = 2
        places, parts = [], []
        signed, below = self.flip(0.5), self.flip(0.3)
        for y, x in np.ndindex(sy, sx):
            part = self.tensor("t", a.height, a.width, a.channel_map, signed=signed)
            k = self.some([1, 2, 3])
            if self.flip(0.5):
                window = Window((k, k), pad_top=self.number(0, k - 1), pad_left=self.number(0, k - 1))
                self.add_conv(a, part, window)
            else:
                self.add_window(a, part, "mac", Window((k, k), pad_top=k // 2), 15000.0)
            parts.append(part.name)
            places.append(Place(y * a.height, x * a.width) if below else Place(int(y), int(x), sy, sx))
        out = self.tensor("t", sy * a.height, sx * a.width, a.channel_map, signed=signed)
        self.put(QMosaic(self.name("mosaic"), out.name, (), tuple(parts), tuple(places)))

    def concat(self) -> None:
        taken = {s for n in self.nodes if isinstance(n, Assembled) for s in n.srcs}
        first = self.recent()
        fitting = [
            n
            for n in dict.fromkeys([first.name, *self.pool])
            if n not in taken and self.size(n) == self.size(first.name) and self.tensors[n].signed == first.signed
        ]
        parts = [self.tensors[n] for n in fitting[: self.number(2, 3)]]
        if len(parts) < 2:
            return
        channel_map: list[int] = []
        for part in parts:
            base = 1 + max(channel_map, default=-1)
            channel_map += [c + base if c >= 0 else -1 for c in part.channel_map]
        out = self.tensor("t", first.height, first.width, tuple(channel_map), signed=first.signed)
        self.put(QConcat(self.name("concat"), out.name, (), tuple(p.name for p in parts)))

    def copy_channels(self) -> None:
        """Choose channels with a 0/1 convolution that copies values exactly."""
        src = self.recent()
        real = [i for i, c in enumerate(src.channel_map) if c >= 0]
        source = [int(i) for i in self.rng.choice([*real, -1], self.number(1, 40))]
        out = self.tensor("t", src.height, src.width, dense_map(len(source)), signed=src.signed)
        weight = np.zeros((out.channels, 1, 1, src.channels), np.int8)
        for channel, i in enumerate(source):
            if i >= 0:
                weight[channel, 0, 0, i] = 1
        mult, shift = (np.full(out.channels, v, np.int32) for v in IDENTITY)
        e = Epilogue(np.zeros(out.channels, np.int32), mult, shift, Clamp(*out.limits))
        self.put(QConv(self.name("copy"), out.name, (), src.name, Window(), e, weight, None, 0))

    # -- the end

    def finish(self, outputs: int) -> QuantizedGraph:
        """Append a head with a wide output, copies of other tensors as further outputs, and drop what reaches none."""
        src = self.tensors[self.pool[-1]]
        if self.flip(0.5):
            out = self.tensor("pooled", 1, 1, src.channel_map, signed=src.signed)
            spread = 30.0 * src.height * src.width
            self.add_window(src, out, "sum", Window((src.height, src.width)), spread)
            src = out
        wide = {"bits": 16, "signed": True} if self.flip(0.8) else {}
        channels = self.some([1, 7, 10, 16, 33])
        if self.flip(0.15):
            out = self.tensor("logits", src.height, src.width, src.channel_map, **wide)
            self.add_window(src, out, "sum", Window(), 70.0)
        else:
            out = self.tensor("logits", src.height, src.width, dense_map(channels), **wide)
            self.add_conv(src, out, Window(), dial=0.3)
        given, readable = [out], [name for name in self.pool if name != out.name]
        for _ in range(outputs - 1):
            src = self.tensors[str(self.rng.choice(readable))]
            wide = {"bits": 16, "signed": True} if self.flip(0.8) else {"signed": src.signed}
            given.append(self.tensor("more", src.height, src.width, src.channel_map, **wide))
            self.add_window(src, given[-1], "sum", Window(), 70.0)
        return _pruned(self.nodes, self.tensors, given)


def _pruned(nodes: list[QNode], tensors: dict[str, QTensor], given: list[QTensor]) -> QuantizedGraph:
    wanted = Counter(out.name for out in given)
    kept: list[QNode] = []
    for node in reversed(nodes):
        if wanted[node.out]:
            kept.append(node)
            wanted.update(node.inputs)
    channels = tensors["image"].channels
    pre = Preprocess(1.0, (0.0,) * channels, (1.0,) * channels, (), ())
    table = np.tile(np.arange(256, dtype=np.uint8), (channels, 1))
    used = {t: tensors[t] for t in ("image", *(n.out for n in reversed(kept)))}
    outputs = tuple(Output(out.name, out.name, _shape(out)) for out in given)
    return QuantizedGraph("random", tuple(reversed(kept)), used, "image", outputs, pre, table)


def _shape(out: QTensor) -> tuple[int, ...]:
    logical = 1 + max(out.channel_map)
    return (logical,) if out.height == out.width == 1 else (logical, out.height, out.width)
