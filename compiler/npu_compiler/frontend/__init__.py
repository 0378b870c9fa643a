"""ONNX file -> `Graph`."""

from npu_compiler.frontend.reader import read_onnx

__all__ = ["read_onnx"]
