"""What a person should know of a model and its calibration images that are accepted all the same."""

from collections.abc import Mapping, Sequence

from npu_compiler.graph.ir import Conv, Graph
from npu_compiler.qgraph.ir import U8

NAMED = 5  # layers that a note names


def remarks(graph: Graph, images: U8) -> tuple[str, ...]:
    """Return notes on a quantization, for `QuantizedGraph.notes`; none where nothing is out of the ordinary.

    Args:
        graph: the network.
        images: calibration images used, uint8 (N, height, width, channels).
    """
    notes = []
    count = len(images)
    if (images == images[0]).all():
        which = "one calibration image" if count == 1 else f"the {count} calibration images are the same"
        notes.append(f"{which}: ranges fit no other image; give a few dozen different ones")
    if (images == images[:, :1, :1]).all():
        notes.append("each calibration image is of one colour: ranges fit no picture; give real ones")
    zero = [n.name for n in graph.nodes if isinstance(n, Conv) and not n.weight.any()]
    if zero:
        notes.append(f"all weights are zero: {_named(zero)}; was the model trained and exported whole?")
    return tuple(notes)


def calibrated(graph: Graph, classes: Mapping[str, str]) -> tuple[str, ...]:
    """Return a note on the tensors of a quantized model that it gives no quantization, for `QuantizedGraph.notes`.

    Args:
        graph: prepared.
        classes: the class of equal quantization of each tensor.
    """
    free = [n.out for n in graph.nodes if classes[n.out] not in graph.quant and n.out not in graph.output_tensors]
    if not free or not graph.quant.keys() - {graph.input}:
        return ()
    return (f"without a quantization in the model, so calibrated: {_named(free)}",)


def _named(names: Sequence[str]) -> str:
    """Return names, the first few of many."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
