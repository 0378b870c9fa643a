"""The quantized graph as text, a line a node."""

from typing import assert_never

import numpy as np

from npu_compiler.qgraph.ir import (
    Clamp,
    Computed,
    Epilogue,
    Factor,
    Function,
    Leaky,
    Lookup,
    QConcat,
    QConv,
    QFold,
    QMosaic,
    QNode,
    QTensor,
    QuantizedGraph,
    QWindow,
    Window,
)


def dump(graph: QuantizedGraph) -> str:
    """Return one line for the network and one for each node; equal graphs give equal text."""
    given = ", ".join(f"{o.tensor} ({'x'.join(map(str, o.shape))})" for o in graph.outputs)
    lines = [f"quantized {graph.name}: {_tensor(graph.tensors[graph.input])} -> {given}"]
    for node in graph.nodes:
        lines.append(f"  {_tensor(graph.tensors[node.out])} = {_node(node)}")
    return "\n".join(lines) + "\n"


def _tensor(t: QTensor) -> str:
    kind, zero = f"{'s' if t.signed else 'u'}{t.bits}", f" zero {t.zero}" if t.zero else ""
    return f"{t.name}: {t.height}x{t.width}x{t.channels} {kind} scale {t.scale:.6g}{zero}"


def _node(node: QNode) -> str:
    match node:
        case QFold(src=src, window=window):
            return f"fold({src}{_window(window)})"
        case QConcat(srcs=srcs):
            return f"concat({', '.join(srcs)})"
        case QMosaic(srcs=srcs, places=places):
            return f"mosaic({', '.join(f'{s} at {p}' for s, p in zip(srcs, places, strict=True))})"
        case QConv():
            parts = [node.src, *_residual(node)]
            return f"conv({', '.join(parts)}{_window(node.window)}) {_epilogue(node.epilogue)}{_lowering(node)}"
        case QWindow():
            parts = [node.src, *_residual(node)]
            return f"{node.kind}({', '.join(parts)}{_window(node.window)}) {_epilogue(node.epilogue)}"
    assert_never(node)


def _residual(node: Computed) -> list[str]:
    if node.residual is None:
        return []
    return [f"{'*' if isinstance(node.epilogue.operand, Factor) else '+'} {node.residual}"]


def _window(w: Window) -> str:
    parts = [f"; {w.kernel[0]}x{w.kernel[1]}"]
    if w.stride != (1, 1):
        parts.append(f" stride {w.stride[0]}x{w.stride[1]}")
    if w.dilation != (1, 1):
        parts.append(f" dilation {w.dilation[0]}x{w.dilation[1]}")
    if (w.pad_top, w.pad_left) != (0, 0):
        parts.append(f" pads {w.pad_top},{w.pad_left}")
    return "".join(parts)


def _epilogue(e: Epilogue) -> str:
    factor = e.mult * 2.0 ** -e.shift.astype(np.float64)
    return f"x {factor.max():.4g} {_function(e.function)}"


def _function(f: Function) -> str:
    match f:
        case Clamp():
            return f"clamp {f.low}..{f.high}"
        case Leaky():
            return f"clamp {f.low}..{f.high} leaky"
        case Lookup():
            return f"clamp {f.low}..{f.high} table {f.table.tobytes().hex()[:16]} of steps of {f.scale:.6g}"
    assert_never(f)


def _lowering(node: QConv) -> str:
    if node.lowering is None:
        return " 8-bit"
    order = ",".join(map(str, node.lowering.order))
    shift = ",".join(map(str, node.lowering.act_shift))
    return f" order {order} s_act {shift}"
