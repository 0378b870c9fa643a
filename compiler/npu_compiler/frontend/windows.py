"""Windows of convolutions and pools: kernel, stride, dilation, padding, and the size of what they make."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from npu_compiler.frontend.importer import Refused, text
from npu_compiler.graph.ir import Shape

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]  # top, left, bottom, right
AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Window:
    """How a window moves over an image; pairs are (height, width).

    Attributes:
        pads: what lies around the image, grown at the end where ceil_mode needs it.
        own_pads: without that growth.
        size: of the output.
    """

    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: Pads
    own_pads: Pads
    size: Pair


def pair(values: Iterable[int], name: str, rank: int = 2) -> Pair:
    """Return an attribute that has a value of 1 or more for each axis of space; one row has the height 1."""
    found = [int(v) for v in values]
    if len(found) != rank:
        words = {1: "one", 2: "two"}
        raise Refused(f"{name} {found}: only {words[rank]}-dimensional windows are supported")
    if min(found) < 1:
        raise Refused(f"{name} {found}: must be 1 or more")
    return (1, found[0]) if rank == 1 else (found[0], found[1])


def explicit_pads(attrs: Mapping[str, Any], rank: int = 2) -> Pads:
    """Return the attribute pads of a window."""
    pads = [int(p) for p in attrs.get("pads", (0,) * (2 * rank))]
    if len(pads) != 2 * rank or min(pads) < 0:
        raise Refused(f"pads {pads}: needs {'two' if rank == 1 else 'four'} values of 0 or more")
    return (0, pads[0], 0, pads[1]) if rank == 1 else (pads[0], pads[1], pads[2], pads[3])


def auto_pad(attrs: Mapping[str, Any]) -> str:
    """Return the attribute auto_pad."""
    auto = text(attrs, "auto_pad", "NOTSET")
    if auto not in AUTO_PADS:
        raise Refused(f"auto_pad {auto!r} is unknown")
    return auto


def halved(total: list[int], upper: bool) -> tuple[list[int], list[int]]:
    """Return padding at the beginning and at the end; of an odd number SAME_UPPER has more at the end."""
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (less, more) if upper else (more, less)


def window(attrs: Mapping[str, Any], kernel: Pair, shape: Shape, rank: int = 2) -> Window:
    """Return how a window moves over an image, ceil_mode included.

    Output sizes are those of ONNX Conv and MaxPool (opset 11). With ceil_mode the padding grows at the end.
    """
    stride = pair(attrs.get("strides", (1,) * rank), "strides", rank)
    dilation = pair(attrs.get("dilations", (1,) * rank), "dilations", rank)
    auto = auto_pad(attrs)
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        size = [-(-n // s) for n, s in zip(shape[1:], stride, strict=True)]
        total = [max((o - 1) * s + e - n, 0) for o, s, e, n in zip(size, stride, span, shape[1:], strict=True)]
        begin, end = halved(total, auto == "SAME_UPPER")
        own = list(end)
    else:
        pads = (0,) * 4 if auto == "VALID" else explicit_pads(attrs, rank)
        begin, end, own = list(pads[:2]), list(pads[2:]), list(pads[2:])
        room = [n + b + e - s for n, b, e, s in zip(shape[1:], begin, end, span, strict=True)]
        if min(room) < 0:
            raise Refused(f"the window {span[0]}x{span[1]} is larger than the padded image")
        size = [r // s + 1 for r, s in zip(room, stride, strict=True)]
        if attrs.get("ceil_mode", 0):
            for axis in (0, 1):
                more_out = -(-room[axis] // stride[axis]) + 1
                # a window must not start beyond the image and its leading padding (ONNX MaxPool, opset 19)
                if more_out > size[axis] and (more_out - 1) * stride[axis] < shape[1 + axis] + begin[axis]:
                    end[axis] += (more_out - 1) * stride[axis] - room[axis]
                    size[axis] = more_out
    ends = (begin[0], begin[1], end[0], end[1]), (begin[0], begin[1], own[0], own[1])
    return Window(kernel, stride, dilation, *ends, (size[0], size[1]))
