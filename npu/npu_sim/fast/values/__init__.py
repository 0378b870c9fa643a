"""Values of a program by whole-instruction kernels, for a batch of images at once."""

from npu_sim.fast.values.execute import is_compiled
from npu_sim.fast.values.run import Values

__all__ = ["Values", "is_compiled"]
