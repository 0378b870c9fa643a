"""The functions of ONNX operators, a file for each family; importing this registers them in `importer.OPERATORS`.

A function takes the importer, the ONNX node and the constants by name; it raises `Refused` with the reason when it
cannot do exactly what the node says.
"""

from npu_compiler.frontend import (  # noqa: F401  they register their operators
    convolution,
    elementwise,
    normalization,
    pointwise,
    pooling,
    resize,
    slicing,
    softmax,
)
