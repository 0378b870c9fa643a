"""`Quantized8` -> `Study` -> `QuantizedGraph`: how each layer runs in 4 bits, and in which order its groups do."""

from npu_compiler.lowering.lower import lower_graph, study
from npu_compiler.lowering.order import order_groups
from npu_compiler.lowering.select import Study

__all__ = ["Study", "lower_graph", "order_groups", "study"]
