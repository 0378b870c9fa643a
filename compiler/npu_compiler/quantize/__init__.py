"""`Graph` and calibration images -> `Quantized8`: scales and integer weights, every layer in 8 bits."""

from npu_compiler.quantize.quantize import Quantized8, quantize8

__all__ = ["Quantized8", "quantize8"]
