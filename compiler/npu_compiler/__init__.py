"""The compiler: ONNX -> graph -> quantized graph -> schedule -> program -> binary."""
