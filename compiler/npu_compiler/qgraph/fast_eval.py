"""A fast evaluation of the quantized graph for searches: the golden model's integers, for any set of lowered groups.

A mixed layer is one product of 8-bit operands of which some are lowered (design, numerics). Products run in the BLAS in
floating point that holds every sum exactly; what surrounds them runs in Numba. Tensors are raw bytes (two's complement
where signed), NHWC.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

import numpy as np
from npu_isa.machine.numerics import MAX_SHIFT_LOWER, lower
from numpy.typing import NDArray

from npu_compiler.qgraph import eval_kernels as kernels
from npu_compiler.qgraph.golden import assemble, check_arguments
from npu_compiler.qgraph.ir import (
    GROUP,
    I8,
    I32,
    U8,
    Computed,
    Epilogue,
    Extraction,
    Factor,
    Leaky,
    Lookup,
    QConcat,
    QConv,
    QFold,
    QMosaic,
    QNode,
    QuantizedGraph,
    QWindow,
    Window,
)
from npu_compiler.threads import THREADS, threads

BLOCK_BYTES = 1 << 20  # of a gathered matrix: what is between the kernels stays in a core's cache
CHUNK_BYTES = 32 << 20  # of all tensors of the images that run at once on a thread
SHIFTS = range(MAX_SHIFT_LOWER + 1)
KINDS = {"mac": kernels.MAC, "max": kernels.MAX, "sum": kernels.SUM}
Array = NDArray[Any]

NO_TABLE = np.zeros(0, np.uint8)

# lowered byte of each byte at each position: TABLE[signed][s, byte]
TABLE = tuple(
    np.stack([lower(values, s, unsigned=not signed) for s in SHIFTS]).astype(np.int64).astype(np.uint8)
    for signed, values in ((0, np.arange(256)), (1, np.arange(256).astype(np.uint8).view(np.int8)))
)


@dataclass(frozen=True, eq=False)
class Mode:
    """How one convolution runs.

    Attributes:
        lowered: groups in 4 bits, bool, shape (groups,).
        act_shift: of each group, int64, shape (groups,), as in npu_compiler.qgraph.ir.Lowering.
        wgt_shift: positions of the weights, shape (groups, out channels).
        bias: of this mode, int32, shape (out channels,).
        extract: as in npu_compiler.qgraph.ir.Lowering.
    """

    lowered: NDArray[np.bool_]
    act_shift: NDArray[np.int64]
    wgt_shift: I8
    bias: I32
    extract: Extraction = "static"


def mode_at(node: QConv, boundary: int) -> Mode | None:
    """Return the mode of a convolution at a boundary; None where everything runs in 8 bits with its plain bias."""
    lowering = node.lowering
    if lowering is None or boundary == 0:
        return None
    groups = len(lowering.order)
    order = np.array(lowering.order)
    lowered = np.zeros(groups, np.bool_)
    lowered[order[:boundary]] = True
    shift, wgt = np.zeros(groups, np.int64), np.zeros_like(lowering.wgt_shift)
    shift[order], wgt[order] = lowering.act_shift, lowering.wgt_shift
    return Mode(lowered, shift, wgt, lowering.bias_rows[boundary], lowering.extract)


def run(graph: QuantizedGraph, image_bytes: U8, boundaries: Sequence[int]) -> dict[str, Array]:
    """Return the tensors of the outputs at a boundary vector, as `golden.run` does: int16 (N, height, width, channels).

    Raises:
        DataError: images or boundaries do not fit the network.
    """
    check_arguments(graph, image_bytes, boundaries)
    modes = {n.name: m for n, b in zip(graph.lowerable, boundaries, strict=True) if (m := mode_at(n, b)) is not None}
    return Evaluator(graph).run(image_bytes, modes)


Choose = Callable[[QConv, Callable[[Mode | None], NDArray[np.float64]]], Mode | None]


class Evaluator:
    """A quantized graph ready to be evaluated many times."""

    def __init__(self, graph: QuantizedGraph) -> None:
        self.graph = graph
        self._last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
        self._plain: dict[str, Array] = {}
        per_image = sum(t.height * t.width * t.channels for t in graph.tensors.values())
        self._chunk = max(1, CHUNK_BYTES // per_image)

    def run(self, image_bytes: U8, modes: Mapping[str, Mode]) -> dict[str, Array]:
        """Return the tensors of the outputs by name, int16 (N, height, width, channels).

        Convolutions without a mode run in 8 bits.
        """
        parts = list(self.batches(image_bytes, modes, ()))
        return {name: np.concatenate([values[name] for values in parts]) for name in self.graph.output_tensors}

    def each_alone(self, image_bytes: U8, modes: Mapping[str, Mode]) -> dict[str, dict[str, Array]]:
        """Return the outputs, as `run` does, with each of these convolutions in its mode and all others in 8 bits.

        Only what depends on the convolution is evaluated again.
        """
        convs = [n for n in self.graph.nodes if isinstance(n, QConv)]
        plain = {n.name: self._matrix(n, None) for n in convs}
        own = {n.name: self._matrix(n, modes[n.name]) for n in convs if n.name in modes}

        def outputs(part: U8) -> dict[str, dict[str, Array]]:
            exact: dict[str, Array] = {self.graph.input: part}
            for node in self.graph.nodes:
                exact[node.out] = self._node(node, exact, None, plain.get(node.name))
            return {name: self._changed(exact, name, modes[name], own[name], plain) for name in own}

        with threads() as pool:
            parts = list(pool.map(outputs, self.parts(image_bytes)))
        given = self.graph.output_tensors
        return {name: {t: np.concatenate([part[name][t] for part in parts]) for t in given} for name in own}

    def _changed(
        self, exact: Mapping[str, Array], name: str, mode: Mode, matrix: Array, plain: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Return the outputs where one convolution has a mode, from the tensors where none has one."""
        found = {**exact}
        changed: set[str] = set()
        for node in self.graph.nodes:
            if node.name == name:
                found[node.out] = self._node(node, exact, mode, matrix)
            elif changed.intersection(node.inputs):
                found[node.out] = self._node(node, found, None, plain.get(node.name))
            else:
                continue
            changed.add(node.out)
        return {name: self._integers(name, found[name]) for name in self.graph.output_tensors}

    def batches(
        self, image_bytes: U8, modes: Mapping[str, Mode], keep: Sequence[str], parts: int = THREADS
    ) -> Iterator[dict[str, Array]]:
        """Yield the outputs (int16) and the tensors named in `keep` (raw bytes), some images at a time.

        Args:
            image_bytes, modes: as for `run`.
            keep: names of tensors.
            parts: into which the images are cut at least.
        """
        matrices = {n.name: self._matrix(n, modes.get(n.name)) for n in self.graph.nodes if isinstance(n, QConv)}

        def values(part: U8) -> dict[str, Array]:
            found = {self.graph.input: part}
            for index, node in enumerate(self.graph.nodes):
                found[node.out] = self._node(node, found, modes.get(node.name), matrices.get(node.name))
                self._drop(found, index, set(keep))
            return found

        with threads() as pool:
            for found in pool.map(values, self.parts(image_bytes, parts)):
                yield found | {name: self._integers(name, found[name]) for name in self.graph.output_tensors}

    def walk(self, image_bytes: U8, choose: "Choose") -> None:
        """Evaluate all images node by node; before each convolution `choose` returns its mode.

        Args:
            image_bytes: as for `run`; every tensor that is read later is held for all images.
            choose: called with the convolution and a function from a mode to the mean of its accumulators, float64
                (out channels,), without bias, over images and pixels.
        """
        found: list[dict[str, Array]] = [{self.graph.input: part} for part in self.parts(image_bytes)]
        with threads() as pool:
            for index, node in enumerate(self.graph.nodes):
                mode, matrix = None, None
                if isinstance(node, QConv):
                    mode = choose(node, partial(self._mean, pool, found, node))
                    matrix = self._matrix(node, mode)
                list(pool.map(partial(self._step, index, mode, matrix), found))

    def _step(self, index: int, mode: Mode | None, matrix: Array | None, values: dict[str, Array]) -> None:
        node = self.graph.nodes[index]
        values[node.out] = self._node(node, values, mode, matrix)
        self._drop(values, index, set())

    def _mean(
        self, pool: ThreadPoolExecutor, found: list[dict[str, Array]], node: QConv, mode: Mode | None
    ) -> NDArray[np.float64]:
        """Return the mean of the accumulators: the product is linear, so it is that of the mean window."""
        out = self.graph.tensors[node.out]
        sums = np.sum(list(pool.map(partial(self._window_sums, node, mode), found)), axis=0)
        images = sum(len(values[node.src]) for values in found)
        return np.asarray(sums @ self._matrix(node, mode).astype(np.float64) / (images * out.height * out.width))

    def _window_sums(self, node: QConv, mode: Mode | None, values: Mapping[str, Array]) -> NDArray[np.float64]:
        src, out = self.graph.tensors[node.src], self.graph.tensors[node.out]
        x = values[node.src]
        if mode is not None and mode.lowered.any():
            x = lowered_bytes(x, mode, src.signed)
        sums = np.zeros((*node.window.kernel, src.channels), np.int64)
        kernels.window_sums(x, int(src.signed), _window(node.window), out.height, out.width, sums)
        return sums.reshape(-1).astype(np.float64)

    def parts(self, image_bytes: U8, parts: int = THREADS) -> list[U8]:
        """Cut a batch of images into what one thread takes at a time, at least so many parts."""
        size = max(1, min(self._chunk, -(-len(image_bytes) // parts)))
        return [np.ascontiguousarray(image_bytes[first : first + size]) for first in range(0, len(image_bytes), size)]

    def _drop(self, values: dict[str, Array], index: int, keep: set[str]) -> None:
        for name in {n for n in self.graph.nodes[index].inputs if self._last[n] == index and n not in keep}:
            del values[name]

    def _integers(self, name: str, raw: Array) -> Array:
        out = self.graph.tensors[name]
        return raw if out.bits == 16 else (raw.view(np.int8) if out.signed else raw).astype(np.int16)

    def _node(self, node: QNode, values: Mapping[str, Array], mode: Mode | None, matrix: Array | None) -> Array:
        out = self.graph.tensors[node.out]
        shape = (len(next(iter(values.values()))), out.height, out.width, out.channels)
        match node:
            case QConcat():
                return np.concatenate([values[s] for s in node.srcs], axis=3)
            case QMosaic():
                return assemble(node, out, values)
            case QFold():
                y = np.zeros(shape, np.uint8)
                kernels.fold(values[node.src], _window(node.window), y)
                return y
            case QConv():
                y = np.empty(shape, np.int16 if out.bits == 16 else np.uint8)
                assert matrix is not None
                self._conv(node, values, mode, matrix, y)
                return y
            case QWindow():
                y = np.empty(shape, np.int16 if out.bits == 16 else np.uint8)
                self._reduce(node, values, y)
                return y
        assert_never(node)

    def _conv(self, node: QConv, values: Mapping[str, Array], mode: Mode | None, matrix: Array, y: Array) -> None:
        x, src = values[node.src], self.graph.tensors[node.src]
        bias = node.epilogue.bias if mode is None else mode.bias
        if mode is not None and mode.lowered.any():
            x = lowered_bytes(x, mode, src.signed)
        rows = y.shape[0] * y.shape[1] * y.shape[2]
        depth = len(matrix)
        step = max(64, BLOCK_BYTES // (depth * matrix.itemsize))
        block = np.empty((min(rows, step), depth), matrix.dtype)
        acc = np.empty((len(block), matrix.shape[1]), matrix.dtype)
        window, epilogue = _window(node.window), _epilogue(node.epilogue, bias)
        residual = self._residual(node, values, y)
        flat = y.reshape(rows, -1)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            kernels.gather(x, int(src.signed), window, y.shape[1], y.shape[2], first, block[:count])
            np.matmul(block[:count], matrix, out=acc[:count])
            kernels.finish(acc[:count], *epilogue, residual[first : first + count], self._sign(node), flat[first:])

    def _matrix(self, node: QConv, mode: Mode | None) -> Array:
        """Return the weights, (taps * in channels, out channels), in the smallest type that holds every sum exactly."""
        if mode is None:
            if node.name not in self._plain:
                self._plain[node.name] = self._exact(node, node.weight.astype(np.int16))
            return self._plain[node.name]
        weight = node.weight.astype(np.int16)
        for group in np.flatnonzero(mode.lowered):
            span = slice(group * GROUP, (group + 1) * GROUP)
            weight[..., span] = lower(weight[..., span], mode.wgt_shift[group][:, None, None, None], unsigned=False)
        return self._exact(node, weight)

    def _exact(self, node: QConv, weight: Array) -> Array:
        matrix = weight.reshape(len(weight), -1).T
        largest = 128 if self.graph.tensors[node.src].signed else 255
        fits = int(np.abs(matrix.astype(np.int64)).sum(axis=0).max()) * largest < 1 << 24
        return np.ascontiguousarray(matrix, np.float32 if fits else np.float64)

    def _reduce(self, node: QWindow, values: Mapping[str, Array], y: Array) -> None:
        weight = np.zeros((1, 1, y.shape[3]), np.int32)
        if node.weight is not None:
            weight = np.ascontiguousarray(node.weight.transpose(1, 2, 0), np.int32)
        signed = int(self.graph.tensors[node.src].signed)
        acc = np.empty(y.shape, np.int32)
        kernels.reduce(values[node.src], signed, KINDS[node.kind], _window(node.window), weight, acc)
        rows = y.shape[0] * y.shape[1] * y.shape[2]
        epilogue, residual = _epilogue(node.epilogue, node.epilogue.bias), self._residual(node, values, y)
        kernels.finish(acc.reshape(rows, -1), *epilogue, residual, self._sign(node), y.reshape(rows, -1))

    def _residual(self, node: Computed, values: Mapping[str, Array], y: Array) -> Array:
        """Return the second operand of each output pixel, (pixels, channels), or (0, 0) for none."""
        if node.residual is None:
            return np.empty((0, 0), np.uint8)
        tensor = values[node.residual]
        if tensor.shape != y.shape:
            tensor = np.array(np.broadcast_to(tensor, y.shape))
        return tensor.reshape(-1, y.shape[3])

    def _sign(self, node: Computed) -> int:
        return int(node.residual is not None and self.graph.tensors[node.residual].signed)


def lowered_bytes(x: U8, mode: Mode, signed: bool) -> U8:
    """Return activations with the mode's groups lowered."""
    y = np.empty_like(x)
    flat, out = x.reshape(-1, x.shape[3]), y.reshape(-1, x.shape[3])
    shift = np.where(mode.lowered, mode.act_shift, -1)
    if mode.extract == "dynamic":
        kernels.lower_dynamic(flat, shift, TABLE[int(signed)], int(signed), out)
    else:
        kernels.lower_static(flat, shift, TABLE[int(signed)], out)
    return y


def _window(w: Window) -> NDArray[np.int64]:
    return np.array([*w.kernel, *w.stride, *w.dilation, w.pad_top, w.pad_left], np.int64)


def _epilogue(e: Epilogue, bias: I32) -> tuple[Array, NDArray[np.int64], U8]:
    """Return the arguments `params`, `rule` and `table` of `eval_kernels.finish`."""
    second = np.zeros_like(e.mult) if e.mult2 is None else e.mult2
    params = np.stack([bias, e.mult, e.shift, second]).astype(np.int64)
    leaky, product = isinstance(e.function, Leaky), isinstance(e.operand, Factor)
    rule = np.array([leaky, e.function.low, e.function.high, product], np.int64)
    return params, rule, e.function.table if isinstance(e.function, Lookup) else NO_TABLE
